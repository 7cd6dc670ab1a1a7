"""How this project writes a file: all of it or nothing, even when the process is killed."""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import Iterator

from errors import BadInput


def user_path(path: str) -> str:
    """Expand `~` and `~user`, which a shell leaves alone in `--flag=~/x`.

    Raises:
        BadInput: there is no such user, or the path is not UTF-8, as TensorFlow wants it.
    """
    try:
        expanded = os.path.expanduser(path)
    except KeyError:
        expanded = path  # Neither HOME nor the system's list of users tells.
    if expanded.startswith("~"):
        name = expanded.split("/")[0]
        raise BadInput("%s: no user has this home; write ./%s for a folder" % (path, name))
    try:
        expanded.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInput("%a: is not UTF-8; rename it" % expanded) from error
    return expanded


@contextlib.contextmanager
def atomic(path: str) -> Iterator[str]:
    """Gives a temporary path to write to and moves it to `path` when the block has succeeded.

    The temporary file is a neighbour of `path`, because only a rename inside one file system is
    atomic, and carries the process number, so that two runs at once do not write into each other's
    file.
    """
    temporary = "%s.tmp-%d" % (path, os.getpid())
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def write_text(path: str, text: str) -> None:
    """Writes `text` to `path` as UTF-8, atomically."""
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)


def digest(content: bytes) -> str:
    """Gives 64 hex digits that no other content has: SHA-256."""
    return hashlib.sha256(content).hexdigest()


def digest_of_file(path: str) -> str:
    """Gives the `digest` of a file, however large it is."""
    sum_so_far = hashlib.sha256()
    with open(path, "rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            sum_so_far.update(chunk)
    return sum_so_far.hexdigest()

"""How this project treats files: all or nothing is written, and what is read can be read again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from typing import Iterator

from errors import BadInput


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


def check_rereadable(path: str) -> None:
    """Checks that a file can be read more than once; does not open it, which could wait for ever.

    Raises:
        BadInput: `path` is a pipe or a device. What else is wrong with it, whoever opens it says.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = "pipe" if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else "device"
        raise BadInput(f"{path}: is a {kind} and can be read only once; write it to a file first")

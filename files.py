"""How this project treats files: all or nothing is written, and what is read can be read again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import sys
import tempfile
from typing import Iterator

from errors import BadInput

# What TensorFlow's file system has in patterns; in a path that is a pattern it finds other files.
_PATTERN_CHARACTERS = re.compile(r"[\\\[\]*?]")


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


@contextlib.contextmanager
def plain_path(path: str) -> Iterator[str]:
    """Give a path to the same file or folder in which TensorFlow finds no pattern.

    Where TensorFlow looks for a checkpoint, it takes the path for a pattern: in `lr=[5e-5]/model`
    the brackets would stand for one of the characters between them. The path that is given instead
    goes through a symbolic link, which is there while the block lasts.

    Args:
        path: of what exists: a file, a folder, or what names of files begin with, as those of a
            checkpoint do.
    """
    if not _PATTERN_CHARACTERS.search(path):
        yield path
        return
    parent, name = os.path.split(os.path.abspath(path))
    plain_name = _PATTERN_CHARACTERS.sub("_", name)
    with tempfile.TemporaryDirectory() as folder:
        if plain_name == name:
            os.symlink(parent, os.path.join(folder, "parent"))
            yield os.path.join(folder, "parent", name)
            return
        for found in os.listdir(parent):
            if found.startswith(name):
                link = os.path.join(folder, plain_name + found[len(name) :])
                os.symlink(os.path.join(parent, found), link)
        yield os.path.join(folder, plain_name)


def fill_closed_streams() -> None:
    """Put the null device in the place of each standard stream that is closed.

    Else the next file that is opened would be in its place, and would get what is printed. Python
    has no `sys.stdin` and no `sys.stdout` then, as before, but a `sys.stderr` that may be written
    to.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # Gets the lowest number that is free.
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115

"""Standard streams that are closed, whose reader has gone, or that cannot say every character.

A program calls `prepare`, or `fill_closed`, before it imports or opens anything else.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any


class _NeverFails(io.FileIO):
    """A file that takes all that is written, also where nothing can be written any more."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return len(memoryview(data).cast("B"))


def fill_closed() -> None:
    """Put the null device in the place of each standard stream that is closed.

    Else the next file that is opened would be in its place, and would get what is printed. Python
    has None for a stream that was closed; only `sys.stderr` is made anew, which anybody may write
    to.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # Gets the lowest number that is free.
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def prepare() -> None:
    """Make stdin, stdout and stderr usable, whatever the program was started with.

    A stream that is closed leads nowhere. What stdout or stderr cannot encode is written as an
    escape. An error of stderr, such as a full disk or a pipe that nobody reads, is ignored: it is
    no reason to end a training.
    """
    fill_closed()
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_NeverFails(2, "w", closefd=False)),
        encoding=getattr(sys.stderr, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )


def leave_stdout() -> None:
    """Lead stdout nowhere after a BrokenPipeError: who reads it, such as `head`, has enough.

    Python would try again when it ends, and complain.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

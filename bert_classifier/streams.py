"""Make the standard streams usable: closed ones, broken pipes, characters without an encoding.

A program calls `prepare`, or `fill_closed`, before it imports or opens anything else.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any


class _NeverFails(io.FileIO):
    """A file that ignores errors in writing."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return len(memoryview(data).cast("B"))


def fill_closed() -> None:
    """Open the null device in place of each standard stream that is closed.

    Otherwise the next file that is opened gets the stream's number, and what is printed is written
    to it. Python sets a closed stream to None; of these only `sys.stderr` is replaced, because any
    library may write to it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # It gets the lowest free number.
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def prepare() -> None:
    """Make stdin, stdout and stderr usable, however the program was started.

    A closed stream is replaced by the null device. Characters that stdout or stderr cannot encode
    are written as escapes. Errors in writing to stderr, such as a full disk or a broken pipe, are
    ignored, because they must not end a training.
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
    """Replace stdout by the null device after a BrokenPipeError: its reader, as `head`, has ended.

    Otherwise Python would try again to write when it exits, and print an error.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

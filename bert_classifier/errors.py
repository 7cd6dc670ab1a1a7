"""The error that the user can cure: a wrong file, value or flag."""

from __future__ import annotations

import contextlib
from typing import Iterator


class BadInput(ValueError):
    """Bad input. The message is one line that names the file, the line, the value and the cure.

    The front door prints it on stderr and exits with status 2, without a traceback. A fault of the
    program itself keeps its own exception and its traceback.
    """


def one_line(error: Exception) -> str:
    """Return the message of an error in one line; its name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def bad_input() -> Iterator[None]:
    """Turn a ValueError into `BadInput` with the same message.

    It goes around calls of `modeling` and `tokenization` with what the user gave: these two import
    nothing of this package.
    """
    try:
        yield
    except BadInput:
        raise
    except ValueError as error:
        raise BadInput(str(error)) from error

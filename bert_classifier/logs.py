"""Send the log to stderr and to a file."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import Iterator

import tqdm

from bert_classifier import tf_compat

# `extra` of long lists, which go to run.log, and to stderr only with --debug.
FOR_FILE = {"for_file": True}

_FORMAT = logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S")


class _AboveTheBar(logging.Handler):
    """Write lines above a progress bar, without those that the bar shows."""

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, "in_bar", False):
            tqdm.tqdm.write(self.format(record), file=sys.stderr)


def is_terminal() -> bool:
    """Tell whether stderr is a terminal on which a progress bar can be shown."""
    if not sys.stderr.isatty():
        return False
    try:
        # A terminal without a size, as in `docker exec -t`, would show an empty line.
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except OSError:  # An object in place of stderr may have no size to ask for.
        return True


def log_to_stderr(debug: bool) -> None:
    """Send the log to stderr, and remove the handlers of TensorFlow and absl.

    Args:
        debug: also log TensorFlow's own messages, long lists, and errors in logging.
    """
    handler = _AboveTheBar() if is_terminal() else logging.StreamHandler(sys.stderr)
    handler.setFormatter(_FORMAT)
    handler.addFilter(lambda record: debug or not getattr(record, "for_file", False))
    logging.root.handlers = [handler]
    logging.root.setLevel(logging.INFO)
    # When the disk of the log file is full, each line would be followed by a traceback.
    logging.raiseExceptions = debug
    tf_logger = logging.getLogger("tensorflow")
    tf_logger.handlers = []
    tf_logger.setLevel(logging.INFO if debug else logging.ERROR)
    tf_compat.warn_of_deprecations(debug)


def log_warnings_only() -> None:
    """Log no more than warnings, in a worker that is not the chief."""
    logging.root.setLevel(logging.WARNING)


@contextlib.contextmanager
def also_to(path: str) -> Iterator[None]:
    """Append the log of a block to a file too."""
    # A file name in the log may have bytes that are not UTF-8.
    stream = open(path, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_FORMAT)
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)
        # On a full disk this fails as each line did; the error of the block, if any, matters more.
        with contextlib.suppress(OSError):
            stream.close()

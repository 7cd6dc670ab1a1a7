"""Where the log goes: to stderr for who watches, to a file for who comes later, each line once."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import Iterator

import tqdm

from bert_classifier import tf_compat

# `extra` of what is for run.log, and on stderr only with --debug: long lists.
FOR_FILE = {"for_file": True}

_FORMAT = logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S")


class _AboveTheBar(logging.Handler):
    """Writes lines above a progress bar, and leaves out those that the bar shows."""

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, "in_bar", False):
            tqdm.tqdm.write(self.format(record), file=sys.stderr)


def is_terminal() -> bool:
    """Tells whether a person watches stderr, who is shown a progress bar."""
    if not sys.stderr.isatty():
        return False
    try:
        # Some, such as that of `docker exec -t`, have no size: a bar would be an empty line there.
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except OSError:  # What has taken the place of stderr may not tell.
        return True


def log_to_stderr(debug: bool) -> None:
    """Sends the log to stderr, in place of the handlers that TensorFlow and absl bring along."""
    handler = _AboveTheBar() if is_terminal() else logging.StreamHandler(sys.stderr)
    handler.setFormatter(_FORMAT)
    handler.addFilter(lambda record: debug or not getattr(record, "for_file", False))
    logging.root.handlers = [handler]
    logging.root.setLevel(logging.INFO)
    # Where the log file is on a full disk, each line would bring a traceback of its own.
    logging.raiseExceptions = debug
    tf_logger = logging.getLogger("tensorflow")
    tf_logger.handlers = []
    tf_logger.setLevel(logging.INFO if debug else logging.ERROR)
    tf_compat.warn_of_deprecations(debug)


def log_warnings_only() -> None:
    """Leaves it to another process to tell what is the same in all of them."""
    logging.root.setLevel(logging.WARNING)


@contextlib.contextmanager
def also_to(path: str) -> Iterator[None]:
    """Sends the log of a block to a file as well, after what earlier runs wrote there."""
    # A name in the log may have bytes that are no characters.
    stream = open(path, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_FORMAT)
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)
        # What a full disk has not taken line by line it does not take now, and how the block has
        # ended matters more.
        with contextlib.suppress(OSError):
            stream.close()

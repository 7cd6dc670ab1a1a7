"""Make a folder completely or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import Iterator

from bert_classifier.errors import BadInput


def check_is_free(folder: str) -> None:
    """Raise BadInput unless there is no such folder, or an empty one."""
    if os.path.isdir(folder):
        if os.listdir(folder):
            raise BadInput("%s: is not empty; remove it or choose a new directory" % folder)
    elif os.path.exists(folder):
        raise BadInput("%s: is a file; choose a new directory" % folder)


@contextlib.contextmanager
def complete(folder: str) -> Iterator[str]:
    """Yield a new folder to fill; it gets the name `folder` when the block has succeeded."""
    parent = os.path.dirname(folder)
    os.makedirs(parent, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".converting-", dir=parent) as staging:
        filled = os.path.join(staging, "complete")
        os.mkdir(filled)
        yield filled
        os.rename(filled, folder)

"""What the weights of a training begin from."""

from __future__ import annotations

import logging
import os
from typing import NamedTuple, Sequence

from bert_classifier.errors import BadInput
from bert_classifier.training import checkpoints, labels_file, runs

_LOG = logging.getLogger(__name__)


class InitialWeights(NamedTuple):
    """What training begins from."""

    checkpoint: str | None  # None: random values
    with_classifier: bool = True  # if the checkpoint has one of the same shape


def warm_start(source: str, labels: Sequence[str]) -> InitialWeights:
    """Prepare to begin from a fine-tuned model, its classifier included if the labels agree.

    Args:
        source: output_dir of a run, for its best checkpoint, or a checkpoint of it.
        labels: those of the new run.

    Raises:
        BadInput: there is no checkpoint, or it cannot be read.
    """
    path = find_fine_tuned(source)
    folder = runs.find_folder(path)
    found = labels_file.read(folder) if folder else None
    if folder:
        labels_file.check_number(found, folder, path)
    same_labels = found == list(labels)
    _LOG.info("Warm start from %s, %s classifier", path, "with its" if same_labels else "new")
    return InitialWeights(path, with_classifier=same_labels)


def find_fine_tuned(source: str) -> str:
    """Return the checkpoint that `--warm_start_from` means.

    Raises:
        BadInput: there is none, or it cannot be read.
    """
    try:
        return checkpoints.find(source, "best" if os.path.isdir(source) else source)
    except BadInput as error:
        raise BadInput(
            "--warm_start_from=%s: no readable checkpoint; give the output_dir of a run, or a "
            "checkpoint of it" % source
        ) from error

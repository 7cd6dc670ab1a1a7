"""The file labels.txt of a run: the labels of its model, in the order of the outputs."""

from __future__ import annotations

import os
from typing import Sequence

from bert_classifier import files
from bert_classifier.errors import BadInput
from bert_classifier.model import weights

_CURE = "restore it, or give the command of the training again, which writes it anew"


def path_in(folder: str) -> str:
    """Return the file of the labels in the folder of a run."""
    return os.path.join(folder, "labels.txt")


def write(folder: str, labels: Sequence[str]) -> None:
    """Write a label per line."""
    files.write_text(path_in(folder), "".join(label + "\n" for label in labels))


def read(folder: str) -> list[str] | None:
    """Read the labels of a model that was trained in a folder, None if there is no file.

    Raises:
        BadInput: the file is damaged.
    """
    path = path_in(folder)
    if not os.path.exists(path):
        return None
    with files.damage_told(path, _CURE):
        with open(path, encoding="utf-8", newline="\n") as stream:
            *labels, rest = stream.read().split("\n")
        if rest or not labels or len(set(labels)) < len(labels) or not all(map(_is_text, labels)):
            raise ValueError("a label is missing, cut, there twice or no text")
        return labels


def _is_text(label: str) -> bool:
    return bool(label.strip()) and "\0" not in label


def check_number(labels: Sequence[str] | None, folder: str, checkpoint_path: str) -> None:
    """Raise BadInput unless there is a label for each output of a checkpoint."""
    found = weights.contents(checkpoint_path)
    if labels is None or "output_bias" not in found:
        return
    (num_outputs,) = found["output_bias"].shape
    if num_outputs != len(labels):
        raise BadInput(
            "%s: has %d labels, but %s has %d outputs; %s"
            % (path_in(folder), len(labels), checkpoint_path, num_outputs, _CURE)
        )

"""Files about labels: the classes, their weights and their thresholds."""

from __future__ import annotations

import math
import re
from typing import Mapping, Sequence

from bert_classifier.data.tables import Table
from bert_classifier.errors import BadInput

# Ends a line or a cell for some program that reads it, or moves the cursor of a terminal.
CONTROL_CHARACTER = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")


def load_labels(path: str) -> list[str]:
    """Read the classes, one per line, in the order of the model's outputs.

    Raises:
        BadInput: there is no such file, a line is empty or two lines are equal.
    """
    labels: list[str] = []
    for row in Table(path, "tsv", has_header=False, cure="check --labels_file"):
        label = row.cells[0].strip()
        if not label or label in labels:
            raise BadInput(f"{path}:{row.line}: {label!r} is empty or there twice; one per line")
        check_characters(label, f"{path}:{row.line}")
        labels.append(label)
    return labels


def load_class_weights(
    source: str, labels: Sequence[str], counts: Mapping[str, int]
) -> list[float]:
    """Return the factor of the loss of each class, in the order of `labels`.

    Args:
        source: `balanced`, for number of examples / (number of classes * examples of the class), or
            a file with one `label<TAB>weight` per line.
        labels: the classes.
        counts: class -> number of training examples that have it.

    Raises:
        BadInput: a class has no example to weigh, or the file is malformed.
    """
    if source == "balanced":
        missing = [label for label in labels if not counts.get(label)]
        if missing:
            raise BadInput(
                f"--class_weights=balanced: no training example of {', '.join(missing)}; give a "
                "file of `label<TAB>weight` lines"
            )
        return [sum(counts.values()) / (len(labels) * counts[label]) for label in labels]
    return _numbers_of_labels(source, labels, "weight", "--class_weights")


def load_thresholds(source: str, labels: Sequence[str]) -> list[float]:
    """Return the probability above which each label is predicted, in the order of `labels`.

    Args:
        source: one number for all, or a file with one `label<TAB>threshold` per line.
        labels: the labels.

    Raises:
        BadInput: a threshold is not between 0 and 1, or the file is malformed.
    """
    try:
        thresholds = [float(source)] * len(labels)
    except ValueError:
        thresholds = _numbers_of_labels(source, labels, "threshold", "--thresholds")
    for threshold in thresholds:
        if not 0 <= threshold <= 1:
            raise BadInput(f"--thresholds={source}: {threshold} is no probability; give 0 to 1")
    return thresholds


def _numbers_of_labels(path: str, labels: Sequence[str], what: str, flag: str) -> list[float]:
    """Read a file with one `label<TAB>number` per line, a line for each label."""
    numbers: dict[str, float] = {}
    for row in Table(path, "tsv", has_header=False, cure=f"check {flag}"):
        label, number = row.cells[0], " ".join(row.cells[1:])
        if label not in labels or label in numbers:
            raise BadInput(
                f"{path}:{row.line}: {label!r} is no label or there twice; write one line for each "
                f"of {', '.join(labels)}"
            )
        try:
            numbers[label] = float(number)
        except ValueError:
            numbers[label] = -1.0
        if not 0 <= numbers[label] < math.inf:
            raise BadInput(f"{path}:{row.line}: {what} {number!r}; write a number of 0 or more")
    missing = [label for label in labels if label not in numbers]
    if missing:
        raise BadInput(f"{path}: no {what} for {', '.join(missing)}; add a line for each")
    return [numbers[label] for label in labels]


def check_characters(label: str, place: str) -> None:
    """Raise BadInput if a label has a control character.

    Args:
        label: the label.
        place: `file:line`, for the message.
    """
    control = CONTROL_CHARACTER.search(label)
    if control:
        raise BadInput(
            f"{place}: label {label!r:.100} has the character {control.group()!r}; remove it"
        )

"""Answers of a model, and the table in which test_results.tsv and `predict` show them.

A table of answers has the columns

    id, index or guid, or as named     the name of the row, if the texts come from a table
    label, or score of a regression    the prediction; empty below the minimum confidence
    confidence                         for classification, the probability of the best label
    p(<label>)                         the probability of each label; not for a regression
    true_label, or true_score          the label that the table has
    text, text_b                       the texts

JSON lines have `probabilities` and `top_k` in place of `p(<label>)`.
"""

from __future__ import annotations

import json
import string
from typing import TYPE_CHECKING, Any, NamedTuple, Sequence

import numpy as np

from bert_classifier import files, problem_types
from bert_classifier.data.labels import CONTROL_CHARACTER
from bert_classifier.export.calibration import apply_temperature
from bert_classifier.problem_types import Label

if TYPE_CHECKING:
    from bert_classifier.export.bundle import Settings


class Prediction(NamedTuple):
    """The answer to one text.

    Attributes:
        label: its label, None below the minimum confidence; for regression a number, for
            multi_label a tuple of labels.
        confidence: for classification, the probability of the best label.
        probabilities: label -> probability; empty for regression.
        top_k: the most probable labels with their probabilities, best first; empty for regression.
    """

    label: Label | None
    confidence: float | None
    probabilities: dict[str, float]
    top_k: tuple[tuple[str, float], ...]


def decide(settings: Settings, outputs: np.ndarray, top_k: int = 3) -> list[Prediction]:
    """Return the answers to texts.

    Args:
        settings: of the model.
        outputs: the model's probabilities, float32 `[num_texts, num_labels]`; for a regression its
            numbers, float32 `[num_texts]`.
        top_k: the largest number of labels in `Prediction.top_k`.
    """
    if not problem_types.get(settings.problem_type).has_classes:
        return [Prediction(number, None, {}, ()) for number in outputs.tolist()]
    probabilities = apply_temperature(outputs, settings.temperature, settings.problem_type)
    # A stable sort keeps equal ones in the order of the labels, as the model does.
    rankings = (-probabilities).argsort(axis=1, kind="stable").tolist()
    return [
        _decide_one(settings, row, ranking, top_k) for row, ranking in zip(probabilities, rankings)
    ]


def _decide_one(
    settings: Settings, probabilities: np.ndarray, ranking: list[int], top_k: int
) -> Prediction:
    labels, values = settings.labels, probabilities.tolist()
    by_label = dict(zip(labels, values))
    ranked = tuple((labels[index], values[index]) for index in ranking[:top_k])
    label, confidence = problem_types.get(settings.problem_type).choose(
        probabilities, labels, settings.thresholds, settings.min_confidence
    )
    return Prediction(label, confidence, by_label, ranked)


class Form:
    """Formats answers as rows of a table, or as lines of JSON.

    Args:
        settings: of the model.
        id_name: name of the column that names a row; None for no such column.
        is_labelled: whether there is a column of true labels.

    Attributes:
        header: the names of the columns.
    """

    def __init__(self, settings: Settings, id_name: str | None = None, is_labelled: bool = False):
        self._problem = problem_types.get(settings.problem_type)
        self._answer = self._problem.answer
        self._texts = ("text", "text_b")[: settings.texts_per_example]
        self._separator = _free_separator(settings.label_separator, settings.labels)
        names = [self._answer]
        if self._problem.has_confidence:
            names.append("confidence")
        if self._problem.has_classes:
            names += ["p(%s)" % label for label in settings.labels]
        if is_labelled:
            names.append("true_" + self._answer)
        names += self._texts
        # Two columns of one name could not be told apart.
        taken = {*names, "confidence", "probabilities", "top_k"}
        self._id_name = "id" if id_name in taken else id_name
        self._names = names if self._id_name is None else [self._id_name, *names]
        self.header = [in_a_cell(name) for name in self._names]

    def cells(
        self,
        prediction: Prediction,
        texts: Sequence[str],
        identifier: str | None = None,
        truth: Label | None = None,
    ) -> list[str]:
        """Return the row of an answer, in the order of `header`."""
        named = {"true_" + self._answer: self.label_cell(truth), **dict(zip(self._texts, texts))}
        named[self._answer] = self.label_cell(prediction.label)
        if self._id_name is not None:
            named[self._id_name] = identifier or ""
        if prediction.confidence is not None:
            named["confidence"] = "%.6f" % prediction.confidence
        for label, probability in prediction.probabilities.items():
            named["p(%s)" % label] = "%.6f" % probability
        return [in_a_cell(named[name]) for name in self._names]

    def json_line(
        self, prediction: Prediction, texts: Sequence[str], identifier: str | None = None
    ) -> str:
        """Return an answer as a JSON object on one line."""
        named: dict[str, Any] = {} if self._id_name is None else {self._id_name: identifier}
        named[self._answer] = prediction.label
        if prediction.confidence is not None:
            named["confidence"] = prediction.confidence
        if self._problem.has_classes:
            named["probabilities"] = prediction.probabilities
            named["top_k"] = [{"label": name, "probability": p} for name, p in prediction.top_k]
        named.update(zip(self._texts, texts))
        # Half a character becomes an escape when it is written, and JSON has the same escape.
        return json.dumps(files.without_nan(named), ensure_ascii=False, allow_nan=False)

    def label_cell(self, label: Label | None) -> str:
        """Return a label, several labels or a number as one cell; an empty one for none."""
        if isinstance(label, float):
            return "%.6f" % label
        return label if isinstance(label, str) else self._separator.join(label or ())


def in_a_cell(text: str) -> str:
    """Replace characters that would end a cell or a line by spaces."""
    return CONTROL_CHARACTER.sub(" ", text)


def _free_separator(wanted: str, labels: Sequence[str]) -> str:
    """Return the separator of labels: the wanted one, unless it is part of a label."""
    candidates = (wanted, *",;|/", *string.punctuation)
    return next(
        (
            candidate
            for candidate in candidates
            if candidate.isprintable() and not any(candidate in label for label in labels)
        ),
        "\N{BROKEN BAR}",
    )

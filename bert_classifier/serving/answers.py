"""Answers, and the one form of test_results.tsv and of `bert_classifier.predict`.

A table of answers has the columns

    id, index or guid, or as named     what names the row, where the texts come from a table
    label, or score of a regression    what is predicted; empty where the model is not sure enough
    confidence                         for classification, the probability of the best label
    p(<label>)                         for each label, but for a regression
    true_label, or true_score          what the table says that it is
    text, text_b                       what was asked about

JSON lines have `probabilities` and `top_k` in place of `p(<label>)`.
"""

from __future__ import annotations

import itertools
import json
import string
from typing import TYPE_CHECKING, Any, NamedTuple, Sequence

import numpy as np

from bert_classifier import files
from bert_classifier.data.processors import CONTROL_CHARACTER
from bert_classifier.export.calibration import apply_temperature

if TYPE_CHECKING:
    from bert_classifier.data.processors import Label
    from bert_classifier.export.bundle import Settings


class Prediction(NamedTuple):
    """The answer to one text.

    Attributes:
        label: its label, None where the model is not sure enough; for regression a number, for
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
    """Make answers of what the model gives.

    Args:
        settings: of the model.
        outputs: the model's probabilities, float32 `[num_texts, num_labels]`; for a regression its
            numbers, float32 `[num_texts]`.
        top_k: how many of the labels `Prediction.top_k` should have, if there are so many.
    """
    if settings.problem_type == "regression":
        return [Prediction(number, None, {}, ()) for number in outputs.tolist()]
    probabilities = apply_temperature(outputs, settings.temperature, settings.problem_type)
    # A stable sort gives equal ones in the order of the labels, as the model does.
    rankings = np.argsort(-probabilities, axis=1, kind="stable")
    return [
        _decide_one(settings, row, ranking, top_k) for row, ranking in zip(probabilities, rankings)
    ]


def _decide_one(
    settings: Settings, probabilities: np.ndarray, ranking: np.ndarray, top_k: int
) -> Prediction:
    labels, values = settings.labels, probabilities.tolist()
    by_label = dict(zip(labels, values))
    ranked = tuple((labels[index], values[index]) for index in ranking[:top_k])
    if settings.problem_type == "multi_label":
        thresholds = settings.thresholds
        # In float32, in which the model compares them too.
        above = probabilities > np.float32(0.5 if thresholds is None else thresholds)
        return Prediction(tuple(itertools.compress(labels, above)), None, by_label, ranked)
    best = ranking[0]
    is_sure = values[best] >= settings.min_confidence
    return Prediction(labels[best] if is_sure else None, values[best], by_label, ranked)


class Form:
    """Tells answers as rows of a table, or as lines of JSON.

    Args:
        settings: of the model.
        id_name: name of the column with what names a row; None where there is none.
        is_labelled: whether the truth is told as well.

    Attributes:
        header: the names of the columns.
    """

    def __init__(self, settings: Settings, id_name: str | None = None, is_labelled: bool = False):
        self._settings = settings
        self._answer = "score" if settings.problem_type == "regression" else "label"
        self._texts = ("text", "text_b")[: settings.texts_per_example]
        self._separator = _free_separator(settings.label_separator, settings.labels)
        names = [self._answer]
        if settings.problem_type == "classification":
            names.append("confidence")
        if settings.problem_type != "regression":
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
        """Give the row of an answer, in the order of `header`."""
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
        """Give an answer as an object of JSON, on one line."""
        named: dict[str, Any] = {} if self._id_name is None else {self._id_name: identifier}
        named[self._answer] = prediction.label
        if prediction.confidence is not None:
            named["confidence"] = prediction.confidence
        if self._settings.problem_type != "regression":
            named["probabilities"] = prediction.probabilities
            named["top_k"] = [{"label": name, "probability": p} for name, p in prediction.top_k]
        named.update(zip(self._texts, texts))
        # What is half a character becomes an escape when it is written, which JSON has as well.
        return json.dumps(files.without_nan(named), ensure_ascii=False, allow_nan=False)

    def label_cell(self, label: Label | None) -> str:
        """Say a label, several labels or a number in one cell; nothing is empty."""
        if isinstance(label, float):
            return "%.6f" % label
        return label if isinstance(label, str) else self._separator.join(label or ())


def in_a_cell(text: str) -> str:
    """Replace what would end a cell or a line by spaces."""
    return CONTROL_CHARACTER.sub(" ", text)


def _free_separator(wanted: str, labels: Sequence[str]) -> str:
    """Choose what stands between labels: what is wanted, unless it is part of one of them."""
    candidates = (wanted, *",;|/", *string.punctuation)
    return next(
        (
            candidate
            for candidate in candidates
            if candidate.isprintable() and not any(candidate in label for label in labels)
        ),
        "\N{BROKEN BAR}",
    )

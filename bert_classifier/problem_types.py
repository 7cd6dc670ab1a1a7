"""Problem types: what a label is, and how answers are made of what a model predicts.

Answers need no TensorFlow, so this does not either: how a model learns and predicts a label is in
`objectives`. To add a problem type, add a class and a row to `_ALL` there and here. The rest of the
program knows a problem type by its name, as `--problem_type`, run.json and bundle.json have it, and
asks `get` for the object.
"""

from __future__ import annotations

import abc
import collections
import itertools
import math
from typing import Any, Iterable, Mapping, NamedTuple, Sequence, Tuple, Union

import numpy as np

# One of the classes; a number; or any of the classes, several or none of them.
Label = Union[str, float, Tuple[str, ...]]

# Smaller probabilities in float32 are not precise.
TINY = 1e-30


class ClassOptions(NamedTuple):
    """Options of a problem type whose labels are classes.

    Attributes:
        class_weights: factor of the loss of each class; None for 1.
        label_smoothing: part of the target, from 0 up to but not including 1, that is spread evenly
            over all classes (https://arxiv.org/abs/1512.00567, section 7); for `multi_label`, over
            the yes and the no of each label.
        thresholds: for `multi_label`, the probability above which a label is predicted, for each
            label; None for 0.5.
    """

    class_weights: Sequence[float] | None = None
    label_smoothing: float = 0.0
    thresholds: Sequence[float] | None = None


NO_OPTIONS = ClassOptions()


class Constant(NamedTuple):
    """The same answer to all examples, and what it scores.

    Attributes:
        answer: a class; for `multi_label` a tuple of classes; for a regression the mean.
        score: the highest of any such answer in a metric; of an error the lowest.
    """

    answer: Any
    score: float

    @property
    def text(self) -> str:
        """The answer as people write it."""
        if isinstance(self.answer, tuple):
            return " and ".join(self.answer) or "no label"
        return self.answer if isinstance(self.answer, str) else "%.4f" % self.answer


class ProblemType(abc.ABC):
    """What a label is, and how it is answered.

    Attributes:
        name: value of `--problem_type`.
        answer: name of what is predicted, in tables of answers.
        output: the PREDICT output from which answers are made.
        has_classes: whether labels are classes, which have probabilities, weights and smoothing.
        has_thresholds: whether a class is predicted where its probability is above a threshold.
        has_confidence: whether one class is predicted, so that its probability is a confidence.
        may_be_empty: whether an empty cell of a file is a label, that of none of the classes.
        min_classes: the fewest classes that can be learned.
        fixed_labels: the labels of every task, where these do not come from its data.
    """

    name: str
    answer = "label"
    output = "probabilities"
    has_classes = True
    has_thresholds = False
    has_confidence = False
    may_be_empty = False
    min_classes = 2
    fixed_labels: Sequence[str] | None = None

    def check(self, num_labels: int, options: ClassOptions) -> None:
        """Check that options belong to the problem type.

        Raises:
            ValueError: they do not.
        """
        if options.thresholds is None:
            return
        if not self.has_thresholds:
            raise ValueError("thresholds are for multi_label, not for %s" % self.name)
        if len(options.thresholds) != num_labels:
            raise ValueError("%d thresholds for %d labels" % (len(options.thresholds), num_labels))

    # Labels of files

    @abc.abstractmethod
    def read_label(self, cell: str, elements: Sequence[str] | None, separator: str) -> Label:
        """Return the label that a cell of a file holds.

        Args:
            cell: the text.
            elements: the texts of a JSON list, if the cell is one.
            separator: between the labels of a cell that has several.

        Raises:
            ValueError: it holds none; the message has the reason and the cure.
        """

    @abc.abstractmethod
    def label_id(self, label: Label, ids: Mapping[str, int]) -> int | float | list[int]:
        """Return the feature of a label.

        Args:
            label: see `read_label`.
            ids: class -> index.

        Raises:
            KeyError: there is no such class.
        """

    # Answers; `choose`, `divide_logits` and `decisions` are for `has_classes` only

    @abc.abstractmethod
    def best_constants(self, labels: Iterable[Any], classes: Sequence[str]) -> dict[str, Constant]:
        """Return metric -> the best answer that is the same for all examples, and its score.

        Args:
            labels: of each example, see `read_label`.
            classes: the labels in the order of the model's outputs.
        """

    def choose(
        self,
        probabilities: np.ndarray,
        labels: Sequence[str],
        thresholds: Sequence[float] | None,
        min_confidence: float,
    ) -> tuple[Label | None, float | None]:
        """Return the label of a text, None below `min_confidence`, and the confidence if any.

        Args:
            probabilities: float32 `[num_labels]`.
            labels: in the order of the model's outputs.
            thresholds: see `ClassOptions`.
            min_confidence: the lowest confidence with which a label is answered.
        """
        raise NotImplementedError("%s has no probabilities" % self.name)

    @abc.abstractmethod
    def name_prediction(self, prediction: Any, labels: Sequence[str], separator: str) -> str:
        """Return the text that a data file would have for one of the predictions of a model."""

    # Calibration

    def divide_logits(self, probabilities: np.ndarray, temperature: float) -> np.ndarray:
        """Return the probabilities of logits that are divided by a temperature.

        Args:
            probabilities: float64 `[num_examples, num_labels]`, not below `TINY`.
            temperature: above 0.

        Returns:
            Like `probabilities`.
        """
        raise NotImplementedError("%s has no probabilities" % self.name)

    def decisions(
        self, probabilities: np.ndarray, label_ids: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return confidence, correctness and the probability of the truth, of each decision.

        Args:
            probabilities: float `[num_examples, num_labels]`.
            label_ids: see `label_id`.

        Returns:
            Three arrays `[num_decisions]`.
        """
        raise NotImplementedError("%s has no probabilities" % self.name)


class Classification(ProblemType):
    """One of several classes."""

    name = "classification"
    has_confidence = True

    def read_label(self, cell: str, elements: Sequence[str] | None, separator: str) -> Label:
        """Return the class; see `ProblemType`."""
        if elements is not None and len(elements) > 1:
            raise ValueError(
                f"{len(elements)} labels; give --problem_type=multi_label, or one label"
            )
        return cell.strip()

    def label_id(self, label: Label, ids: Mapping[str, int]) -> int:
        """Return the index of the class."""
        return ids[label]  # type: ignore[index]

    def best_constants(self, labels: Iterable[Any], classes: Sequence[str]) -> dict[str, Constant]:
        """Return the most frequent class; for the F1 of two, the second, whose F1 it is."""
        counts = collections.Counter(labels)
        answer, most = counts.most_common(1)[0]
        num_examples = sum(counts.values())
        of_f1 = classes[1] if len(classes) == 2 else answer
        # Of a class that is always answered the recall is 1, and the precision is its share.
        f1 = 2 * counts[of_f1] / (num_examples + counts[of_f1])
        return {
            "eval_accuracy": Constant(answer, most / num_examples),
            "eval_f1": Constant(of_f1, f1 if len(classes) == 2 else f1 / len(classes)),
            "eval_matthews_correlation": Constant(answer, 0.0),
        }

    def choose(
        self,
        probabilities: np.ndarray,
        labels: Sequence[str],
        thresholds: Sequence[float] | None,
        min_confidence: float,
    ) -> tuple[Label | None, float | None]:
        """Return the most probable class and its probability; see `ProblemType`."""
        best = int(np.argmax(probabilities))
        confidence = float(probabilities[best])
        return (labels[best] if confidence >= min_confidence else None), confidence

    def name_prediction(self, prediction: Any, labels: Sequence[str], separator: str) -> str:
        """Return the class."""
        return labels[prediction]

    def divide_logits(self, probabilities: np.ndarray, temperature: float) -> np.ndarray:
        """Return the softmax of divided logits; see `ProblemType`."""
        logits = np.log(probabilities) / temperature
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def decisions(
        self, probabilities: np.ndarray, label_ids: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the decision for the most probable class of each example; see `ProblemType`."""
        rows = np.arange(len(probabilities))
        is_right = probabilities.argmax(axis=1) == label_ids
        return probabilities.max(axis=1), is_right, probabilities[rows, label_ids]


class MultiLabel(ProblemType):
    """Any of several classes, or none."""

    name = "multi_label"
    has_thresholds = True
    may_be_empty = True
    min_classes = 1

    def read_label(self, cell: str, elements: Sequence[str] | None, separator: str) -> Label:
        """Return the classes; see `ProblemType`."""
        parts = cell.split(separator) if elements is None else elements
        return tuple(part.strip() for part in parts if part.strip())

    def label_id(self, label: Label, ids: Mapping[str, int]) -> list[int]:
        """Return a 1 for each class that the label has, and a 0 for each other."""
        given = {ids[name] for name in label}  # type: ignore[union-attr]
        return [int(index in given) for index in range(len(ids))]

    def best_constants(self, labels: Iterable[Any], classes: Sequence[str]) -> dict[str, Constant]:
        """Return the most frequent set of classes; for F1 the set for which it is the highest."""
        counts = collections.Counter(labels)
        answer, most = counts.most_common(1)[0]
        num_examples = sum(counts.values())
        return {
            "eval_accuracy": Constant(answer, most / num_examples),
            "eval_f1_micro": _best_for_micro_f1(counts, num_examples, classes),
        }

    def choose(
        self,
        probabilities: np.ndarray,
        labels: Sequence[str],
        thresholds: Sequence[float] | None,
        min_confidence: float,
    ) -> tuple[Label | None, float | None]:
        """Return the classes above their thresholds; see `ProblemType`."""
        # In float32, in which the model compares them too.
        above = probabilities > np.float32(or_half(thresholds))
        return tuple(itertools.compress(labels, above)), None

    def name_prediction(self, prediction: Any, labels: Sequence[str], separator: str) -> str:
        """Return the classes, with separators between them."""
        return separator.join(itertools.compress(labels, prediction))

    def divide_logits(self, probabilities: np.ndarray, temperature: float) -> np.ndarray:
        """Return the sigmoid of divided logits; see `ProblemType`."""
        logits = np.log(probabilities) - np.log(np.maximum(1.0 - probabilities, TINY))
        # The same as 1 / (1 + exp(-x)), for any x.
        return 0.5 * (1.0 + np.tanh(logits / temperature / 2.0))

    def decisions(
        self, probabilities: np.ndarray, label_ids: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return a decision for each class of each example; see `ProblemType`."""
        of_yes, truth = probabilities.ravel(), np.asarray(label_ids).ravel()
        confidence = np.maximum(of_yes, 1.0 - of_yes)
        return confidence, (of_yes > 0.5) == truth, np.where(truth == 1, of_yes, 1.0 - of_yes)


class Regression(ProblemType):
    """A number."""

    name = "regression"
    answer = "score"
    output = "predictions"
    has_classes = False
    min_classes = 0
    fixed_labels = ("score",)

    def check(self, num_labels: int, options: ClassOptions) -> None:
        """Check that there is one output, and no option of classes; see `ProblemType`."""
        if num_labels != 1:
            raise ValueError("a regression has one output: num_labels is 1, not %d" % num_labels)
        if options.class_weights is not None or options.label_smoothing:
            raise ValueError("a regression has no classes to weigh and no labels to smooth")
        super().check(num_labels, options)

    def read_label(self, cell: str, elements: Sequence[str] | None, separator: str) -> Label:
        """Return the number; see `ProblemType`."""
        text = cell.strip()
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"label {text!r} is no number; write one, such as 2.5")
        return number

    def label_id(self, label: Label, ids: Mapping[str, int]) -> float:
        """Return the number, which may be given as a text."""
        return float(label)  # type: ignore[arg-type]

    def best_constants(self, labels: Iterable[Any], classes: Sequence[str]) -> dict[str, Constant]:
        """Return the mean, whose squared error is the variance; see `ProblemType`."""
        values = np.fromiter(labels, np.float64)
        mean, variance = float(values.mean()), float(values.var())
        return {
            "eval_mse": Constant(mean, variance),
            "rmse": Constant(mean, math.sqrt(variance)),
        }

    def name_prediction(self, prediction: Any, labels: Sequence[str], separator: str) -> str:
        """Return the number with three decimals, as GLUE wants it."""
        return "%.3f" % prediction


def _best_for_micro_f1(
    counts: Mapping[tuple[str, ...], int], num_examples: int, classes: Sequence[str]
) -> Constant:
    """Return the set of classes that has the highest micro F1 when it is always answered.

    Micro F1 is 2 x right / (answered + wanted), over all examples and classes. Of all sets of a
    size that of the most frequent classes has the most right.
    """
    numbers = {name: 0 for name in classes}
    for of_one, number in counts.items():
        for name in of_one:
            numbers[name] += number
    wanted, right, best = sum(numbers.values()), 0, Constant((), 0.0)
    chosen: set[str] = set()
    for name in sorted(classes, key=lambda name: -numbers[name]):
        chosen.add(name)
        right += numbers[name]
        f1 = 2 * right / (len(chosen) * num_examples + wanted)
        if f1 > best.score:
            best = Constant(tuple(name for name in classes if name in chosen), f1)
    return best


def or_half(thresholds: Sequence[float] | None) -> Any:
    """Return thresholds, or the one of labels that have none of their own."""
    return 0.5 if thresholds is None else thresholds


_ALL = {kind.name: kind for kind in (Classification(), Regression(), MultiLabel())}

PROBLEM_TYPES = tuple(_ALL)


def get(name: str) -> ProblemType:
    """Return the problem type of a name.

    Raises:
        ValueError: there is none.
    """
    if name not in _ALL:
        raise ValueError("problem_type must be one of %s, not %r" % (PROBLEM_TYPES, name))
    return _ALL[name]

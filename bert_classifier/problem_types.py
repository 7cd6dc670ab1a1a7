"""Problem types: what a label is, and everything that follows from it.

To add a problem type, add a subclass of `ProblemType` and a row to `_ALL`. The rest of the program
knows a problem type by its name, as `--problem_type`, run.json and bundle.json have it, and asks
`get` for the object.
"""

from __future__ import annotations

import abc
import collections
import itertools
import math
from typing import Any, Callable, Dict, Iterable, Mapping, NamedTuple, Sequence, Tuple, Union

import numpy as np
import tensorflow.compat.v1 as tf

import tf_metrics

# One of the classes; a number; or any of the classes, several or none of them.
Label = Union[str, float, Tuple[str, ...]]

Metrics = Dict[str, Tuple[tf.Tensor, tf.Operation]]

_RECALL_AT = (3, 5)

_MULTI_LABEL_SCORES: Mapping[str, Callable[..., tuple[tf.Tensor, tf.Operation]]] = {
    "precision": tf_metrics.multi_label_precision,
    "recall": tf_metrics.multi_label_recall,
    "f1": tf_metrics.multi_label_fbeta,
}
_AVERAGES = ("micro", "macro")

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


class Evaluated(NamedTuple):
    """What the metrics of an evaluation are computed from.

    Attributes:
        losses: float32 `[batch_size]`.
        labels: of the shape and dtype of `predictions`.
        probabilities: float32 `[batch_size, num_labels]`; None for a regression.
        predictions: see `ProblemType.outputs`.
        weights: float32 `[batch_size]`, 0 for an example that is padding.
    """

    losses: tf.Tensor
    labels: tf.Tensor
    probabilities: tf.Tensor | None
    predictions: tf.Tensor
    weights: tf.Tensor


class ProblemType(abc.ABC):
    """What a label is, and how a model predicts it.

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

    @abc.abstractmethod
    def label_spec(self, num_labels: int) -> tf.FixedLenFeature:
        """Declare the feature in a record."""

    # The model

    @abc.abstractmethod
    def mean_over_windows(self, logits: tf.Tensor, exists: tf.Tensor) -> tf.Tensor:
        """Return the logits of the mean probabilities, or the mean number of a regression.

        Probabilities are summed as logarithms, so that no loss becomes infinite by rounding. Sums
        replace means where the number of windows cancels out.

        Args:
            logits: float32 `[batch_size, num_windows, num_labels]`.
            exists: float32 `[batch_size, num_windows, 1]`, 1 or 0.

        Returns:
            float32 `[batch_size, num_labels]`, finite also for an example without windows.
        """

    @abc.abstractmethod
    def outputs(
        self, logits: tf.Tensor, options: ClassOptions
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """Return the probabilities and the predictions.

        Args:
            logits: float32 `[batch_size, num_labels]`.
            options: the thresholds are used.

        Returns:
            The probabilities: float32 `[batch_size, num_labels]`; None for a regression. The
            predictions: the class, int32 `[batch_size]`; the number of a regression, float32
            `[batch_size]`; for `multi_label` 1 for each label of an example and else 0, int32
            `[batch_size, num_labels]`.
        """

    @abc.abstractmethod
    def losses(self, logits: tf.Tensor, labels: tf.Tensor, options: ClassOptions) -> tf.Tensor:
        """Return the loss of each example, float32 `[batch_size]`.

        Args:
            logits: float32 `[batch_size, num_labels]`.
            labels: of the shape and dtype of the predictions.
            options: class weights and label smoothing are used.
        """

    def exported(
        self, probabilities: tf.Tensor | None, predictions: tf.Tensor, num_labels: int
    ) -> dict[str, tf.Tensor]:
        """Return the outputs of PREDICT, and so of an export, by name."""
        top_3 = tf.nn.top_k(probabilities, k=min(3, num_labels)).indices
        return {"probabilities": probabilities, "predictions": predictions, "top_3": top_3}

    # Metrics

    @abc.abstractmethod
    def metric_names(self, num_labels: int, extra_metrics: Sequence[str]) -> list[str]:
        """Name the metrics of an evaluation.

        Raises:
            ValueError: the problem type has no extra metrics.
        """

    @abc.abstractmethod
    def metrics(self, evaluated: Evaluated, extra_metrics: Sequence[str]) -> Metrics:
        """Build the streaming metrics: name -> (value, update_op)."""

    def _without_extra(self, extra_metrics: Sequence[str]) -> None:
        if extra_metrics:
            raise ValueError("extra metrics are for a classification, not for %s" % self.name)

    # Answers; `choose`, `divide_logits` and `decisions` are for `has_classes` only

    @abc.abstractmethod
    def constant_answer(
        self, labels: Iterable[Any], classes: Sequence[str]
    ) -> tuple[Any, dict[str, float]]:
        """Return the best answer that is the same for all examples, and its scores by metric.

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
    """One of several classes: softmax and cross entropy."""

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

    def label_spec(self, num_labels: int) -> tf.FixedLenFeature:
        """Declare one integer."""
        return tf.FixedLenFeature([], tf.int64)

    def mean_over_windows(self, logits: tf.Tensor, exists: tf.Tensor) -> tf.Tensor:
        """Return the logits of the mean softmax; see `ProblemType`."""
        return _log_of_sum(tf.nn.log_softmax(logits), exists)

    def outputs(
        self, logits: tf.Tensor, options: ClassOptions
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """Return the softmax and the most probable class; see `ProblemType`."""
        probabilities = tf.nn.softmax(logits, name="probabilities")
        return probabilities, tf.argmax(logits, axis=-1, output_type=tf.int32, name="predictions")

    def losses(self, logits: tf.Tensor, labels: tf.Tensor, options: ClassOptions) -> tf.Tensor:
        """Return the cross entropies; see `ProblemType`."""
        num_labels = logits.shape.as_list()[1]
        targets = tf.one_hot(labels, num_labels) * (1.0 - options.label_smoothing)
        losses = tf.nn.softmax_cross_entropy_with_logits_v2(
            labels=targets + options.label_smoothing / num_labels, logits=logits
        )
        if options.class_weights is not None:
            losses *= tf.gather(tf.constant(options.class_weights, tf.float32), labels)
        return losses

    def metric_names(self, num_labels: int, extra_metrics: Sequence[str]) -> list[str]:
        """Name the metrics; see `metrics`."""
        names = ["eval_accuracy", "eval_loss", "eval_precision", "eval_recall", "eval_f1"]
        names += ["eval_recall_at_%d" % k for k in _RECALL_AT if num_labels > k]
        return names + ["eval_" + name for name in extra_metrics]

    def metrics(self, evaluated: Evaluated, extra_metrics: Sequence[str]) -> Metrics:
        """Build the metrics; see `ProblemType`.

        Precision, recall and F1 are those of class 1 when there are two classes, and macro averages
        over all classes beyond.
        """
        losses, labels, probabilities, predictions, weights = evaluated
        assert probabilities is not None
        num_labels = probabilities.shape.as_list()[-1]
        average: dict[str, Any] = {"pos_indices": [1]} if num_labels == 2 else {"average": "macro"}
        counted: dict[str, Any] = {
            "labels": labels,
            "predictions": predictions,
            "num_classes": num_labels,
            "weights": weights,
        }
        metrics = {
            "eval_accuracy": tf.metrics.accuracy(labels, predictions, weights=weights),
            "eval_loss": tf.metrics.mean(losses, weights=weights),
            "eval_precision": tf_metrics.precision(**counted, **average),
            "eval_recall": tf_metrics.recall(**counted, **average),
            "eval_f1": tf_metrics.f1(**counted, **average),
        }
        for k in _RECALL_AT:
            if num_labels > k:
                metrics["eval_recall_at_%d" % k] = tf.metrics.recall_at_k(
                    tf.cast(labels, tf.int64), probabilities, k, weights=weights
                )
        if "matthews_correlation" in extra_metrics:
            metrics["eval_matthews_correlation"] = tf_metrics.matthews_correlation(**counted)
        return metrics

    def constant_answer(
        self, labels: Iterable[Any], classes: Sequence[str]
    ) -> tuple[Any, dict[str, float]]:
        """Return the most frequent class; see `ProblemType`."""
        counts = collections.Counter(labels)
        answer, most = counts.most_common(1)[0]
        num_examples = sum(counts.values())
        # F1 of a class that is always answered: its recall is 1, and its share is the precision.
        f1 = [2 * share / (1 + share) for share in (counts[c] / num_examples for c in classes)]
        return answer, {
            "eval_accuracy": most / num_examples,
            "eval_f1": f1[1] if len(classes) == 2 else max(f1) / len(classes),
            "eval_matthews_correlation": 0.0,
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
    """Any of several classes: sigmoid and, as a mean over the classes, binary cross entropy."""

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

    def label_spec(self, num_labels: int) -> tf.FixedLenFeature:
        """Declare an integer for each class."""
        return tf.FixedLenFeature([num_labels], tf.int64)

    def mean_over_windows(self, logits: tf.Tensor, exists: tf.Tensor) -> tf.Tensor:
        """Return the logits of the mean sigmoid; see `ProblemType`."""
        of_yes = _log_of_sum(tf.log_sigmoid(logits), exists)
        return of_yes - _log_of_sum(tf.log_sigmoid(-logits), exists)

    def outputs(
        self, logits: tf.Tensor, options: ClassOptions
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """Return the sigmoid, and which classes are above their threshold; see `ProblemType`."""
        probabilities = tf.sigmoid(logits, name="probabilities")
        is_predicted = probabilities > _or_half(options.thresholds)
        return probabilities, tf.cast(is_predicted, tf.int32, name="predictions")

    def losses(self, logits: tf.Tensor, labels: tf.Tensor, options: ClassOptions) -> tf.Tensor:
        """Return the means of the binary cross entropies; see `ProblemType`."""
        smoothing = options.label_smoothing
        targets = tf.cast(labels, tf.float32) * (1.0 - smoothing) + smoothing / 2
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits)
        if options.class_weights is not None:
            losses *= tf.constant(options.class_weights, tf.float32)
        return tf.reduce_mean(losses, axis=1)

    def metric_names(self, num_labels: int, extra_metrics: Sequence[str]) -> list[str]:
        """Name the metrics; see `ProblemType`."""
        self._without_extra(extra_metrics)
        names = ["eval_%s_%s" % (n, average) for n in _MULTI_LABEL_SCORES for average in _AVERAGES]
        return ["eval_accuracy", "eval_loss", *names]

    def metrics(self, evaluated: Evaluated, extra_metrics: Sequence[str]) -> Metrics:
        """Build the metrics; see `ProblemType`.

        The accuracy is the share of the examples that have all their labels and no other.
        """
        losses, labels, _, predictions, weights = evaluated
        all_right = tf.reduce_all(tf.equal(labels, predictions), axis=1)
        metrics = {
            "eval_accuracy": tf.metrics.mean(all_right, weights),
            "eval_loss": tf.metrics.mean(losses, weights),
        }
        num_labels = predictions.shape.as_list()[1]
        for name, score in _MULTI_LABEL_SCORES.items():
            for average in _AVERAGES:
                metrics["eval_%s_%s" % (name, average)] = score(
                    labels, predictions, num_labels, weights, average
                )
        return metrics

    def constant_answer(
        self, labels: Iterable[Any], classes: Sequence[str]
    ) -> tuple[Any, dict[str, float]]:
        """Return the most frequent set of classes; see `ProblemType`."""
        counts = collections.Counter(labels)
        answer, most = counts.most_common(1)[0]
        num_examples = sum(counts.values())
        # Micro F1 is 2 x right / (answered + wanted), over all examples and labels.
        right = sum(len(set(answer) & set(of_one)) * n for of_one, n in counts.items())
        total = sum(len(of_one) * n for of_one, n in counts.items()) + len(answer) * num_examples
        return answer, {
            "eval_accuracy": most / num_examples,
            "eval_f1_micro": 2 * right / total if total else 0.0,
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
        above = probabilities > np.float32(_or_half(thresholds))
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
    """A number: the plain output and the mean squared error."""

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

    def label_spec(self, num_labels: int) -> tf.FixedLenFeature:
        """Declare one number."""
        return tf.FixedLenFeature([], tf.float32)

    def mean_over_windows(self, logits: tf.Tensor, exists: tf.Tensor) -> tf.Tensor:
        """Return the mean number; see `ProblemType`."""
        total = tf.reduce_sum(logits * exists, axis=1)
        return tf.math.divide_no_nan(total, tf.reduce_sum(exists, axis=1))

    def outputs(
        self, logits: tf.Tensor, options: ClassOptions
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """Return no probabilities, and the number; see `ProblemType`."""
        return None, tf.squeeze(logits, axis=1, name="predictions")

    def losses(self, logits: tf.Tensor, labels: tf.Tensor, options: ClassOptions) -> tf.Tensor:
        """Return the squared errors; see `ProblemType`."""
        return tf.squared_difference(tf.squeeze(logits, axis=1), labels)

    def exported(
        self, probabilities: tf.Tensor | None, predictions: tf.Tensor, num_labels: int
    ) -> dict[str, tf.Tensor]:
        """Return the number; see `ProblemType`."""
        return {"predictions": predictions}

    def metric_names(self, num_labels: int, extra_metrics: Sequence[str]) -> list[str]:
        """Name the metrics; see `ProblemType`."""
        self._without_extra(extra_metrics)
        return ["eval_pearson", "eval_spearman", "eval_mse", "eval_loss"]

    def metrics(self, evaluated: Evaluated, extra_metrics: Sequence[str]) -> Metrics:
        """Build the metrics; see `ProblemType`."""
        losses, labels, _, predictions, weights = evaluated
        return {
            "eval_pearson": tf_metrics.pearson_correlation(labels, predictions, weights),
            "eval_spearman": tf_metrics.spearman_correlation(labels, predictions, weights),
            "eval_mse": tf.metrics.mean_squared_error(labels, predictions, weights),
            "eval_loss": tf.metrics.mean(losses, weights),
        }

    def constant_answer(
        self, labels: Iterable[Any], classes: Sequence[str]
    ) -> tuple[Any, dict[str, float]]:
        """Return the mean, whose squared error is the variance; see `ProblemType`."""
        values = np.fromiter(labels, np.float64)
        return float(values.mean()), {"eval_mse": float(values.var())}

    def name_prediction(self, prediction: Any, labels: Sequence[str], separator: str) -> str:
        """Return the number with three decimals, as GLUE wants it."""
        return "%.3f" % prediction


def _log_of_sum(log_probabilities: tf.Tensor, exists: tf.Tensor) -> tf.Tensor:
    """Return the logarithms of sums of probabilities over the windows that exist."""
    return tf.reduce_logsumexp(log_probabilities + (1.0 - exists) * -10000.0, axis=1)


def _or_half(thresholds: Sequence[float] | None) -> Any:
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

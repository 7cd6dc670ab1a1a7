"""Objectives: how a model learns and predicts the labels of each problem type.

What a label is, and how answers are made of what a model predicts, is in `problem_types`, which
needs no TensorFlow. To add a problem type, add a class and a row there and here.
"""

from __future__ import annotations

import abc
from typing import Any, Callable, Dict, Mapping, NamedTuple, Sequence, Tuple

import tensorflow.compat.v1 as tf

import tf_metrics
from bert_classifier import problem_types
from bert_classifier.problem_types import ClassOptions, or_half

Metrics = Dict[str, Tuple[tf.Tensor, tf.Operation]]

_RECALL_AT = (3, 5)

_MULTI_LABEL_SCORES: Mapping[str, Callable[..., tuple[tf.Tensor, tf.Operation]]] = {
    "precision": tf_metrics.multi_label_precision,
    "recall": tf_metrics.multi_label_recall,
    "f1": tf_metrics.multi_label_fbeta,
}
_AVERAGES = ("micro", "macro")


class Evaluated(NamedTuple):
    """What the metrics of an evaluation are computed from.

    Attributes:
        losses: float32 `[batch_size]`.
        labels: of the shape and dtype of `predictions`.
        probabilities: float32 `[batch_size, num_labels]`; None for a regression.
        predictions: see `Objective.outputs`.
        weights: float32 `[batch_size]`, 0 for an example that is padding.
    """

    losses: tf.Tensor
    labels: tf.Tensor
    probabilities: tf.Tensor | None
    predictions: tf.Tensor
    weights: tf.Tensor


class Objective(abc.ABC):
    """The part of the graph that depends on the problem type: outputs, losses, metrics.

    Attributes:
        name: of the problem type.
    """

    name: str

    @abc.abstractmethod
    def label_spec(self, num_labels: int) -> tf.FixedLenFeature:
        """Declare the feature in a record."""

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


class Classification(Objective):
    """Softmax and cross entropy."""

    name = "classification"

    def label_spec(self, num_labels: int) -> tf.FixedLenFeature:
        """Declare one integer."""
        return tf.FixedLenFeature([], tf.int64)

    def mean_over_windows(self, logits: tf.Tensor, exists: tf.Tensor) -> tf.Tensor:
        """Return the logits of the mean softmax; see `Objective`."""
        return _log_of_sum(tf.nn.log_softmax(logits), exists)

    def outputs(
        self, logits: tf.Tensor, options: ClassOptions
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """Return the softmax and the most probable class; see `Objective`."""
        probabilities = tf.nn.softmax(logits, name="probabilities")
        return probabilities, tf.argmax(logits, axis=-1, output_type=tf.int32, name="predictions")

    def losses(self, logits: tf.Tensor, labels: tf.Tensor, options: ClassOptions) -> tf.Tensor:
        """Return the cross entropies; see `Objective`."""
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
        """Build the metrics; see `Objective`.

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


class MultiLabel(Objective):
    """Sigmoid and, as a mean over the classes, binary cross entropy."""

    name = "multi_label"

    def label_spec(self, num_labels: int) -> tf.FixedLenFeature:
        """Declare an integer for each class."""
        return tf.FixedLenFeature([num_labels], tf.int64)

    def mean_over_windows(self, logits: tf.Tensor, exists: tf.Tensor) -> tf.Tensor:
        """Return the logits of the mean sigmoid; see `Objective`."""
        of_yes = _log_of_sum(tf.log_sigmoid(logits), exists)
        return of_yes - _log_of_sum(tf.log_sigmoid(-logits), exists)

    def outputs(
        self, logits: tf.Tensor, options: ClassOptions
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """Return the sigmoid, and which classes are above their threshold; see `Objective`."""
        probabilities = tf.sigmoid(logits, name="probabilities")
        is_predicted = probabilities > or_half(options.thresholds)
        return probabilities, tf.cast(is_predicted, tf.int32, name="predictions")

    def losses(self, logits: tf.Tensor, labels: tf.Tensor, options: ClassOptions) -> tf.Tensor:
        """Return the means of the binary cross entropies; see `Objective`."""
        smoothing = options.label_smoothing
        targets = tf.cast(labels, tf.float32) * (1.0 - smoothing) + smoothing / 2
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits)
        if options.class_weights is not None:
            losses *= tf.constant(options.class_weights, tf.float32)
        return tf.reduce_mean(losses, axis=1)

    def metric_names(self, num_labels: int, extra_metrics: Sequence[str]) -> list[str]:
        """Name the metrics; see `Objective`."""
        self._without_extra(extra_metrics)
        names = ["eval_%s_%s" % (n, average) for n in _MULTI_LABEL_SCORES for average in _AVERAGES]
        return ["eval_accuracy", "eval_loss", *names]

    def metrics(self, evaluated: Evaluated, extra_metrics: Sequence[str]) -> Metrics:
        """Build the metrics; see `Objective`.

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


class Regression(Objective):
    """The plain output and the mean squared error."""

    name = "regression"

    def label_spec(self, num_labels: int) -> tf.FixedLenFeature:
        """Declare one number."""
        return tf.FixedLenFeature([], tf.float32)

    def mean_over_windows(self, logits: tf.Tensor, exists: tf.Tensor) -> tf.Tensor:
        """Return the mean number; see `Objective`."""
        total = tf.reduce_sum(logits * exists, axis=1)
        return tf.math.divide_no_nan(total, tf.reduce_sum(exists, axis=1))

    def outputs(
        self, logits: tf.Tensor, options: ClassOptions
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """Return no probabilities, and the number; see `Objective`."""
        return None, tf.squeeze(logits, axis=1, name="predictions")

    def losses(self, logits: tf.Tensor, labels: tf.Tensor, options: ClassOptions) -> tf.Tensor:
        """Return the squared errors; see `Objective`."""
        return tf.squared_difference(tf.squeeze(logits, axis=1), labels)

    def exported(
        self, probabilities: tf.Tensor | None, predictions: tf.Tensor, num_labels: int
    ) -> dict[str, tf.Tensor]:
        """Return the number; see `Objective`."""
        return {"predictions": predictions}

    def metric_names(self, num_labels: int, extra_metrics: Sequence[str]) -> list[str]:
        """Name the metrics; see `Objective`."""
        self._without_extra(extra_metrics)
        return ["eval_pearson", "eval_spearman", "eval_mse", "eval_loss"]

    def metrics(self, evaluated: Evaluated, extra_metrics: Sequence[str]) -> Metrics:
        """Build the metrics; see `Objective`."""
        losses, labels, _, predictions, weights = evaluated
        return {
            "eval_pearson": tf_metrics.pearson_correlation(labels, predictions, weights),
            "eval_spearman": tf_metrics.spearman_correlation(labels, predictions, weights),
            "eval_mse": tf.metrics.mean_squared_error(labels, predictions, weights),
            "eval_loss": tf.metrics.mean(losses, weights),
        }


def _log_of_sum(log_probabilities: tf.Tensor, exists: tf.Tensor) -> tf.Tensor:
    """Return the logarithms of sums of probabilities over the windows that exist."""
    return tf.reduce_logsumexp(log_probabilities + (1.0 - exists) * -10000.0, axis=1)


_ALL = {objective.name: objective for objective in (Classification(), Regression(), MultiLabel())}


def get(name: str) -> Objective:
    """Return the objective of a problem type.

    Raises:
        ValueError: there is none.
    """
    return _ALL[problem_types.get(name).name]

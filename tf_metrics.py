"""Precision, recall, F-beta and Matthews correlation of many classes, over a stream of batches.

The API is that of the tf_metrics package. The confusion matrix is added up over the batches, and
every metric is a pure function of it (`precision_of`, ...): matrices of several workers can be
summed before the metric is taken. 0 / 0 is 0, scikit-learn's `zero_division=0`. `pos_indices` is
scikit-learn's `labels`; None stands for all `num_classes` classes, also those that never occur.

Counts and arithmetic are float64. A streamed metric is a float32 scalar, as in `tf.metrics`: this
is what an event file holds, so a metric that is read back equals the one that was returned.
"""

from __future__ import annotations

from typing import Callable, NamedTuple, Sequence

import tensorflow.compat.v1 as tf


def precision(
    labels: tf.Tensor,
    predictions: tf.Tensor,
    num_classes: int,
    pos_indices: Sequence[int] | None = None,
    weights: tf.Tensor | None = None,
    average: str = "micro",
) -> tuple[tf.Tensor, tf.Tensor]:
    """Streams the precision: true positives / predicted.

    Args:
        labels: integers in `[0, num_classes)`, any shape, for example `[batch_size]` or
            `[batch_size, seq_length]`.
        predictions: integers like `labels`, with as many elements.
        num_classes: how many classes there are.
        pos_indices: the classes that count, all of them by default.
        weights: how much each example counts, see `streaming_confusion_matrix`.
        average: how classes become one number, "micro", "macro" or "weighted": see `precision_of`.

    Returns:
        `(value, update_op)` for `EstimatorSpec.eval_metric_ops`, both float32 `[]`. `update_op`
        counts a batch and gives the metric after it; `value` changes nothing.

    Raises:
        ValueError: `average` is unknown, or `pos_indices` is empty, repeats a class or names one
            that does not exist.
    """
    return _streamed(
        lambda matrix: precision_of(matrix, pos_indices, average),
        streaming_confusion_matrix(labels, predictions, num_classes, weights),
    )


def recall(
    labels: tf.Tensor,
    predictions: tf.Tensor,
    num_classes: int,
    pos_indices: Sequence[int] | None = None,
    weights: tf.Tensor | None = None,
    average: str = "micro",
) -> tuple[tf.Tensor, tf.Tensor]:
    """Streams the recall: true positives / actual.

    Arguments, result and errors are those of `precision`.
    """
    return _streamed(
        lambda matrix: recall_of(matrix, pos_indices, average),
        streaming_confusion_matrix(labels, predictions, num_classes, weights),
    )


def f1(
    labels: tf.Tensor,
    predictions: tf.Tensor,
    num_classes: int,
    pos_indices: Sequence[int] | None = None,
    weights: tf.Tensor | None = None,
    average: str = "micro",
) -> tuple[tf.Tensor, tf.Tensor]:
    """Streams F1, the harmonic mean of precision and recall: `fbeta` with a beta of 1.

    Arguments, result and errors are those of `precision`.
    """
    return fbeta(labels, predictions, num_classes, pos_indices, weights, average, beta=1)


def fbeta(
    labels: tf.Tensor,
    predictions: tf.Tensor,
    num_classes: int,
    pos_indices: Sequence[int] | None = None,
    weights: tf.Tensor | None = None,
    average: str = "micro",
    beta: float = 1,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Streams F-beta, in which recall matters `beta` times as much as precision: see `fbeta_of`.

    The other arguments, the result and the errors are those of `precision`; a `beta` that is
    negative or not finite is a ValueError too.
    """
    return _streamed(
        lambda matrix: fbeta_of(matrix, pos_indices, average, beta),
        streaming_confusion_matrix(labels, predictions, num_classes, weights),
    )


def matthews_correlation(
    labels: tf.Tensor,
    predictions: tf.Tensor,
    num_classes: int,
    weights: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Streams the Matthews correlation coefficient, the metric of CoLA: `matthews_correlation_of`.

    Arguments and result are those of `precision`.
    """
    return _streamed(
        matthews_correlation_of,
        streaming_confusion_matrix(labels, predictions, num_classes, weights),
    )


def streaming_confusion_matrix(
    labels: tf.Tensor,
    predictions: tf.Tensor,
    num_classes: int,
    weights: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Adds up the confusion matrix over batches: rows are labels, columns are predictions.

    The sum is a local metric variable, which Estimator sets to zero before each evaluation.

    Args:
        labels: integers in `[0, num_classes)`, any shape.
        predictions: integers like `labels`, with as many elements.
        num_classes: how many classes there are.
        weights: how much each label counts, by default 1; 0 leaves it out. A number or whatever
            broadcasts to the shape of `labels`; with labels `[batch_size, seq_length]` also one
            weight per row, `[batch_size]`.

    Returns:
        `(value, update_op)`, both float64 `[num_classes, num_classes]`; `update_op` is the matrix
        with this batch in it. Running it raises InvalidArgumentError if a class is out of range.
    """
    total = tf.Variable(
        tf.zeros([num_classes, num_classes], tf.float64),
        trainable=False,
        collections=[tf.GraphKeys.LOCAL_VARIABLES, tf.GraphKeys.METRIC_VARIABLES],
        name="confusion_matrix",
    )
    labels = tf.convert_to_tensor(labels)
    batch = tf.math.confusion_matrix(
        labels=tf.reshape(labels, [-1]),
        predictions=tf.reshape(predictions, [-1]),
        num_classes=num_classes,
        dtype=tf.float64,
        weights=None if weights is None else _weight_of_each(labels, weights),
    )
    return total.read_value(), tf.identity(tf.assign_add(total, batch))


def precision_of(
    confusion_matrix: tf.Tensor,
    pos_indices: Sequence[int] | None = None,
    average: str = "micro",
) -> tf.Tensor:
    """Returns the precision, true positives / predicted, float64 `[]`.

    Args:
        confusion_matrix: float64 `[num_classes, num_classes]`, rows are labels.
        pos_indices: the classes that count, all of them by default.
        average: "micro" is the ratio of the sums over the classes: with all of them, the accuracy;
            "macro" is the mean of the ratios of the classes;
            "weighted" is their mean weighted by `actual`, how often each class is a label.

    Raises:
        ValueError: as for `precision`.
    """
    counts = class_counts(confusion_matrix, pos_indices)
    return _average_ratio(counts.true_positives, counts.predicted, counts.actual, average)


def recall_of(
    confusion_matrix: tf.Tensor,
    pos_indices: Sequence[int] | None = None,
    average: str = "micro",
) -> tf.Tensor:
    """Returns the recall, true positives / actual, float64 `[]`.

    Arguments and errors are those of `precision_of`.
    """
    counts = class_counts(confusion_matrix, pos_indices)
    return _average_ratio(counts.true_positives, counts.actual, counts.actual, average)


def fbeta_of(
    confusion_matrix: tf.Tensor,
    pos_indices: Sequence[int] | None = None,
    average: str = "micro",
    beta: float = 1,
) -> tf.Tensor:
    """Returns F-beta, (1 + beta^2) P R / (beta^2 P + R) of precision P and recall R, float64 `[]`.

    It is computed as one ratio of counts, so that it averages like the other two:

        (1 + beta^2) true_positives / (beta^2 actual + predicted)

    Arguments and errors are those of `precision_of`; a `beta` that is negative or not finite is a
    ValueError too.
    """
    if not 0 <= beta < float("inf"):
        raise ValueError("beta must be a finite number >= 0, not %r" % (beta,))
    counts = class_counts(confusion_matrix, pos_indices)
    return _average_ratio(
        (1 + beta**2) * counts.true_positives,
        beta**2 * counts.actual + counts.predicted,
        counts.actual,
        average,
    )


def matthews_correlation_of(confusion_matrix: tf.Tensor) -> tf.Tensor:
    """Returns the Matthews correlation coefficient of all classes, float64 `[]` in [-1, 1].

    R_K of Gorodkin (2004), "Comparing two K-category assignments by a K-category correlation
    coefficient". With n examples, of which c are right, and a_k and p_k labels and predictions of
    class k:

        (c n - sum_k a_k p_k) / sqrt((n^2 - sum_k a_k^2) (n^2 - sum_k p_k^2))

    It is 0 where it is undefined: only one class among the labels or among the predictions.
    """
    counts = class_counts(confusion_matrix)
    correct, examples = tf.reduce_sum(counts.true_positives), tf.reduce_sum(counts.actual)
    covariance = correct * examples - tf.reduce_sum(counts.actual * counts.predicted)
    return tf.math.divide_no_nan(
        covariance, tf.sqrt(_spread(counts.actual) * _spread(counts.predicted))
    )


class ClassCounts(NamedTuple):
    """How often each counted class occurs: float64 tensors `[number of counted classes]`."""

    true_positives: tf.Tensor
    predicted: tf.Tensor
    actual: tf.Tensor


def class_counts(
    confusion_matrix: tf.Tensor, pos_indices: Sequence[int] | None = None
) -> ClassCounts:
    """Reads the counts of the classes in `pos_indices`, all by default, off a confusion matrix.

    Raises:
        ValueError: `pos_indices` is empty, repeats a class or names one that does not exist.
    """
    classes = range(confusion_matrix.shape.as_list()[0])
    counted = list(classes if pos_indices is None else pos_indices)
    if not counted or len(set(counted)) < len(counted) or not set(counted) <= set(classes):
        raise ValueError(
            "pos_indices must name different classes from 0 to %d, at least one, not %r"
            % (classes[-1], counted)
        )
    return ClassCounts(
        true_positives=tf.gather(tf.linalg.diag_part(confusion_matrix), counted),
        predicted=tf.gather(tf.reduce_sum(confusion_matrix, axis=0), counted),
        actual=tf.gather(tf.reduce_sum(confusion_matrix, axis=1), counted),
    )


def _streamed(
    score: Callable[[tf.Tensor], tf.Tensor], matrix_ops: tuple[tf.Tensor, tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    value, update_op = matrix_ops
    return tf.cast(score(value), tf.float32), tf.cast(score(update_op), tf.float32)


def _weight_of_each(labels: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    weights = tf.cast(weights, tf.float64)
    if weights.shape.ndims == 1 and labels.shape.ndims == 2:
        weights = tf.expand_dims(weights, axis=1)
    return tf.reshape(tf.broadcast_to(weights, tf.shape(labels)), [-1])


def _average_ratio(
    numerators: tf.Tensor, denominators: tf.Tensor, actual: tf.Tensor, average: str
) -> tf.Tensor:
    if average == "micro":
        return tf.math.divide_no_nan(tf.reduce_sum(numerators), tf.reduce_sum(denominators))
    ratios = tf.math.divide_no_nan(numerators, denominators)
    if average == "macro":
        return tf.reduce_mean(ratios)
    if average == "weighted":
        return tf.math.divide_no_nan(tf.reduce_sum(ratios * actual), tf.reduce_sum(actual))
    raise ValueError("average must be 'micro', 'macro' or 'weighted', not %r" % (average,))


def _spread(counts: tf.Tensor) -> tf.Tensor:
    # n^2 - sum_k counts_k^2 as products that are never negative. n is the sum of these very counts,
    # so one class gives exactly 0: the sum over the other axis of the matrix may round differently,
    # and its noise would pass for a correlation, or become NaN under the root.
    return tf.reduce_sum(counts * (tf.reduce_sum(counts) - counts))

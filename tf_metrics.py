"""Streaming metrics of classes, of several labels per example, and of numbers.

- One class per example: precision, recall, F-beta and Matthews correlation. The API is that of the
  tf_metrics package. The confusion matrix is added up over the batches, and every metric is a
  function of it (`precision_of`, ...). `pos_indices` is `labels` in scikit-learn; None means all
  `num_classes` classes, including those that never occur.
- Any number of labels per example: `multi_label_precision`, ..., from the counts of each label.
- Numbers: the Pearson and the Spearman correlation.

Every metric variable is a sum over the examples, or, if its static shape is not fully known, a list
of examples. Several workers add their sums up, or concatenate their lists, before a metric is
computed. 0 / 0 is 0, like `zero_division=0` in scikit-learn, also for a correlation with a
constant, which is NaN in scipy.

Counts and arithmetic are float64. A streamed metric is a float32 scalar, as in `tf.metrics`. An
event file holds float32, so a metric that is read back equals the one that was returned.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple, Sequence

import tensorflow.compat.v1 as tf


def precision(
    labels: tf.Tensor,
    predictions: tf.Tensor,
    num_classes: int,
    pos_indices: Sequence[int] | None = None,
    weights: tf.Tensor | None = None,
    average: str = "micro",
) -> tuple[tf.Tensor, tf.Tensor]:
    """Stream the precision: true positives / predicted.

    Args:
        labels: integers in `[0, num_classes)`, any shape, for example `[batch_size]` or
            `[batch_size, seq_length]`.
        predictions: integers like `labels`, with as many elements.
        num_classes: number of classes.
        pos_indices: the classes that count, by default all.
        weights: how much each example counts, see `streaming_confusion_matrix`.
        average: how to average over classes, "micro", "macro" or "weighted": see `precision_of`.

    Returns:
        `(value, update_op)` for `EstimatorSpec.eval_metric_ops`, both float32 `[]`. `update_op`
        counts a batch and returns the metric after it; `value` only returns the metric.

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
    """Stream the recall: true positives / actual.

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
    """Stream F1, the harmonic mean of precision and recall: `fbeta` with a beta of 1.

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
    """Stream F-beta, in which recall matters `beta` times as much as precision: see `fbeta_of`.

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
    """Stream the Matthews correlation coefficient, the metric of CoLA: `matthews_correlation_of`.

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
    """Add up the confusion matrix over batches: rows are labels, columns are predictions.

    The sum is a local metric variable, which Estimator sets to zero before each evaluation.

    Args:
        labels: integers in `[0, num_classes)`, any shape.
        predictions: integers like `labels`, with as many elements.
        num_classes: number of classes.
        weights: how much each label counts, by default 1; 0 leaves it out. A number or a tensor
            that broadcasts to the shape of `labels`; with labels `[batch_size, seq_length]` also
            one weight per row, `[batch_size]`.

    Returns:
        `(value, update_op)`, both float64 `[num_classes, num_classes]`; `update_op` is the matrix
        after this batch. It raises InvalidArgumentError if a class is out of range.
    """
    total = _metric_variable([num_classes, num_classes], "confusion_matrix")
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
    """Return the precision, true positives / predicted, float64 `[]`.

    Args:
        confusion_matrix: float64 `[num_classes, num_classes]`, rows are labels.
        pos_indices: the classes that count, by default all.
        average: "micro" is the ratio of the sums over the classes: with all classes, the accuracy;
            "macro" is the mean of the ratios of the classes;
            "weighted" is their mean weighted by `actual`, how often each class is a label.

    Raises:
        ValueError: as for `precision`.
    """
    return _precision(class_counts(confusion_matrix, pos_indices), average)


def recall_of(
    confusion_matrix: tf.Tensor,
    pos_indices: Sequence[int] | None = None,
    average: str = "micro",
) -> tf.Tensor:
    """Return the recall, true positives / actual, float64 `[]`.

    Arguments and errors are those of `precision_of`.
    """
    return _recall(class_counts(confusion_matrix, pos_indices), average)


def fbeta_of(
    confusion_matrix: tf.Tensor,
    pos_indices: Sequence[int] | None = None,
    average: str = "micro",
    beta: float = 1,
) -> tf.Tensor:
    """Return F-beta, (1 + beta^2) P R / (beta^2 P + R) of precision P and recall R, float64 `[]`.

    It is one ratio of counts, so that it averages like precision and recall:

        (1 + beta^2) true_positives / (beta^2 actual + predicted)

    Arguments and errors are those of `precision_of`; a `beta` that is negative or not finite is a
    ValueError too.
    """
    return _fbeta(class_counts(confusion_matrix, pos_indices), average, beta)


def matthews_correlation_of(confusion_matrix: tf.Tensor) -> tf.Tensor:
    """Return the Matthews correlation coefficient of all classes, float64 `[]` in [-1, 1].

    R_K of Gorodkin (2004), "Comparing two K-category assignments by a K-category correlation
    coefficient". With n examples, c of them correct, and a_k labels and p_k predictions of class k:

        (c n - sum_k a_k p_k) / sqrt((n^2 - sum_k a_k^2) (n^2 - sum_k p_k^2))

    It is 0 where it is undefined: if the labels or the predictions have only one class.
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
    """Read the counts of the classes in `pos_indices`, by default all, from a confusion matrix.

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


def multi_label_precision(
    labels: tf.Tensor,
    predictions: tf.Tensor,
    num_classes: int,
    weights: tf.Tensor | None = None,
    average: str = "micro",
) -> tuple[tf.Tensor, tf.Tensor]:
    """Stream the precision of examples that have any number of labels each.

    Args:
        labels: integers `[batch_size, num_classes]`, 1 for the labels of an example and else 0.
        predictions: integers like `labels`.
        num_classes: number of different labels.
        weights: how much each example counts, `[batch_size]`, by default 1; 0 leaves it out.
        average: how to average over labels, see `precision_of`.

    Returns:
        `(value, update_op)`, as for `precision`.

    Raises:
        ValueError: `average` is unknown.
    """
    return _streamed(
        lambda counts: _precision(counts, average),
        streaming_class_counts(labels, predictions, num_classes, weights),
    )


def multi_label_recall(
    labels: tf.Tensor,
    predictions: tf.Tensor,
    num_classes: int,
    weights: tf.Tensor | None = None,
    average: str = "micro",
) -> tuple[tf.Tensor, tf.Tensor]:
    """Stream the recall of examples that have any number of labels each.

    Arguments, result and errors are those of `multi_label_precision`.
    """
    return _streamed(
        lambda counts: _recall(counts, average),
        streaming_class_counts(labels, predictions, num_classes, weights),
    )


def multi_label_fbeta(
    labels: tf.Tensor,
    predictions: tf.Tensor,
    num_classes: int,
    weights: tf.Tensor | None = None,
    average: str = "micro",
    beta: float = 1,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Stream F-beta, by default F1, of examples that have any number of labels each.

    The other arguments, the result and the errors are those of `multi_label_precision`; a `beta`
    that is negative or not finite is a ValueError too.
    """
    return _streamed(
        lambda counts: _fbeta(counts, average, beta),
        streaming_class_counts(labels, predictions, num_classes, weights),
    )


def streaming_class_counts(
    labels: tf.Tensor,
    predictions: tf.Tensor,
    num_classes: int,
    weights: tf.Tensor | None = None,
) -> tuple[ClassCounts, ClassCounts]:
    """Count over batches how often each label is given, predicted, and both.

    Arguments are those of `multi_label_precision`.

    Returns:
        `(value, update_op)`; `update_op` has the counts after this batch.
    """
    total = _metric_variable([len(ClassCounts._fields), num_classes], "class_counts")
    actual, predicted = tf.cast(labels, tf.float64), tf.cast(predictions, tf.float64)
    counts = ClassCounts(true_positives=actual * predicted, predicted=predicted, actual=actual)
    counted = tf.stack(counts)
    if weights is not None:
        counted *= tf.expand_dims(tf.cast(weights, tf.float64), axis=1)
    update_op = tf.assign_add(total, tf.reduce_sum(counted, axis=1))
    return ClassCounts(*tf.unstack(total.read_value())), ClassCounts(*tf.unstack(update_op))


def pearson_correlation(
    labels: tf.Tensor, predictions: tf.Tensor, weights: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Stream the Pearson correlation coefficient of labels x and predictions y.

    With sums over the examples:

        (n sum xy - sum x sum y) / sqrt((n sum x^2 - (sum x)^2) (n sum y^2 - (sum y)^2))

    In float64 this is exact to 1e-5 for numbers whose standard deviation is at least 1e-5 of their
    mean, for example scores from 0 to 5. Below 1e-6, a few steps of float32, they count as
    constant, and the correlation is 0.

    Args:
        labels: numbers `[batch_size]`.
        predictions: numbers `[batch_size]`.
        weights: how much each example counts, `[batch_size]`, by default 1; 0 leaves it out.

    Returns:
        `(value, update_op)`, as for `precision`.
    """
    labels, predictions = tf.cast(labels, tf.float64), tf.cast(predictions, tf.float64)
    weights = tf.ones_like(labels) if weights is None else tf.cast(weights, tf.float64)
    batch = _moments(labels, predictions, weights)
    total = _metric_variable(batch.shape.as_list(), "moments")
    return _streamed(_correlation, (total.read_value(), tf.assign_add(total, batch)))


def spearman_correlation(
    labels: tf.Tensor, predictions: tf.Tensor, weights: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Stream the Spearman correlation coefficient: the Pearson correlation of the ranks.

    Equal numbers have the mean of their ranks. A rank depends on all numbers, so every pair is
    kept, in 16 bytes.

    Args:
        labels: numbers `[batch_size]`.
        predictions: numbers `[batch_size]`.
        weights: `[batch_size]`; 0 leaves an example out, all others count alike.

    Returns:
        `(value, update_op)`, float32 `[]` and int32 `[]`. `update_op` keeps a batch and returns the
        number of pairs: to rank all of them after each batch would be slow.
    """
    # XLA refuses a variable that grows, and a GPU would not be faster.
    with tf.device("/cpu:0"), tf.xla.experimental.jit_scope(compile_ops=False):
        pairs = tf.stack([tf.cast(labels, tf.float64), tf.cast(predictions, tf.float64)], axis=1)
        if weights is not None:
            pairs = tf.boolean_mask(pairs, tf.cast(weights, tf.bool))
        kept = _metric_variable([None, 2], "pairs")
        update_op = kept.assign(tf.concat([kept.read_value(), pairs], axis=0))
        x, y = (_ranks(numbers) for numbers in tf.unstack(kept.read_value(), axis=1))
        value = _correlation(_moments(x, y, tf.ones_like(x)))
        return tf.cast(value, tf.float32), tf.shape(update_op)[0]


def _metric_variable(shape: Sequence[int | None], name: str) -> tf.Variable:
    """Make a local variable of zeros; an unknown dimension begins with a length of 0."""
    is_fixed = None not in shape
    return tf.Variable(
        tf.zeros([length or 0 for length in shape], tf.float64),
        trainable=False,
        collections=[tf.GraphKeys.LOCAL_VARIABLES, tf.GraphKeys.METRIC_VARIABLES],
        validate_shape=is_fixed,
        name=name,
        # Only a resource variable can have a shape that is partly unknown.
        use_resource=None if is_fixed else True,
        shape=tf.TensorShape(shape),
    )


def _streamed(
    score: Callable[[Any], tf.Tensor], totals: tuple[Any, Any]
) -> tuple[tf.Tensor, tf.Tensor]:
    value, update_op = totals
    return tf.cast(score(value), tf.float32), tf.cast(score(update_op), tf.float32)


def _weight_of_each(labels: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    weights = tf.cast(weights, tf.float64)
    if weights.shape.ndims == 1 and labels.shape.ndims == 2:
        weights = tf.expand_dims(weights, axis=1)
    return tf.reshape(tf.broadcast_to(weights, tf.shape(labels)), [-1])


def _precision(counts: ClassCounts, average: str) -> tf.Tensor:
    return _average_ratio(counts.true_positives, counts.predicted, counts.actual, average)


def _recall(counts: ClassCounts, average: str) -> tf.Tensor:
    return _average_ratio(counts.true_positives, counts.actual, counts.actual, average)


def _fbeta(counts: ClassCounts, average: str, beta: float) -> tf.Tensor:
    if not 0 <= beta < float("inf"):
        raise ValueError("beta must be a finite number >= 0, not %r" % (beta,))
    return _average_ratio(
        (1 + beta**2) * counts.true_positives,
        beta**2 * counts.actual + counts.predicted,
        counts.actual,
        average,
    )


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
    # n^2 - sum_k counts_k^2, as a sum of products that are never negative. n is the sum of these
    # counts, so one class gives exactly 0. The sum over the other axis of the matrix may round
    # differently: the difference would look like a correlation, or be negative under the root.
    return tf.reduce_sum(counts * (tf.reduce_sum(counts) - counts))


def _moments(x: tf.Tensor, y: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Sum 1, x, y, x^2, y^2 and xy over the examples, float64 `[6]`."""
    return tf.reduce_sum(weights * tf.stack([tf.ones_like(x), x, y, x * x, y * y, x * y]), axis=1)


def _correlation(moments: tf.Tensor) -> tf.Tensor:
    n, x, y, xx, yy, xy = tf.unstack(moments)
    return tf.math.divide_no_nan(
        n * xy - x * y, tf.sqrt(_variation(n, x, xx) * _variation(n, y, yy))
    )


def _variation(n: tf.Tensor, total: tf.Tensor, total_of_squares: tf.Tensor) -> tf.Tensor:
    # n sum x^2 - (sum x)^2. For equal numbers the two terms round differently: the difference would
    # look like a variation, or be negative under the root.
    variation = n * total_of_squares - total * total
    is_noise = variation <= 1e-12 * n * total_of_squares
    return tf.where(is_noise, tf.zeros_like(variation), variation)


def _ranks(numbers: tf.Tensor) -> tf.Tensor:
    """Rank numbers from 1; equal numbers have the mean of their ranks, and NaN stays NaN."""
    ascending = tf.sort(numbers)
    num_smaller = tf.searchsorted(ascending, numbers, side="left")
    num_not_larger = tf.searchsorted(ascending, numbers, side="right")
    ranks = tf.cast(num_smaller + 1 + num_not_larger, tf.float64) / 2
    return tf.where(tf.math.is_nan(numbers), numbers, ranks)

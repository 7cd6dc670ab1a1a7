"""What a model scores on labelled examples: per class, averaged, with intervals.

The numbers are those of scikit-learn with `zero_division=0`.
"""

from __future__ import annotations

from typing import Any, Mapping, NamedTuple, Sequence

import numpy as np

from bert_classifier import problem_types
from bert_classifier.problem_types import Constant
from bert_classifier.report import bootstrap
from bert_classifier.report.bootstrap import Interval, Values

# A matrix with more classes has no reader, and would take gigabytes.
_MOST_CLASSES_OF_MATRIX = 500

_RECALL_AT = (3, 5)


class Average(NamedTuple):
    """Precision, recall and F1, averaged over the classes, and the 95 % interval of F1."""

    precision: float
    recall: float
    f1: float
    f1_interval: Interval | None


class PerClass(NamedTuple):
    """Scores of each class, in the order of the model's outputs.

    Attributes:
        precision: float64 `[num_classes]`; 0 for a class that is never predicted.
        recall: float64 `[num_classes]`; 0 for a class that no example has.
        f1: float64 `[num_classes]`.
        support: int64 `[num_classes]`, how many examples have the class.
        predicted: int64 `[num_classes]`, for how many examples it is predicted.
        f1_intervals: float64 `[num_classes, 2]`, 95 % intervals; NaN if none were asked for.
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray
    predicted: np.ndarray
    f1_intervals: np.ndarray


class Scores(NamedTuple):
    """What a model scores.

    Attributes:
        labels: names of the classes; that of the number for a regression.
        num_examples: how many examples there are.
        values: metric -> its value; the names of an evaluation, such as `eval_f1`, and for a
            regression also `rmse` and `mae`.
        intervals: metric -> its 95 % interval; metrics without a finite one are left out.
        baseline: metric -> the best constant answer, and its score.
        classes: the scores of each class; None for a regression.
        averages: `micro`, `macro` and `weighted`; empty for a regression.
        confusion: int64, classification: `[num_classes, num_classes]`, row the truth, column the
            prediction; several labels: `[num_classes, 2, 2]`, as scikit-learn's
            `multilabel_confusion_matrix`; None for a regression or more than 500 classes.
    """

    labels: Sequence[str]
    num_examples: int
    values: Mapping[str, float]
    intervals: Mapping[str, Interval]
    baseline: Mapping[str, Constant]
    classes: PerClass | None = None
    averages: Mapping[str, Average] = {}
    confusion: np.ndarray | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what eval_results.json has beside the metrics, by key."""
        parts: dict[str, Any] = {
            "num_examples": self.num_examples,
            "intervals": {name: list(interval) for name, interval in self.intervals.items()},
            "baseline": {name: best._asdict() for name, best in self.baseline.items()},
        }
        if self.classes is None:
            parts.update({name: self.values[name] for name in ("rmse", "mae")})
            return parts
        names = ("precision", "recall", "f1", "support", "f1_interval")
        of_classes = self.classes
        columns = (
            of_classes.precision.tolist(),
            of_classes.recall.tolist(),
            of_classes.f1.tolist(),
            of_classes.support.tolist(),
            of_classes.f1_intervals.tolist(),
        )
        parts["classes"] = {
            label: dict(zip(names, row)) for label, row in zip(self.labels, zip(*columns))
        }
        parts["averages"] = {name: average._asdict() for name, average in self.averages.items()}
        if self.confusion is not None:
            parts["confusion_matrix"] = self.confusion.tolist()
        return parts


def score(
    problem_type: str,
    labels: Sequence[str],
    label_ids: np.ndarray,
    predictions: np.ndarray,
    probabilities: np.ndarray | None = None,
    losses: np.ndarray | None = None,
    seed: int | None = 0,
) -> Scores:
    """Score predictions.

    Args:
        problem_type: one of `PROBLEM_TYPES`.
        labels: names of the classes.
        label_ids: the truth, `[num_examples]`; for `multi_label` `[num_examples, num_classes]` of
            1 and 0.
        predictions: like `label_ids`.
        probabilities: float `[num_examples, num_classes]`, for recall at 3 and 5.
        losses: float `[num_examples]`, for the loss.
        seed: of the draws of the intervals; None for no intervals, which take most of the time.

    Raises:
        ValueError: there are no examples, or not as many predictions.
    """
    if not len(label_ids) or np.shape(label_ids) != np.shape(predictions):
        shapes = (np.shape(label_ids), np.shape(predictions))
        raise ValueError("labels and predictions of shapes %s and %s" % shapes)
    truth, predictions = np.asarray(label_ids), np.asarray(predictions)
    means = {} if losses is None else {"eval_loss": np.asarray(losses, np.float64)}
    if problem_type == "regression":
        numbers = (truth.astype(np.float64), predictions.astype(np.float64))
        return _score_numbers(labels, *numbers, means, seed)
    if problem_type == "multi_label":
        return _score_several(labels, truth, predictions, means, seed)
    if probabilities is not None:
        for k in _RECALL_AT:
            if len(labels) > k:
                means["eval_recall_at_%d" % k] = _is_among_first(k, probabilities, truth)
    return _score_classes(labels, truth, predictions, means, seed)


# One class for each example


def _score_classes(
    labels: Sequence[str],
    truth: np.ndarray,
    predictions: np.ndarray,
    means: Mapping[str, np.ndarray],
    seed: int | None,
) -> Scores:
    size = len(labels)
    cells, number_of_cell = np.unique(truth * size + predictions, return_counts=True)
    pairs = np.divmod(cells, size)
    observed = _counts_of_cells(number_of_cell[np.newaxis], pairs, size)
    # To draw examples is to draw the pairs of truth and prediction that they have.
    drawn = [
        _scores_of_counts(_counts_of_cells(numbers, pairs, size), one_class=True)
        for numbers in bootstrap.draws_of_groups(number_of_cell, seed)
    ]
    confusion = None
    if size <= _MOST_CLASSES_OF_MATRIX:
        confusion = np.zeros(size * size, np.int64)
        confusion[cells] = number_of_cell
        confusion = confusion.reshape(size, size)
    return _assemble("classification", labels, truth, observed, drawn, means, confusion, seed)


def _counts_of_cells(
    numbers: np.ndarray, pairs: tuple[np.ndarray, np.ndarray], size: int
) -> _Counts:
    """Count from how many examples are in each cell of the confusion matrix that is not empty.

    Args:
        numbers: int `[num_draws, num_cells]`.
        pairs: truth and prediction of each cell.
        size: number of classes.
    """
    truth, predictions = pairs
    is_right = truth == predictions
    right = np.zeros((len(numbers), size))
    right[:, truth[is_right]] = numbers[:, is_right]
    return _Counts(
        right,
        _sum_by(numbers, predictions, size),
        _sum_by(numbers, truth, size),
        right.sum(axis=1) / numbers.sum(axis=1),
    )


def _sum_by(numbers: np.ndarray, groups: np.ndarray, num_groups: int) -> np.ndarray:
    """Sum the columns `[num_draws, n]` of each group; return float64 `[num_draws, num_groups]`."""
    order = np.argsort(groups, kind="stable")
    present, starts = np.unique(groups[order], return_index=True)
    sums = np.zeros((len(numbers), num_groups))
    sums[:, present] = np.add.reduceat(numbers[:, order], starts, axis=1)
    return sums


def _is_among_first(k: int, probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Tell, 1.0 or 0.0, whether the truth is among the k most probable classes."""
    of_truth = probabilities[np.arange(len(truth)), truth]
    better = (probabilities > of_truth[:, np.newaxis]).sum(axis=1)
    # Of equal ones TensorFlow takes the first.
    is_earlier = np.arange(probabilities.shape[1]) < truth[:, np.newaxis]
    better += ((probabilities == of_truth[:, np.newaxis]) & is_earlier).sum(axis=1)
    return (better < k).astype(np.float64)


# Several classes for each example


def _score_several(
    labels: Sequence[str],
    truth: np.ndarray,
    predictions: np.ndarray,
    means: Mapping[str, np.ndarray],
    seed: int | None,
) -> Scores:
    truth, predictions = truth.astype(bool), predictions.astype(bool)
    size = len(labels)
    is_right = truth & predictions
    columns = np.concatenate(
        [is_right, predictions, truth, (truth == predictions).all(axis=1, keepdims=True)], axis=1
    ).astype(np.float32)

    def count(numbers: np.ndarray) -> _Counts:
        sums = np.asarray(numbers.astype(np.float32) @ columns, np.float64)
        right, predicted, true = (sums[:, n * size : (n + 1) * size] for n in range(3))
        return _Counts(right, predicted, true, sums[:, -1] / len(truth))

    observed = count(np.ones((1, len(truth))))
    drawn = [
        _scores_of_counts(count(numbers), one_class=False)
        for numbers in bootstrap.draws(len(truth), seed, width=3 * size + 1)
    ]
    right, predicted, true = (counts[0].astype(np.int64) for counts in observed[:3])
    neither = len(truth) - predicted - true + right
    confusion = np.stack([neither, predicted - right, true - right, right], axis=1)
    confusion = confusion.reshape(size, 2, 2)
    return _assemble("multi_label", labels, truth, observed, drawn, means, confusion, seed)


# What both have


class _Counts(NamedTuple):
    """Numbers of examples of several draws: float64 `[num_draws, num_classes]`, and one of each.

    Attributes:
        right: of those that have a class and for which it is predicted.
        predicted: of those for which a class is predicted.
        true: of those that have a class.
        accuracy: `[num_draws]`, the share of those that are entirely right.
    """

    right: np.ndarray
    predicted: np.ndarray
    true: np.ndarray
    accuracy: np.ndarray


class _ScoresOfCounts(NamedTuple):
    """Scores of several draws.

    Attributes:
        per_class: precision, recall and F1, each `[num_draws, num_classes]`.
        averages: `micro`, `macro`, `weighted` -> precision, recall and F1, each `[num_draws]`.
        values: metric -> `[num_draws]`.
    """

    per_class: tuple[np.ndarray, np.ndarray, np.ndarray]
    averages: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]
    values: Values


def _scores_of_counts(counts: _Counts, one_class: bool) -> _ScoresOfCounts:
    right, predicted, true, accuracy = counts
    per_class = _precision_recall_f1(right, predicted, true)
    totals = [number.sum(axis=1) for number in (right, predicted, true)]
    share = _divide(true, totals[2][:, np.newaxis])
    averages = {
        "micro": _precision_recall_f1(*totals),
        "macro": tuple(score.mean(axis=1) for score in per_class),
        "weighted": tuple((score * share).sum(axis=1) for score in per_class),
    }
    values = {"eval_accuracy": accuracy}
    names = ("eval_precision", "eval_recall", "eval_f1")
    if not one_class:
        for average in ("micro", "macro"):
            values.update(zip(("%s_%s" % (name, average) for name in names), averages[average]))
    elif true.shape[1] == 2:
        values.update(zip(names, (score[:, 1] for score in per_class)))
    else:
        values.update(zip(names, averages["macro"]))
    if one_class:
        values["eval_matthews_correlation"] = _matthews_correlation(counts)
    return _ScoresOfCounts(per_class, averages, values)  # type: ignore[arg-type]


def _precision_recall_f1(
    right: np.ndarray, predicted: np.ndarray, true: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        _divide(right, predicted),
        _divide(right, true),
        _divide(2 * right, predicted + true),
    )


def _matthews_correlation(counts: _Counts) -> np.ndarray:
    """Return the correlation of truth and prediction, `[num_draws]`; 0 if one is constant.

    The form for any number of classes: https://doi.org/10.1016/j.compbiolchem.2004.09.006
    """
    right, predicted, true, _ = counts
    total = true.sum(axis=1)
    covariance = right.sum(axis=1) * total - (predicted * true).sum(axis=1)
    variances = [total**2 - (number**2).sum(axis=1) for number in (predicted, true)]
    return _divide(covariance, np.sqrt(variances[0] * variances[1]))


def _assemble(
    problem_type: str,
    labels: Sequence[str],
    truth: np.ndarray,
    observed: _Counts,
    drawn: Sequence[_ScoresOfCounts],
    means: Mapping[str, np.ndarray],
    confusion: np.ndarray | None,
    seed: int | None,
) -> Scores:
    found = _scores_of_counts(observed, one_class=problem_type == "classification")
    values = {name: float(value[0]) for name, value in found.values.items()}
    intervals = bootstrap.intervals_of(drawn_values=[draw.values for draw in drawn])
    values.update({name: float(of_each.mean()) for name, of_each in means.items()})
    intervals.update(bootstrap.intervals_of_means(means, seed))
    averages = {}
    for name, average in found.averages.items():
        interval = bootstrap.interval([draw.averages[name][2] for draw in drawn])
        precision, recall, f1 = (float(score[0]) for score in average)
        averages[name] = Average(precision, recall, f1, interval)
    f1_intervals = np.full((len(labels), 2), np.nan)
    if drawn:
        f1_of_draws = np.concatenate([draw.per_class[2] for draw in drawn])
        f1_intervals = np.percentile(f1_of_draws, bootstrap.PERCENTILES, axis=0).T
    precisions, recalls, f1s = (score[0] for score in found.per_class)
    classes = PerClass(
        precisions,
        recalls,
        f1s,
        observed.true[0].astype(np.int64),
        observed.predicted[0].astype(np.int64),
        f1_intervals,
    )
    baseline = _best_constants(problem_type, labels, truth)
    return Scores(labels, len(truth), values, intervals, baseline, classes, averages, confusion)


def _best_constants(
    problem_type: str, labels: Sequence[str], truth: np.ndarray
) -> dict[str, Constant]:
    if problem_type == "multi_label":
        named: Any = [tuple(labels[n] for n in np.flatnonzero(row)) for row in truth]
    elif problem_type == "classification":
        named = [labels[n] for n in truth]
    else:
        named = truth
    return problem_types.get(problem_type).best_constants(named, labels)


# A number for each example


def _score_numbers(
    labels: Sequence[str],
    truth: np.ndarray,
    predictions: np.ndarray,
    means: Mapping[str, np.ndarray],
    seed: int | None,
) -> Scores:
    errors = predictions - truth
    values_of = {name: float(of_each.mean()) for name, of_each in means.items()}
    intervals = bootstrap.intervals_of_means(means, seed)
    pairs = (_Ranked(truth), _Ranked(predictions))

    # A model that has failed gives NaN or infinite numbers, and so do its scores.
    @np.errstate(invalid="ignore", over="ignore", divide="ignore")
    def score_draws(numbers: np.ndarray) -> Values:
        mse = numbers @ errors**2 / numbers.sum(axis=1)
        return {
            "eval_pearson": _correlation(numbers, truth, predictions),
            "eval_spearman": _correlation(numbers, *(ranked.ranks(numbers) for ranked in pairs)),
            "eval_mse": mse,
            "rmse": np.sqrt(mse),
            "mae": numbers @ np.abs(errors) / numbers.sum(axis=1),
        }

    observed = score_draws(np.ones((1, len(truth))))
    values_of.update({name: float(value[0]) for name, value in observed.items()})
    intervals.update(
        bootstrap.intervals_of([score_draws(n) for n in bootstrap.draws(len(truth), seed)])
    )
    baseline = _best_constants("regression", labels, truth)
    return Scores(labels, len(truth), values_of, intervals, baseline)


class _Ranked:
    """Numbers that are ranked again and again, each time some of them several times.

    Args:
        numbers: float `[num_examples]`.
    """

    def __init__(self, numbers: np.ndarray):
        self._different, self._which = np.unique(numbers, return_inverse=True)

    def ranks(self, how_often: np.ndarray) -> np.ndarray:
        """Return the ranks, those of equal numbers their mean.

        Args:
            how_often: `[num_draws, num_examples]`.

        Returns:
            float64 of this shape.
        """
        sums = _sum_by(how_often, self._which, len(self._different))
        return (np.cumsum(sums, axis=1) - (sums - 1) / 2)[:, self._which]


def _correlation(weights: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation for each row of weights; NaN where a side is constant."""
    total = weights.sum(axis=1, keepdims=True)
    centred = [x - (weights * x).sum(axis=1, keepdims=True) / total for x in (first, second)]
    covariance, *variances = (
        (weights * x * y).sum(axis=1)
        for x, y in ((centred[0], centred[1]), (centred[0],) * 2, (centred[1],) * 2)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return covariance / np.sqrt(variances[0] * variances[1])


def _divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide; 0 where the divisor is 0, as scikit-learn with `zero_division=0`."""
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=whole != 0)

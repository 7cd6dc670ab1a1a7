"""Tests of `bert_classifier/report/scores.py` against scikit-learn, SciPy and plain draws."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
import sklearn.metrics
from scipy import stats

from bert_classifier import files
from bert_classifier.report import scores

AVERAGES = ("micro", "macro", "weighted")


def made_up(num_examples, num_classes, seed=0, rate=0.6):
    random = np.random.RandomState(seed)
    truth = random.randint(num_classes, size=num_examples)
    guesses = random.randint(num_classes, size=num_examples)
    return truth, np.where(random.rand(num_examples) < rate, truth, guesses)


def of_scikit_learn(truth, predictions, average, labels=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sklearn.metrics.precision_recall_fscore_support(
            truth, predictions, labels=labels, average=average, zero_division=0
        )


def check_against_scikit_learn(found, truth, predictions, labels):
    precision, recall, f1, support = of_scikit_learn(truth, predictions, None, labels)
    np.testing.assert_allclose(found.classes.precision, precision)
    np.testing.assert_allclose(found.classes.recall, recall)
    np.testing.assert_allclose(found.classes.f1, f1)
    np.testing.assert_array_equal(found.classes.support, support)
    for average in AVERAGES:
        expected = of_scikit_learn(truth, predictions, average, labels)[:3]
        np.testing.assert_allclose(found.averages[average][:3], expected)
    accuracy = sklearn.metrics.accuracy_score(truth, predictions)
    assert found.values["eval_accuracy"] == pytest.approx(accuracy)


@pytest.mark.parametrize(
    "num_examples, num_classes", [(1, 2), (2, 2), (500, 2), (300, 7), (50, 100), (2000, 100)]
)
def test_of_each_class_as_scikit_learn(num_examples, num_classes):
    truth, predictions = made_up(num_examples, num_classes)
    names = ["class %d" % n for n in range(num_classes)]
    found = scores.score("classification", names, truth, predictions)
    labels = list(range(num_classes))
    check_against_scikit_learn(found, truth, predictions, labels)
    np.testing.assert_array_equal(
        found.confusion, sklearn.metrics.confusion_matrix(truth, predictions, labels=labels)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        correlation = sklearn.metrics.matthews_corrcoef(truth, predictions)
    assert found.values["eval_matthews_correlation"] == pytest.approx(correlation, abs=1e-12)
    of_all = of_scikit_learn(truth, predictions, "macro", labels)
    expected = [numbers[1] for numbers in of_scikit_learn(truth, predictions, None, labels)][:3]
    expected = expected if num_classes == 2 else of_all[:3]
    names = ("eval_precision", "eval_recall", "eval_f1")
    np.testing.assert_allclose([found.values[name] for name in names], expected)


@pytest.mark.parametrize("always", [0, 1, 2])
def test_one_class_only_and_a_class_absent(always):
    truth = np.array([0, 0, 1, 1, 1])
    predictions = np.full(5, always)
    found = scores.score("classification", ["a", "b", "c"], truth, predictions)
    check_against_scikit_learn(found, truth, predictions, [0, 1, 2])
    assert found.values["eval_matthews_correlation"] == 0
    assert found.classes.support.tolist() == [2, 3, 0]
    assert found.classes.predicted.tolist() == [5 * (n == always) for n in range(3)]
    assert found.baseline["eval_accuracy"] == ("b", 0.6)


def test_hundreds_of_classes_have_scores_and_no_matrix():
    truth, predictions = made_up(400, 30000)
    names = [str(n) for n in range(30000)]
    found = scores.score("classification", names, truth, predictions)
    assert found.confusion is None
    assert "confusion_matrix" not in found.to_json()
    expected = of_scikit_learn(truth, predictions, "weighted")[2]
    assert found.averages["weighted"].f1 == pytest.approx(expected)


def test_recall_at_3_and_5_as_scikit_learn():
    random = np.random.RandomState(0)
    probabilities = random.dirichlet(np.ones(7), size=200)
    truth = random.randint(7, size=200)
    names = list("abcdefg")
    found = scores.score(
        "classification", names, truth, probabilities.argmax(axis=1), probabilities
    )
    top_k = getattr(sklearn.metrics, "top_k_accuracy_score", None)
    for k in (3, 5):
        ranked = np.argsort(-probabilities, axis=1)[:, :k]
        expected = np.mean([row in best for row, best in zip(truth, ranked)])
        assert found.values["eval_recall_at_%d" % k] == pytest.approx(expected)
        if top_k:
            expected = top_k(truth, probabilities, k=k, labels=list(range(7)))
            assert found.values["eval_recall_at_%d" % k] == pytest.approx(expected)


def test_recall_at_3_of_equal_probabilities_takes_the_first_as_tensorflow():
    probabilities = np.full((4, 4), 0.25)
    truth = np.arange(4)
    found = scores.score("classification", list("abcd"), truth, np.zeros(4, int), probabilities)
    assert found.values["eval_recall_at_3"] == 0.75


@pytest.mark.parametrize("num_examples, num_classes", [(1, 1), (300, 1), (300, 5), (40, 60)])
def test_several_labels_as_scikit_learn(num_examples, num_classes):
    random = np.random.RandomState(1)
    truth = (random.rand(num_examples, num_classes) < 0.3).astype(int)
    predictions = np.where(random.rand(*truth.shape) < 0.2, 1 - truth, truth)
    names = [str(n) for n in range(num_classes)]
    found = scores.score("multi_label", names, truth, predictions)
    if num_classes == 1:
        expected = of_scikit_learn(truth[:, 0], predictions[:, 0], "binary")[:3]
        np.testing.assert_allclose(found.averages["macro"][:3], expected)
        return
    check_against_scikit_learn(found, truth, predictions, None)
    np.testing.assert_array_equal(
        found.confusion, sklearn.metrics.multilabel_confusion_matrix(truth, predictions)
    )
    for average in ("micro", "macro"):
        expected = of_scikit_learn(truth, predictions, average)[2]
        assert found.values["eval_f1_" + average] == pytest.approx(expected)


def test_numbers_as_scipy():
    random = np.random.RandomState(2)
    truth = np.round(random.rand(300) * 5, 1)  # Equal numbers, so that ranks are shared.
    numbers = np.round(truth + random.randn(300), 1)
    found = scores.score("regression", ["score"], truth, numbers, losses=(truth - numbers) ** 2)
    values = found.values
    assert values["eval_pearson"] == pytest.approx(stats.pearsonr(truth, numbers)[0])
    assert values["eval_spearman"] == pytest.approx(stats.spearmanr(truth, numbers)[0])
    mse = sklearn.metrics.mean_squared_error(truth, numbers)
    assert [values["eval_mse"], values["eval_loss"]] == pytest.approx([mse, mse])
    assert values["rmse"] == pytest.approx(math.sqrt(mse))
    assert values["mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(truth, numbers))
    assert found.baseline["eval_mse"].score == pytest.approx(truth.var())
    assert found.classes is None and found.confusion is None


@pytest.mark.parametrize("truth, numbers", [([1.0], [2.0]), ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])])
def test_without_a_correlation(truth, numbers):
    found = scores.score("regression", ["score"], np.array(truth), np.array(numbers))
    assert math.isnan(found.values["eval_pearson"])
    assert "eval_pearson" not in found.intervals
    assert found.intervals["eval_mse"][0] <= found.values["eval_mse"]


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_have_no_interval(number):
    truth, numbers = np.arange(5.0), np.array([0, 1, 2, 3, number])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = scores.score("regression", ["score"], truth, numbers)
    assert not math.isfinite(found.values["eval_mse"]) and "eval_mse" not in found.intervals
    json.dumps(files.to_json(found.to_json()))


def interval_of_plain_draws(statistic, *columns):
    """Draw examples by their number and score each draw with the oracle."""
    random = np.random.RandomState(99)
    drawn = []
    for _ in range(1500):
        rows = random.randint(len(columns[0]), size=len(columns[0]))
        drawn.append(statistic(*(column[rows] for column in columns)))
    return np.percentile(drawn, (2.5, 97.5))


@pytest.mark.parametrize("name", ["eval_accuracy", "eval_f1", "eval_matthews_correlation"])
def test_intervals_of_classes_are_those_of_plain_draws(name):
    truth, predictions = made_up(150, 3)
    statistic = {
        "eval_accuracy": lambda t, p: (t == p).mean(),
        "eval_f1": lambda t, p: of_scikit_learn(t, p, "macro", [0, 1, 2])[2],
        "eval_matthews_correlation": sklearn.metrics.matthews_corrcoef,
    }[name]
    found = scores.score("classification", list("abc"), truth, predictions)
    expected = interval_of_plain_draws(statistic, truth, predictions)
    # Two random estimates of the same ends; the interval is about 0.2 wide.
    np.testing.assert_allclose(found.intervals[name], expected, atol=0.02)


@pytest.mark.parametrize("name", ["eval_pearson", "eval_spearman", "rmse"])
def test_intervals_of_numbers_are_those_of_plain_draws(name):
    random = np.random.RandomState(3)
    truth = np.round(random.rand(150) * 5)
    numbers = truth + random.randn(150)
    statistic = {
        "eval_pearson": lambda t, p: stats.pearsonr(t, p)[0],
        "eval_spearman": lambda t, p: stats.spearmanr(t, p)[0],
        "rmse": lambda t, p: math.sqrt(((t - p) ** 2).mean()),
    }[name]
    found = scores.score("regression", ["score"], truth, numbers)
    expected = interval_of_plain_draws(statistic, truth, numbers)
    np.testing.assert_allclose(found.intervals[name], expected, atol=0.02)


def test_intervals_of_several_labels_are_those_of_plain_draws():
    random = np.random.RandomState(4)
    truth = (random.rand(120, 4) < 0.4).astype(int)
    predictions = np.where(random.rand(120, 4) < 0.2, 1 - truth, truth)
    found = scores.score("multi_label", list("abcd"), truth, predictions)
    expected = interval_of_plain_draws(
        lambda t, p: of_scikit_learn(t, p, "micro")[2], truth, predictions
    )
    np.testing.assert_allclose(found.intervals["eval_f1_micro"], expected, atol=0.015)


def test_every_value_of_classes_has_an_interval_around_it():
    truth, predictions = made_up(400, 5)
    losses = np.random.RandomState(0).rand(400)
    found = scores.score("classification", list("abcde"), truth, predictions, losses=losses)
    assert found.values.keys() == found.intervals.keys()
    for name, (low, high) in found.intervals.items():
        assert low < found.values[name] < high
    for f1, (low, high) in zip(found.classes.f1, found.classes.f1_intervals):
        assert low < f1 < high
    again = scores.score("classification", list("abcde"), truth, predictions, losses=losses)
    assert again.intervals == found.intervals


@pytest.mark.parametrize("problem_type", ["classification", "multi_label"])
def test_without_intervals_the_scores_are_the_same(problem_type):
    labels = list("abcde")
    truth, predictions = made_up(400, 5)
    if problem_type == "multi_label":
        truth, predictions = (np.eye(5, dtype=int)[ids] for ids in (truth, predictions))
    expected = scores.score(problem_type, labels, truth, predictions)
    found = scores.score(problem_type, labels, truth, predictions, seed=None)
    assert expected.intervals and not found.intervals
    assert found.values == expected.values
    np.testing.assert_array_equal(found.confusion, expected.confusion)
    for name in ("precision", "recall", "f1", "support", "predicted"):
        of_both = (getattr(of.classes, name) for of in (found, expected))
        np.testing.assert_array_equal(*of_both)
    assert np.isnan(found.classes.f1_intervals).all()


@pytest.mark.parametrize("size", [0, 3])
def test_what_does_not_fit_is_refused(size):
    with pytest.raises(ValueError, match="shapes"):
        scores.score("classification", ["a", "b"], np.zeros(size, int), np.zeros(0, int))

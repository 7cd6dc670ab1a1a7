from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from sklearn import metrics

from bert_classifier import problem_types
from bert_classifier.inspection import baseline

CLASSES = ("a", "b", "c")


def best_constants(labels, problem_type, classes):
    return problem_types.get(problem_type).best_constants(labels, classes)


def constant_scores(labels, answer, classes):
    """What scikit-learn says of one answer to everything."""
    answers = [answer] * len(labels)
    average = {"average": "macro"} if len(classes) > 2 else {"pos_label": classes[1]}
    return {
        "eval_accuracy": metrics.accuracy_score(labels, answers),
        "eval_f1": metrics.f1_score(
            labels, answers, labels=list(classes), zero_division=0, **average
        ),
        "eval_matthews_correlation": metrics.matthews_corrcoef(labels, answers),
    }


@pytest.mark.parametrize("classes", [CLASSES[:2], CLASSES], ids=len)
@pytest.mark.parametrize("seed", range(4))
def test_no_constant_answer_is_better(classes, seed):
    labels = np.random.RandomState(seed).choice(classes, 50, p=[0.2, 0.8, 0.0][: len(classes)])
    found = best_constants(labels.tolist(), "classification", classes)
    of_each = {answer: constant_scores(labels, answer, classes) for answer in classes}
    for name, (answer, score) in found.items():
        highest = max(scores[name] for scores in of_each.values())
        assert score == pytest.approx(highest, abs=1e-9), name
        assert of_each[answer][name] == pytest.approx(score, abs=1e-9), name
    assert found["eval_accuracy"].answer == "b"


def test_the_f1_of_two_classes_is_that_of_the_second():
    found = best_constants(["no"] * 70 + ["yes"] * 30, "classification", ["no", "yes"])
    assert found["eval_accuracy"] == ("no", 0.7)
    assert found["eval_f1"] == ("yes", pytest.approx(6 / 13))


def test_numbers_have_the_variance():
    values = [1.0, 2.0, 4.0]
    found = best_constants(values, "regression", ["score"])
    mean = pytest.approx(np.mean(values))
    expected = metrics.mean_squared_error(values, [np.mean(values)] * 3)
    assert found["eval_mse"] == (mean, pytest.approx(expected))
    assert found["rmse"] == (mean, pytest.approx(math.sqrt(expected)))


@pytest.mark.parametrize("most", [("a", "b"), ("c",), ()])
def test_sets_of_labels(most):
    labels = [most] * 5 + [("a",), ("b", "c"), ("a", "b", "c")]
    found = best_constants(labels, "multi_label", CLASSES)
    matrix = np.array([[c in of_one for c in CLASSES] for of_one in labels])
    of_each = {}
    for answer in itertools.chain(*(itertools.combinations(CLASSES, n) for n in range(4))):
        answers = np.array([[c in answer for c in CLASSES]] * len(labels))
        of_each[answer] = (
            metrics.accuracy_score(matrix, answers),
            metrics.f1_score(matrix, answers, average="micro", zero_division=0),
        )
    assert found["eval_accuracy"] == (most, pytest.approx(of_each[most][0]))
    answer, score = found["eval_f1_micro"]
    assert score == pytest.approx(max(f1 for _, f1 in of_each.values()))
    assert of_each[answer][1] == pytest.approx(score)


def test_without_any_label():
    found = best_constants([()] * 3, "multi_label", CLASSES)
    assert found == {"eval_accuracy": ((), 1.0), "eval_f1_micro": ((), 0.0)}
    assert found["eval_accuracy"].text == "no label"


# watched metric, metrics of the model, what decided
VERDICTS = {
    "one class": ("eval_accuracy", {"eval_accuracy": np.float32(0.7)}, "eval_accuracy"),
    "better": ("eval_accuracy", {"eval_accuracy": 0.72}, None),
    "worse": ("eval_accuracy", {"eval_accuracy": 0.5}, "eval_accuracy"),
    # A rare class may be found with more mistakes than there are examples of it.
    "F1": ("eval_f1", {"eval_f1": 0.5, "eval_accuracy": 0.69}, None),
    "F1 of one class": ("eval_f1", {"eval_f1": 6 / 13, "eval_accuracy": 0.3}, "eval_f1"),
    "correlation": (
        "eval_matthews_correlation",
        {"eval_matthews_correlation": 0.0, "eval_accuracy": 0.7},
        "eval_matthews_correlation",
    ),
    # A constant answer has no loss: the accuracy decides.
    "loss": ("eval_loss", {"eval_loss": 0.1, "eval_accuracy": 0.7}, "eval_accuracy"),
    "recall": ("eval_recall", {"eval_recall": 1.0, "eval_accuracy": 0.3}, "eval_accuracy"),
    "not a number": ("eval_accuracy", {"eval_accuracy": float("nan")}, "eval_accuracy"),
}


@pytest.mark.parametrize("metric, found, decided", VERDICTS.values(), ids=list(VERDICTS))
def test_the_verdict(metric, found, decided):
    constants = best_constants(["a"] * 70 + ["b"] * 30, "classification", CLASSES[:2])
    verdict = baseline.judge(constants, metric, found)
    assert verdict == (decided and (decided, constants[decided]))


@pytest.mark.parametrize("mse, is_better", [(1.4, True), (14 / 9, False), (2.0, False)])
def test_a_regression_has_to_have_less_than_the_variance(mse, is_better):
    constants = best_constants([1.0, 2.0, 4.0], "regression", ["score"])
    verdict = baseline.judge(constants, "eval_pearson", {"eval_pearson": 0.5, "eval_mse": mse})
    assert (verdict is None) == is_better

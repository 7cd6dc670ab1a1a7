from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from bert_classifier.inspection import baseline

CLASSES = ("a", "b", "c")


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
    found = baseline.find(labels.tolist(), "classification", classes)
    of_each = [constant_scores(labels, answer, classes) for answer in classes]
    for name, score in found.scores.items():
        assert score == pytest.approx(max(scores[name] for scores in of_each), abs=1e-9), name
    assert found.answer == "b"


def test_numbers_have_the_variance():
    values = [1.0, 2.0, 4.0]
    found = baseline.find(values, "regression", ["score"])
    assert found.answer == pytest.approx(np.mean(values))
    expected = metrics.mean_squared_error(values, [found.answer] * 3)
    assert found.scores == {"eval_mse": pytest.approx(expected)}


@pytest.mark.parametrize("most", [("a", "b"), ("c",), ()])
def test_sets_of_labels(most):
    labels = [most] * 5 + [("a",), ("b", "c"), ("a", "b", "c")]
    found = baseline.find(labels, "multi_label", CLASSES)
    matrix = np.array([[c in of_one for c in CLASSES] for of_one in labels])
    answers = np.array([[c in most for c in CLASSES]] * len(labels))
    assert found.answer == most
    assert found.scores["eval_accuracy"] == pytest.approx(metrics.accuracy_score(matrix, answers))
    expected = metrics.f1_score(matrix, answers, average="micro", zero_division=0)
    assert found.scores["eval_f1_micro"] == pytest.approx(expected)


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
    constant = baseline.find(["a"] * 70 + ["b"] * 30, "classification", CLASSES[:2])
    verdict = constant.judge(metric, found)
    assert verdict == (decided and (decided, constant.scores[decided]))


@pytest.mark.parametrize("mse, is_better", [(1.4, True), (14 / 9, False), (2.0, False)])
def test_a_regression_has_to_have_less_than_the_variance(mse, is_better):
    constant = baseline.find([1.0, 2.0, 4.0], "regression", ["score"])
    verdict = constant.judge("eval_pearson", {"eval_pearson": 0.5, "eval_mse": mse})
    assert (verdict is None) == is_better

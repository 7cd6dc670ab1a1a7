"""The scores that one answer to everything reaches: a model has to be above them."""

from __future__ import annotations

import collections
from typing import Any, Iterable, Mapping, NamedTuple, Sequence

import numpy as np


class Baseline(NamedTuple):
    """The best constant answer.

    Attributes:
        answer: a label; for multi_label a tuple of labels; for a regression the mean.
        scores: metric -> what this kind of answer reaches on the same examples.
    """

    answer: Any
    scores: Mapping[str, float]

    def judge(self, metric: str, metrics: Mapping[str, float]) -> tuple[str, float] | None:
        """Tell whether a model is no better than the baseline.

        Args:
            metric: the watched metric; where a constant answer has no score in it, another one
                decides.
            metrics: those of the model.

        Returns:
            The metric that decided and the baseline's score in it; None where the model is better.
        """
        name = metric if metric in self.scores else next(iter(self.scores))
        score, found = self.scores[name], metrics[name]
        is_better = found < score if name.endswith("mse") else found > score
        # Streaming metrics are float32: what is equal may differ in the last digits.
        return None if is_better and abs(found - score) > 1e-6 else (name, score)


def find(labels: Iterable[Any], problem_type: str, classes: Sequence[str]) -> Baseline:
    """Find the best constant answer to the examples of an evaluation.

    Args:
        labels: of each example: a str, a tuple of str, or a float.
        problem_type: one of `processors.PROBLEM_TYPES`.
        classes: the labels in the order of the model's outputs.
    """
    if problem_type == "regression":
        values = np.fromiter(labels, np.float64)
        return Baseline(float(values.mean()), {"eval_mse": float(values.var())})
    counts = collections.Counter(labels)
    answer, most = counts.most_common(1)[0]
    num_examples = sum(counts.values())
    scores = {"eval_accuracy": most / num_examples}
    if problem_type == "multi_label":
        scores["eval_f1_micro"] = _micro_f1(answer, counts)
        return Baseline(answer, scores)
    # F1 of a class that is always answered: all of it is found, and its share is right.
    f1 = [2 * share / (1 + share) for share in (counts[c] / num_examples for c in classes)]
    scores["eval_f1"] = f1[1] if len(classes) == 2 else max(f1) / len(classes)
    scores["eval_matthews_correlation"] = 0.0
    return Baseline(answer, scores)


def _micro_f1(answer: Sequence[str], counts: Mapping[Sequence[str], int]) -> float:
    """Return 2 x right / (answered + wanted), over all examples and labels."""
    right = sum(len(set(answer) & set(labels)) * count for labels, count in counts.items())
    wanted = sum(len(labels) * count for labels, count in counts.items())
    answered = len(answer) * sum(counts.values())
    return 2 * right / (answered + wanted) if answered + wanted else 0.0

"""The scores of the best constant answer, which a model has to exceed."""

from __future__ import annotations

from typing import Any, Iterable, Mapping, NamedTuple, Sequence

from bert_classifier import problem_types


class Baseline(NamedTuple):
    """The best constant answer.

    Attributes:
        answer: a label; for multi_label a tuple of labels; for a regression the mean.
        scores: metric -> the highest value of any constant answer to the same examples; of the mean
            squared error the lowest.
    """

    answer: Any
    scores: Mapping[str, float]

    def judge(self, metric: str, metrics: Mapping[str, float]) -> tuple[str, float] | None:
        """Return why a model is no better than the baseline; None if it is better.

        Args:
            metric: the watched metric; if the baseline has no score in it, another one decides.
            metrics: those of the model.

        Returns:
            The metric that decided, and the baseline's score in it.
        """
        name = metric if metric in self.scores else next(iter(self.scores))
        score, found = self.scores[name], metrics[name]
        is_better = found < score if name.endswith("mse") else found > score
        # Streaming metrics are float32: equal values may differ in the last digits.
        return None if is_better and abs(found - score) > 1e-6 else (name, score)


def find(labels: Iterable[Any], problem_type: str, classes: Sequence[str]) -> Baseline:
    """Return the best constant answer to the examples of an evaluation.

    Args:
        labels: of each example: a str, a tuple of str, or a float.
        problem_type: one of `PROBLEM_TYPES`.
        classes: the labels in the order of the model's outputs.
    """
    return Baseline(*problem_types.get(problem_type).constant_answer(labels, classes))

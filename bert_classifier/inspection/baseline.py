"""The scores of the best constant answer, which a model has to exceed."""

from __future__ import annotations

from typing import Mapping

from bert_classifier.problem_types import Constant


def judge(
    constants: Mapping[str, Constant], metric: str, metrics: Mapping[str, float]
) -> tuple[str, Constant] | None:
    """Return why a model is no better than a constant answer; None if it is better.

    Args:
        constants: metric -> the best constant answer, see `ProblemType.best_constants`.
        metric: the watched metric; if there is no constant answer for it, another one decides.
        metrics: those of the model.

    Returns:
        The metric that decided, and the best constant answer in it.
    """
    name = metric if metric in constants else next(iter(constants))
    score, found = constants[name].score, metrics[name]
    is_better = found < score if name.endswith("mse") else found > score
    # Streaming metrics are float32: equal values may differ in the last digits.
    return None if is_better and abs(found - score) > 1e-6 else (name, constants[name])

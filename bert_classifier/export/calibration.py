"""Temperature scaling, and the expected calibration error.

Temperature scaling divides the logits by one number, which is fitted on the dev set. It changes
the confidence of predictions and not the predictions: https://arxiv.org/abs/1706.04599, sections 2
and 4.2.
"""

from __future__ import annotations

import math
from typing import Callable, NamedTuple

import numpy as np

from bert_classifier import problem_types
from bert_classifier.problem_types import TINY

NUM_BINS = 15  # As in the paper.
# Of the logarithm of the temperature. No model here has logits that are a hundred times too large.
_LOWEST, _HIGHEST = math.log(0.01), math.log(100)
_GOLDEN = (math.sqrt(5) - 1) / 2


class Calibration(NamedTuple):
    """A fitted temperature, and the expected calibration error without it and with it."""

    temperature: float
    error_before: float
    error_after: float


def calibrate(probabilities: np.ndarray, label_ids: np.ndarray, problem_type: str) -> Calibration:
    """Fit the temperature that makes the labels most likely.

    The error is measured on the same examples. As only one number is fitted, it is hardly lower
    than on other examples.

    Args:
        probabilities: float `[num_examples, num_labels]`.
        label_ids: int `[num_examples]`, for `multi_label` `[num_examples, num_labels]` of 1 and 0.
        problem_type: one that has classes.
    """

    def loss(log_temperature: float) -> float:
        scaled = apply_temperature(probabilities, math.exp(log_temperature), problem_type)
        _, _, of_truth = problem_types.get(problem_type).decisions(scaled, label_ids)
        return -float(np.mean(np.log(np.maximum(of_truth, TINY))))

    temperature = math.exp(_golden_section(loss))
    scaled = apply_temperature(probabilities, temperature, problem_type)
    return Calibration(
        temperature,
        expected_calibration_error(probabilities, label_ids, problem_type),
        expected_calibration_error(scaled, label_ids, problem_type),
    )


def _golden_section(loss: Callable[[float], float]) -> float:
    """Return the minimum of a function that falls and then rises, as this loss does.

    It is convex in 1 / temperature, so it has no second minimum.
    """
    low, high = _LOWEST, _HIGHEST
    while high - low > 1e-4:
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return (low + high) / 2


def apply_temperature(
    probabilities: np.ndarray, temperature: float, problem_type: str
) -> np.ndarray:
    """Return the probabilities of logits that are divided by a temperature.

    Args:
        probabilities: float `[num_examples, num_labels]`.
        temperature: above 0; 1 changes nothing.
        problem_type: one that has classes.

    Returns:
        Like `probabilities`.
    """
    if temperature == 1:
        return probabilities
    exact = np.clip(probabilities.astype(np.float64), TINY, 1.0)
    scaled = problem_types.get(problem_type).divide_logits(exact, temperature)
    return scaled.astype(probabilities.dtype)


def bins_of(confidence: np.ndarray) -> np.ndarray:
    """Return the number of the bin that each confidence is in, from 0 to `NUM_BINS` - 1."""
    return np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)


def expected_calibration_error(
    probabilities: np.ndarray, label_ids: np.ndarray, problem_type: str
) -> float:
    """Return by how much confidence and accuracy differ on average.

    Decisions are put into 15 bins by their confidence, and the differences of the bins' means are
    weighted by the bins' sizes (equation 3 of the paper). There is one decision for each example;
    for `multi_label` there is one for each label of it.

    Args:
        probabilities: this and the others as for `calibrate`.
        label_ids: the truth.
        problem_type: one that has classes.
    """
    problem = problem_types.get(problem_type)
    confidence, is_right, _ = problem.decisions(probabilities, label_ids)
    surplus = np.bincount(bins_of(confidence), confidence - is_right)
    return float(np.abs(surplus).sum() / len(confidence))

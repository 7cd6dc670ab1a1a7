"""How far a model's confidence can be believed, and the temperature that makes it believable.

Temperature scaling divides the logits by one number, fitted on the dev set: no prediction changes,
only how sure of it the model says it is. https://arxiv.org/abs/1706.04599, sections 2 and 4.2.
"""

from __future__ import annotations

import math
from typing import Callable, NamedTuple

import numpy as np

_NUM_BINS = 15  # As in the paper.
# Of the logarithm of the temperature: a model that is a hundred times too sure is not one of ours.
_LOWEST, _HIGHEST = math.log(0.01), math.log(100)
_GOLDEN = (math.sqrt(5) - 1) / 2
# Below this a probability in float32 says no more than that it is small.
_TINY = 1e-30


class Calibration(NamedTuple):
    """A fitted temperature, and the expected calibration error without it and with it."""

    temperature: float
    error_before: float
    error_after: float


def calibrate(probabilities: np.ndarray, label_ids: np.ndarray, problem_type: str) -> Calibration:
    """Fits the temperature that makes the labels most likely.

    The error is measured on the same examples; with one number to fit, that flatters it little.

    Args:
        probabilities: float `[num_examples, num_labels]`.
        label_ids: int `[num_examples]`, for `multi_label` `[num_examples, num_labels]` of 1 and 0.
        problem_type: `classification` or `multi_label`.
    """

    def loss(log_temperature: float) -> float:
        scaled = apply_temperature(probabilities, math.exp(log_temperature), problem_type)
        _, _, of_truth = _decisions(scaled, label_ids, problem_type)
        return -float(np.mean(np.log(np.maximum(of_truth, _TINY))))

    temperature = math.exp(_golden_section(loss))
    scaled = apply_temperature(probabilities, temperature, problem_type)
    return Calibration(
        temperature,
        expected_calibration_error(probabilities, label_ids, problem_type),
        expected_calibration_error(scaled, label_ids, problem_type),
    )


def _golden_section(loss: Callable[[float], float]) -> float:
    """Finds the minimum of a function that falls and then rises, as this loss does.

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
    """Gives the probabilities of logits that are divided by a temperature.

    Args:
        probabilities: float `[num_examples, num_labels]`.
        temperature: above 0; 1 changes nothing.
        problem_type: `classification`, where the rows are of a softmax, or `multi_label`, where
            each number is of a sigmoid.

    Returns:
        Like `probabilities`.
    """
    if temperature == 1:
        return probabilities
    exact = np.clip(probabilities.astype(np.float64), _TINY, 1.0)
    if problem_type == "multi_label":
        logits = np.log(exact) - np.log(np.maximum(1.0 - exact, _TINY))
        # The same as 1 / (1 + exp(-x)), for any x.
        scaled = 0.5 * (1.0 + np.tanh(logits / temperature / 2.0))
    else:
        logits = np.log(exact) / temperature
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        scaled = powers / powers.sum(axis=1, keepdims=True)
    return scaled.astype(probabilities.dtype)


def expected_calibration_error(
    probabilities: np.ndarray, label_ids: np.ndarray, problem_type: str
) -> float:
    """Measures by how much confidence and accuracy differ, on average.

    Decisions are put into 15 bins by their confidence, and the differences of the bins' means are
    weighted by the bins' sizes (equation 3 of the paper). A decision is the most probable class of
    an example; for `multi_label` each label is one, for itself.

    Args:
        probabilities: this and the others as for `calibrate`.
        label_ids: the truth.
        problem_type: `classification` or `multi_label`.
    """
    confidence, is_right, _ = _decisions(probabilities, label_ids, problem_type)
    bins = np.minimum((confidence * _NUM_BINS).astype(int), _NUM_BINS - 1)
    surplus = np.bincount(bins, weights=confidence - is_right, minlength=_NUM_BINS)
    return float(np.abs(surplus).sum() / len(confidence))


def _decisions(
    probabilities: np.ndarray, label_ids: np.ndarray, problem_type: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gives confidence, whether it is right, and the probability of the truth, of each decision."""
    if problem_type == "multi_label":
        of_yes, truth = probabilities.ravel(), np.asarray(label_ids).ravel()
        confidence = np.maximum(of_yes, 1.0 - of_yes)
        return confidence, (of_yes > 0.5) == truth, np.where(truth == 1, of_yes, 1.0 - of_yes)
    rows = np.arange(len(probabilities))
    is_right = probabilities.argmax(axis=1) == label_ids
    return probabilities.max(axis=1), is_right, probabilities[rows, label_ids]

"""McNemar's test: whether two models are right equally often on the same examples."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

# The test is exact below, as is usual.
_FEW_DIFFERENCES = 25


class McNemar(NamedTuple):
    """McNemar's test of whether two models are right equally often.

    Attributes:
        only_first: number of examples that only the first model has right.
        only_second: number of those that only the second one has right.
        p_value: how probable so large a difference is if both are right equally often.
        is_exact: whether it is of the binomial distribution; else of the chi-squared one, with
            continuity correction.
    """

    only_first: int
    only_second: int
    p_value: float
    is_exact: bool


def is_right(label_ids: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Tell which examples are entirely right, bool `[num_examples]`.

    The arguments are those of `score`.
    """
    equal = np.asarray(label_ids) == np.asarray(predictions)
    return equal.reshape(len(equal), -1).all(axis=1)


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> McNemar:
    """Compare two models on the same examples: https://doi.org/10.1007/BF02295996.

    Args:
        first_right: which examples the first model has right, bool `[num_examples]`.
        second_right: the same for the second one.

    Raises:
        ValueError: they are not of the same number of examples.
    """
    first, second = np.asarray(first_right, bool), np.asarray(second_right, bool)
    if first.shape != second.shape:
        raise ValueError("%d and %d examples cannot be compared" % (len(first), len(second)))
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    total, fewer = only_first + only_second, min(only_first, only_second)
    if total < _FEW_DIFFERENCES:
        ways, tail = 1, 0
        for number in range(fewer + 1):
            tail += ways
            ways = ways * (total - number) // (number + 1)
        p_value = min(1.0, 2 * tail / 2**total)
    else:
        statistic = max(0, abs(only_first - only_second) - 1) ** 2 / total
        p_value = math.erfc(math.sqrt(statistic / 2))
    return McNemar(only_first, only_second, p_value, total < _FEW_DIFFERENCES)

"""McNemar's test against SciPy's distributions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bert_classifier.report import mcnemar


def made_right(both, only_first, only_second):
    first = [True] * (both + only_first) + [False] * only_second
    return np.array(first), np.array([True] * both + [False] * only_first + [True] * only_second)


@pytest.mark.parametrize(
    "only_first, only_second", [(0, 0), (1, 0), (5, 5), (3, 12), (24, 0), (0, 24)]
)
def test_mcnemar_of_few_differences_as_the_binomial_test(only_first, only_second):
    found = mcnemar.mcnemar(*made_right(40, only_first, only_second))
    total = only_first + only_second
    tail = stats.binom.cdf(min(only_first, only_second), total, 0.5)
    assert found[:2] == (only_first, only_second) and found.is_exact
    assert found.p_value == pytest.approx(min(1.0, 2 * tail))


@pytest.mark.parametrize("only_first, only_second", [(13, 12), (30, 10), (15, 15), (5, 200)])
def test_mcnemar_of_many_differences_as_chi_squared(only_first, only_second):
    found = mcnemar.mcnemar(*made_right(40, only_first, only_second))
    difference = max(0, abs(only_first - only_second) - 1)
    expected = stats.chi2.sf(difference**2 / (only_first + only_second), 1)
    assert not found.is_exact
    assert found.p_value == pytest.approx(expected)


def test_mcnemar_refuses_other_examples():
    with pytest.raises(ValueError, match="3 and 4"):
        mcnemar.mcnemar(np.ones(3, bool), np.ones(4, bool))


def test_which_examples_are_right():
    assert mcnemar.is_right(np.array([1, 2]), np.array([1, 0])).tolist() == [True, False]
    several = mcnemar.is_right(np.array([[1, 0], [1, 1]]), np.array([[1, 0], [0, 1]]))
    assert several.tolist() == [True, False]

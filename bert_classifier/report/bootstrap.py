"""Percentile bootstrap: the examples are drawn anew, with replacement, and scored again.

https://doi.org/10.1214/aos/1176344552
"""

from __future__ import annotations

from typing import Dict, Iterator, Mapping, Sequence, Tuple

import numpy as np

Interval = Tuple[float, float]

# A metric -> its value for each of several draws, or of one.
Values = Dict[str, np.ndarray]

# The ends of a 95 % interval.
PERCENTILES = (2.5, 97.5)

# Fewer draws of very many examples, whose intervals are narrow anyway.
_NUM_DRAWS, _FEWEST_DRAWS, _MOST_DRAWN = 1000, 200, 10**8
_NUMBERS_AT_A_TIME = 2 * 10**6


def _num_draws(num_examples: int) -> int:
    return int(np.clip(_MOST_DRAWN // num_examples, _FEWEST_DRAWS, _NUM_DRAWS))


def draws(num_examples: int, seed: int | None, width: int = 1) -> Iterator[np.ndarray]:
    """Yield how often each example is drawn, float64 `[some draws, num_examples]`.

    Args:
        num_examples: so many are drawn, with replacement.
        seed: of the draws; None for no draws.
        width: numbers that the caller keeps for each draw, if these are more than the examples.
    """
    if seed is None:
        return
    random = np.random.RandomState(seed)
    left = _num_draws(num_examples)
    at_a_time = max(1, _NUMBERS_AT_A_TIME // max(num_examples, width))
    while left:
        size = min(left, at_a_time)
        left -= size
        drawn = random.randint(num_examples, size=(size, num_examples))
        drawn += np.arange(size)[:, np.newaxis] * num_examples
        numbers = np.bincount(drawn.ravel(), minlength=size * num_examples)
        yield numbers.reshape(size, num_examples).astype(np.float64)


def draws_of_groups(sizes: np.ndarray, seed: int | None) -> Iterator[np.ndarray]:
    """Yield how many examples of each group are drawn, int64 `[some draws, num_groups]`.

    The seed is that of `draws`.
    """
    if seed is None:
        return
    random = np.random.RandomState(seed)
    num_examples = int(sizes.sum())
    left = _num_draws(num_examples)
    at_a_time = max(1, _NUMBERS_AT_A_TIME // len(sizes))
    while left:
        size = min(left, at_a_time)
        left -= size
        yield random.multinomial(num_examples, sizes / num_examples, size=size)


@np.errstate(invalid="ignore")  # A metric that is not finite has no interval, see `interval`.
def intervals_of_means(means: Mapping[str, np.ndarray], seed: int | None) -> dict[str, Interval]:
    """Return metric -> interval, of metrics that are means over the examples."""
    if not means:
        return {}
    columns = np.stack(list(means.values()), axis=1)
    drawn = [numbers @ columns / len(columns) for numbers in draws(len(columns), seed)]
    return intervals_of([dict(zip(means, values.T)) for values in drawn])


def intervals_of(drawn_values: Sequence[Values]) -> dict[str, Interval]:
    """Return metric -> interval, from the values in several parts of the draws."""
    found = {}
    for name in drawn_values[0] if drawn_values else ():
        of_metric = interval([values[name] for values in drawn_values])
        if of_metric:
            found[name] = of_metric
    return found


def interval(parts: Sequence[np.ndarray]) -> Interval | None:
    """Return the 95 % interval of the values in several parts of the draws.

    It is None if hardly any draw has a finite value, or if there is none.
    """
    if not parts:
        return None
    values = np.concatenate(parts)
    finite = values[np.isfinite(values)]
    # A draw whose numbers are all equal has no correlation.
    if len(finite) < len(values) / 2:
        return None
    low, high = np.percentile(finite, PERCENTILES)
    return float(low), float(high)

"""Choice of the training examples that take the place of a dev file."""

from __future__ import annotations

import collections
import random
from typing import Any, Iterable, Sequence

# From `_SMALL_DEV` examples on, a dev set has at most `_MOST_OF_DEV` times the wanted number.
_MOST_OF_DEV, _SMALL_DEV = 2, 10


def choose_dev(groups: Iterable[Any], dev_fraction: float) -> bytes:
    """Return which examples go to the dev set: a 1 or a 0 for each, always the same.

    Args:
        groups: the group of each example. The fraction is taken of each group.
        dev_fraction: part of each group, but at least one example of a group that has two, unless
            so many groups are small that it would be more than twice the part of all.
    """
    numbers: dict[Any, list[int]] = collections.defaultdict(list)
    num_examples = 0
    for group in groups:
        numbers[group].append(num_examples)
        num_examples += 1
    chosen = bytearray(num_examples)
    shuffle = random.Random(12345).shuffle
    members = [numbers[group] for group in sorted(numbers, key=str)]
    for of_group, count in zip(members, _dev_counts([len(m) for m in members], dev_fraction)):
        shuffle(of_group)
        for number in of_group[:count]:
            chosen[number] = 1
    return bytes(chosen)


def _dev_counts(sizes: Sequence[int], dev_fraction: float) -> list[int]:
    """Return how many examples of each group to take for the dev set."""
    counts = [round(dev_fraction * size) if size > 1 else 0 for size in sizes]
    one_at_least = [max(count, int(size > 1)) for count, size in zip(counts, sizes)]
    if sum(one_at_least) <= max(_SMALL_DEV, _MOST_OF_DEV * dev_fraction * sum(sizes)):
        return one_at_least
    # One example of each of the small groups would be too many: take one of some of them.
    due = 0.0
    for number, size in enumerate(sizes):
        if size > 1 and not counts[number]:
            due += dev_fraction * size
            if due >= 0.5:
                counts[number] = 1
                due -= 1
    return counts

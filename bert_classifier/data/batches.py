"""Records -> batches of examples of similar length, padded to the longest of a batch.

Every order here is a function of the lengths, the seed and a position. No state is kept: a run
continues exactly where it was interrupted, with any number of workers.
"""

from __future__ import annotations

import functools
import math
import sys
from typing import Any, Callable, Iterable, Iterator, NamedTuple, Sequence

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier.data import serialization
from bert_classifier.data.examples import InputExample
from bert_classifier.data.features import Converter
from bert_classifier.data.records import RecordFile

# So many steps, or batches of an evaluation, are sorted together. With more of them the lengths in
# a step would be more alike, and its examples less random.
_SORTED_TOGETHER = 64

# A batch takes milliseconds, and the order of a new epoch of a million examples some tenths of a
# second. With so many batches ready no step waits for either.
_PARALLEL_BATCHES = 2
_BATCHES_AHEAD = 8

# What random numbers are for: an epoch and a batch of the same number must not share them.
_OF_EPOCH, _OF_BATCH = range(2)


def epoch_order(
    num_tokens: np.ndarray, examples_per_step: int, seed: int, epoch: int
) -> np.ndarray:
    """Return the order of the examples in an epoch.

    Each step has `examples_per_step` examples, also where an epoch ends and the next one begins: an
    epoch begins with the examples that complete the last step of the one before, and ends with
    those that begin the first step of the next one. Both are drawn at random. The steps in between
    have examples of similar length: parts of the epoch, drawn at random, are sorted by length and
    cut into steps, and all steps are shuffled.

    Args:
        num_tokens: how long each example is, int `[num_examples]`. If all are equally long, the
            order is a plain shuffle.
        examples_per_step: of all batches and all workers together.
        seed: of the shuffle.
        epoch: its number, from 0.

    Returns:
        Numbers of the examples, each once, int64 `[num_examples]`.
    """
    random = _random(seed, _OF_EPOCH, epoch)
    order = random.permutation(len(num_tokens))
    begin = min(-epoch * len(order) % examples_per_step, len(order))
    num_steps = (len(order) - begin) // examples_per_step
    whole_steps = slice(begin, begin + num_steps * examples_per_step)
    steps = order[whole_steps].reshape(num_steps, examples_per_step)
    parts = np.array_split(steps, max(1, math.ceil(num_steps / _SORTED_TOGETHER)))
    ascending = [_by_length(part.ravel(), num_tokens).reshape(part.shape) for part in parts]
    order[whole_steps] = random.permutation(np.concatenate(ascending)).ravel()
    return order


def _by_length(examples: np.ndarray, num_tokens: np.ndarray) -> np.ndarray:
    # Stable: equally long ones stay in their random order, or in that of the file.
    return examples[np.argsort(num_tokens[examples], kind="stable")]


def _random(seed: int, *numbers: int) -> np.random.RandomState:
    # Unlike that of a Generator, its stream is the same in all versions of NumPy.
    return np.random.RandomState([seed % 2**32, *numbers])


class Plan(NamedTuple):
    """The examples of each batch.

    Attributes:
        numbers: of the batches, in their order.
        examples: number of a batch -> numbers of its examples, int64 `[batch_size]`.
        batch_size: examples per batch; None if the last batch may have fewer.
    """

    numbers: range
    examples: Callable[[int], np.ndarray]
    batch_size: int | None


def training_plan(
    num_tokens: np.ndarray, batch_size: int, examples_per_step: int, seed: int, first: int = 0
) -> Plan:
    """Plan training without end: the steps of `epoch_order`, each sorted and cut into batches.

    So lengths are more alike in a batch than in a step. Inside a batch the examples are shuffled.

    Args:
        num_tokens: this and the others as for `epoch_order`.
        batch_size: examples per batch, a divisor of `examples_per_step`.
        examples_per_step: of all batches and all workers together.
        seed: of the shuffle.
        first: number of the batch to begin with.
    """

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        return epoch_order(num_tokens, examples_per_step, seed, epoch)

    def examples(number: int) -> np.ndarray:
        step, part = divmod(number * batch_size, examples_per_step)
        positions = np.arange(step * examples_per_step, (step + 1) * examples_per_step)
        epochs, offsets = np.divmod(positions, len(num_tokens))
        of_step = [order(epoch)[offsets[epochs == epoch]] for epoch in np.unique(epochs)]
        ascending = _by_length(np.concatenate(of_step), num_tokens)
        return _random(seed, _OF_BATCH, number).permutation(ascending[part : part + batch_size])

    return Plan(range(first, sys.maxsize), examples, batch_size)


def evaluation_plan(num_tokens: np.ndarray, batch_size: int, drop_remainder: bool = False) -> Plan:
    """Plan one pass in `evaluation_order`."""
    order = evaluation_order(num_tokens, batch_size)
    num_full, num_left = divmod(len(order), batch_size)
    is_last_short = num_left > 0 and not drop_remainder
    return Plan(
        range(num_full + is_last_short),
        lambda number: order[number * batch_size : (number + 1) * batch_size],
        None if is_last_short else batch_size,
    )


def evaluation_order(num_tokens: np.ndarray, batch_size: int) -> np.ndarray:
    """Return the order of one pass: consecutive blocks of batches, each block longest first.

    A batch that needs too much memory fails early. Of batches that are computed at the same time
    the last ones are short, so that no thread waits long for another.

    Args:
        num_tokens: how long each example is, int `[num_examples]`. If all are equally long, the
            order is that of the file.
        batch_size: examples per batch.

    Returns:
        Numbers of the examples, each once, int64 `[num_examples]`.
    """
    size = batch_size * _SORTED_TOGETHER
    order = np.arange(len(num_tokens))
    blocks = [order[start : start + size] for start in range(0, len(order), size)]
    return np.concatenate([_by_length(block, -num_tokens) for block in blocks])


def restore_order(rows: Iterable[Any], order: Sequence[int]) -> Iterator[Any]:
    """Yield rows, which come in this order, by their number; hold no more than a block of them."""
    waiting = {}
    due = 0
    for number, row in zip(order, rows):
        waiting[number] = row
        while due in waiting:
            yield waiting.pop(due)
            due += 1


class Batching(NamedTuple):
    """How examples become batches.

    Attributes:
        batch_size: examples per batch, of one worker.
        is_training: shuffle and repeat; otherwise one pass.
        drop_remainder: leave out a last batch that is not full.
        seed: of the shuffle.
        start_step: the step at which training starts, in batches of one worker.
        examples_per_step: as for `epoch_order`; None for those of one batch of each worker.
        pad_to_multiple_of: as for `serialization.parse`.
        group_by_length: make batches of examples of similar length. One pass is then in
            `evaluation_order`, otherwise in the order of the file.
    """

    batch_size: int
    is_training: bool = False
    drop_remainder: bool = False
    seed: int = 0
    start_step: int = 0
    examples_per_step: int | None = None
    pad_to_multiple_of: int = 8
    group_by_length: bool = False

    def plan(self, num_tokens: np.ndarray, num_shards: int = 1) -> Plan:
        """Return the plan of all batches of all workers.

        Args:
            num_tokens: how long each example is, int `[num_examples]`.
            num_shards: number of workers.
        """
        if not self.group_by_length:
            num_tokens = np.zeros_like(num_tokens)
        if not self.is_training:
            return evaluation_plan(num_tokens, self.batch_size, self.drop_remainder)
        step = self.examples_per_step or self.batch_size * num_shards
        first = self.start_step * num_shards
        return training_plan(num_tokens, self.batch_size, step, self.seed, first)


class InputFn(NamedTuple):
    """The `input_fn` of an Estimator: called, it returns a Dataset of dicts, see `features.parse`.

    Attributes:
        plan: the batches.
        read: numbers of examples -> their records.
        parse: records -> a batch.
    """

    plan: Plan
    read: Callable[[np.ndarray], list[bytes]]
    parse: Callable[[tf.Tensor], dict[str, tf.Tensor]]

    def __call__(self) -> tf.data.Dataset:
        """Return the batches."""
        return _dataset(*self)

    def rows(self) -> np.ndarray:
        """Return the numbers of the examples of one pass, int64, in the order of the batches."""
        batches = [self.plan.examples(number) for number in self.plan.numbers]
        return np.concatenate(batches) if batches else np.zeros(0, np.int64)


def file_based_input_fn_builder(
    input_file: str,
    seq_length: int,
    is_training: bool,
    drop_remainder: bool,
    batch_size: int = 32,
    labelled: bool = True,
) -> Callable[[], tf.data.Dataset]:
    """Build the `input_fn` of a classification, as google's function of this name.

    See `records_input_fn`. Unlike google's, this `input_fn` takes no `params`.

    Args:
        input_file: a TFRecord file, also one that google's script has written.
        seq_length: length of the longest sequences.
        is_training: shuffle and repeat; otherwise one pass.
        drop_remainder: leave out a last batch that is not full.
        batch_size: examples per batch.
        labelled: whether the records have `label_ids`.
    """
    record_file = RecordFile(input_file)
    plan = Batching(batch_size, is_training, drop_remainder).plan(record_file.num_tokens)
    spec = serialization.feature_spec(labelled)
    parse = functools.partial(serialization.parse, spec=spec, max_seq_length=seq_length)
    return lambda: _dataset(plan, record_file.read, parse)


def records_input_fn(
    path: str, converter: Converter, batching: Batching, labelled: bool = True
) -> InputFn:
    """Build the `input_fn` of an Estimator over a TFRecord file.

    In training the records repeat for ever, each epoch in an order of its own: see `epoch_order`. A
    run that is resumed at `start_step` continues with the next batch.

    Args:
        path: the TFRecord file.
        converter: has made the records.
        batching: how they become batches.
        labelled: whether the records have `label_ids`.

    Returns:
        `input_fn()` -> Dataset of dicts, see `serialization.parse`.
    """
    record_file = RecordFile(path)
    plan = batching.plan(record_file.num_tokens)
    parse = _parser(converter, batching, labelled)
    return InputFn(plan, record_file.read, parse)


def examples_input_fn(
    examples: Sequence[InputExample],
    converter: Converter,
    batching: Batching,
    num_shards: int,
    shard_index: int,
    num_tokens: np.ndarray | None = None,
) -> InputFn:
    """Build the `input_fn` of one of several workers, straight from the examples.

    The batches are those of `records_input_fn`, dealt out in turn: of each `num_shards` batches
    this worker has number `shard_index`. Together the workers do what one would do with batches
    `num_shards` times as large; no example is lost, and at any time all of them have work of
    similar length. An example is converted when its batch comes, so a worker converts what it
    reads, waits for no other and writes nothing.

    Args:
        examples: all examples of the split.
        converter: converts them.
        batching: how they become batches.
        num_shards: number of workers.
        shard_index: number of this worker, from 0.
        num_tokens: of all examples, int `[num_examples]`, see `Converter.count_tokens`; needed to
            group them by length.

    Returns:
        As that of `records_input_fn`.
    """

    def read(indices: Iterable[int]) -> list[bytes]:
        return [
            record
            for record, _ in serialization.serialize(
                converter, (examples[index] for index in indices)
            )
        ]

    if num_tokens is None:
        num_tokens = np.zeros(len(examples), np.int64)
    plan = batching.plan(num_tokens, num_shards)
    plan = plan._replace(numbers=plan.numbers[shard_index::num_shards])
    parse = _parser(converter, batching, labelled=examples[0].label is not None)
    return InputFn(plan, read, parse)


def _parser(
    converter: Converter, batching: Batching, labelled: bool
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Return what parses a batch of the records of a converter."""
    return functools.partial(
        serialization.parse,
        spec=serialization.spec_of(converter, labelled),
        max_seq_length=converter.max_seq_length,
        has_windows=converter.has_windows,
        pad_to_multiple_of=batching.pad_to_multiple_of,
    )


def _dataset(
    plan: Plan,
    read: Callable[[np.ndarray], list[bytes]],
    parse: Callable[[tf.Tensor], dict[str, tf.Tensor]],
) -> tf.data.Dataset:
    """Read and parse the batches of a plan, some of them ahead of their use."""

    def read_batch(number: np.ndarray) -> np.ndarray:
        return np.array(read(plan.examples(int(number))), dtype=object)

    # Autograph would read this source file at each evaluation, when it may have been edited.
    @tf.autograph.experimental.do_not_convert
    def batch(number: tf.Tensor) -> dict[str, tf.Tensor]:
        serialized = tf.numpy_function(read_batch, [number], tf.string)
        return parse(tf.ensure_shape(serialized, [plan.batch_size]))

    numbers = tf.data.Dataset.range(plan.numbers.start, plan.numbers.stop, plan.numbers.step)
    return numbers.map(batch, num_parallel_calls=_PARALLEL_BATCHES).prefetch(_BATCHES_AHEAD)

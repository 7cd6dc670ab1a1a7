"""Records -> batches of examples of similar length, padded to the longest of a batch.

Every order here is a function of the lengths, the seed and a position, and of nothing else: no
state is kept, so a run goes on exactly where it was interrupted, with any number of workers.
"""

from __future__ import annotations

import functools
import math
import sys
from typing import Any, Callable, Iterable, Iterator, NamedTuple, Sequence

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier.data import features
from bert_classifier.data.processors import InputExample
from bert_classifier.data.records import RecordFile
from tokenization import FullTokenizer

# So many steps, or batches of an evaluation, are sorted together. More would be more alike, and
# leave less to chance which examples meet in a step.
_SORTED_TOGETHER = 64

# A batch takes milliseconds, the order of a new epoch of a million examples some tenths of a
# second: with so many batches ready no step waits for either.
_PARALLEL_BATCHES = 2
_BATCHES_AHEAD = 8

# What the random numbers are for: epochs and batches of the same number are not to share them.
_OF_EPOCH, _OF_BATCH = range(2)


def epoch_order(
    num_tokens: np.ndarray, examples_per_step: int, seed: int, epoch: int
) -> np.ndarray:
    """Gives the order in which an epoch goes through the examples.

    Epochs follow one another without a gap, and steps, of `examples_per_step` each, run on over
    their borders: an epoch begins with what completes the last step of the one before and ends with
    what begins the first step of the next one. Both are drawn at random. The steps in between are
    made of examples of similar length: parts of the epoch, drawn at random, are sorted by length
    and cut into steps, and all steps are shuffled.

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
    # Stable: equally long ones stay as chance, or the file, has put them.
    return examples[np.argsort(num_tokens[examples], kind="stable")]


def _random(seed: int, *numbers: int) -> np.random.RandomState:
    # Unlike that of a Generator, its stream is the same in all versions of NumPy.
    return np.random.RandomState([seed % 2**32, *numbers])


class Plan(NamedTuple):
    """Which examples make which batch.

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
    """Plans training without end: the steps of `epoch_order`, each sorted and cut into batches.

    So the batches of a step are more alike in themselves than the step. Inside a batch the examples
    are shuffled.

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
    """Plans one pass in `evaluation_order`."""
    order = evaluation_order(num_tokens, batch_size)
    num_full, num_left = divmod(len(order), batch_size)
    is_last_short = num_left > 0 and not drop_remainder
    return Plan(
        range(num_full + is_last_short),
        lambda number: order[number * batch_size : (number + 1) * batch_size],
        None if is_last_short else batch_size,
    )


def evaluation_order(num_tokens: np.ndarray, batch_size: int) -> np.ndarray:
    """Gives the order of one pass: consecutive blocks of batches, each block longest first.

    What is too long for the memory fails early, and batches that are computed side by side end
    with short ones, so that no one waits long for the last.

    Args:
        num_tokens: how long each example is, int `[num_examples]`. If all are equally long, nothing
            moves.
        batch_size: examples per batch.

    Returns:
        Numbers of the examples, each once, int64 `[num_examples]`.
    """
    size = batch_size * _SORTED_TOGETHER
    order = np.arange(len(num_tokens))
    blocks = [order[start : start + size] for start in range(0, len(order), size)]
    return np.concatenate([_by_length(block, -num_tokens) for block in blocks])


def restore_order(rows: Iterable[Any], order: Sequence[int]) -> Iterator[Any]:
    """Gives rows that come in this order in that of their numbers; holds no more than a block."""
    waiting = {}
    due = 0
    for number, row in zip(order, rows):
        waiting[number] = row
        while due in waiting:
            yield waiting.pop(due)
            due += 1


def file_based_input_fn_builder(
    input_file: str,
    seq_length: int,
    is_training: bool,
    drop_remainder: bool,
    batch_size: int,
    labelled: bool = True,
    seed: int = 0,
    start_step: int = 0,
    problem_type: str = "classification",
    num_labels: int = 0,
    has_windows: bool = False,
    group_by_length: bool = False,
    examples_per_step: int | None = None,
    pad_to_multiple_of: int = 8,
) -> Callable[[], tf.data.Dataset]:
    """Builds the `input_fn` of an Estimator over a TFRecord file.

    In training the records repeat for ever, each epoch in an order of its own: see `epoch_order`. A
    run that is resumed at `start_step` goes on with the batch that comes next.

    Args:
        input_file: the TFRecord file.
        seq_length: length of the longest sequences.
        is_training: shuffle and repeat; otherwise one pass.
        drop_remainder: leave out a last batch that is not full.
        batch_size: examples per batch.
        labelled: whether the records have `label_ids`.
        seed: of the shuffle.
        start_step: the step at which training starts, in batches.
        problem_type: as for `features.Converter`.
        num_labels: number of labels; needed for `multi_label`.
        has_windows: whether the examples are read in windows.
        group_by_length: make batches of examples of similar length; one pass is then in
            `evaluation_order`, otherwise in that of the file.
        examples_per_step: as for `epoch_order`; by default those of a batch.
        pad_to_multiple_of: as for `features.parse`.

    Returns:
        `input_fn()` -> Dataset of dicts, see `features.parse`.
    """
    record_file = RecordFile(input_file)
    num_tokens = record_file.num_tokens
    if not group_by_length:
        num_tokens = np.zeros_like(num_tokens)
    if is_training:
        step = examples_per_step or batch_size
        plan = training_plan(num_tokens, batch_size, step, seed, start_step)
    else:
        plan = evaluation_plan(num_tokens, batch_size, drop_remainder)
    parse = functools.partial(
        features.parse,
        spec=features.feature_spec(labelled, problem_type, num_labels),
        max_seq_length=seq_length,
        has_windows=has_windows,
        pad_to_multiple_of=pad_to_multiple_of,
    )
    return lambda: _dataset(plan, record_file.read, parse)


def input_fn_builder(
    examples: Sequence[InputExample],
    label_list: Sequence[str],
    seq_length: int,
    tokenizer: FullTokenizer,
    is_training: bool,
    drop_remainder: bool,
    batch_size: int,
    seed: int = 0,
    start_step: int = 0,
    num_shards: int = 1,
    shard_index: int = 0,
    problem_type: str = "classification",
    num_tokens: np.ndarray | None = None,
    examples_per_step: int | None = None,
    pad_to_multiple_of: int = 8,
    **options: Any,
) -> Callable[[], tf.data.Dataset]:
    """Builds the `input_fn` of one of several workers, straight from the examples.

    The batches are those of `file_based_input_fn_builder`, dealt out in turn: of each `num_shards`
    batches this worker has number `shard_index`. Together the workers so do what one would do with
    batches `num_shards` times as large, no example is lost, and all of them have work of the same
    length at the same time. An example is converted when its batch comes: a worker converts what it
    reads, waits for no other and writes nothing.

    Args:
        examples: all examples of the split.
        label_list: labels in the order of their indices.
        seq_length: length of the longest sequences.
        tokenizer: splits the texts.
        is_training: shuffle and repeat; otherwise one pass.
        drop_remainder: leave out a last batch that is not full.
        batch_size: examples per batch of one worker.
        seed: of the shuffle.
        start_step: the step at which training starts, in batches of one worker.
        num_shards: number of workers.
        shard_index: number of this worker, from 0.
        problem_type: as for `features.Converter`.
        num_tokens: of all examples, int `[num_examples]`, see `Converter.count_tokens`; if not
            None, batches are of examples of similar length.
        examples_per_step: as for `epoch_order`; by default those of a batch of each worker.
        pad_to_multiple_of: as for `features.parse`.
        **options: further arguments of `features.Converter`.

    Returns:
        As that of `file_based_input_fn_builder`.
    """
    converter = features.Converter(label_list, seq_length, tokenizer, problem_type, **options)

    def read(indices: Iterable[int]) -> list[bytes]:
        return [record for record, _ in converter.records(examples[index] for index in indices)]

    if num_tokens is None:
        num_tokens = np.zeros(len(examples), np.int64)
    if is_training:
        step = examples_per_step or batch_size * num_shards
        plan = training_plan(num_tokens, batch_size, step, seed, start_step * num_shards)
    else:
        plan = evaluation_plan(num_tokens, batch_size, drop_remainder)
    plan = plan._replace(numbers=plan.numbers[shard_index::num_shards])
    parse = functools.partial(
        features.parse,
        spec=features.feature_spec(examples[0].label is not None, problem_type, len(label_list)),
        max_seq_length=seq_length,
        has_windows=converter.has_windows,
        pad_to_multiple_of=pad_to_multiple_of,
    )
    return lambda: _dataset(plan, read, parse)


def _dataset(
    plan: Plan,
    read: Callable[[np.ndarray], list[bytes]],
    parse: Callable[[tf.Tensor], dict[str, tf.Tensor]],
) -> tf.data.Dataset:
    """Reads and parses the batches of a plan, some of them ahead of their use."""

    def read_batch(number: np.ndarray) -> np.ndarray:
        return np.array(read(plan.examples(int(number))), dtype=object)

    # Autograph would read this source anew at each evaluation, and it may have been edited since.
    @tf.autograph.experimental.do_not_convert
    def batch(number: tf.Tensor) -> dict[str, tf.Tensor]:
        serialized = tf.numpy_function(read_batch, [number], tf.string)
        return parse(tf.ensure_shape(serialized, [plan.batch_size]))

    numbers = tf.data.Dataset.range(plan.numbers.start, plan.numbers.stop, plan.numbers.step)
    return numbers.map(batch, num_parallel_calls=_PARALLEL_BATCHES).prefetch(_BATCHES_AHEAD)

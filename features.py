"""InputExample -> InputFeatures -> TFRecord -> tf.data.

What a feature is called and how long it is stands once, in `feature_spec`: the writer, the parser
and the serving signature all take it from there.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from typing import Callable, Mapping, NamedTuple, Sequence

import numpy as np
import tensorflow.compat.v1 as tf

import files
from processors import InputExample
from tokenization import FullTokenizer, printable_text

_LOG = logging.getLogger(__name__)

# Part of every fingerprint: raise it when the format of the records changes.
_RECORD_FORMAT = 1
_EXAMPLES_LOGGED = 3


class InputFeatures(NamedTuple):
    """One example as numbers: lists of `max_seq_length` ints, and the label's index if known."""

    input_ids: list[int]
    input_mask: list[int]
    segment_ids: list[int]
    label_id: int | None = None


def feature_spec(seq_length: int, labelled: bool) -> dict[str, tf.FixedLenFeature]:
    """Declares the features of one record.

    Returns:
        name -> `tf.FixedLenFeature`: `input_ids`, `input_mask`, `segment_ids` int64 `[seq_length]`,
        and, when `labelled`, `label_ids` int64 `[]`.
    """
    names = ("input_ids", "input_mask", "segment_ids")
    spec = {name: tf.FixedLenFeature([seq_length], tf.int64) for name in names}
    if labelled:
        spec["label_ids"] = tf.FixedLenFeature([], tf.int64)
    return spec


def convert_single_example(
    ex_index: int,
    example: InputExample,
    label_list: Sequence[str],
    max_seq_length: int,
    tokenizer: FullTokenizer,
) -> InputFeatures:
    """Converts example number `ex_index`, and logs it when it is one of the first."""
    features = convert_example(example, label_list, max_seq_length, tokenizer)
    if ex_index < _EXAMPLES_LOGGED:
        tokens = tokenizer.convert_ids_to_tokens(features.input_ids[: sum(features.input_mask)])
        _LOG.info("*** Example ***")
        _LOG.info("  guid: %s", example.guid)
        _LOG.info("  tokens: %s", " ".join(printable_text(token) for token in tokens))
        _LOG.info("  label: %s (id = %s)", example.label, features.label_id)
    return features


def convert_example(
    example: InputExample,
    label_list: Sequence[str],
    max_seq_length: int,
    tokenizer: FullTokenizer,
) -> InputFeatures:
    """Converts one example by the convention of BERT, here with a `max_seq_length` of 14.

        pair    tokens       [CLS] is it late ? [SEP] no it is not . [SEP] [PAD] [PAD]
                segment_ids    0    0  0   0  0   0    1  1  1  1  1   1     0     0
                input_mask     1    1  1   1  1   1    1  1  1  1  1   1     0     0
        single  tokens       [CLS] it came broken . [SEP] [PAD] ...
                segment_ids    0    0   0     0   0   0     0

    The classifier reads the vector of `[CLS]`, which is trained to stand for the whole sequence.
    """
    tokens_a = tokenizer.tokenize(example.text_a)
    tokens_b = tokenizer.tokenize(example.text_b) if example.text_b else []
    # [CLS], and one [SEP] per text.
    _truncate_seq_pair(tokens_a, tokens_b, max_seq_length - (3 if tokens_b else 2))

    tokens = ["[CLS]", *tokens_a, "[SEP]"]
    segment_ids = [0] * len(tokens)
    if tokens_b:
        tokens += [*tokens_b, "[SEP]"]
        segment_ids += [1] * (len(tokens_b) + 1)

    padding = [0] * (max_seq_length - len(tokens))
    return InputFeatures(
        input_ids=tokenizer.convert_tokens_to_ids(tokens) + padding,
        input_mask=[1] * len(tokens) + padding,
        segment_ids=segment_ids + padding,
        label_id=None if example.label is None else label_list.index(example.label),
    )


def _truncate_seq_pair(tokens_a: list[str], tokens_b: list[str], max_length: int) -> None:
    """Shortens two token lists in place to `max_length` together, always the longer one first.

    A token of a short text says more than one of a long text, so equal shares would be unfair.
    """
    while len(tokens_a) + len(tokens_b) > max_length:
        longer = tokens_a if len(tokens_a) > len(tokens_b) else tokens_b
        longer.pop()


def file_based_convert_examples_to_features(
    examples: Sequence[InputExample],
    label_list: Sequence[str],
    max_seq_length: int,
    tokenizer: FullTokenizer,
    output_file: str,
) -> None:
    """Converts examples to a TFRecord file, which has its name only when it is complete."""
    with files.atomic(output_file) as temporary, tf.python_io.TFRecordWriter(temporary) as writer:
        for index, example in enumerate(examples):
            features = convert_single_example(index, example, label_list, max_seq_length, tokenizer)
            writer.write(_serialize(features))


def _serialize(features: InputFeatures) -> bytes:
    columns = {
        "input_ids": features.input_ids,
        "input_mask": features.input_mask,
        "segment_ids": features.segment_ids,
    }
    if features.label_id is not None:
        columns["label_ids"] = [features.label_id]
    message = {
        name: tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        for name, values in columns.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=message)).SerializeToString()


def fingerprint(
    examples: Sequence[InputExample],
    label_list: Sequence[str],
    max_seq_length: int,
    tokenizer: FullTokenizer,
) -> str:
    """Gives 12 hex digits that change when anything changes from which the records are made."""
    digest = hashlib.sha256()
    settings = (
        _RECORD_FORMAT,
        list(label_list),
        max_seq_length,
        tokenizer.basic_tokenizer.do_lower_case,
        list(tokenizer.vocab),
    )
    digest.update(repr(settings).encode("utf-8"))
    for example in examples:
        digest.update(repr((example.text_a, example.text_b, example.label)).encode("utf-8"))
    return digest.hexdigest()[:12]


def write_records_once(
    examples: Sequence[InputExample],
    label_list: Sequence[str],
    max_seq_length: int,
    tokenizer: FullTokenizer,
    output_file: str,
) -> None:
    """Converts examples to a TFRecord file, unless it is there.

    With the `fingerprint` in its name the file of other data, another vocabulary, other labels or
    another length is another file, so stale records are never read.
    """
    if os.path.exists(output_file):
        _LOG.info("Using the %d converted examples of %s", len(examples), output_file)
        return
    _LOG.info("Converting %d examples to %s", len(examples), output_file)
    file_based_convert_examples_to_features(
        examples, label_list, max_seq_length, tokenizer, output_file
    )


def file_based_input_fn_builder(
    input_file: str,
    seq_length: int,
    is_training: bool,
    drop_remainder: bool,
    batch_size: int,
    num_examples: int = 0,
    labelled: bool = True,
    seed: int = 0,
    start_step: int = 0,
) -> Callable[[], tf.data.Dataset]:
    """Builds the `input_fn` of an Estimator over a TFRecord file.

    In training the records repeat for ever. Each epoch is shuffled as a whole (a small buffer
    learns badly from a file that is sorted by label) in an order that depends on `seed` and the
    epoch's number only, so a run that is resumed at `start_step` goes on with the batch that comes
    next.

    Args:
        input_file: the TFRecord file.
        seq_length: length of the stored sequences.
        is_training: shuffle and repeat; otherwise one pass in file order.
        drop_remainder: leave out a last batch that is not full.
        batch_size: examples per batch.
        num_examples: how many records the file holds; needed in training.
        labelled: whether the records have `label_ids`.
        seed: of the shuffle.
        start_step: the step at which training starts, in batches.

    Returns:
        `input_fn()` -> Dataset of dicts of int32 tensors: `input_ids`, `input_mask`, `segment_ids`
        `[batch_size, seq_length]` and, when `labelled`, `label_ids` `[batch_size]`.
    """

    def input_fn() -> tf.data.Dataset:
        records = tf.data.TFRecordDataset(input_file)
        if is_training:
            records = _shuffled_epochs(records, num_examples, seed, start_step * batch_size)
        batches = records.batch(batch_size, drop_remainder=drop_remainder)
        return _parsed(batches, feature_spec(seq_length, labelled))

    return input_fn


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
) -> Callable[[], tf.data.Dataset]:
    """Builds the `input_fn` of one of several workers, straight from the examples.

    The batches are those of `file_based_input_fn_builder`, dealt out in turn: of each `num_shards`
    batches this worker has number `shard_index`. Together the workers so do what one would do with
    batches `num_shards` times as large, and no example is lost. An example is converted when its
    batch comes for the first time, and kept in memory: a worker converts what it reads, waits for
    no other and writes nothing.

    Args:
        examples: all examples of the split.
        label_list: labels in the order of their indices.
        seq_length: length of the sequences.
        tokenizer: splits the texts.
        is_training: shuffle and repeat; otherwise one pass in order.
        drop_remainder: leave out a last batch that is not full.
        batch_size: examples per batch of one worker.
        seed: of the shuffle.
        start_step: the step at which training starts, in batches of one worker.
        num_shards: number of workers.
        shard_index: number of this worker, from 0.

    Returns:
        As that of `file_based_input_fn_builder`.
    """

    @functools.lru_cache(maxsize=None)
    def record(index: int) -> bytes:
        return _serialize(convert_example(examples[index], label_list, seq_length, tokenizer))

    def records(indices: np.ndarray) -> np.ndarray:
        return np.array([record(index) for index in indices], dtype=object)

    def input_fn() -> tf.data.Dataset:
        indices = tf.data.Dataset.range(len(examples))
        if is_training:
            first = start_step * batch_size * num_shards
            indices = _shuffled_epochs(indices, len(examples), seed, first)
        indices = indices.batch(batch_size, drop_remainder=drop_remainder)
        batches = indices.shard(num_shards, shard_index).map(
            lambda batch: tf.ensure_shape(tf.py_func(records, [batch], tf.string), batch.shape)
        )
        return _parsed(batches, feature_spec(seq_length, examples[0].label is not None))

    return input_fn


def _parsed(batches: tf.data.Dataset, spec: Mapping[str, tf.FixedLenFeature]) -> tf.data.Dataset:
    def parse(batch: tf.Tensor) -> dict[str, tf.Tensor]:
        # TFRecords hold int64 only; the model and the serving signature use int32.
        columns = tf.io.parse_example(batch, spec)
        return {name: tf.cast(column, tf.int32) for name, column in columns.items()}

    return batches.map(parse, num_parallel_calls=2).prefetch(2)


def _shuffled_epochs(
    elements: tf.data.Dataset, num_elements: int, seed: int, first: int
) -> tf.data.Dataset:
    """Repeats `elements` for ever, each epoch in its own order, from element number `first` on."""

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        return elements.shuffle(num_elements, seed=seed + number, reshuffle_each_iteration=False)

    first_epoch, already_seen = divmod(first, num_elements)
    epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
    return epochs.flat_map(epoch).skip(already_seen)

"""InputFeatures -> TFRecord, and back to tensors.

The writer, the parser and the serving signature take the names of the features from
`TOKEN_FEATURES` and `feature_spec`.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
from typing import Any, Collection, Iterable, Iterator, Mapping, Sequence

import tensorflow.compat.v1 as tf
import tqdm

from bert_classifier import logs, objectives, tf_compat
from bert_classifier.data import records
from bert_classifier.data.examples import InputExample
from bert_classifier.data.features import (
    TOKEN_FEATURES,
    Converter,
    InputFeatures,
)
from bert_classifier.data.processes import map_in_processes
from tokenization import FullTokenizer, printable_text

_LOG = logging.getLogger(__name__)

_EXAMPLES_LOGGED = 3

# Of one message to or from a process, whose cost is then small beside that of the conversion.
_EXAMPLES_PER_CHUNK = 1000
# Fewer are converted in the time that it takes to start processes.
_EXAMPLES_WORTH_PROCESSES = 4000
_EXAMPLES_PER_LOG_LINE = 100000


def feature_spec(
    labelled: bool, problem_type: str = "classification", num_labels: int = 0
) -> dict[str, Any]:
    """Declare the features of one record.

    Args:
        labelled: whether there is a label.
        problem_type: as for `Converter`.
        num_labels: number of labels; needed for `multi_label`.

    Returns:
        name -> what `tf.io.parse_example` takes: `input_ids`, `input_mask`, `segment_ids`, as many
        int64 as there are tokens, and, when `labelled`, `label_ids` as `Objective.label_spec`
        declares them.
    """
    tokens = tf.FixedLenSequenceFeature([], tf.int64, allow_missing=True)
    spec: dict[str, Any] = {name: tokens for name in TOKEN_FEATURES}
    if labelled:
        spec["label_ids"] = objectives.get(problem_type).label_spec(num_labels)
    return spec


def spec_of(converter: Converter, labelled: bool) -> dict[str, Any]:
    """Declare the features of the records of a converter; see `feature_spec`."""
    return feature_spec(labelled, converter.problem_type, len(converter.labels))


def serialize(converter: Converter, examples: Iterable[InputExample]) -> list[tuple[bytes, int]]:
    """Return the records of examples, each with the number of tokens of its example."""
    converted = map(converter.convert, examples)
    return [(_serialize(features), features.num_tokens) for features in converted]


def _serialize(features: InputFeatures) -> bytes:
    example = tf.train.Example()
    columns = example.features.feature
    for name in TOKEN_FEATURES:
        columns[name].int64_list.value.extend(getattr(features, name))
    label_id = features.label_id
    if isinstance(label_id, float):
        columns["label_ids"].float_list.value.append(label_id)
    elif label_id is not None:
        label_ids = label_id if isinstance(label_id, list) else [label_id]
        columns["label_ids"].int64_list.value.extend(label_ids)
    # By default the features have the order of a hash table, which differs between processes.
    return example.SerializeToString(deterministic=True)


def convert_single_example(
    ex_index: int,
    example: InputExample,
    label_list: Sequence[str],
    max_seq_length: int,
    tokenizer: FullTokenizer,
) -> InputFeatures:
    """Convert one example of a classification, as google's function of this name.

    The first few, by `ex_index`, are logged.
    """
    converter = Converter(label_list, max_seq_length, tokenizer)
    if ex_index < _EXAMPLES_LOGGED:
        _log_example(example, converter)
    return converter.convert_padded(example)


def _log_example(example: InputExample, converter: Converter) -> None:
    """Log the tokens and the label of an example, as google's function does."""
    features = converter.convert_padded(example)
    ids = itertools.compress(features.input_ids, features.input_mask)
    tokens = converter.tokenizer.convert_ids_to_tokens(ids)
    log = functools.partial(_LOG.info, extra=logs.FOR_FILE)
    log("*** Example ***")
    log("  guid: %s", example.guid)
    log("  tokens: %s", " ".join(map(printable_text, tokens)))
    log("  label: %s (id = %s)", example.label, features.label_id)


def file_based_convert_examples_to_features(
    examples: Collection[InputExample],
    label_list: Sequence[str],
    max_seq_length: int,
    tokenizer: FullTokenizer,
    output_file: str,
) -> None:
    """Convert examples of a classification to a TFRecord file, as google's function of this name.

    See `write_records`.
    """
    write_records(examples, Converter(label_list, max_seq_length, tokenizer), output_file)


def write_records(
    examples: Collection[InputExample],
    converter: Converter,
    path: str,
    num_processes: int | None = None,
    show_bar: bool = False,
) -> None:
    """Convert examples to a TFRecord file, which has its name only when it is complete.

    Beside it is its index, see `records`. The file is the same, byte for byte, for any number of
    processes. Only a few examples per process are in memory at any time.

    Args:
        examples: iterated twice; may be any collection that reads as it goes.
        converter: converts them.
        path: the TFRecord file.
        num_processes: how many convert; by default one for each core that this process may use, and
            one for all when there are few examples.
        show_bar: show a progress bar instead of a line in the log now and then.

    Raises:
        RuntimeError: one of the processes was killed.
    """
    for example in itertools.islice(examples, _EXAMPLES_LOGGED):
        _log_example(example, converter)
    if num_processes is None:
        several = len(examples) >= _EXAMPLES_WORTH_PROCESSES
        num_processes = len(os.sched_getaffinity(0)) if several else 1
    with contextlib.ExitStack() as until_done:
        write = until_done.enter_context(records.writer(path))
        chunks = map_in_processes(
            functools.partial(serialize, converter), _chunks(examples), num_processes
        )
        until_done.enter_context(contextlib.closing(chunks))
        converted = itertools.chain.from_iterable(chunks)
        bar = tqdm.tqdm(
            converted, total=len(examples), unit="example", disable=not show_bar, dynamic_ncols=True
        )
        until_done.enter_context(bar)
        for number, (record, num_tokens) in enumerate(bar, start=1):
            write(record, num_tokens)
            if number % _EXAMPLES_PER_LOG_LINE == 0 and not show_bar:
                _LOG.info("  converted %d of %d examples", number, len(examples))


def _chunks(examples: Iterable[InputExample]) -> Iterator[list[InputExample]]:
    iterator = iter(examples)
    return iter(lambda: list(itertools.islice(iterator, _EXAMPLES_PER_CHUNK)), [])


def write_records_once(
    examples: Collection[InputExample], converter: Converter, path: str, show_bar: bool = False
) -> None:
    """Convert examples to a TFRecord file, unless it is there, and log how long they are.

    The `fingerprint` is to be part of its name, so that stale records are never read: other data,
    another vocabulary, other labels or another length make another file.

    Args:
        examples: as for `write_records`.
        converter: converts them.
        path: the TFRecord file.
        show_bar: show a progress bar.
    """
    if records.is_complete(path):
        _LOG.info("Using the %d converted examples of %s", len(examples), path)
    else:
        _LOG.info("Converting %d examples to %s", len(examples), path)
        write_records(examples, converter, path, show_bar=show_bar)
    _LOG.info("  %s", converter.describe(records.RecordFile(path).num_tokens))


def parse(
    serialized: tf.Tensor,
    spec: Mapping[str, Any],
    max_seq_length: int,
    has_windows: bool = False,
    pad_to_multiple_of: int = 8,
) -> dict[str, tf.Tensor]:
    """Parse a batch of records, padded or not, and pad them to the longest one.

    Args:
        serialized: `tf.Example`, string `[batch_size]`.
        spec: of `feature_spec`.
        max_seq_length: number of tokens that the model reads at once; a longer record is an error
            in the graph.
        has_windows: whether records hold windows.
        pad_to_multiple_of: `seq_length` is a multiple of it, or `max_seq_length`. 8 suits the
            matrix units of GPUs; a larger one gives fewer shapes, each of which XLA compiles anew.

    Returns:
        `input_ids`, `input_mask`, `segment_ids` int32 `[batch_size, seq_length]`, or, with windows,
        `[batch_size, num_windows, seq_length]`, all 0 where an example has fewer windows than
        another one of its batch; and, if the spec has them, `label_ids`, of the shape and dtype of
        the predictions of the problem type.
    """
    columns = tf_compat.parse_example(serialized, spec)
    # Each is as long as in the longest record. `tf.stack` fails if one of them is in no record.
    tokens = tf.stack([columns[name] for name in TOKEN_FEATURES])
    longest = tf.shape(tokens)[2]
    if not has_windows:
        longest = _at_most(longest, max_seq_length)
    seq_length = tf.minimum(_round_up(longest, pad_to_multiple_of), max_seq_length)
    length = _round_up(longest, seq_length) if has_windows else seq_length
    tokens = tf.pad(tokens, [[0, 0], [0, 0], [0, length - longest]])
    if has_windows:
        tokens = tf.reshape(tokens, [3, tf.shape(tokens)[1], -1, seq_length])
    columns.update(zip(TOKEN_FEATURES, tf.unstack(tokens)))
    # Records have no int32, which is what the model and the serving signatures use.
    return {
        name: tf.cast(column, tf.int32) if column.dtype == tf.int64 else column
        for name, column in columns.items()
    }


def _at_most(longest: tf.Tensor, max_seq_length: int) -> tf.Tensor:
    check = tf.debugging.assert_less_equal(
        longest,
        max_seq_length,
        message="a tf.Example has more tokens than the %d that the model reads" % max_seq_length,
    )
    with tf.control_dependencies([check]):
        return tf.identity(longest)


def _round_up(number: tf.Tensor, multiple: int | tf.Tensor) -> tf.Tensor:
    return -(-number // multiple) * multiple

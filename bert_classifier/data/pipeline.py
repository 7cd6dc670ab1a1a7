"""The examples of a call as `input_fn`s: from TFRecord files, or shared among several workers."""

from __future__ import annotations

import itertools
import os
from typing import Any, Callable, Iterator, NamedTuple

import numpy as np

from bert_classifier import logs
from bert_classifier.data.batches import (
    Batching,
    InputFn,
    evaluation_order,
    examples_input_fn,
    records_input_fn,
    restore_order,
)
from bert_classifier.data.inputs import Inputs
from bert_classifier.data.records import RecordFile
from bert_classifier.data.serialization import write_records_once


class Shard(NamedTuple):
    """The part of a split that this worker reads.

    Attributes:
        shard_index: number of this worker, from 0.
        num_shards: how many workers there are.
        from_all: returns the values that all workers call it with, in the order of the workers.
    """

    shard_index: int
    num_shards: int
    from_all: Callable[[Any], list[Any]]


class Pipeline(NamedTuple):
    """Makes batches of the examples.

    Attributes:
        inputs: the examples and what they are converted with.
        shard: the part that this worker reads.
        records: split -> TFRecord file, of the splits that one worker reads alone. Several workers
            convert what each of them reads.
        seed: of the order of the training examples.
        examples_per_step: of all workers together; None where nothing is trained.
        pad_to_multiple_of: the number whose multiples the lengths of batches are padded to.
        group_by_length: make batches of examples of similar length.
    """

    inputs: Inputs
    shard: Shard
    records: dict[str, str]
    seed: int
    examples_per_step: int | None
    pad_to_multiple_of: int
    group_by_length: bool

    def input_fn(self, split: str, batch_size: int, start_step: int = 0) -> InputFn:
        """Build the `input_fn` of a split: endless for `train`, else one pass over all examples.

        All workers that read the split call it.

        Args:
            split: train, dev or test.
            batch_size: of this worker.
            start_step: batches of the training that were read before.
        """
        examples, converter = self.inputs.examples[split], self.inputs.converters[split]
        batching = Batching(
            batch_size,
            is_training=split == "train",
            drop_remainder=split == "train",
            seed=self.seed,
            start_step=start_step,
            examples_per_step=self.examples_per_step,
            pad_to_multiple_of=self.pad_to_multiple_of,
            group_by_length=self.group_by_length,
        )
        if split in self.records:
            return records_input_fn(self.records[split], converter, batching, examples.is_labelled)
        num_tokens = self._count_tokens(split) if self.group_by_length else None
        return examples_input_fn(
            list(examples),
            converter,
            batching,
            self.shard.num_shards,
            self.shard.shard_index,
            num_tokens,
        )

    def in_file_order(
        self, split: str, batch_size: int, rows: Iterator[dict[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        """Return what a model says about the examples of a split in the order of the file."""
        if not self.group_by_length:
            return rows
        num_tokens = RecordFile(self.records[split]).num_tokens
        return restore_order(rows, evaluation_order(num_tokens, batch_size))

    def _count_tokens(self, split: str) -> np.ndarray:
        """Count the tokens of each example, each worker those of its part: all call it."""
        examples, (index, count, from_all) = self.inputs.examples[split], self.shard
        converter = self.inputs.converters[split]
        mine = itertools.islice(examples, index, None, count)
        num_tokens = np.empty(len(examples), np.int64)
        for number, part in enumerate(from_all(converter.count_tokens(mine))):
            num_tokens[number::count] = part
        return num_tokens


def convert(inputs: Inputs, output_dir: str, num_workers: int) -> dict[str, str]:
    """Write the TFRecord files that are not there yet; return split -> path.

    They are for a worker that reads a split alone: where there are several, of the test set only.
    """
    splits = inputs.examples if num_workers == 1 else {"test"} & inputs.examples.keys()
    records = {}
    for split in splits:
        name = "%s.%s.tf_record" % (split, inputs.fingerprints[split])
        records[split] = os.path.join(output_dir, name)
        write_records_once(
            inputs.examples[split],
            inputs.converters[split],
            records[split],
            show_bar=logs.is_terminal(),
        )
    return records

"""Texts through an exported model: windows of tokens -> batches -> outputs. Needs no TensorFlow."""

from __future__ import annotations

import concurrent.futures
import itertools
from typing import Iterable, Sequence

import numpy as np

from bert_classifier import problem_types
from bert_classifier.data.examples import InputExample
from bert_classifier.data.features import Converter, InputFeatures
from bert_classifier.export.bundle import INPUTS, Model


def tokens_of(converted: InputFeatures) -> np.ndarray:
    """Return the tokens of an example, int32 `[3, length]`, rows as in `INPUTS`."""
    return np.array([getattr(converted, name) for name in INPUTS], np.int32)


def padded(rows: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return tokens as the inputs of a model, int32 `[batch_size, longest]`, padded with 0.

    Args:
        rows: each as of `tokens_of`.
    """
    tokens = np.zeros([len(INPUTS), len(rows), max(row.shape[1] for row in rows)], np.int32)
    for number, row in enumerate(rows):
        tokens[:, number, : row.shape[1]] = row
    return dict(zip(INPUTS, tokens))


class Runner:
    """Runs a model on examples, in as many threads as it gains by.

    Args:
        model: is not closed with the threads.
        converter: makes features of the examples, in windows if it has them.
        batch_size: the largest number of windows in a batch.
    """

    def __init__(self, model: Model, converter: Converter, batch_size: int = 32):
        self._model = model
        self._converter = converter
        self._batch_size = batch_size
        self._output = problem_types.get(converter.problem_type).output
        self._threads = concurrent.futures.ThreadPoolExecutor(model.calls_at_a_time())

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def outputs(self, examples: Iterable[InputExample]) -> np.ndarray:
        """Return the probabilities, or numbers, of examples, float32 `[num_examples, ...]`.

        There is at least one example. Those of the windows of an example are averaged.
        """
        windows = [self._windows(example) for example in examples]
        if len(windows) == 1 and len(windows[0]) == 1:  # Nothing to sort, to pad or to average.
            return self._run_batch(windows[0])
        outputs = self._run(list(itertools.chain.from_iterable(windows)))
        counts = np.array([len(of_example) for of_example in windows])
        sums = np.add.reduceat(outputs, np.cumsum(counts) - counts)
        return (sums.T / counts.astype(np.float32)).T

    def _windows(self, example: InputExample) -> list[np.ndarray]:
        """Return the windows of an example, each int32 `[3, length]`, rows as in `INPUTS`."""
        tokens = tokens_of(self._converter.convert(example))
        length = self._converter.max_seq_length
        return [tokens[:, start : start + length] for start in range(0, tokens.shape[1], length)]

    def _run(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        """Return the outputs of windows, float32 `[num_windows, ...]`.

        Windows of similar length share a batch, so there is little padding. Each core computes a
        batch of its own: cores that share one wait for each other after each operation.
        """
        # The longest first: the batches at the end, when some cores have none left, are short.
        order = sorted(range(len(windows)), key=lambda number: -windows[number].shape[1])
        batches = [
            [windows[number] for number in order[start : start + self._batch_size]]
            for start in range(0, len(order), self._batch_size)
        ]
        if len(batches) == 1:  # To wake another thread would take longer.
            outputs = [self._run_batch(batches[0])]
        else:
            outputs = list(self._threads.map(self._run_batch, batches))
        return np.concatenate(outputs)[np.argsort(order)]

    def _run_batch(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        """Run the model once."""
        return self._model.run(padded(windows))[self._output]

"""An exported model in memory: texts -> windows of tokens -> batches -> answers."""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import math
import os
import tempfile
from typing import TYPE_CHECKING, Mapping, Sequence

import numpy as np

from bert_classifier import problem_types
from bert_classifier.data import features
from bert_classifier.data.examples import InputExample
from bert_classifier.errors import BadInput, bad_input
from bert_classifier.export import bundle
from bert_classifier.serving import answers
from bert_classifier.serving.answers import Prediction
from tokenization import FullTokenizer

if TYPE_CHECKING:
    from bert_classifier.serving.predictor import Text


class LoadedModel:
    """An export that has been opened, with the threads that run it.

    The arguments, attributes and errors are those of `Predictor`.
    """

    def __init__(
        self,
        export: str,
        temperature: float | None,
        min_confidence: float | None,
        batch_size: int,
    ):
        self._batch_size = batch_size
        self.export = bundle.find(export)
        self._model, settings, parts = bundle.open_bundle(self.export)
        self.evaluation = json.loads(parts.get(bundle.METRICS, b"{}").decode("utf-8"))
        self.signatures = self._model.signatures
        self.encoder = json.loads(parts[bundle.CONFIG].decode("utf-8-sig"))
        self.settings = _adjusted(settings, temperature, min_confidence)
        self._threads = concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0)))
        self._converter = features.Converter(
            settings.labels,
            settings.max_seq_length,
            _read_tokenizer(parts, settings.do_lower_case),
            settings.problem_type,
            settings.truncation,
            settings.window_stride,
        )

    def close(self) -> None:
        """Free the model and its threads."""
        self._threads.shutdown()
        self._model.close()

    def answer(self, texts: Sequence[Text], top_k: int) -> list[Prediction]:
        """Return the answers to texts, at least one, in their order; see `Predictor.predict`."""
        windows = [self._windows(text) for text in texts]
        outputs = self._run(list(itertools.chain.from_iterable(windows)))
        counts = np.array([len(of_text) for of_text in windows])
        sums = np.add.reduceat(outputs, np.cumsum(counts) - counts)
        return answers.decide(self.settings, (sums.T / counts.astype(np.float32)).T, top_k)

    def run(self, inputs: Mapping[str, np.ndarray], signature: str) -> dict[str, np.ndarray]:
        """Return the outputs of a signature; see `Predictor.run`."""
        return self._model.run(inputs, signature)

    def _windows(self, text: Text) -> list[np.ndarray]:
        """Return the windows of a text, each int32 `[3, length]`, rows in the order of `INPUTS`."""
        text_a, text_b = (text, None) if isinstance(text, str) else text
        converted = self._converter.convert(InputExample("", text_a, text_b))
        tokens = np.array([getattr(converted, name) for name in bundle.INPUTS], np.int32)
        length = self.settings.max_seq_length
        return [tokens[:, start : start + length] for start in range(0, tokens.shape[1], length)]

    def _run(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        """Return the probabilities, or numbers, of windows, float32 `[num_windows, ...]`.

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
        """Run the model once, on windows of which the first is the longest; see `_run`."""
        tokens = np.zeros([len(bundle.INPUTS), len(windows), windows[0].shape[1]], np.int32)
        for row, window in enumerate(windows):
            tokens[:, row, : window.shape[1]] = window
        output = problem_types.get(self.settings.problem_type).output
        return self._model.run(dict(zip(bundle.INPUTS, tokens)))[output]


def _adjusted(
    settings: bundle.Settings, temperature: float | None, min_confidence: float | None
) -> bundle.Settings:
    """Return the settings with the values that the user gave; see `Predictor`."""
    if temperature is not None:
        if not 0 < temperature < math.inf:
            raise BadInput("temperature=%s: give a number above 0" % temperature)
        if not problem_types.get(settings.problem_type).has_classes:
            raise BadInput("temperature: a regression has no probabilities; leave it out")
        settings = settings._replace(temperature=temperature)
    if min_confidence is not None:
        if not 0 <= min_confidence <= 1:
            raise BadInput("min_confidence=%s: give a number from 0 to 1" % min_confidence)
        if not problem_types.get(settings.problem_type).has_confidence:
            raise BadInput(
                "min_confidence: is for classification, and this is %s; leave it out"
                % settings.problem_type
            )
        settings = settings._replace(min_confidence=min_confidence)
    return settings


def _read_tokenizer(parts: Mapping[str, bytes], do_lower_case: bool) -> FullTokenizer:
    # FullTokenizer reads a file, and the parts of a frozen graph are in none.
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for part in (bundle.VOCAB, bundle.SPM_MODEL):
            if part in parts:
                paths[part] = os.path.join(folder, part)
                with open(paths[part], "wb") as stream:
                    stream.write(parts[part])
        with bad_input():
            return FullTokenizer(
                paths.get(bundle.VOCAB, ""), do_lower_case, paths.get(bundle.SPM_MODEL)
            )

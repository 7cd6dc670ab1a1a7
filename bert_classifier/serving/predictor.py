"""Load an exported model once and classify texts with it."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import json
import logging
import math
import os
import sys
import tempfile
from typing import (
    Any,
    Callable,
    Iterable,
    Iterator,
    Sequence,
    Tuple,
    TypeVar,
    Union,
)

# Read by TensorFlow's C++ side when it is imported. It would log an error for want of a GPU; what
# really is one comes as an exception as well.
if "tensorflow" not in sys.modules:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from bert_classifier import problem_types
from bert_classifier.data import features
from bert_classifier.data.examples import InputExample
from bert_classifier.errors import BadInput
from bert_classifier.export import bundle
from bert_classifier.serving import answers
from bert_classifier.serving.answers import Prediction
from tokenization import FullTokenizer

_LOG = logging.getLogger(__name__)

Text = Union[str, Tuple[str, str]]
_Item = TypeVar("_Item")

# Of a stream: enough to make good batches of texts of one length, and never much to hold in memory.
_TEXTS_PER_CHUNK = 1024
_CHARACTERS_PER_CHUNK = 1 << 20


class Predictor:
    """A loaded bundle. Use it as a context manager, or call `close()` when done.

    Threads may share it.

    Args:
        export: folder of an export, or file of a frozen graph; or a folder of exports, for the
            newest, or the output_dir of a run, for the best.
        temperature: what the logits are divided by; by default what the bundle says, and 1 gives
            the probabilities of the model itself.
        min_confidence: where the best label has a lower probability there is no answer; by default
            what the bundle says. For classification only.
        batch_size: texts, or windows of texts, that go through the model at once.

    Attributes:
        export: the one that answers.
        settings: those of the bundle, with the temperature and the confidence that are in use.
        evaluation: step and metrics of its checkpoint, as in `metrics.json`.

    Raises:
        BadInput: the bundle cannot be used, or an argument does not fit it.
    """

    def __init__(
        self,
        export: str,
        temperature: float | None = None,
        min_confidence: float | None = None,
        batch_size: int = 32,
    ):
        if batch_size < 1:
            raise BadInput("batch_size=%d: give 1 or more" % batch_size)
        self._batch_size = batch_size
        self.export = bundle.find(export)
        self._model, settings, parts = bundle.open_bundle(self.export)
        self.evaluation = json.loads(parts.get(bundle.METRICS, b"{}").decode("utf-8"))
        if self.export != export:
            _LOG.info("%s", self.origin())
        self._workers = concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0)))
        self.settings = _adjusted(settings, temperature, min_confidence)
        self._converter = features.Converter(
            settings.labels,
            settings.max_seq_length,
            _read_tokenizer(parts[bundle.VOCAB], settings.do_lower_case),
            settings.problem_type,
            settings.truncation,
            settings.window_stride,
        )

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def origin(self) -> str:
        """Say which export answers, of which step, and how good it was found."""
        step, metric = self.evaluation.get("step"), self.evaluation.get("best_metric")
        told = [] if step is None else ["step %s" % step]
        if metric in self.evaluation.get("metrics", {}):
            told.append("%s %.4f" % (metric, float(self.evaluation["metrics"][metric])))
        return "the model is %s%s" % (self.export, " (%s)" % ", ".join(told) if told else "")

    def close(self) -> None:
        """Frees the model and its threads."""
        self._workers.shutdown()
        self._model.close()

    def predict(self, texts: Iterable[Text], top_k: int = 3) -> list[Prediction]:
        """Answers texts, in their order.

        Args:
            texts: each a str, whatever is in it, or, if the model is one of pairs, two of them.
            top_k: how many of the labels `Prediction.top_k` should have, if there are so many.

        Raises:
            TypeError: this is not a list of texts.
            BadInput: these are pairs and the model reads single texts, or the reverse.
        """
        return self._answer(list(self._checked(texts)), top_k)

    def predict_stream(self, texts: Iterable[Text], top_k: int = 3) -> Iterator[Prediction]:
        """Answers any number of texts, in their order, with a bounded part of them in memory.

        The arguments and errors are those of `predict`. What comes before an error is answered.
        """
        answer = functools.partial(self._answer, top_k=top_k)
        return itertools.chain.from_iterable(map(answer, chunks(self._checked(texts))))

    def _checked(self, texts: Iterable[Text]) -> Iterator[Text]:
        if isinstance(texts, (str, bytes)):
            raise TypeError("texts is one %s; give a list of texts" % type(texts).__name__)
        return (self._check(number, text) for number, text in enumerate(texts))

    def _check(self, number: int, text: Any) -> Text:
        is_pair = isinstance(text, (tuple, list))
        strings = text if is_pair else [text]
        if is_pair and len(text) != 2 or not all(isinstance(string, str) for string in strings):
            raise TypeError(
                "texts[%d] is %.100r; give a str, or a pair of str for a model of pairs"
                % (number, text)
            )
        if len(strings) != self.settings.texts_per_example:
            raise BadInput(
                "texts[%d] is a pair, and the model reads single texts; give a str" % number
                if is_pair
                else "texts[%d] is one text, and the model reads pairs; give (text, text_b)"
                % number
            )
        return text

    def _answer(self, texts: Sequence[Text], top_k: int) -> list[Prediction]:
        if top_k < 0:
            raise BadInput("top_k=%d: give 0 or more" % top_k)
        if not texts:
            return []
        windows = [self._windows(text) for text in texts]
        outputs = self._run(list(itertools.chain.from_iterable(windows)))
        counts = np.array([len(of_text) for of_text in windows])
        sums = np.add.reduceat(outputs, np.cumsum(counts) - counts)
        return answers.decide(self.settings, (sums.T / counts.astype(np.float32)).T, top_k)

    def _windows(self, text: Text) -> list[np.ndarray]:
        """Gives what is read of a text at once, int32 `[3, length]` in the order of the inputs."""
        text_a, text_b = (text, None) if isinstance(text, str) else text
        converted = self._converter.convert(InputExample("", text_a, text_b))
        tokens = np.array([getattr(converted, name) for name in bundle.INPUTS], np.int32)
        length = self.settings.max_seq_length
        return [tokens[:, start : start + length] for start in range(0, tokens.shape[1], length)]

    def _run(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        """Gives the probabilities, or numbers, of windows: float32 `[num_windows, ...]`.

        Those of similar length share a batch, which is as long as its longest, so little of the
        time goes into padding. Each core has a batch of its own: they need not wait for each other
        as often as when they share one.
        """
        # The longest first: what is left for the end, when a core may have nothing more, is short.
        order = sorted(range(len(windows)), key=lambda number: -windows[number].shape[1])
        batches = [
            [windows[number] for number in order[start : start + self._batch_size]]
            for start in range(0, len(order), self._batch_size)
        ]
        if len(batches) == 1:  # It is not worth waking another thread.
            outputs = [self._run_batch(batches[0])]
        else:
            outputs = list(self._workers.map(self._run_batch, batches))
        return np.concatenate(outputs)[np.argsort(order)]

    def _run_batch(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        """Runs the model once; as `_run`, the longest window being the first."""
        tokens = np.zeros([len(bundle.INPUTS), len(windows), windows[0].shape[1]], np.int32)
        for row, window in enumerate(windows):
            tokens[:, row, : window.shape[1]] = window
        output = problem_types.get(self.settings.problem_type).output
        return self._model.run(dict(zip(bundle.INPUTS, tokens)))[output]


def _adjusted(
    settings: bundle.Settings, temperature: float | None, min_confidence: float | None
) -> bundle.Settings:
    """Replaces what the user wants to be different; see `Predictor`."""
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


def _read_tokenizer(vocab: bytes, do_lower_case: bool) -> FullTokenizer:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, bundle.VOCAB)
        with open(path, "wb") as stream:
            stream.write(vocab)
        return FullTokenizer(path, do_lower_case)


def _text_itself(text: Any) -> Text:
    return text


def chunks(
    items: Iterable[_Item], text_of: Callable[[_Item], Text] = _text_itself
) -> Iterator[list[_Item]]:
    """Gives items in lists of bounded size; before an error, those that came before it."""
    chunk: list[_Item] = []
    num_characters = 0
    try:
        for item in items:
            chunk.append(item)
            text = text_of(item)
            num_characters += len(text) if isinstance(text, str) else sum(map(len, text))
            if len(chunk) == _TEXTS_PER_CHUNK or num_characters >= _CHARACTERS_PER_CHUNK:
                yield chunk
                chunk, num_characters = [], 0
    except Exception:
        yield chunk
        raise
    yield chunk

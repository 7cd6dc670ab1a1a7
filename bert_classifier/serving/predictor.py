"""Load an exported model once and classify texts with it."""

from __future__ import annotations

import functools
import itertools
import logging
import os
import sys
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, Mapping, Tuple, TypeVar, Union

from bert_classifier.errors import BadInput

if TYPE_CHECKING:
    import numpy as np

    from bert_classifier.serving.answers import Prediction

_LOG = logging.getLogger(__name__)

Text = Union[str, Tuple[str, str]]
_Item = TypeVar("_Item")

# Of a stream: enough texts to make batches of similar length, and few enough to hold in memory.
_TEXTS_PER_CHUNK = 1024
_CHARACTERS_PER_CHUNK = 1 << 20


class Predictor:
    """An exported model that answers texts. Use it as a context manager, or call `close()`.

    Threads may share it. TensorFlow, or ONNX Runtime, is imported when the first one is made; for
    an ONNX model, and for any folder of an export if the model is on a server, TensorFlow need not
    be installed.

    Args:
        export: folder of an export, a SavedModel or an ONNX model, or file of a frozen graph; or a
            folder of exports, for the newest, or the output_dir of a run, for the best.
        temperature: divisor of the logits; by default the one of the export. 1 gives the
            probabilities of the model itself.
        min_confidence: the label is None where the best one has a lower probability; by default
            the one of the export. For classification only.
        batch_size: the largest number of texts, or windows of texts, in a batch.
        server: address of the same model in a TensorFlow Serving that is to compute, such as
            `http://localhost:8501/v1/models/NAME`; only tokens are made here. By default the export
            itself computes.
        timeout: seconds that the server may be silent.

    Attributes:
        export: path of the export that answers.
        settings: `bundle.Settings` of the export, with the temperature and confidence in use.
        evaluation: step and metrics of its checkpoint, as in `metrics.json`.
        signatures: signature -> (input -> tensor, output -> tensor), all by name.
        encoder: the configuration of the encoder, as in `bert_config.json`.
        calls_at_a_time: how many calls from different threads are worth it.

    Raises:
        BadInput: the export cannot be used, or an argument does not fit it. `predict` raises
            `remote.ServerFailed`, a BadInput, if the server gives no answer.
        RuntimeError: an answer is asked for after `close()`.
    """

    def __init__(
        self,
        export: str,
        temperature: float | None = None,
        min_confidence: float | None = None,
        batch_size: int = 32,
        server: str | None = None,
        timeout: float = 60.0,
    ):
        if batch_size < 1:
            raise BadInput("batch_size=%d: give 1 or more" % batch_size)
        # Read by TensorFlow's C++ side when it is imported. It would log an error if there is no
        # GPU; real errors come as exceptions too.
        if "tensorflow" not in sys.modules:
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        # Imports NumPy and more: not when this module is imported.
        from bert_classifier.serving.loaded import LoadedModel, Options  # noqa: PLC0415

        options = Options(temperature, min_confidence, batch_size, server, timeout)
        self._model = LoadedModel(export, options)
        self._is_closed = False
        self.export = self._model.export
        self.settings = self._model.settings
        self.evaluation = self._model.evaluation
        self.signatures = self._model.signatures
        self.encoder = self._model.encoder
        self.calls_at_a_time = self._model.calls_at_a_time
        if self.export != export:
            _LOG.info("%s", self.origin())

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def origin(self) -> str:
        """Say in one line which export answers, with its step and its metric."""
        step, metric = self.evaluation.get("step"), self.evaluation.get("best_metric")
        facts = [] if step is None else ["step %s" % step]
        if metric in self.evaluation.get("metrics", {}):
            facts.append("%s %.4f" % (metric, float(self.evaluation["metrics"][metric])))
        return "the model is %s%s" % (self.export, " (%s)" % ", ".join(facts) if facts else "")

    def close(self) -> None:
        """Free the model and its threads; a second call does nothing."""
        self._is_closed = True
        self._model.close()

    def predict(self, texts: Iterable[Text], top_k: int = 3) -> list[Prediction]:
        """Return the answers to texts, in their order.

        Args:
            texts: each a str with any content or, for a model of pairs, two of them.
            top_k: the largest number of labels in `Prediction.top_k`.

        Raises:
            TypeError: `texts` is not a list of texts.
            BadInput: the texts are pairs and the model reads single texts, or the reverse.
        """
        return self._answer(list(self._checked(texts)), top_k)

    def run(
        self, inputs: Mapping[str, Any], signature: str = "serving_default"
    ) -> dict[str, np.ndarray]:
        """Return the outputs of a signature for a batch of its inputs, both by name.

        They are those of the model itself, as of TensorFlow Serving: without the temperature.
        """
        self._check_open()
        return self._model.run(inputs, signature)

    def predict_stream(self, texts: Iterable[Text], top_k: int = 3) -> Iterator[Prediction]:
        """Yield the answers to any number of texts, in their order, in bounded memory.

        The arguments and errors are those of `predict`. Texts before an error are answered.
        """
        # Not a generator: what is no list of texts is refused at once.
        answer = functools.partial(self._answer, top_k=top_k)
        return itertools.chain.from_iterable(map(answer, chunks(self._checked(texts))))

    def _answer(self, texts: list[Text], top_k: int) -> list[Prediction]:
        if top_k < 0:
            raise BadInput("top_k=%d: give 0 or more" % top_k)
        self._check_open()
        return self._model.answer(texts, top_k) if texts else []

    def _check_open(self) -> None:
        if self._is_closed:
            raise RuntimeError("the Predictor is closed; make a new one")

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


def _text_itself(text: Any) -> Text:
    return text


def chunks(
    items: Iterable[_Item], text_of: Callable[[_Item], Text] = _text_itself
) -> Iterator[list[_Item]]:
    """Yield items in lists of bounded size; before an error, the items that came before it."""
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

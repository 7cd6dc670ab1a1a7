"""An exported model in memory: texts -> windows of tokens -> batches -> answers."""

from __future__ import annotations

import json
import math
import os
import tempfile
from typing import TYPE_CHECKING, Any, Mapping, NamedTuple, Sequence

from bert_classifier import problem_types
from bert_classifier.data import features
from bert_classifier.data.examples import InputExample
from bert_classifier.errors import BadInput, bad_input
from bert_classifier.export import bundle
from bert_classifier.export.inference import Runner
from bert_classifier.serving import answers
from bert_classifier.serving.answers import Prediction
from bert_classifier.serving.remote import RemoteModel
from tokenization import FullTokenizer

if TYPE_CHECKING:
    from bert_classifier.serving.predictor import Text


class Options(NamedTuple):
    """How a loaded model answers; see `Predictor`."""

    temperature: float | None = None
    min_confidence: float | None = None
    batch_size: int = 32
    server: str | None = None
    timeout: float = 60.0


class LoadedModel:
    """An export that has been opened, with the threads that run it.

    The attributes and errors are those of `Predictor`.
    """

    def __init__(self, export: str, options: Options):
        self.export = bundle.find(export)
        self._model, settings, parts = _open(self.export, options)
        self.evaluation = json.loads(parts.get(bundle.METRICS, b"{}").decode("utf-8"))
        self.signatures = self._model.signatures
        self.calls_at_a_time = self._model.calls_at_a_time()
        self.encoder = json.loads(parts[bundle.CONFIG].decode("utf-8-sig"))
        self.settings = _adjusted(settings, options.temperature, options.min_confidence)
        converter = features.Converter(
            settings.labels,
            settings.max_seq_length,
            read_tokenizer(parts, settings.do_lower_case),
            settings.problem_type,
            settings.truncation,
            settings.window_stride,
        )
        self._runner = Runner(self._model, converter, options.batch_size)

    def close(self) -> None:
        """Free the model and its threads."""
        self._runner.close()
        self._model.close()

    def answer(self, texts: Sequence[Text], top_k: int) -> list[Prediction]:
        """Return the answers to texts, at least one, in their order; see `Predictor.predict`."""
        outputs = self._runner.outputs(map(_example, texts))
        return answers.decide(self.settings, outputs, top_k)

    def run(self, inputs: Mapping[str, Any], signature: str) -> dict[str, Any]:
        """Return the outputs of a signature; see `Predictor.run`."""
        return self._model.run(inputs, signature)


def _open(export: str, options: Options) -> bundle.Bundle:
    if options.server is None:
        return bundle.open_bundle(export)
    contents = bundle.read_contents(export)
    model = RemoteModel(options.server, options.timeout, contents.settings)
    return bundle.Bundle(model, *contents)


def _example(text: Text) -> InputExample:
    text_a, text_b = (text, None) if isinstance(text, str) else text
    return InputExample("", text_a, text_b)


def check_ranges(temperature: float | None, min_confidence: float | None) -> None:
    """Check what no export can answer with.

    Raises:
        BadInput: a value is impossible.
    """
    if temperature is not None and not 0 < temperature < math.inf:
        raise BadInput("temperature=%s: give a number above 0" % temperature)
    if min_confidence is not None and not 0 <= min_confidence <= 1:
        raise BadInput("min_confidence=%s: give a number from 0 to 1" % min_confidence)


def _adjusted(
    settings: bundle.Settings, temperature: float | None, min_confidence: float | None
) -> bundle.Settings:
    """Return the settings with the values that the user gave; see `Predictor`."""
    check_ranges(temperature, min_confidence)
    if temperature is not None:
        if not problem_types.get(settings.problem_type).has_classes:
            raise BadInput("temperature: a regression has no probabilities; leave it out")
        settings = settings._replace(temperature=temperature)
    if min_confidence is not None:
        if not problem_types.get(settings.problem_type).has_confidence:
            raise BadInput(
                "min_confidence: is for classification, and this is %s; leave it out"
                % settings.problem_type
            )
        settings = settings._replace(min_confidence=min_confidence)
    return settings


def read_tokenizer(parts: Mapping[str, bytes], do_lower_case: bool) -> FullTokenizer:
    """Return the tokenizer of the parts of a bundle."""
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

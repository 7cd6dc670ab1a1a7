"""What comes back: loads an export once and answers texts with it. The export is all it needs."""

from __future__ import annotations

import json
import os
from typing import NamedTuple, Sequence

import numpy as np
import tensorflow.compat.v1 as tf

import features
from errors import BadInput
from processors import InputExample
from tokenization import FullTokenizer

_BATCH_SIZE = 32


class Prediction(NamedTuple):
    """The answer to one text.

    Attributes:
        label: its label; for regression a number, for multi_label a tuple of labels.
        confidence: the probability of the label, where there is one.
        probabilities: label -> probability; empty for regression.
    """

    label: str | float | tuple[str, ...]
    confidence: float | None
    probabilities: dict[str, float]


class Predictor:
    """A loaded export. Use it as a context manager, or call `close()` when done."""

    def __init__(self, export_dir: str):
        """Loads the SavedModel in `export_dir` and the files in its `assets.extra`.

        Raises:
            BadInput: the folder is no export, or lacks one of its parts.
        """
        if not os.path.exists(os.path.join(export_dir, "saved_model.pb")):
            raise BadInput("%s: no saved_model.pb; give the folder of one export" % export_dir)
        self.labels = _read_asset(export_dir, "labels.txt").splitlines()
        preprocessing = json.loads(_read_asset(export_dir, "preprocessing.json"))
        self._max_seq_length = preprocessing["max_seq_length"]
        self._truncation = preprocessing["truncation"]
        self._problem_type = preprocessing["problem_type"]
        self._tokenizer = FullTokenizer(
            _asset_path(export_dir, "vocab.txt"), preprocessing["do_lower_case"]
        )
        self._session = tf.Session(graph=tf.Graph())
        model = tf.saved_model.load(
            self._session, [tf.saved_model.tag_constants.SERVING], export_dir
        )
        signature = model.signature_def["serving_default"]
        self._inputs = {name: info.name for name, info in signature.inputs.items()}
        self._outputs = {name: info.name for name, info in signature.outputs.items()}

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the session."""
        self._session.close()

    def predict(self, texts: Sequence[str | tuple[str, str]]) -> list[Prediction]:
        """Classifies texts, or pairs of texts, in their order."""
        return [
            prediction
            for start in range(0, len(texts), _BATCH_SIZE)
            for prediction in self._predict_batch(texts[start : start + _BATCH_SIZE])
        ]

    def _predict_batch(self, texts: Sequence[str | tuple[str, str]]) -> list[Prediction]:
        rows = [self._convert(text) for text in texts]
        feed = {
            tensor: np.array([getattr(row, name) for row in rows], np.int32)
            for name, tensor in self._inputs.items()
        }
        outputs = self._session.run(self._outputs, feed)
        return [self._prediction(**dict(zip(outputs, values))) for values in zip(*outputs.values())]

    def _convert(self, text: str | tuple[str, str]) -> features.InputFeatures:
        text_a, text_b = (text, None) if isinstance(text, str) else text
        example = InputExample(guid="", text_a=text_a, text_b=text_b)
        return features.convert_example(
            example,
            self.labels,
            self._max_seq_length,
            self._tokenizer,
            truncation=self._truncation,
        )

    def _prediction(
        self,
        predictions: np.ndarray,
        probabilities: Sequence[float] = (),
        top_3: np.ndarray | None = None,
    ) -> Prediction:
        """Names the outputs of the model for one text."""
        del top_3
        if self._problem_type == "regression":
            return Prediction(float(predictions), None, {})
        by_label = {label: float(p) for label, p in zip(self.labels, probabilities)}
        if self._problem_type == "multi_label":
            given = tuple(label for label, chosen in zip(self.labels, predictions) if chosen)
            return Prediction(given, None, by_label)
        label = self.labels[predictions]
        return Prediction(label, by_label[label], by_label)


def _asset_path(export_dir: str, name: str) -> str:
    path = os.path.join(export_dir, "assets.extra", name)
    if not os.path.exists(path):
        raise BadInput("%s: missing; export the model again with --do_export" % path)
    return path


def _read_asset(export_dir: str, name: str) -> str:
    with open(_asset_path(export_dir, name), encoding="utf-8") as stream:
        return stream.read()

"""Metrics of an exported model on the dev set, and what quantization costs."""

from __future__ import annotations

import contextlib
from typing import Any, Collection, Mapping, NamedTuple, Sequence

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import objectives
from bert_classifier.data.examples import InputExample
from bert_classifier.data.features import Converter
from bert_classifier.export.bundle import Model
from bert_classifier.export.inference import Runner
from bert_classifier.objectives import Evaluated
from bert_classifier.problem_types import TINY, ClassOptions

# A model that loses more of its metric, half a point, is warned of.
_MOST_LOST = 0.005


class Comparison(NamedTuple):
    """What a quantized model differs by from the one that it was made from.

    Attributes:
        metric: name of the metric; a higher value is better.
        before: its value without quantization.
        after: its value.
        difference: the largest one between two outputs.
    """

    metric: str
    before: float
    after: float
    difference: float

    @property
    def is_costly(self) -> bool:
        """Tell whether more than half a point is lost."""
        return not self.before - self.after <= _MOST_LOST

    def to_json(self) -> dict[str, Any]:
        """Return what `metrics.json` tells about it."""
        return {
            "metric": self.metric,
            "float32": self.before,
            "int8": self.after,
            "largest_difference": self.difference,
        }


class DevSet(NamedTuple):
    """The dev set of a run, and the metric by which models are compared.

    Attributes:
        examples: all of it, with labels.
        converter: as the run evaluates it.
        thresholds: see `ClassOptions`.
        extra_metrics: of the task.
        metric: the name of one for which a higher value is better.
    """

    examples: Collection[InputExample]
    converter: Converter
    thresholds: Sequence[float] | None
    extra_metrics: Sequence[str]
    metric: str

    def outputs(self, model: Model) -> np.ndarray:
        """Return the probabilities, or numbers, of all examples."""
        with contextlib.closing(Runner(model, self.converter)) as runner:
            return runner.outputs(self.examples)

    def compare(self, before: np.ndarray, after: np.ndarray) -> Comparison:
        """Compare the outputs of a quantized model with those without quantization."""
        difference = float(np.max(np.abs(before - after)))
        return Comparison(self.metric, self._score(before), self._score(after), difference)

    def _score(self, outputs: np.ndarray) -> float:
        return self.metrics(outputs)[self.metric]

    def metrics(self, outputs: np.ndarray) -> Mapping[str, float]:
        """Return the metrics of an evaluation, from the outputs of a model.

        Args:
            outputs: of each example, float32 `[num_examples, num_labels]`, or `[num_examples]` for
                a regression.
        """
        objective = objectives.get(self.converter.problem_type)
        options = ClassOptions(thresholds=self.thresholds)
        label_ids = [self.converter.label_id(example.label) for example in self.examples]
        with tf.Graph().as_default(), tf.Session() as session:
            # A constant of the graph would make a copy of it.
            logits = tf.placeholder(tf.float32, [len(outputs), len(self.converter.labels)])
            probabilities, predictions = objective.outputs(logits, options)
            labels = tf.constant(np.array(label_ids, predictions.dtype.as_numpy_dtype))
            losses = objective.losses(logits, labels, options)
            evaluated = Evaluated(losses, labels, probabilities, predictions, tf.ones_like(losses))
            metrics = objective.metrics(evaluated, self.extra_metrics)
            session.run(tf.local_variables_initializer())
            updates = [update for _, update in metrics.values()]
            session.run(updates, {logits: _logits(outputs, self.converter.problem_type)})
            values = session.run({name: value for name, (value, _) in metrics.items()})
        return {name: float(value) for name, value in values.items()}


def _logits(outputs: np.ndarray, problem_type: str) -> np.ndarray:
    """Return logits, float64 `[num_examples, num_labels]`, of which a model makes these outputs."""
    if outputs.ndim == 1:
        return outputs[:, np.newaxis]
    logits = np.log(np.maximum(outputs.astype(np.float64), TINY))
    if problem_type == "multi_label":
        logits -= np.log(np.maximum(1.0 - outputs.astype(np.float64), TINY))
    return logits

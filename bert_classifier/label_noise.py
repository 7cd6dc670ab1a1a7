"""Examples of the training set whose labels may be wrong: those that the model finds unlikely."""

from __future__ import annotations

import time
from typing import Any, Iterator, Mapping

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import problem_types
from bert_classifier.data.batches import Batching, examples_input_fn
from bert_classifier.data.examples import Examples, InputExample, pick
from bert_classifier.job import Job, count_parts
from bert_classifier.problem_types import TINY
from bert_classifier.training import loop

# So many examples are looked at, or as many as can be in so many seconds.
_MOST_EXAMPLES, _MOST_SECONDS = 1000, 4.0
_NUM_FOUND = 30


def find(
    job: Job, estimator: tf.estimator.Estimator, checkpoint_path: str
) -> tuple[int, int, list[tuple[InputExample, str, float]]]:
    """Find the examples of the training set with the largest loss.

    Returns:
        Number of examples that were looked at, number of all, and of the worst ones: example,
        answer of the model, loss; see `page.Suspects`.
    """
    inputs, examples = job.inputs, job.inputs.examples["train"]
    sample = _sample(examples)
    batching = Batching(job.config.evaluation.predict_batch_size)
    input_fn = examples_input_fn(sample, inputs.converters["train"], batching, 1, 0)
    rows = loop.predict(estimator, input_fn, checkpoint_path, count_parts(job))
    problem, converter = problem_types.get(inputs.problem_type), inputs.converters["train"]
    found = []
    for example, row in zip(sample, _in_time(rows)):
        loss = _loss(row, converter.label_id(example.label), problem.has_classes)
        prediction = row["predictions"]
        answer = problem.name_prediction(prediction, inputs.labels, inputs.task.label_separator)
        found.append((example, answer, loss))
    worst = sorted(found, key=lambda row: -row[2])[:_NUM_FOUND]
    return len(found), len(examples), worst


def _sample(examples: Examples) -> list[InputExample]:
    """Return some of the examples, in a random order: time may not do for all of them."""
    random, size = np.random.RandomState(0), len(examples)
    numbers = random.choice(size, min(size, _MOST_EXAMPLES), replace=False).tolist()
    found = pick(examples, numbers)
    return [found[number] for number in numbers]


def _in_time(rows: Iterator[Any]) -> Iterator[Any]:
    """Yield rows until the time is up."""
    end = time.monotonic() + _MOST_SECONDS
    for row in rows:
        yield row
        if time.monotonic() > end:
            return


def _loss(row: Mapping[str, np.ndarray], label_id: Any, has_classes: bool) -> float:
    """Return the cross entropy, for several labels their mean, or the squared error."""
    if not has_classes:
        return float((row["predictions"] - label_id) ** 2)
    probabilities = row["probabilities"]
    if isinstance(label_id, list):
        of_truth = np.where(np.array(label_id) == 1, probabilities, 1 - probabilities)
        return -float(np.mean(np.log(np.maximum(of_truth, TINY))))
    return -float(np.log(max(probabilities[label_id], TINY)))

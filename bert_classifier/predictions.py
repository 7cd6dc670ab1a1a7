"""What a trained model says about the examples of a split."""

from __future__ import annotations

import os
import re
from typing import Any

import tensorflow.compat.v1 as tf

from bert_classifier import files
from bert_classifier.data.pipeline import Pipeline
from bert_classifier.export import from_run
from bert_classifier.job import Job, count_parts
from bert_classifier.summary import log_metrics
from bert_classifier.training import loop
from bert_classifier.training.workers import Workers


def predictions(
    job: Job,
    estimator: tf.estimator.Estimator,
    pipeline: Pipeline,
    checkpoint_path: str,
    split: str,
) -> Any:
    """Return what the model says about each example of a split, in the order of its file."""
    batch_size = job.config.evaluation.predict_batch_size
    input_fn = pipeline.input_fn(split, batch_size)
    rows = loop.predict(estimator, input_fn, checkpoint_path, count_parts(job))
    return pipeline.in_file_order(split, batch_size, rows)


def find_temperature(
    job: Job, estimator: tf.estimator.Estimator, pipeline: Pipeline, checkpoint_path: str
) -> float:
    """Fit the temperature that makes the probabilities fit the dev set best."""
    of_dev = predictions(job, estimator, pipeline, checkpoint_path, "dev")
    return from_run.find_temperature(job.config, job.inputs, of_dev)


def score_predictions(
    job: Job, estimator: tf.estimator.Estimator, pipeline: Pipeline, checkpoint_path: str
) -> None:
    """Write the metrics of a labelled test file to test_metrics.json."""
    input_fn = pipeline.input_fn("test", job.config.evaluation.predict_batch_size)
    # By the chief alone, as the predictions are.
    result = loop.evaluate(
        estimator, input_fn, checkpoint_path, Workers(), job.interruption, name="test"
    )
    metrics = {
        re.sub("^eval_", "test_", name): value.item()
        for name, value in sorted(result.items())
        if name.startswith("eval_")
    }
    log_metrics(metrics)
    files.write_json(os.path.join(job.config.output.output_dir, "test_metrics.json"), metrics)

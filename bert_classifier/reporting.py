"""From a call to the files that people read: results per class, and report.html."""

from __future__ import annotations

import logging
from typing import Mapping

import tensorflow.compat.v1 as tf

from bert_classifier.data.batches import InputFn
from bert_classifier.hook_builders import evaluated_set
from bert_classifier.job import Job
from bert_classifier.report import results, tensorboard
from bert_classifier.report.scores import Scores, score
from bert_classifier.training import outputs as outputs_files
from bert_classifier.training.history import EvalHistory, eval_history_path
from bert_classifier.training.outputs import Outputs, OutputsHook, outputs_path

_LOG = logging.getLogger(__name__)


def make_outputs_hook(job: Job, input_fn: InputFn) -> OutputsHook:
    """Build the hook that collects what the model says about the dev set.

    Args:
        job: the call.
        input_fn: gives this worker's part of the dev set.
    """
    return OutputsHook(input_fn.rows(), job.inputs.fingerprints["dev"], job.workers.from_all)


def write_evaluation(
    job: Job,
    estimator: tf.estimator.Estimator,
    metrics: Mapping[str, float],
    outputs: Outputs | None,
) -> None:
    """Write the results of an evaluation, and a report.

    Args:
        job: the call.
        estimator: has the model.
        metrics: those of the evaluation, by name.
        outputs: what the model said about each example.
    """
    output_dir = job.config.output.output_dir
    scores = _score(job, outputs)
    results.write(output_dir, metrics, scores)
    best = EvalHistory(eval_history_path(output_dir), job.watched).best()
    if outputs and (best is None or best.step == outputs.step):
        outputs_files.write(outputs_path(output_dir), outputs)
    if outputs:
        tensorboard.write_evaluation(estimator.eval_dir("best"), evaluated_set(job), outputs)


def report_training(job: Job, estimator: tf.estimator.Estimator) -> None:
    """Write a report of a training that no evaluation follows."""


def _score(job: Job, outputs: Outputs | None) -> Scores | None:
    if outputs is None:
        return None
    return score(
        job.inputs.problem_type,
        job.inputs.labels,
        outputs.label_ids,
        outputs.predictions,
        outputs.probabilities,
        outputs.losses,
        job.config.training.seed,
    )

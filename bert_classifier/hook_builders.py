"""Build the hooks and exporters of a training."""

from __future__ import annotations

import os
import sys
from typing import Any, Mapping

import tensorflow.compat.v1 as tf

from bert_classifier import logs
from bert_classifier.export import from_run
from bert_classifier.export.writer import BestExporter
from bert_classifier.job import Job
from bert_classifier.model.classifier import metric_names
from bert_classifier.report.tensorboard import Evaluated, EvaluationSummaries, SettingsHook
from bert_classifier.training.history import EvalHistory
from bert_classifier.training.hooks import (
    CompilationHook,
    EarlyStoppingHook,
    EvaluationRecorder,
    ProgressHook,
    stop_if_no_decrease_hook,
    stop_if_no_increase_hook,
)
from bert_classifier.training.outputs import OutputsHook, OutputsRecorder
from bert_classifier.training.schedule import Schedule


def make_progress_hook(
    job: Job, schedule: Schedule, estimator: tf.estimator.Estimator
) -> ProgressHook:
    """Build the hook that logs loss, learning rate and speed."""
    is_chief = job.workers.is_chief
    return ProgressHook(
        job.config.output.log_every_n_iter,
        schedule.num_train_steps,
        schedule.steps_per_epoch,
        schedule.examples_per_step,
        job.config.training.num_accumulation_steps,
        show_bar=is_chief and logs.is_terminal(),
        events_dir=estimator.model_dir if is_chief else None,
    )


def make_early_stopping_hook(
    job: Job, schedule: Schedule, estimator: tf.estimator.Estimator
) -> EarlyStoppingHook:
    """Build the hook for the direction of the watched metric; it may be told never to stop.

    The chief decides, because it has the history, and all workers stop.
    """
    watched = job.watched
    make_hook = stop_if_no_increase_hook if watched.higher_is_better else stop_if_no_decrease_hook
    return make_hook(
        estimator,
        watched.metric,
        schedule.max_steps_without_improvement or sys.maxsize,
        min_steps=job.config.training.early_stopping_min_steps,
        run_every_secs=None,
        run_every_steps=schedule.save_checkpoints_steps,
        from_chief=job.workers.from_chief,
    )


def make_training_hooks(
    job: Job, estimator: tf.estimator.Estimator
) -> list[tf.train.SessionRunHook]:
    """Build the further hooks of a training, which stand after the ProgressHook."""
    inputs, hooks = job.inputs, []
    if job.workers.is_chief:
        metrics = metric_names(len(inputs.labels), inputs.task.metrics, inputs.problem_type)
        hooks.append(SettingsHook(estimator.model_dir, job.config, metrics))
    if job.config.devices.use_xla:
        hooks.append(CompilationHook())
    return hooks


def make_exporters(
    job: Job,
    schedule: Schedule,
    estimator: tf.estimator.Estimator,
    history: EvalHistory,
    outputs: OutputsHook,
) -> list[tf.estimator.Exporter]:
    """Build what follows an evaluation of the chief: record it, export the best model, show it.

    Args:
        job: the call.
        schedule: its plan.
        estimator: that is trained.
        history: its evaluations.
        outputs: the hook that collects what the model says in them.
    """
    if not job.workers.is_chief:
        return []  # The others need not have the files that an export is made of.
    config, output_dir = job.config, job.config.output.output_dir
    writer = from_run.make_bundle_writer(config, job.inputs, estimator)

    def in_output_dir(path: str) -> str:
        return os.path.join(output_dir, os.path.relpath(path, job.model_dir))

    def write(checkpoint_path: str, export_path: str, metrics: Mapping[str, Any]) -> str:
        # Estimator knows the folder by another name, which the log should not have.
        return writer.export(in_output_dir(checkpoint_path), in_output_dir(export_path), metrics)

    return [
        OutputsRecorder(output_dir, outputs, history),
        EvaluationRecorder(
            history, schedule.max_steps_without_improvement, schedule.num_train_steps
        ),
        BestExporter(history, write, config.export.exports_to_keep),
        EvaluationSummaries(evaluated_set(job), lambda: outputs.outputs),
    ]


def evaluated_set(job: Job) -> Evaluated:
    """Return what the evaluations of a job are of."""
    inputs = job.inputs
    return Evaluated(inputs.problem_type, inputs.labels, inputs.examples["dev"])

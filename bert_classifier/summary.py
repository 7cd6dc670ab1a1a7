"""What the log says when a training begins and ends."""

from __future__ import annotations

import logging
import os
from typing import Mapping

import tensorflow.compat.v1 as tf

from bert_classifier.export import bundle
from bert_classifier.job import Job, count_parts
from bert_classifier.report.next_commands import next_commands
from bert_classifier.training import checkpoints, runs
from bert_classifier.training.history import eval_history_path
from bert_classifier.training.schedule import Schedule

_LOG = logging.getLogger(__name__)


def log_start(
    job: Job, schedule: Schedule, start_step: int, session_config: tf.ConfigProto
) -> None:
    """Log what is about to be trained."""
    cores = job.workers.num_cores()
    _LOG.info("***** Running training *****")
    _LOG.info("  Num examples = %d", len(job.inputs.examples["train"]))
    _LOG.info("  Examples per step = %d", schedule.examples_per_step)
    _LOG.info("  Num steps = %d, from step %d", schedule.num_train_steps, start_step)
    if job.workers.size > 1:
        _LOG.info("  Workers = %d", job.workers.size)
    _LOG.info(
        "  Threads = %d for an operation, %d operations at a time, a batch in parts: %d",
        session_config.intra_op_parallelism_threads or cores,
        session_config.inter_op_parallelism_threads or cores,
        count_parts(job),
    )


def log_metrics(metrics: Mapping[str, float]) -> None:
    """Log each metric on a line."""
    for name, value in metrics.items():
        _LOG.info("  %s = %s", name, value)


def log_summary(job: Job) -> None:
    """Log how a training ended, and the commands that go on from there."""
    output_dir, metric = job.config.output.output_dir, job.watched.metric
    record = runs.read_record(output_dir)
    if record is None:
        return
    result = record["result"]
    exports = bundle.list_exports(os.path.join(output_dir, "export", "best_exporter"))
    report = os.path.join(output_dir, "report.html")
    rows = [
        ("ended", result["reason"] or "all steps are done"),
        ("last step", "%(last_step)d of %(num_train_steps)d" % result),
        ("best step", result["best_step"]),
        ("best " + metric, result["best_" + metric]),
        ("time", "%(seconds)s seconds, %(examples_per_second)s examples/s in training" % result),
        ("peak memory", "%s MB, without that of a GPU" % result.get("peak_memory_mb", "unknown")),
        ("best checkpoint", checkpoints.kept_best(output_dir)),
        ("best export", exports[-1] if exports else None),
        ("evaluations", eval_history_path(output_dir)),
        ("report", report if os.path.exists(report) else None),
        *next_commands(job.config, job.inputs.processor),
    ]
    _LOG.info("***** Training %s *****", result["status"])
    for name, value in rows:
        _LOG.info("  %-16s %s", name, "-" if value is None else value)
    if result.get("warning"):
        _LOG.warning("WARNING: %s", result["warning"])

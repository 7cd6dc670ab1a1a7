"""From a call to the files that people read: results per class, and report.html."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
import time
from typing import Any, Mapping

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import config as configs
from bert_classifier import label_noise
from bert_classifier.data.batches import InputFn
from bert_classifier.errors import BadInput
from bert_classifier.hook_builders import evaluated_set
from bert_classifier.job import Job, history_of
from bert_classifier.report import results, tensorboard
from bert_classifier.report.next_commands import next_commands
from bert_classifier.report.scores import Scores, score
from bert_classifier.training import checkpoints, runs
from bert_classifier.training import outputs as outputs_files
from bert_classifier.training.outputs import Outputs, OutputsHook, outputs_path

_LOG = logging.getLogger(__name__)

_BEST = "best"

# Not those that the same call may write later: the report of the same run is the same.
_FILES = (
    ("best", "the best checkpoint; best/slim has only what an evaluation needs"),
    ("export/best_exporter", "the best models, ready to be served"),
    ("eval_results.json", "the metrics, and the results of each class, for programs"),
    ("report_results.txt", "the results of each class, as text"),
    ("dev_outputs.npz", "what the model says about each dev row, for numpy.load"),
    ("eval_history.jsonl", "the metrics of each evaluation"),
    ("labels.txt", "the labels, in the order of the model's outputs"),
    ("run.json", "how the run ended, its flags and versions"),
    ("run.log", "the log of all calls"),
)


def report_path(output_dir: str) -> str:
    """Return the page about a run."""
    return os.path.join(output_dir, "report.html")


def make_outputs_hook(job: Job, input_fn: InputFn) -> OutputsHook:
    """Build the hook that collects what the model says about the dev set.

    Args:
        job: the call.
        input_fn: gives this worker's part of the dev set.
    """
    return OutputsHook(input_fn.rows(), job.inputs.fingerprints["dev"], job.workers.from_all)


def name_of_events(job: Job, checkpoint_path: str) -> str:
    """Return what Estimator calls an evaluation: its events are in a folder of that name.

    That of the best checkpoint on the dev set of the training is `best`, any other one `other`.
    """
    best = checkpoints.kept_best(job.config.output.output_dir)
    is_best = best is None or checkpoints.step_of(best) == checkpoints.step_of(checkpoint_path)
    return _BEST if is_best and _is_dev_set_of_training(job) else "other"


def _is_dev_set_of_training(job: Job) -> bool:
    """Tell whether a later call evaluates what the training evaluated."""
    record = runs.read_record(job.config.output.output_dir)
    return record is None or record["identity"].get("dev data") == job.inputs.fingerprints["dev"]


def write_evaluation(
    job: Job,
    estimator: tf.estimator.Estimator,
    checkpoint_path: str,
    name: str,
    metrics: Mapping[str, float],
    outputs: Outputs,
) -> None:
    """Write the results of an evaluation, and a report.

    Args:
        job: the call.
        estimator: has the model.
        checkpoint_path: what was evaluated.
        name: see `name_of_events`.
        metrics: those of the evaluation, by name.
        outputs: what the model said about each example.
    """
    output_dir = job.config.output.output_dir
    scores = _score(job, outputs)
    results.write(output_dir, metrics, scores)
    if name == _BEST:
        outputs_files.write(outputs_path(output_dir), outputs)
    tensorboard.write_evaluation(estimator.eval_dir(name), evaluated_set(job), outputs)
    _report(job, estimator, checkpoint_path, metrics, outputs, scores)


def report_training(job: Job, estimator: tf.estimator.Estimator) -> None:
    """Write a report about the best checkpoint of a training that no evaluation follows."""
    output_dir = job.config.output.output_dir
    best = history_of(job).best()
    outputs = _kept_outputs(output_dir)
    fingerprint = job.inputs.fingerprints["dev"]
    if best and outputs and (outputs.step, outputs.fingerprint) == (best.step, fingerprint):
        kept, scores = checkpoints.kept_best(output_dir), _score(job, outputs)
        _report(job, estimator, kept, best.metrics, outputs, scores)
    else:
        _LOG.info("No report: no outputs of the best checkpoint are kept; --do_eval writes one")


def _kept_outputs(output_dir: str) -> Outputs | None:
    """Return the outputs of the best checkpoint, None if they are not known."""
    try:
        return outputs_files.read(outputs_path(output_dir))
    except BadInput as error:
        _LOG.warning("WARNING: %s", error)
        return None


def _report(
    job: Job,
    estimator: tf.estimator.Estimator,
    checkpoint_path: str | None,
    metrics: Mapping[str, float],
    outputs: Outputs,
    scores: Scores,
) -> None:
    """Write report.html; whatever fails, the run itself is complete."""
    path = report_path(job.config.output.output_dir)
    started = time.monotonic()
    try:
        # Its libraries take time and memory, which only the worker that writes a report needs.
        page = importlib.import_module("bert_classifier.report.page")
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        task = job.inputs.task
        evaluated = page.Evaluated(
            task.problem_type,
            job.inputs.examples["dev"],
            task.label_separator,
            metrics,
            outputs,
            scores,
            _is_dev_set_of_training(job),
        )
        suspects = None
        if job.schedule and checkpoint_path:
            suspects = page.Suspects(*label_noise.find(job, estimator, checkpoint_path))
        page.write(path, page.Run(**_facts(job)), evaluated, suspects)
    except Exception as error:
        _LOG.warning("WARNING: %s could not be written: %r", path, error)
        _LOG.debug("the report failed", exc_info=True)
    else:
        _LOG.info("Report in %s, written in %.1f seconds", path, time.monotonic() - started)


def _score(job: Job, outputs: Outputs) -> Scores:
    return score(
        job.inputs.problem_type,
        job.inputs.labels,
        outputs.label_ids,
        outputs.predictions,
        outputs.probabilities,
        outputs.losses,
    )


def _facts(job: Job) -> dict[str, Any]:
    """Return the fields of `page.Run`."""
    output_dir = job.config.output.output_dir
    history = history_of(job)
    record = runs.read_record(output_dir) or {"result": {}, "flags": job.config.values()}
    # The evaluated data may be others than those of the training.
    settings = {**record["flags"], **dataclasses.asdict(job.config.data)}
    defaults = configs.DEFAULTS
    return {
        "name": os.path.basename(os.path.abspath(output_dir)),
        "watched": job.watched,
        "evaluations": history.evaluations,
        "trained": _training_losses(job.model_dir),
        "result": record["result"],
        "settings": settings,
        "given": sorted(name for name in settings if settings[name] != defaults.get(name)),
        "data_summary": job.data_summary,
        "files": _files(output_dir),
        "commands": _commands(job),
    }


def _training_losses(model_dir: str) -> list[tuple[int, float]]:
    """Return step and loss of the training, from the events for TensorBoard."""
    found: dict[int, float] = {}
    for name in sorted(os.listdir(model_dir)):
        if not name.startswith("events.out.tfevents"):
            continue
        try:
            for event in tf.train.summary_iterator(os.path.join(model_dir, name)):
                for value in event.summary.value:
                    if value.tag == "loss":
                        found[event.step] = value.simple_value
        except (tf.errors.DataLossError, OSError):
            continue  # A killed process leaves a file that ends in the middle of an event.
    return sorted((step, loss) for step, loss in found.items() if np.isfinite(loss))


def _files(output_dir: str) -> list[tuple[str, str]]:
    """Return name and purpose of the files of the run that exist when a report is written."""
    return [(name, what) for name, what in _FILES if os.path.exists(os.path.join(output_dir, name))]


def _commands(job: Job) -> list[tuple[str, str]]:
    """Return what may be done next: title and command."""
    return [
        (title.capitalize() + ":", command)
        for title, command in next_commands(job.config, job.inputs.processor)
    ]

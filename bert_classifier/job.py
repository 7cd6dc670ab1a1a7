"""One call of the program: read and check everything, and take hold of the folder."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import platform
from typing import Any, Mapping, NamedTuple, Sequence

from bert_classifier import config as configs
from bert_classifier import devices, files, logs
from bert_classifier.config import Config
from bert_classifier.data.inputs import Inputs, load_inputs, needed_splits
from bert_classifier.data.pipeline import Pipeline, Shard, convert
from bert_classifier.data.tasks import Task
from bert_classifier.data.trained import Trained
from bert_classifier.errors import BadInput
from bert_classifier.export import onnx
from bert_classifier.export.from_run import sample_path
from bert_classifier.export.writer import read_sample, write_sample
from bert_classifier.inspection import checks
from bert_classifier.model.classifier import metric_names
from bert_classifier.training import (
    checkpoints,
    labels_file,
    later_call,
    preconditions,
    runs,
)
from bert_classifier.training.history import EvalHistory, Watched, eval_history_path
from bert_classifier.training.identity import make_identity
from bert_classifier.training.initial_weights import InitialWeights, warm_start
from bert_classifier.training.interruption import Interruption
from bert_classifier.training.schedule import Schedule, make_schedule
from bert_classifier.training.workers import Workers

_SAMPLE_SIZE = 8


class Job(NamedTuple):
    """What a call does, with what, and who does it."""

    config: Config
    inputs: Inputs
    watched: Watched
    schedule: Schedule | None  # None when nothing is to be trained
    initial_weights: InitialWeights
    workers: Workers
    interruption: Interruption
    model_dir: str  # output_dir, in a form that TensorFlow takes for no pattern
    data_summary: Sequence[str] = ()  # what a dry run prints; none where nothing is trained


def prepare(config: Config, workers: Workers, interruption: Interruption) -> Job:
    """Read and plan everything.

    Raises:
        BadInput: something is wrong with it.
    """
    trained = workers.from_chief(lambda: _find_trained(config))
    config = workers.together(lambda: _as_in_training(config, trained))
    # The others need not have output_dir.
    splits = workers.from_chief(lambda: _splits(config))
    inputs = workers.together(lambda: load_inputs(config, trained, splits))
    data_of_chief = workers.from_chief(lambda: inputs.fingerprints)
    workers.together(lambda: _check_same_data(inputs.fingerprints, data_of_chief, workers))
    watched = workers.together(lambda: _checked_metric(config.evaluation, inputs))
    schedule = None
    initial_weights = InitialWeights(config.model.init_checkpoint)
    if config.actions.do_train:
        num_examples = len(inputs.examples["train"])
        schedule = plan = workers.together(
            lambda: make_schedule(config.training, num_examples, workers.size)
        )
        workers.from_chief(lambda: preconditions.check_steps(config, plan))
        workers.together(lambda: preconditions.check_rates(config.training, inputs.bert_config))
        source = config.model.warm_start_from
        if source:
            initial_weights = workers.from_chief(
                functools.partial(warm_start, source, inputs.labels)
            )
    output_dir = config.output.output_dir
    return Job(
        config, inputs, watched, schedule, initial_weights, workers, interruption, output_dir
    )


def inspect(job: Job) -> checks.Report:
    """Check data and plan of a training run; print all about them in a dry run.

    Returns:
        What was found; nothing where nothing is to be trained.

    Raises:
        BadInput: training would be in vain.
    """
    config, inputs, schedule = job.config, job.inputs, job.schedule
    if schedule is None:
        return checks.Report([], [], [], [])
    data = checks.Data(
        inputs.examples,
        {split: examples.path for split, examples in inputs.examples.items()},
        inputs.labels,
        inputs.tokenizer,
        config.data.max_seq_length,
        inputs.problem_type,
    )
    model = checks.Model(inputs.bert_config, *job.initial_weights)
    report = checks.inspect(data, model, schedule, config.training)
    if config.actions.dry_run:
        print("\n".join(report.lines), flush=True)
    if report.fatal:
        raise BadInput(report.fatal[0])
    return report


def make_pipeline(job: Job) -> Pipeline:
    """Convert the examples and prepare to read them in batches."""
    config, inputs, workers = job.config, job.inputs, job.workers
    records = {}
    if workers.is_chief:
        records = convert(inputs, config.output.output_dir, workers.size)
    return Pipeline(
        inputs,
        Shard(workers.index, workers.size, workers.from_all),
        records,
        config.training.seed,
        job.schedule.examples_per_step if job.schedule else None,
        devices.pad_to_multiple_of(config.devices, config.data.max_seq_length),
        config.data.group_by_length,
    )


def count_parts(job: Job) -> int:
    """Return in how many parts a batch is computed."""
    hidden_size = job.inputs.bert_config.hidden_size
    return devices.count_parts(job.config.devices, hidden_size, job.workers.num_cores())


def open_folder(job: Job, until_closed: contextlib.ExitStack) -> None:
    """Prepare output_dir and keep it for this job; all that is logged goes there too."""
    config, output_dir = job.config, job.config.output.output_dir
    until_closed.enter_context(runs.locked(output_dir))
    if config.output.overwrite_output_dir and job.schedule:
        runs.clear(output_dir)
    runs.remove_leftovers(output_dir)
    if job.schedule:
        runs.check_identity(output_dir, identity_of(job, job.schedule))
    until_closed.enter_context(logs.also_to(os.path.join(output_dir, "run.log")))
    labels_file.write(output_dir, job.inputs.labels)
    if "dev" in job.inputs.examples:
        sample = itertools.islice(job.inputs.examples["dev"], _SAMPLE_SIZE)
        write_sample(sample_path(output_dir), sample)


def with_plain_paths(job: Job, until_closed: contextlib.ExitStack) -> Job:
    """Return a job whose paths for TensorFlow have no characters of patterns, until all is done.

    TensorFlow looks for checkpoints with patterns when it trains, and removes old ones so.
    """
    model_dir = until_closed.enter_context(files.plain_path(job.model_dir))
    weights = job.initial_weights
    if weights.checkpoint:
        plain = until_closed.enter_context(files.plain_path(weights.checkpoint))
        weights = weights._replace(checkpoint=plain)
    return job._replace(model_dir=model_dir, initial_weights=weights)


def history_of(job: Job) -> EvalHistory:
    """Read the evaluations of the run."""
    return EvalHistory(eval_history_path(job.config.output.output_dir), job.watched)


def identity_of(job: Job, schedule: Schedule) -> dict[str, Any]:
    """Return what the weights of a run depend on; see `identity`."""
    return make_identity(job.config, job.inputs, job.watched, schedule)


def watched_metric(evaluation: configs.Evaluation, task: Task) -> Watched:
    """Return the metric that says what is best, and its direction."""
    metric = evaluation.best_metric or task.best_metric
    higher_is_better = evaluation.best_metric_higher_is_better
    if higher_is_better is None:
        higher_is_better = not metric.endswith(("loss", "mse"))
    return Watched(metric, higher_is_better)


def _checked_metric(evaluation: configs.Evaluation, inputs: Inputs) -> Watched:
    """Return the watched metric after checking that evaluations will have it."""
    watched = watched_metric(evaluation, inputs.task)
    known = metric_names(len(inputs.labels), inputs.task.metrics, inputs.problem_type)
    if watched.metric not in known:
        raise BadInput(
            "--best_metric=%s: an evaluation has %s" % (watched.metric, ", ".join(known))
        )
    return watched


def _splits(config: Config) -> list[str]:
    has_sample = os.path.exists(sample_path(config.output.output_dir))
    return needed_splits(config.actions, config.export.needs_dev_set, has_sample)


def _find_trained(config: Config) -> Trained:
    """Check checkpoints and folders; return what is known of a model that was trained."""
    if config.model.init_checkpoint:
        checkpoints.validate_init_checkpoint(config.model.init_checkpoint)
    preconditions.check_folders(config)
    if config.actions.do_onnx:
        onnx.check_packages()
    output_dir = config.output.output_dir
    if config.actions.do_train:
        preconditions.check_has_config(config)
        # They are looked at after the training, and a misspelled one is better told before.
        for path in preconditions.other_checkpoints(config):
            checkpoints.find(output_dir, path)
        return Trained()
    wanted = sorted({config.evaluation.eval_checkpoint, config.checkpoint_to_export()})
    paths = [checkpoints.find(output_dir, which) for which in wanted]
    folders = [runs.find_folder(path) or output_dir for path in paths]
    if len({os.path.realpath(folder) for folder in folders}) > 1:
        raise BadInput(
            "--export_checkpoint=%s: is of another run than --eval_checkpoint=%s; export it in a "
            "call of its own" % (config.export.export_checkpoint, config.evaluation.eval_checkpoint)
        )
    labels = labels_file.read(folders[0])
    for path in paths:
        labels_file.check_number(labels, folders[0], path)
    is_pair = None
    if os.path.exists(sample_path(folders[0])):
        is_pair = read_sample(sample_path(folders[0]))[0].text_b is not None
    return Trained(runs.read_record(folders[0]), labels, is_pair)


def _as_in_training(config: Config, trained: Trained) -> Config:
    """Return a config whose values, where the call does not give them, are the training's."""
    if trained.record:
        values = config.values()
        given = {name: values[name] for name in config.given}
        taken = later_call.take_up(trained.record, given)
        # Another version may have had other flags.
        config = config.replace(**{name: taken[name] for name in taken.keys() & values.keys()})
        later_call.check(trained.record, config.values(), given)
    needed = {
        "--task_name": config.data.task_name,
        "--bert_config_file": config.model.bert_config_file,
        "--vocab_file (or --spm_model_file)": config.model.tokenizer_file,
    }
    for name, value in needed.items():
        if not value:
            raise BadInput(
                "%s is missing: a training needs it, and so does a call without a run.json in "
                "--output_dir=%s" % (name, config.output.output_dir)
            )
    return config


def _check_same_data(
    fingerprints: Mapping[str, str], data_of_chief: Mapping[str, str], workers: Workers
) -> None:
    """Raise BadInput unless this worker has read the same data as the chief."""
    for split, found in fingerprints.items():
        if found != data_of_chief.get(split):
            raise BadInput(
                "--horovod: worker %d on %s has other %s data, vocabulary or labels than worker 0; "
                "give all machines the same files" % (workers.index, platform.node(), split)
            )

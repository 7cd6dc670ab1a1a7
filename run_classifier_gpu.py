"""Fine-tunes BERT for text classification with a plain tf.estimator.Estimator.

    python run_classifier_gpu.py --do_train --do_eval --task_name=mrpc --data_dir=... \\
        --bert_config_file=... --vocab_file=... --init_checkpoint=... --output_dir=...
    python run_classifier_gpu.py --do_eval --output_dir=...     # the best checkpoint of that run
    python run_classifier_gpu.py --do_export --output_dir=...   # the same as a SavedModel

    horovodrun -np 4 python run_classifier_gpu.py --horovod --do_train ...      # on four GPUs

The same command again goes on where it was interrupted. `--help` lists the flags.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
import os
import platform
import re
import shlex
import sys
import time
from typing import Any, Callable, Collection, Iterator, Mapping, NamedTuple, Sequence

from bert_classifier import streams

if __name__ == "__main__":
    streams.prepare()

# Read by TensorFlow's C++ side when it is imported; it would log every CPU feature that it finds,
# and, as an error, that there is no driver of a GPU.
os.environ.setdefault(
    "TF_CPP_MIN_LOG_LEVEL", "2" if os.path.exists("/proc/driver/nvidia/version") else "3"
)

import numpy as np
import tensorflow.compat.v1 as tf
from absl import app

import modeling
import tokenization
from bert_classifier import files, flags, logs, problem_types, threads
from bert_classifier.config import Config
from bert_classifier.data.batches import (  # noqa: F401
    Batching,
    evaluation_order,
    examples_input_fn,
    file_based_input_fn_builder,
    records_input_fn,
    restore_order,
)
from bert_classifier.data.examples import Examples, InputExample  # noqa: F401
from bert_classifier.data.features import (  # noqa: F401
    TRUNCATIONS,
    Converter,
    InputFeatures,
    convert_single_example,
    file_based_convert_examples_to_features,
    fingerprint,
    write_records_once,
)
from bert_classifier.data.labels import load_class_weights, load_labels, load_thresholds
from bert_classifier.data.processors import DataProcessor, get_processor
from bert_classifier.data.records import RecordFile
from bert_classifier.data.tasks import Task, file_task
from bert_classifier.errors import BadInput
from bert_classifier.export import bundle, calibration
from bert_classifier.export.writer import (
    BestExporter,
    BundleWriter,
    SelfTestFailed,
    read_sample,
    write_sample,
)
from bert_classifier.failures import bad_input_in, fail, trouble_of_system
from bert_classifier.inspection import baseline, checks
from bert_classifier.model.classifier import (  # noqa: F401
    Share,
    create_model,
    metric_fn,
    metric_names,
    model_fn_builder,
)
from bert_classifier.problem_types import ClassOptions
from bert_classifier.serving import answers
from bert_classifier.training import checkpoints, later_call, loop, memory, runs
from bert_classifier.training.history import EvalHistory, Watched
from bert_classifier.training.hooks import (
    CompilationHook,
    EarlyStoppingHook,
    EvaluationRecorder,
    ProgressHook,
    eval_history_path,
    stop_if_no_decrease_hook,
    stop_if_no_increase_hook,
)
from bert_classifier.training.interruption import Interrupted, Interruption
from bert_classifier.training.later_call import Trained
from bert_classifier.training.loop import Schedule
from bert_classifier.training.workers import SharedFailure, Workers
from bert_classifier.training.workers import start as start_workers

_LOG = logging.getLogger("run_classifier_gpu")

# Some rows of the dev set, in output_dir, by which later calls test their exports.
_DEV_SAMPLE = "dev_sample.jsonl"
_SAMPLE_SIZE = 8

# Evaluations without an improvement that end a run, unless a flag says otherwise.
_PATIENCE = 3
_WRITTEN_ANEW = "restore it, or give the command of the training again, which writes it anew"

# What TensorFlow does on a CPU to a graph before it first runs it, once each. Its default is more,
# and twice, which takes three seconds for a training graph and makes no step faster.
_CPU_OPTIMIZERS = ("pruning", "remap", "arithmetic", "dependency")


class Inputs(NamedTuple):
    """What is read and checked before anything is written."""

    bert_config: modeling.BertConfig
    tokenizer: tokenization.FullTokenizer
    processor: DataProcessor
    examples: dict[str, Examples]  # the splits that are needed: train, dev, test
    fingerprints: dict[str, str]  # of each of them, see `features.fingerprint`
    labels: list[str]
    class_weights: list[float] | None
    thresholds: list[float] | None  # where an example has several labels

    @property
    def problem_type(self) -> str:
        """One of `PROBLEM_TYPES`."""
        return self.processor.task.problem_type


class InitialWeights(NamedTuple):
    """What training begins from."""

    checkpoint: str | None  # None: random values
    with_classifier: bool = True  # if the checkpoint has one of the same shape


class Job(NamedTuple):
    """One call of the program: what it is to do, with what, and who does it."""

    config: Config
    inputs: Inputs
    watched: Watched
    schedule: Schedule | None  # None when nothing is to be trained
    initial_weights: InitialWeights
    workers: Workers
    interruption: Interruption
    model_dir: str  # output_dir, in a form that TensorFlow takes for no pattern


def run_classifier(
    config: Config,
    interruption: Interruption | None = None,
    workers: Workers | None = None,
) -> dict[str, float]:
    """Does what the flags ask for, in this order: train, evaluate, predict, export.

    Returns:
        The metrics of the evaluation; empty if there was none, and for all workers but the chief.
    """
    if config.actions.dry_run:
        config = config.replace(do_train=True)
    if config.devices.use_xla:
        threads.compile_on_cpus()
    job = make_job(config, workers or Workers(), interruption or Interruption())
    summary = job.workers.from_chief(lambda: inspect(job))
    metrics: dict[str, float] = {}
    if config.actions.dry_run:
        return metrics
    with contextlib.ExitStack() as folder:
        job.workers.from_chief(lambda: open_folder(job, folder))
        if job.workers.is_chief:
            job = with_plain_paths(job, folder)
        for line in summary:
            _LOG.info("  %s", line)
        if config.devices.amp and not has_gpu():
            _LOG.info("--amp has no effect: there is no GPU that TensorFlow can use")
        records = convert(job)
        estimator = make_estimator(job)
        if job.schedule:
            train(job, job.schedule, estimator, records)
        checkpoint_path = job.workers.from_chief(
            lambda: checkpoints.find(config.output.output_dir, config.evaluation.eval_checkpoint)
        )
        if config.actions.do_eval:
            metrics = evaluate(job, estimator, checkpoint_path, records)
        if job.workers.is_chief:
            if config.actions.do_predict:
                predict(job, estimator, checkpoint_path, records)
            if config.actions.do_export or config.actions.do_frozen:
                export(job, estimator, records)
            if job.schedule:
                log_summary(job)
        job.workers.wait_for_all()
    return metrics


def run_trials(config: Config, interruption: Interruption, workers: Workers) -> None:
    """Trains with several seeds; writes mean and standard deviation of metrics to trials.json."""
    trials = [
        config.replace(
            seed=config.training.seed + number,
            output_dir=os.path.join(config.output.output_dir, "trial_%d" % (number + 1)),
        )
        for number in range(config.training.num_trials)
    ]
    # Before the first of them has removed anything, or taken its time.
    for trial in trials:
        workers.from_chief(functools.partial(check_folders, trial))
    results = []
    for number, trial in enumerate(trials, start=1):
        _LOG.info("***** Trial %d of %d: seed %d *****", number, len(trials), trial.training.seed)
        metrics = run_classifier(trial, interruption, workers)
        if config.actions.dry_run:  # All of them have the same data and the same plan.
            return
        results.append(
            {**metrics, "seed": trial.training.seed, "output_dir": trial.output.output_dir}
        )
    if not workers.is_chief:
        return
    summary = {
        name: {
            "mean": float(np.mean([result[name] for result in results])),
            # Of a sample: what another seed may be expected to differ by.
            "standard_deviation": float(np.std([result[name] for result in results], ddof=1)),
        }
        for name in results[0]
        if name.startswith("eval_")
    }
    task = get_processor(config.data.task_name, None, make_file_task(config)).task
    best = find_best_trial(results, watched_metric(config, task))
    files.write_json(
        os.path.join(config.output.output_dir, "trials.json"),
        {"trials": results, "summary": summary, "best_trial": best},
    )
    _LOG.info("***** %d trials *****", len(results))
    for name, numbers in summary.items():
        _LOG.info("  %s = %.4f +- %.4f", name, numbers["mean"], numbers["standard_deviation"])
    if best:
        _LOG.info("  the best is trial %(trial)d, in %(output_dir)s", best)
        folder = shlex.quote(best["output_dir"])
        _LOG.info("  export it: python run_classifier_gpu.py --do_export --output_dir=%s", folder)


def find_best_trial(
    results: Sequence[Mapping[str, Any]], watched: Watched
) -> dict[str, Any] | None:
    """Gives number, output_dir and watched metric of the best trial; None if all are NaN."""
    best, best_value = None, None
    for number, result in enumerate(results, start=1):
        value = result[watched.metric]
        if watched.improves(value, best_value):
            best_value = value
            best = {
                "trial": number,
                "output_dir": result["output_dir"],
                watched.metric: value,
            }
    return best


# Reading


def make_job(config: Config, workers: Workers, interruption: Interruption) -> Job:
    """Reads and plans everything; raises BadInput for what is wrong with it."""
    trained = workers.from_chief(lambda: find_trained(config))
    config = workers.together(lambda: as_in_training(config, trained))
    # The others need not have output_dir.
    splits = workers.from_chief(lambda: needed_splits(config))
    inputs = workers.together(lambda: load_inputs(config, trained, splits))
    data_of_chief = workers.from_chief(lambda: inputs.fingerprints)
    workers.together(lambda: check_same_data(inputs.fingerprints, data_of_chief, workers))
    watched = workers.together(lambda: make_watched(config, inputs))
    schedule = None
    initial_weights = InitialWeights(config.model.init_checkpoint)
    if config.actions.do_train:
        num_examples = len(inputs.examples["train"])
        schedule = plan = workers.together(
            lambda: make_schedule(config, num_examples, workers.size)
        )
        workers.from_chief(lambda: check_steps(config, plan))
        source = config.model.warm_start_from
        if source:
            initial_weights = workers.from_chief(
                functools.partial(warm_start, source, inputs.labels)
            )
    return Job(
        config,
        inputs,
        watched,
        schedule,
        initial_weights,
        workers,
        interruption,
        config.output.output_dir,
    )


def find_trained(config: Config) -> Trained:
    """Check checkpoints and folders; return what is known of a model that was trained."""
    if config.model.init_checkpoint:
        checkpoints.validate_init_checkpoint(config.model.init_checkpoint)
    check_folders(config)
    output_dir = config.output.output_dir
    if config.actions.do_train:
        # They are looked at after the training, and a misspelled one is better told before.
        for path in other_checkpoints(config):
            checkpoints.find(output_dir, path)
        return Trained(None, None, None)
    wanted = sorted({config.evaluation.eval_checkpoint, config.checkpoint_to_export()})
    paths = [checkpoints.find(output_dir, which) for which in wanted]
    folders = [runs.find_folder(path) or output_dir for path in paths]
    if len({os.path.realpath(folder) for folder in folders}) > 1:
        raise BadInput(
            "--export_checkpoint=%s: is of another run than --eval_checkpoint=%s; export it in a "
            "call of its own" % (config.export.export_checkpoint, config.evaluation.eval_checkpoint)
        )
    labels = read_labels(folders[0])
    for path in paths:
        check_num_labels(labels, folders[0], path)
    sample_path = os.path.join(folders[0], _DEV_SAMPLE)
    is_pair = None
    if os.path.exists(sample_path):
        is_pair = read_sample(sample_path)[0].text_b is not None
    return Trained(runs.read_record(folders[0]), labels, is_pair)


def other_checkpoints(config: Config) -> list[str]:
    """Lists the checkpoints to evaluate and export that are named and not of this run."""
    paths = {config.evaluation.eval_checkpoint, config.checkpoint_to_export()} - {"best", "last"}
    return sorted(path for path in paths if own_step(config.output.output_dir, path) is None)


def own_step(output_dir: str, checkpoint_path: str) -> int | None:
    """Gives the step of a checkpoint that a run saves, None if the path is none of that run."""
    folder, name = os.path.split(checkpoint_path)
    saved = re.fullmatch(r"model\.ckpt-(\d+)", name)
    if saved and os.path.realpath(folder) == os.path.realpath(output_dir):
        return int(saved.group(1))
    return None


def check_steps(config: Config, schedule: Schedule) -> None:
    """Raises BadInput if a checkpoint is to be evaluated, or exported, that is never saved."""
    for path in (config.evaluation.eval_checkpoint, config.checkpoint_to_export()):
        step = own_step(config.output.output_dir, path)
        if step and not schedule.is_due(step) and not checkpoints.files_of(path):
            raise BadInput(
                "%s: this training saves no checkpoint of step %d; give best or last as "
                "--eval_checkpoint or --export_checkpoint" % (path, step)
            )


def check_folders(config: Config) -> None:
    """Checks that nothing that is read is removed before, and that exports can be written.

    Raises:
        BadInput: one of them is not so.
    """
    overwrite = config.output.overwrite_output_dir and config.actions.do_train
    runs.check_is_kept(config.output.output_dir, overwrite, files_to_read(config))
    if config.actions.do_export and config.export.export_dir:
        files.check_can_be_written("export_dir", config.export.export_dir)


def files_to_read(config: Config) -> dict[str, list[str]]:
    """Lists the files and folders that flags name, and a call reads, by flag."""
    values = config.values()
    named: dict[str, list[str]] = {
        name: [values[name]]
        for name in (
            "data_dir",
            "labels_file",
            "class_weights",
            "thresholds",
            "bert_config_file",
            "vocab_file",
        )
        if values[name]
    }
    for name in ("train_file", "dev_file", "test_file"):
        if values[name]:
            # They are looked for in data_dir first.
            in_data_dir = os.path.join(config.data.data_dir or "", values[name])
            named[name] = [in_data_dir, values[name]]
    if config.model.init_checkpoint:
        named["init_checkpoint"] = checkpoints.files_of(config.model.init_checkpoint)
    if config.actions.do_train:
        if config.model.warm_start_from:
            path = find_fine_tuned(config.model.warm_start_from)
            named["warm_start_from"] = checkpoints.files_of(path)
        for path in other_checkpoints(config):
            named.setdefault("eval_checkpoint", []).extend(checkpoints.files_of(path))
    return named


def as_in_training(config: Config, trained: Trained) -> Config:
    """Return flags which, where a call does not say otherwise, are those of the training run."""
    if trained.record:
        values = config.values()
        given = {name: values[name] for name in config.given}
        taken = later_call.take_up(trained.record, given)
        # Another version may have had other flags.
        config = config.replace(**{name: taken[name] for name in taken.keys() & values.keys()})
        later_call.check(trained.record, config.values(), given)
    for name in ("task_name", "bert_config_file", "vocab_file"):
        if not config.values()[name]:
            raise BadInput(
                "--%s is missing: a training needs it, and so does a call without a run.json in "
                "--output_dir=%s" % (name, config.output.output_dir)
            )
    return config


def load_inputs(config: Config, trained: Trained, splits: Collection[str]) -> Inputs:
    """Reads configuration, vocabulary and the splits of the data that are needed."""
    # They are read again for the run's identity and for each export.
    for path in (config.model.bert_config_file, config.model.vocab_file):
        files.check_rereadable(path)
    bert_config = modeling.BertConfig.from_json_file(config.model.bert_config_file)
    tokenizer = load_tokenizer(config, bert_config)
    if config.data.max_seq_length > bert_config.max_position_embeddings:
        raise BadInput(
            "--max_seq_length=%d: %s allows up to %d (max_position_embeddings)"
            % (
                config.data.max_seq_length,
                config.model.bert_config_file,
                bert_config.max_position_embeddings,
            )
        )
    own_files = make_file_task(config)
    if (
        config.own_files.labels_file
        and trained.labels
        and list(own_files.labels or ()) != trained.labels
    ):
        raise BadInput(
            "--labels_file=%s: the model was trained with the labels %s; leave it out"
            % (config.own_files.labels_file, ", ".join(trained.labels))
        )
    processor = get_processor(config.data.task_name, trained.labels, own_files)
    examples = read_examples(config, processor, splits)
    for of_split in examples.values():
        check_texts_per_row(of_split, trained.is_pair)
    labels = processor.get_labels()
    problem_type = processor.task.problem_type
    problem = problem_types.get(problem_type)
    class_weights = thresholds = None
    if not problem.has_classes and (
        config.training.class_weights or config.training.label_smoothing
    ):
        raise BadInput(
            "--class_weights and --label_smoothing are for classes, and this task's labels are "
            "numbers; leave them out"
        )
    if config.actions.do_train and config.training.class_weights:
        class_weights = load_class_weights(
            config.training.class_weights, labels, examples["train"].label_counts
        )
    if config.export.min_confidence and not problem.has_confidence:
        raise BadInput(
            "--min_confidence=%s: is for one label of several, not for a %s; leave it out"
            % (config.export.min_confidence, problem_type)
        )
    if config.export.calibrate and not problem.has_classes:
        raise BadInput("--calibrate: a regression has no probabilities; leave it out")
    if problem.has_thresholds:
        thresholds = trained.thresholds
        if thresholds is None or "thresholds" in config.given:
            thresholds = load_thresholds(config.data.thresholds, labels)
    fingerprints = {
        split: fingerprint(of_split, make_converter(config, labels, tokenizer, problem_type, split))
        for split, of_split in examples.items()
    }
    if trained.record and not any(name in config.given for name in later_call.MAY_DIFFER):
        check_set_aside(examples, fingerprints, trained.record["identity"])
    return Inputs(
        bert_config,
        tokenizer,
        processor,
        examples,
        fingerprints,
        labels,
        class_weights,
        thresholds,
    )


def check_texts_per_row(examples: Examples, is_pair: bool | None) -> None:
    """Raise BadInput unless rows have as many texts as the model was trained with."""
    if is_pair is not None and examples.is_pair != is_pair:
        raise BadInput(
            "%s: %s, but the model was trained with %s; name the columns with --text_column%s"
            % (
                examples.path,
                *(
                    ("single texts", "pairs of texts")
                    if is_pair
                    else ("pairs of texts", "single texts")
                ),
                " and --text_b_column" if is_pair else ", or remove the second text",
            )
        )


def check_set_aside(
    examples: Mapping[str, Examples], fingerprints: Mapping[str, str], identity: Mapping[str, Any]
) -> None:
    """Raise BadInput if rows that were set aside for the evaluation may have been learned since."""
    if (
        "dev" in examples
        and examples["dev"].is_part
        and fingerprints["dev"] != identity["dev data"]
    ):
        raise BadInput(
            "%s: has changed since the training, so that the rows set aside for the evaluation "
            "would be others, which the model has learned; give a --dev_file" % examples["dev"].path
        )


def make_converter(
    config: Config,
    labels: Sequence[str],
    tokenizer: tokenization.FullTokenizer,
    problem_type: str,
    split: str,
) -> Converter:
    """Return what makes features of the examples of a split."""
    return Converter(
        labels,
        config.data.max_seq_length,
        tokenizer,
        problem_type,
        config.data.truncation,
        # In training, the part of a text that the label is about may not be in a window.
        window_stride=0 if split == "train" else config.data.window_stride,
    )


def converter_of(job: Job, split: str) -> Converter:
    """Return what makes features of the examples of a split."""
    inputs = job.inputs
    return make_converter(job.config, inputs.labels, inputs.tokenizer, inputs.problem_type, split)


def check_same_data(
    fingerprints: Mapping[str, str], data_of_chief: Mapping[str, str], workers: Workers
) -> None:
    """Raises BadInput unless this worker has read the same data as the chief."""
    for split, found in fingerprints.items():
        if found != data_of_chief.get(split):
            raise BadInput(
                "--horovod: worker %d on %s has other %s data, vocabulary or labels than worker 0; "
                "give all machines the same files" % (workers.index, platform.node(), split)
            )


def load_tokenizer(config: Config, bert_config: modeling.BertConfig) -> tokenization.FullTokenizer:
    """Loads the vocabulary and checks that it belongs to the model."""
    tokenization.validate_case_matches_checkpoint(
        config.model.do_lower_case, config.model.init_checkpoint
    )
    tokenizer = tokenization.FullTokenizer(config.model.vocab_file, config.model.do_lower_case)
    tokenization.validate_vocab(tokenizer.vocab, config.model.vocab_file)
    tokenization.log_repeated_tokens(config.model.vocab_file)
    if tokenizer.vocab_size > bert_config.vocab_size:
        raise BadInput(
            "%s: %d tokens, but vocab_size is %d in %s; give the model's own vocabulary"
            % (
                config.model.vocab_file,
                tokenizer.vocab_size,
                bert_config.vocab_size,
                config.model.bert_config_file,
            )
        )
    return tokenizer


def read_labels(folder: str) -> list[str] | None:
    """Reads the labels of a model that was trained in a folder, None if it does not tell them.

    Raises:
        BadInput: the file is damaged.
    """
    path = labels_path(folder)
    if not os.path.exists(path):
        return None
    with files.damage_told(path, _WRITTEN_ANEW):
        with open(path, encoding="utf-8", newline="\n") as stream:
            *labels, rest = stream.read().split("\n")
        if rest or not labels or len(set(labels)) < len(labels) or not all(map(is_text, labels)):
            raise ValueError("a label is missing, cut, there twice or no text")
        return labels


def is_text(label: str) -> bool:
    """Tells whether there is a text, and no zero bytes in it."""
    return bool(label.strip()) and "\0" not in label


def labels_path(folder: str) -> str:
    """Gives the file of the labels of a model."""
    return os.path.join(folder, "labels.txt")


def check_num_labels(labels: Sequence[str] | None, output_dir: str, checkpoint_path: str) -> None:
    """Raises BadInput unless there is a label for each output of a checkpoint."""
    shapes, _ = checkpoints.contents(checkpoint_path)
    if labels is None or "output_bias" not in shapes:
        return
    (num_outputs,) = shapes["output_bias"]
    if num_outputs != len(labels):
        raise BadInput(
            "%s: has %d labels, but %s has %d outputs; %s"
            % (labels_path(output_dir), len(labels), checkpoint_path, num_outputs, _WRITTEN_ANEW)
        )


def find_fine_tuned(source: str) -> str:
    """Gives the checkpoint that `--warm_start_from` means.

    Raises:
        BadInput: there is none, or it cannot be read.
    """
    try:
        return checkpoints.find(source, "best" if os.path.isdir(source) else source)
    except BadInput as error:
        raise BadInput(
            "--warm_start_from=%s: no readable checkpoint; give the output_dir of a run, or a "
            "checkpoint of it" % source
        ) from error


def warm_start(source: str, labels: Sequence[str]) -> InitialWeights:
    """Prepares to begin from a fine-tuned model, its classifier included if the labels agree.

    Args:
        source: output_dir of a run, for its best checkpoint, or a checkpoint of it.
        labels: those of the new run.

    Raises:
        BadInput: there is no checkpoint, or it cannot be read.
    """
    path = find_fine_tuned(source)
    folder = runs.find_folder(path)
    found = read_labels(folder) if folder else None
    if folder:
        check_num_labels(found, folder, path)
    same_labels = found == list(labels)
    _LOG.info("Warm start from %s, %s classifier", path, "with its" if same_labels else "new")
    return InitialWeights(path, with_classifier=same_labels)


def make_file_task(config: Config) -> Task:
    """Declares the user's own files."""
    labels_file = config.own_files.labels_file
    return file_task(config.own_files, load_labels(labels_file) if labels_file else None)


def needed_splits(config: Config) -> list[str]:
    """Says which splits the wanted actions need."""
    exports = config.actions.do_export or config.actions.do_frozen
    has_sample = os.path.exists(os.path.join(config.output.output_dir, _DEV_SAMPLE))
    needs_dev = (
        config.actions.do_train
        or config.actions.do_eval
        or config.export.calibrate
        or (exports and not has_sample)
    )
    wanted = {"train": config.actions.do_train, "dev": needs_dev, "test": config.actions.do_predict}
    return [split for split, is_needed in wanted.items() if is_needed]


def read_examples(
    config: Config, processor: DataProcessor, splits: Collection[str]
) -> dict[str, Examples]:
    """Reads some of the splits."""
    data_dir = config.data.data_dir
    divides = "dev" in splits and not processor.has_dev_file(data_dir, config.data.dev_file)
    examples = {}
    if "train" in splits or divides:
        examples["train"] = processor.get_train_examples(data_dir, config.data.train_file)
    if divides:
        examples["train"], examples["dev"] = examples["train"].divide(config.data.dev_fraction)
        _LOG.info(
            "No dev file: %d of the %d training examples are set aside for the evaluation",
            len(examples["dev"]),
            len(examples["train"]) + len(examples["dev"]),
        )
    elif "dev" in splits:
        examples["dev"] = processor.get_dev_examples(data_dir, config.data.dev_file)
    if "test" in splits:
        examples["test"] = processor.get_test_examples(data_dir, config.data.test_file)
    for of_split in examples.values():
        if of_split.skipped:
            _LOG.info("%s: %d malformed rows are left out", of_split.path, of_split.skipped)
    if "train" not in splits:
        examples.pop("train", None)
    return examples


def inspect(job: Job) -> list[str]:
    """Looks at data and plan of a training run; prints all about them in a dry run.

    Returns:
        The lines that the log should have.

    Raises:
        BadInput: training would be in vain.
    """
    config, inputs, schedule = job.config, job.inputs, job.schedule
    if schedule is None:
        return []
    report = checks.inspect(
        inputs.examples,
        {split: examples.path for split, examples in inputs.examples.items()},
        inputs.labels,
        inputs.tokenizer,
        inputs.bert_config,
        job.initial_weights.checkpoint,
        schedule,
        config.data.max_seq_length,
        config.training.train_batch_size,
        inputs.problem_type,
        config.training.early_stopping_min_steps,
        config.training.gradient_checkpointing,
        job.initial_weights.with_classifier,
    )
    if config.actions.dry_run:
        print("\n".join(report.lines), flush=True)
    if report.fatal:
        raise BadInput(report.fatal[0])
    return [*report.summary, *("WARNING: " + warning for warning in report.warnings)]


# Planning


def make_schedule(config: Config, num_examples: int, num_workers: int) -> Schedule:
    """Turns epochs into steps."""
    examples_per_step = (
        config.training.train_batch_size * config.training.num_accumulation_steps * num_workers
    )
    steps_per_epoch = num_examples / examples_per_step
    num_train_steps = int(steps_per_epoch * config.training.num_train_epochs)
    if num_train_steps == 0:
        raise BadInput(
            "--train_batch_size=%d: %d training examples and --num_train_epochs=%s make no single "
            "step of %d examples; lower the batch size or raise the epochs"
            % (
                config.training.train_batch_size,
                num_examples,
                config.training.num_train_epochs,
                examples_per_step,
            )
        )
    if num_train_steps >= 2**63:
        raise BadInput(
            "--num_train_epochs=%s: makes more steps than can be counted; lower it"
            % config.training.num_train_epochs
        )
    save_steps = config.training.save_checkpoints_steps or half_an_epoch(
        steps_per_epoch, num_train_steps
    )
    patience = config.training.max_steps_without_improvement
    return Schedule(
        examples_per_step=examples_per_step,
        learning_rate=scale_learning_rate(config, num_workers),
        num_train_steps=num_train_steps,
        num_warmup_steps=int(num_train_steps * config.training.warmup_proportion),
        steps_per_epoch=steps_per_epoch,
        save_checkpoints_steps=save_steps,
        max_steps_without_improvement=_PATIENCE * save_steps if patience is None else patience,
    )


def half_an_epoch(steps_per_epoch: float, num_train_steps: int) -> int:
    """Return the default of --save_checkpoints_steps, at most 1000.

    It is rounded up, so that no evaluation comes right before the last one, but not where the
    default patience would then outlast the run.
    """
    steps = math.ceil(steps_per_epoch / 2)
    if (1 + _PATIENCE) * steps >= num_train_steps:
        steps = max(1, math.floor(steps_per_epoch / 2))
    return min(1000, steps)


def scale_learning_rate(config: Config, num_workers: int) -> float:
    """Gives the learning rate for the batches of several workers, and logs what it did."""
    scaling = config.training.learning_rate_scaling
    factor = {"none": 1.0, "linear": float(num_workers), "sqrt": math.sqrt(num_workers)}[scaling]
    learning_rate = config.training.learning_rate * factor
    if factor != 1:
        _LOG.info(
            "Learning rate %g x %g = %g: --learning_rate_scaling=%s, %d workers",
            config.training.learning_rate,
            factor,
            learning_rate,
            scaling,
            num_workers,
        )
    return learning_rate


def make_watched(config: Config, inputs: Inputs) -> Watched:
    """Gives the metric that says what is best, after checking that evaluations will have it."""
    watched = watched_metric(config, inputs.processor.task)
    known = metric_names(len(inputs.labels), inputs.processor.task.metrics, inputs.problem_type)
    if watched.metric not in known:
        raise BadInput(
            "--best_metric=%s: an evaluation has %s" % (watched.metric, ", ".join(known))
        )
    return watched


def watched_metric(config: Config, task: Task) -> Watched:
    """Gives the metric that says what is best, and its direction."""
    metric = config.evaluation.best_metric or task.best_metric
    higher_is_better = config.evaluation.best_metric_higher_is_better
    if higher_is_better is None:
        higher_is_better = not metric.endswith(("loss", "mse"))
    return Watched(metric, higher_is_better)


def make_identity(job: Job, schedule: Schedule) -> dict[str, Any]:
    """Collects everything that the weights of a run, and its choice of the best, depend on.

    Not among it: how patiently to wait for an improvement, and how the examples of a step are
    divided into batches and among workers. Who wants to wait longer, or has a GPU more, may go on.
    """
    config, inputs = job.config, job.inputs
    identity = {
        "bert_config_file": runs.content_hash(config.model.bert_config_file),
        "vocab_file": runs.content_hash(config.model.vocab_file),
        "init_checkpoint": None,
        "labels": inputs.labels,
        "class_weights": inputs.class_weights,
        "thresholds": inputs.thresholds,
        "best_metric": list(job.watched),
        "examples_per_step": schedule.examples_per_step,
        "learning_rate": schedule.learning_rate,
        "save_checkpoints_steps": schedule.save_checkpoints_steps,
        "train data": inputs.fingerprints["train"],
        "dev data": inputs.fingerprints["dev"],
    }
    if config.model.init_checkpoint:
        index = checkpoints.index_file(config.model.init_checkpoint)
        identity["init_checkpoint"] = runs.content_hash(index)
    for name in (
        "warm_start_from",
        "do_lower_case",
        "max_seq_length",
        "num_train_epochs",
        "warmup_proportion",
        "seed",
        "optimizer",
        "weight_decay_rate",
        "clip_norm",
        "layerwise_lr_decay",
        "label_smoothing",
        "group_by_length",
        "amp",
    ):
        identity[name] = config.values()[name]
    return identity


# Writing


def open_folder(job: Job, until_closed: contextlib.ExitStack) -> None:
    """Prepares output_dir and keeps it for this job; all that the log says goes there too."""
    config, output_dir = job.config, job.config.output.output_dir
    until_closed.enter_context(runs.locked(output_dir))
    if config.output.overwrite_output_dir and job.schedule:
        runs.clear(output_dir)
    runs.remove_leftovers(output_dir)
    if job.schedule:
        runs.check_identity(output_dir, make_identity(job, job.schedule))
    until_closed.enter_context(logs.also_to(os.path.join(output_dir, "run.log")))
    text = "".join(label + "\n" for label in job.inputs.labels)
    files.write_text(labels_path(output_dir), text)
    if "dev" in job.inputs.examples:
        sample = itertools.islice(job.inputs.examples["dev"], _SAMPLE_SIZE)
        write_sample(os.path.join(output_dir, _DEV_SAMPLE), sample)


def with_plain_paths(job: Job, until_closed: contextlib.ExitStack) -> Job:
    """Returns a job whose paths for TensorFlow have no characters of patterns, until all is done.

    TensorFlow looks for checkpoints with patterns when it trains, and removes old ones so.
    """
    model_dir = until_closed.enter_context(files.plain_path(job.model_dir))
    weights = job.initial_weights
    if weights.checkpoint:
        plain = until_closed.enter_context(files.plain_path(weights.checkpoint))
        weights = weights._replace(checkpoint=plain)
    return job._replace(model_dir=model_dir, initial_weights=weights)


def convert(job: Job) -> dict[str, str]:
    """Writes the TFRecord files that are not there yet; returns split -> path.

    They are for a worker that reads a split alone. Several convert what each of them reads.
    """
    if not job.workers.is_chief:
        return {}
    config, inputs = job.config, job.inputs
    splits = inputs.examples if job.workers.size == 1 else {"test"} & inputs.examples.keys()
    records = {}
    for split in splits:
        name = "%s.%s.tf_record" % (split, inputs.fingerprints[split])
        records[split] = os.path.join(config.output.output_dir, name)
        write_records_once(
            inputs.examples[split],
            converter_of(job, split),
            records[split],
            show_bar=logs.is_terminal(),
        )
    return records


def make_input_fn(
    job: Job, records: Mapping[str, str], split: str, batch_size: int, start_step: int = 0
) -> loop.InputFn:
    """Builds the `input_fn` of a split: endless for `train`, one pass with all examples else.

    All workers that read the split call it.
    """
    config, examples, converter = job.config, job.inputs.examples[split], converter_of(job, split)
    batching = Batching(
        batch_size,
        is_training=split == "train",
        drop_remainder=split == "train",
        seed=config.training.seed,
        start_step=start_step,
        examples_per_step=job.schedule.examples_per_step if job.schedule else None,
        pad_to_multiple_of=pad_to_multiple_of(config.data.max_seq_length, config.devices.use_xla),
        group_by_length=config.data.group_by_length,
    )
    if split in records:
        return records_input_fn(records[split], converter, batching, examples.is_labelled)
    num_tokens = count_tokens(job, split) if config.data.group_by_length else None
    return examples_input_fn(
        list(examples), converter, batching, job.workers.size, job.workers.index, num_tokens
    )


def pad_to_multiple_of(seq_length: int, use_xla: bool) -> int:
    """Gives what the lengths of batches are rounded up to: what the device gains by, or nothing."""
    if use_xla:
        # It compiles each length anew: there are to be four at most.
        return 8 * math.ceil(seq_length / 32)
    return 8 if has_gpu() else 1


def has_gpu() -> bool:
    """Tells whether there is a GPU that TensorFlow can use."""
    # Unlike tf.test.is_gpu_available() this leaves the GPUs alone, those of other workers too.
    return bool(tf.config.experimental.list_physical_devices("GPU"))


def count_tokens(job: Job, split: str) -> np.ndarray:
    """Counts the tokens of each example of a split, each worker those of a part: all call it."""
    inputs, workers = job.inputs, job.workers
    converter = converter_of(job, split)
    mine = itertools.islice(inputs.examples[split], workers.index, None, workers.size)
    num_tokens = np.empty(len(inputs.examples[split]), np.int64)
    for index, part in enumerate(workers.from_all(converter.count_tokens(mine))):
        num_tokens[index :: workers.size] = part
    return num_tokens


# The Estimator


def make_estimator(job: Job) -> tf.estimator.Estimator:
    """Wraps the model function in a plain Estimator."""
    config, inputs, schedule, workers = job.config, job.inputs, job.schedule, job.workers
    amp, num_parts = use_amp(config), count_parts(job)
    model_fn = model_fn_builder(
        bert_config=inputs.bert_config,
        num_labels=len(inputs.labels),
        # The others get the weights from the chief.
        init_checkpoint=job.initial_weights.checkpoint if workers.is_chief else None,
        learning_rate=schedule.learning_rate if schedule else 0.0,
        num_train_steps=schedule.num_train_steps if schedule else 0,
        num_warmup_steps=schedule.num_warmup_steps if schedule else 0,
        extra_metrics=inputs.processor.task.metrics,
        seed=config.training.seed,
        problem_type=inputs.problem_type,
        class_options=ClassOptions(
            inputs.class_weights, config.training.label_smoothing, inputs.thresholds
        ),
        share=Share(workers.size, workers.index, workers.add_up, num_parts),
        gradient_checkpointing=config.training.gradient_checkpointing,
        with_classifier=job.initial_weights.with_classifier,
        optimizer=config.training.optimizer,
        weight_decay_rate=config.training.weight_decay_rate,
        clip_norm=config.training.clip_norm,
        num_accumulation_steps=config.training.num_accumulation_steps,
        layerwise_lr_decay=config.training.layerwise_lr_decay,
        num_hidden_layers=inputs.bert_config.num_hidden_layers,
        amp=amp,
        average_gradients=workers.average_gradients,
    )
    run_config = make_run_config(
        model_dir=job.model_dir,
        save_checkpoints_steps=schedule.save_checkpoints_steps if schedule else None,
        keep_checkpoint_max=config.output.keep_checkpoint_max,
        seed=config.training.seed,
        use_xla=config.devices.use_xla,
        amp=amp,
        workers=workers,
        num_parts=num_parts,
    )
    return tf.estimator.Estimator(model_fn, config=run_config)


def count_parts(job: Job) -> int:
    """Says in how many parts a batch is computed: whole for a GPU, or where XLA compiles it."""
    if has_gpu() or job.config.devices.use_xla:
        return 1
    return threads.count_parts(job.inputs.bert_config.hidden_size, job.workers.num_cores())


def use_amp(config: Config) -> bool:
    """Tells whether to compute in mixed precision, for which TensorFlow 1.15 needs a GPU."""
    return config.devices.amp and has_gpu()


def make_run_config(
    model_dir: str,
    save_checkpoints_steps: int | None,
    keep_checkpoint_max: int,
    seed: int,
    use_xla: bool,
    amp: bool = False,
    workers: Workers | None = None,
    num_parts: int = 1,
) -> tf.estimator.RunConfig:
    """Builds the RunConfig of the Estimator; all workers but the chief write nothing."""
    workers = workers or Workers()
    session_config = tf.ConfigProto()
    workers.configure(session_config)
    rewrite_options = session_config.graph_options.rewrite_options
    if not has_gpu():
        session_config.intra_op_parallelism_threads = threads.count_threads(
            num_parts, workers.num_cores()
        )
        rewrite_options.optimizers.extend(_CPU_OPTIMIZERS)
        rewrite_options.meta_optimizer_iterations = type(rewrite_options).ONE
    if use_xla:
        session_config.graph_options.optimizer_options.global_jit_level = tf.OptimizerOptions.ON_1
    if amp:
        # In all three modes: weights that were trained in mixed precision are evaluated in it too.
        rewrite_options.auto_mixed_precision = type(rewrite_options).ON
    if not workers.is_chief:
        # Where nothing is and nothing can be, so that there is no checkpoint to begin with.
        model_dir = os.path.join(os.devnull, "worker_%d" % workers.index)
        save_checkpoints_steps = None
    return tf.estimator.RunConfig(
        model_dir=os.path.abspath(model_dir),
        save_summary_steps=100 if workers.is_chief else None,
        save_checkpoints_secs=None,
        tf_random_seed=seed,
        session_config=session_config,
        save_checkpoints_steps=save_checkpoints_steps,
        keep_checkpoint_max=keep_checkpoint_max,
        # ProgressHook logs the loss; Estimator's own lines would say it twice.
        log_step_count_steps=None,
    )


# Training


def train(
    job: Job, schedule: Schedule, estimator: tf.estimator.Estimator, records: Mapping[str, str]
) -> None:
    """Trains, evaluates every checkpoint, keeps the best, stops when progress has ended."""
    config, workers, watched = job.config, job.workers, job.watched
    output_dir = config.output.output_dir
    started = time.monotonic()
    # The files that it is made of need not be where the other workers are.
    identity = workers.from_chief(lambda: make_identity(job, schedule))
    resumed_from = workers.from_chief(
        lambda: checkpoints.find_resumable(output_dir, config.output.keep_checkpoint_max)
    )
    start_step = workers.from_chief(lambda: checkpoints.step_of(resumed_from))
    history = workers.together(lambda: EvalHistory(eval_history_path(output_dir), watched))
    if workers.is_chief:
        history.forget_from(start_step + 1)

    progress = ProgressHook(
        config.output.log_every_n_iter,
        schedule.num_train_steps,
        schedule.steps_per_epoch,
        schedule.examples_per_step,
        config.training.num_accumulation_steps,
        show_bar=workers.is_chief and logs.is_terminal(),
    )
    early_stopping = make_early_stopping_hook(config, schedule, watched, estimator, workers)
    eval_input_fn = make_input_fn(job, records, "dev", config.evaluation.eval_batch_size)
    exporters: list[tf.estimator.Exporter] = []
    if workers.is_chief:  # The others need not have the files that an export is made of.
        writer = make_bundle_writer(job)

        def in_output_dir(path: str) -> str:
            return os.path.join(output_dir, os.path.relpath(path, job.model_dir))

        def write(checkpoint_path: str, export_path: str, metrics: Mapping[str, Any]) -> str:
            # Estimator knows the folder by another name, which the log should not have.
            return writer.export(
                in_output_dir(checkpoint_path), in_output_dir(export_path), metrics
            )

        exporters = [
            EvaluationRecorder(
                history, schedule.max_steps_without_improvement, schedule.num_train_steps
            ),
            BestExporter(history, write, config.export.exports_to_keep),
        ]

    def write_record(status: str, reason: str | None = None) -> None:
        if not workers.is_chief:
            return
        best = history.best()
        result = {
            "status": status,
            "reason": reason,
            "last_step": max(progress.step, start_step),
            "num_train_steps": schedule.num_train_steps,
            "best_step": best.step if best else None,
            "best_" + watched.metric: history.value(best) if best else None,
            "seconds": round(time.monotonic() - started, 1),
            "examples_per_second": round(progress.examples_per_second, 1),
            "peak_memory_mb": round(memory.peak_megabytes()),
            "workers": workers.size,
        }
        if status in ("finished", "stopped early"):
            result["warning"] = judge(job, schedule, history)
        runs.write_record(output_dir, identity, config.values(), result)

    def write_end(reason: str | None) -> None:
        # Where the last step is done there was nothing left to stop.
        if reason and max(progress.step, start_step) < schedule.num_train_steps:
            write_record("stopped early", reason)
        else:
            write_record("finished")

    reason = None
    if resumed_from:
        _LOG.info("Resuming from %s", resumed_from)
        if schedule.is_due(start_step):
            loop.catch_up(
                estimator,
                eval_input_fn,
                exporters,
                history,
                resumed_from,
                workers,
                job.interruption,
            )
            reason = early_stopping.should_stop(start_step)
    if reason or start_step >= schedule.num_train_steps:
        _LOG.info("Nothing left to train: the run in %s has ended", output_dir)
        if workers.is_chief and not runs.has_ended(output_dir):
            write_end(reason)
        return

    _LOG.info("***** Running training *****")
    _LOG.info("  Num examples = %d", len(job.inputs.examples["train"]))
    _LOG.info("  Examples per step = %d", schedule.examples_per_step)
    _LOG.info("  Num steps = %d, from step %d", schedule.num_train_steps, start_step)
    if workers.size > 1:
        _LOG.info("  Workers = %d", workers.size)
    session_config, cores = estimator.config.session_config, workers.num_cores()
    _LOG.info(
        "  Threads = %d for an operation, %d operations at a time, a batch in parts: %d",
        session_config.intra_op_parallelism_threads or cores,
        session_config.inter_op_parallelism_threads or cores,
        count_parts(job),
    )
    write_record("training")
    try:
        loop.train_and_evaluate(
            estimator,
            schedule,
            make_input_fn(
                job,
                records,
                "train",
                config.training.train_batch_size,
                start_step * config.training.num_accumulation_steps,
            ),
            eval_input_fn,
            exporters,
            early_stopping,
            [progress, CompilationHook()] if config.devices.use_xla else [progress],
            workers,
            job.interruption,
        )
    except Interrupted as signal:
        write_record("interrupted", str(signal))
        raise
    except tf.train.NanLossDuringTrainingError:
        write_record("failed", "the loss is NaN")
        raise SharedFailure(
            "the loss of step %d is NaN; lower --learning_rate=%s or raise "
            "--warmup_proportion, then begin anew with --overwrite_output_dir"
            % (progress.step_of_batch, config.training.learning_rate)
        ) from None
    finally:
        progress.close_bar()
    if progress.step < schedule.num_train_steps and not early_stopping.reason:
        write_record("failed", "training ended before its last step")
        raise RuntimeError(
            "training ended at step %d of %d, and nothing says why"
            % (progress.step, schedule.num_train_steps)
        )
    write_end(early_stopping.reason)


def judge(job: Job, schedule: Schedule, history: EvalHistory) -> str | None:
    """Return what is wrong with the best model of a run, and what to try; None if nothing is."""
    inputs, metric = job.inputs, job.watched.metric
    best = history.best()
    if best is None:
        return "no evaluation has a finite %s; lower --learning_rate" % metric
    labels = (example.label for example in inputs.examples["dev"])
    constant = baseline.find(labels, inputs.problem_type, inputs.labels)
    not_above = constant.judge(metric, best.metrics)
    if not_above is None:
        return None
    name, score = not_above
    answer = constant.answer
    if isinstance(answer, tuple):
        answer = " and ".join(answer) or "no label"
    return (
        "the best model is no better than the same answer to everything (%s): %s is %.4f, and %.4f "
        "for that; try %s"
        % (answer, name, best.metrics[name], score, what_to_try(job.config, schedule))
    )


def what_to_try(config: Config, schedule: Schedule) -> str:
    """Return what most often helps where a model has learned nothing, the likeliest first."""
    cures = []
    if not config.model.init_checkpoint and not config.model.warm_start_from:
        cures.append("an --init_checkpoint")
    if config.training.optimizer == "adamw":
        cures.append("--optimizer=adamw_corrected")
    if schedule.num_train_steps < checks.FEW_STEPS:
        cures.append("more --num_train_epochs")
    cures += ["another --seed", "a lower --learning_rate", "--dry_run to look at the data"]
    return ", ".join(cures)


def make_early_stopping_hook(
    config: Config,
    schedule: Schedule,
    watched: Watched,
    estimator: tf.estimator.Estimator,
    workers: Workers,
) -> EarlyStoppingHook:
    """Builds the hook for the direction of the watched metric; it may be told never to stop.

    The chief decides, because it has the history, and all workers stop.
    """
    make_hook = stop_if_no_increase_hook if watched.higher_is_better else stop_if_no_decrease_hook
    hook = make_hook(
        estimator,
        watched.metric,
        schedule.max_steps_without_improvement or sys.maxsize,
        min_steps=config.training.early_stopping_min_steps,
        run_every_secs=None,
        run_every_steps=schedule.save_checkpoints_steps,
    )
    decide = hook.should_stop
    hook.should_stop = lambda step: workers.from_chief(lambda: decide(step))
    return hook


# Evaluation, prediction, export


def evaluate(
    job: Job,
    estimator: tf.estimator.Estimator,
    checkpoint_path: str,
    records: Mapping[str, str],
) -> dict[str, float]:
    """Evaluates a checkpoint on the dev set; writes eval_results.txt and eval_results.json."""
    config = job.config
    _LOG.info("***** Eval results of %s *****", checkpoint_path)
    result = loop.evaluate(
        estimator,
        make_input_fn(job, records, "dev", config.evaluation.eval_batch_size),
        checkpoint_path,
        job.workers,
        job.interruption,
        # A folder of events of its own: those of `eval/` are the run's course.
        name="best",
    )
    if not job.workers.is_chief:
        return {}
    numbers = {name: value.item() for name, value in sorted(result.items())}
    for name, value in numbers.items():
        _LOG.info("  %s = %s", name, value)
    lines = "".join("%s = %s\n" % item for item in numbers.items())
    files.write_text(os.path.join(config.output.output_dir, "eval_results.txt"), lines)
    files.write_json(os.path.join(config.output.output_dir, "eval_results.json"), numbers)
    return numbers


def predict(
    job: Job,
    estimator: tf.estimator.Estimator,
    checkpoint_path: str,
    records: Mapping[str, str],
) -> None:
    """Writes test_results.tsv, in the form of `answers`, and the file that GLUE wants."""
    task, labels = job.inputs.processor.task, job.inputs.labels
    examples = job.inputs.examples["test"]
    output_dir = job.config.output.output_dir
    path = os.path.join(output_dir, "test_results.tsv")
    settings = make_settings(job, examples.is_pair)
    if job.config.export.calibrate:
        temperature = calibrate(job, estimator, checkpoint_path, records)
        settings = settings._replace(temperature=temperature)
    _LOG.info("***** Predictions of %s *****", checkpoint_path)
    problem = problem_types.get(task.problem_type)
    outputs = predict_in_order(job, estimator, checkpoint_path, records, "test")
    form = answers.Form(settings, examples.id_name or "index", examples.is_labelled)
    ids = examples.ids() if examples.id_name else map(str, itertools.count())
    with contextlib.ExitStack() as until_done:
        write = write_rows(path, until_done)
        submit = None
        if task.submission:
            submit = write_rows(os.path.join(output_dir, task.submission), until_done)
            submit("index", "prediction")
        write(*form.header)
        for index, (example, of_model, name) in enumerate(zip(examples, outputs, ids)):
            (prediction,) = answers.decide(settings, of_model[problem.output][np.newaxis])
            texts = [example.text_a, example.text_b or ""]
            write(*form.cells(prediction, texts, name, example.label))
            if submit:
                named = problem.name_prediction(
                    of_model["predictions"], labels, task.label_separator
                )
                submit(str(index), named)
    _LOG.info("  %d predictions in %s", len(examples), path)
    if examples.unusable_label:
        _LOG.info("  no metrics: %s", examples.unusable_label)
    elif examples.is_labelled:
        score_predictions(job, estimator, checkpoint_path, records)


def score_predictions(
    job: Job, estimator: tf.estimator.Estimator, checkpoint_path: str, records: Mapping[str, str]
) -> None:
    """Write what the metrics of a labelled test file are to test_metrics.json."""
    input_fn = make_input_fn(job, records, "test", job.config.evaluation.predict_batch_size)
    # By the chief alone, as the predictions are.
    result = loop.evaluate(
        estimator, input_fn, checkpoint_path, Workers(), job.interruption, name="test"
    )
    metrics = {
        re.sub("^eval_", "test_", name): value.item()
        for name, value in sorted(result.items())
        if name.startswith("eval_")
    }
    for name, value in metrics.items():
        _LOG.info("  %s = %s", name, value)
    files.write_json(os.path.join(job.config.output.output_dir, "test_metrics.json"), metrics)


def predict_in_order(
    job: Job,
    estimator: tf.estimator.Estimator,
    checkpoint_path: str,
    records: Mapping[str, str],
    split: str,
) -> Iterator[dict[str, Any]]:
    """Gives what the model says about each example of a split, in the order of its file."""
    batch_size = job.config.evaluation.predict_batch_size
    input_fn = make_input_fn(job, records, split, batch_size)
    predictions = loop.predict(estimator, input_fn, checkpoint_path, count_parts(job))
    if not job.config.data.group_by_length:
        return predictions
    num_tokens = RecordFile(records[split]).num_tokens
    return restore_order(predictions, evaluation_order(num_tokens, batch_size))


def write_rows(path: str, until_done: contextlib.ExitStack) -> Callable[..., None]:
    """Opens a TSV file that has its name when all is done; returns what writes a row to it."""
    temporary = until_done.enter_context(files.atomic(path))
    stream = until_done.enter_context(open(temporary, "w", encoding="utf-8"))

    def write(*cells: str) -> None:
        stream.write("\t".join(cells) + "\n")

    return write


def export(job: Job, estimator: tf.estimator.Estimator, records: Mapping[str, str]) -> None:
    """Exports a checkpoint, as a SavedModel or as one file with a frozen graph, or both."""
    config, output_dir = job.config, job.config.output.output_dir
    checkpoint_path = checkpoints.find(output_dir, config.checkpoint_to_export())
    writer = make_bundle_writer(job)
    if config.export.calibrate:
        temperature = calibrate(job, estimator, checkpoint_path, records)
        writer = writer._replace(settings=writer.settings._replace(temperature=temperature))
    step = checkpoints.step_of(checkpoint_path)
    evaluation = EvalHistory(eval_history_path(output_dir), job.watched).at(step)
    metrics = evaluation.to_json() if evaluation else {"step": step, "metrics": {}}
    metrics["best_metric"] = job.watched.metric
    frozen_path = os.path.join(output_dir, "frozen_model.pb") if config.actions.do_frozen else None
    if config.actions.do_export:
        export_path = config.export.export_dir or os.path.join(output_dir, "export", "saved_model")
        writer.export(checkpoint_path, export_path, metrics, frozen_path)
    elif frozen_path:
        writer.freeze(checkpoint_path, frozen_path, metrics)


def make_settings(job: Job, is_pair: bool) -> bundle.Settings:
    """Collects how this run's texts become inputs of the model, and its outputs answers."""
    config, inputs = job.config, job.inputs
    return bundle.Settings(
        labels=inputs.labels,
        problem_type=inputs.problem_type,
        max_seq_length=config.data.max_seq_length,
        do_lower_case=config.model.do_lower_case,
        truncation=config.data.truncation,
        window_stride=config.data.window_stride,
        texts_per_example=2 if is_pair else 1,
        thresholds=inputs.thresholds,
        min_confidence=config.export.min_confidence,
        label_separator=inputs.processor.task.label_separator,
    )


def make_bundle_writer(job: Job) -> BundleWriter:
    """Prepares what is exported with every checkpoint of this run."""
    config, inputs = job.config, job.inputs
    sample = read_sample(os.path.join(config.output.output_dir, _DEV_SAMPLE))
    return BundleWriter(
        make_estimator(job),
        make_settings(job, is_pair=sample[0].text_b is not None),
        inputs.tokenizer,
        config.model.vocab_file,
        config.model.bert_config_file,
        sample,
    )


def calibrate(
    job: Job,
    estimator: tf.estimator.Estimator,
    checkpoint_path: str,
    records: Mapping[str, str],
) -> float:
    """Fits a temperature on the dev set, and logs what it is worth; returns it."""
    inputs = job.inputs
    converter = converter_of(job, "dev")
    predictions = predict_in_order(job, estimator, checkpoint_path, records, "dev")
    found = calibration.calibrate(
        np.array([prediction["probabilities"] for prediction in predictions]),
        np.array([converter.label_id(example.label) for example in inputs.examples["dev"]]),
        inputs.problem_type,
    )
    _LOG.info(
        "Calibrated on %d dev examples: temperature %.3f, expected calibration error %.4f -> %.4f",
        len(inputs.examples["dev"]),
        *found,
    )
    return found.temperature


# Telling


def log_summary(job: Job) -> None:
    """Logs how the run ended, on one screen."""
    output_dir, watched = job.config.output.output_dir, job.watched
    record = runs.read_record(output_dir)
    if record is None:
        return
    result = record["result"]
    exports = bundle.list_exports(os.path.join(output_dir, "export", "best_exporter"))
    folder = shlex.quote(output_dir)
    again = "python run_classifier_gpu.py --do_%s --output_dir=" + folder
    texts = " ".join(["TEXT", "TEXT_B"][: 2 if job.inputs.examples["dev"].is_pair else 1])
    answer = "python -m bert_classifier.predict %s %s"
    rows = [
        ("ended", result["reason"] or "all steps are done"),
        ("last step", "%(last_step)d of %(num_train_steps)d" % result),
        ("best step", result["best_step"]),
        ("best " + watched.metric, result["best_" + watched.metric]),
        ("time", "%(seconds)s seconds, %(examples_per_second)s examples/s in training" % result),
        ("peak memory", "%s MB, without that of a GPU" % result.get("peak_memory_mb", "unknown")),
        ("best checkpoint", checkpoints.kept_best(output_dir)),
        ("best export", exports[-1] if exports else None),
        ("evaluations", eval_history_path(output_dir)),
        ("evaluate", again % "eval"),
        ("predict", again % "predict" + " --test_file=FILE"),
        ("export", again % "export"),
        ("answer", answer % (folder, texts) if exports else None),
        ("curves", "tensorboard --logdir=" + folder),
    ]
    _LOG.info("***** Training %s *****", result["status"])
    for name, value in rows:
        _LOG.info("  %-16s %s", name, "-" if value is None else value)
    if result.get("warning"):
        _LOG.warning("WARNING: %s", result["warning"])


# The command line


def parse_flags(argv: Sequence[str]) -> Sequence[str]:
    """Parse the command line."""
    return flags.parse(argv, __doc__)


def main(argv: Sequence[str]) -> int:
    """Runs the program; what the user can cure ends it with one line instead of a traceback."""
    del argv
    memory.keep_freed_memory()
    memory.skip_last_collection()
    threads.give_each_session_its_own()
    config = flags.read()
    logs.log_to_stderr(config.output.debug)
    interruption = Interruption()
    interruption.watch()
    workers = Workers()
    try:
        # TensorFlow makes the paths of its checkpoints absolute.
        files.user_path(os.getcwd())
        workers = start_workers(config.devices.horovod, config.devices.fp16_allreduce)
        if not workers.is_chief:
            logs.log_warnings_only()
        if config.training.num_trials > 1:
            run_trials(config, interruption, workers)
        else:
            run_classifier(config, interruption, workers)
    except SharedFailure as error:
        if workers.is_chief:
            fail(str(error), 2)
        # The launcher ends all workers when the first one ends: the chief has to speak before.
        with contextlib.suppress(tf.errors.OpError):
            workers.wait_for_all()
        if config.output.debug:
            raise
        return 2
    except SelfTestFailed as error:
        return fail(str(error), 1)
    except Interrupted as signal:
        interruption.acknowledge()
        if not workers.is_chief:
            return signal.exit_status
        launcher = ["horovodrun", "-np", str(workers.size)] if workers.size > 1 else []
        words = [*launcher, "python", *sys.argv]
        if config.output.overwrite_output_dir:
            words.append("--nooverwrite_output_dir")
        command = " ".join(shlex.quote(word) for word in words)
        return fail("%s: go on with: %s" % (signal, command), signal.exit_status)
    except BrokenPipeError:
        streams.leave_stdout()
    except (BadInput, OSError, MemoryError, tf.errors.OpError) as error:
        lost = workers.loss_of_worker(error)
        if lost:
            return fail(lost, 1)
        message = str(error) if isinstance(error, BadInput) else None
        message = message or bad_input_in(error) or trouble_of_system(error)
        if config.output.debug or message is None:
            raise
        return fail(message, 2)
    return 0


if __name__ == "__main__":
    flags.define()
    app.run(main, flags_parser=parse_flags)

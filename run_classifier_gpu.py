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
import copy
import errno
import functools
import itertools
import logging
import math
import os
import platform
import re
import shlex
import sys
import textwrap
import time
import traceback
from typing import Any, Callable, Collection, Iterator, Mapping, NamedTuple, Sequence

import streams

if __name__ == "__main__":
    streams.prepare()

# Read by TensorFlow's C++ side when it is imported; it would log every CPU feature that it finds,
# and, as an error, that there is no driver of a GPU.
os.environ.setdefault(
    "TF_CPP_MIN_LOG_LEVEL", "2" if os.path.exists("/proc/driver/nvidia/version") else "3"
)

import numpy as np
import tensorflow.compat.v1 as tf
from absl import app, flags

import answers
import baseline
import bundle
import calibration
import checkpoints
import distributed
import files
import inspection
import later_call
import logs
import memory
import modeling
import runs
import serving
import tables
import threads
import tokenization
import training
from batches import evaluation_order, file_based_input_fn_builder, input_fn_builder, restore_order
from classifier import create_model, metric_fn, metric_names, model_fn_builder  # noqa: F401
from distributed import SharedFailure, Workers
from errors import BadInput
from features import (  # noqa: F401
    TRUNCATIONS,
    Converter,
    InputFeatures,
    convert_single_example,
    file_based_convert_examples_to_features,
    fingerprint,
    write_records_once,
)
from history import EvalHistory, Watched
from hooks import (
    CompilationHook,
    EarlyStoppingHook,
    EvaluationRecorder,
    ProgressHook,
    eval_history_path,
    stop_if_no_decrease_hook,
    stop_if_no_increase_hook,
)
from interruption import Interrupted, Interruption
from later_call import Trained
from processors import (
    PROBLEM_TYPES,
    TASKS,
    DataProcessor,
    Examples,
    InputExample,  # noqa: F401
    Task,
    file_task,
    get_processor,
    load_class_weights,
    load_labels,
    load_thresholds,
)
from records import RecordFile
from training import Schedule

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


# What there is to do about a full memory, by the function that was at work. To evaluate is part of
# training, too.
_CURES_OF_MEMORY = {
    "train": "give --gradient_checkpointing, lower --train_batch_size, for the same result raise "
    "--num_accumulation_steps by as much, or lower --max_seq_length",
    "evaluate": "lower --eval_batch_size",
    "predict": "lower --predict_batch_size",
    "export": "end other programs that take some",
}

# The largest numbers of some flags: beyond them TensorFlow fails, or does something else than what
# was asked for. Of batches of 2**40 examples it would try to make a list first.
_INT32, _INT64 = 2**31 - 1, 2**63 - 1
_LARGEST_BATCH = 10**6
_LARGEST_FLOAT = 1e30  # A float32, and so is its inverse.


# The first flag of each group -> what --help writes above it.
_FLAG_GROUPS = {
    "do_train": "What to do",
    "task_name": "Data",
    "problem_type": "Your own files, for --task_name=file",
    "bert_config_file": "Model",
    "output_dir": "The run",
    "optimizer": "Optimizer",
    "best_metric": "What is best, and when to stop",
    "eval_checkpoint": "Checkpoints and exports",
}


class _PathParser(flags.ArgumentParser):
    """Parses the flags that name a file or a folder: see `files.user_path`."""

    def parse(self, argument: str) -> str:
        return files.user_path(argument)

    def flag_type(self) -> str:
        return "string"


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines every flag of the program, and the rules between them."""
    switch, text, choice = (
        functools.partial(kind, flag_values=flag_values)
        for kind in (flags.DEFINE_bool, flags.DEFINE_string, flags.DEFINE_enum)
    )
    path = functools.partial(
        flags.DEFINE, _PathParser(), flag_values=flag_values, serializer=flags.ArgumentSerializer()
    )

    def whole(
        name: str, default: int | None, help_text: str, lower_bound: int, upper_bound: int = _INT64
    ) -> None:
        flags.DEFINE_integer(
            name, default, help_text, lower_bound, upper_bound, flag_values=flag_values
        )

    def number(
        name: str,
        default: float,
        help_text: str,
        lower_bound: float,
        upper_bound: float = _LARGEST_FLOAT,
    ) -> None:
        flags.DEFINE_float(
            name, default, help_text, lower_bound, upper_bound, flag_values=flag_values
        )
        message = "must be a finite number"
        flags.register_validator(name, math.isfinite, message, flag_values)

    # What to do.
    switch("do_train", False, "Train, evaluating every checkpoint.")
    switch("do_eval", False, "Evaluate the best checkpoint on the dev set.")
    switch("do_predict", False, "Write predictions for the test set.")
    switch("do_export", False, "Export the best checkpoint as a SavedModel.")
    switch("do_frozen", False, "Write the best checkpoint as one file, frozen_model.pb.")

    switch("dry_run", False, "Check data and plan of a training run, and do nothing else.")

    # Data.
    text("task_name", None, "Task: %s; file is for your own files." % ", ".join(TASKS))
    path("data_dir", None, "Folder of the task's files.")
    path("train_file", None, "Training file, if not the task's usual one.")
    path("dev_file", None, "Dev file, if not the task's usual one.")
    path("test_file", None, "Test file, if not the task's usual one.")
    whole("max_seq_length", 128, "Tokens that the model reads at once.", lower_bound=4)
    choice("truncation", "head", list(TRUNCATIONS), "What is kept of a text that is too long.")
    whole(
        "window_stride",
        0,
        "Evaluate and predict long texts in windows that begin so many tokens apart, by the mean "
        "of their probabilities; 0 cuts long texts.",
        lower_bound=0,
    )

    # Your own files, for --task_name=file.
    choice(
        "problem_type",
        "classification",
        list(PROBLEM_TYPES),
        "What a label is: a class, a number, or several classes or none.",
    )
    text("text_column", "text", "Column of the text: its name, or its number from 1.")
    text("text_b_column", None, "Column of the second text of a pair. Default: text_b, if any.")
    text("label_column", "label", "Column of the label.")
    text("label_separator", ",", "What stands between the labels of a cell that has several.")
    text(
        "id_column",
        None,
        "Column that names each row of the predictions. Default: id, index or guid, if any.",
    )
    choice("file_format", None, list(tables.FORMATS), "Default: as the file's name says.")
    choice("separator", None, list(tables.SEPARATORS), "Of CSV files. Default: as the rows tell.")
    switch(
        "has_header",
        None,
        "Whether the first row names the columns. Default: if it has one of these names.",
    )
    path("labels_file", None, "The labels, one per line. Default: from the training file, sorted.")
    number(
        "dev_fraction",
        0.1,
        "Part of the training examples that is evaluated and not learned if there is no dev file.",
        lower_bound=1e-9,
        upper_bound=0.9,
    )
    path(
        "thresholds",
        "0.5",
        "Probability above which one of several labels is predicted: a number, or a file of "
        "label<TAB>threshold lines.",
    )

    # Model.
    path("bert_config_file", None, "JSON file with the encoder's shape.")
    path("vocab_file", None, "Vocabulary the encoder was trained with.")
    path("init_checkpoint", None, "Prefix of the pretrained checkpoint.")
    path(
        "warm_start_from",
        None,
        "Instead of --init_checkpoint: output_dir or checkpoint of a fine-tuned model to begin "
        "from, its classifier included if the labels agree.",
    )
    switch("do_lower_case", True, "Lower-case the text: True for uncased models.")

    # The run.
    path("output_dir", None, "Folder for everything the run makes.")
    switch(
        "overwrite_output_dir",
        False,
        "Begin anew: remove the run that is in --output_dir, and nothing else from there.",
    )
    whole(
        "train_batch_size", 32, "Batch size of training.", lower_bound=1, upper_bound=_LARGEST_BATCH
    )
    whole(
        "eval_batch_size", 8, "Batch size of evaluation.", lower_bound=1, upper_bound=_LARGEST_BATCH
    )
    whole(
        "predict_batch_size",
        8,
        "Batch size of prediction.",
        lower_bound=1,
        upper_bound=_LARGEST_BATCH,
    )
    switch("group_by_length", True, "Make batches of examples of similar length.")
    number("num_train_epochs", 3.0, "Epochs of training.", lower_bound=0.0)
    whole(
        "seed",
        12345,
        "Of the data's order, dropout and new weights.",
        lower_bound=-_INT32,
        upper_bound=_INT32,
    )
    whole("num_trials", 1, "Trainings, with the seeds --seed, --seed + 1, ...", lower_bound=1)
    whole(
        "save_checkpoints_steps",
        None,
        "Steps between checkpoints, each of which is evaluated. Default: half an epoch, at "
        "most 1000.",
        lower_bound=1,
    )
    whole(
        "keep_checkpoint_max",
        2,
        "Recent checkpoints to keep, beside the best.",
        lower_bound=1,
        upper_bound=_INT32,
    )
    whole("log_every_n_iter", 10, "Steps between log lines.", lower_bound=1)
    switch(
        "horovod",
        False,
        "This is one of the workers that horovodrun has started; --train_batch_size is of each.",
    )
    switch("fp16_allreduce", False, "Send gradients between workers as float16.")
    switch("use_xla", False, "Compile the graph with XLA.")
    switch("amp", False, "Mixed precision: float16 where a GPU gains by it.")
    switch(
        "gradient_checkpointing",
        False,
        "Compute each layer again for its gradient instead of keeping it: less memory, more time.",
    )
    switch("debug", False, "Show tracebacks and TensorFlow's own log.")

    # The optimizer.
    choice(
        "optimizer",
        "adamw_corrected",
        ["adamw", "adamw_corrected", "lamb"],
        "adamw_corrected is Adam with weight decay; adamw is google's, without bias correction.",
    )
    number("learning_rate", 5e-5, "Peak learning rate.", lower_bound=0.0)
    choice(
        "learning_rate_scaling",
        "none",
        ["none", "linear", "sqrt"],
        "What the number of workers multiplies the learning rate by: 1, itself, or its root.",
    )
    number(
        "warmup_proportion",
        0.1,
        "Part of the steps in which the learning rate rises.",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    whole(
        "num_accumulation_steps",
        1,
        "Batches whose gradients make one step.",
        lower_bound=1,
        upper_bound=_LARGEST_BATCH,
    )
    number("weight_decay_rate", 0.01, "Weight decay.", lower_bound=0.0)
    number("clip_norm", 1.0, "Largest norm of the gradients.", lower_bound=1e-9)
    number(
        "layerwise_lr_decay",
        1.0,
        "Factor of the learning rate from each layer to the one below, as in ELECTRA.",
        lower_bound=1e-9,
        upper_bound=1.0,
    )
    path(
        "class_weights",
        None,
        "Factors of the loss of each class: balanced, or a file of label<TAB>weight lines.",
    )
    number(
        "label_smoothing",
        0.0,
        "Part of the target that is spread over all classes.",
        lower_bound=0.0,
        upper_bound=0.99,
    )

    # What is best, and when progress has ended.
    text(
        "best_metric",
        None,
        "Metric that says what is best. Default: the one that the task is ranked by, eval_loss for "
        "your own files.",
    )
    switch(
        "best_metric_higher_is_better",
        None,
        "Direction of --best_metric. Default: a loss should fall, everything else rise.",
    )
    whole(
        "max_steps_without_improvement",
        None,
        "Stop early after so many steps without a better evaluation; 0 never stops early. "
        "Default: 3 x save_checkpoints_steps.",
        lower_bound=0,
    )
    whole("early_stopping_min_steps", 0, "Never stop early before this step.", lower_bound=0)
    whole("exports_to_keep", 2, "Best exports to keep.", lower_bound=1)
    path(
        "eval_checkpoint",
        "best",
        "Checkpoint to evaluate, predict with and export: best, last, or a path.",
    )
    path("export_checkpoint", None, "Checkpoint to export, if not --eval_checkpoint.")
    path(
        "export_dir",
        None,
        "Folder of --do_export. Default: export/saved_model in --output_dir.",
    )
    switch(
        "calibrate",
        False,
        "Export with the temperature that makes the probabilities fit the dev set best.",
    )
    number(
        "min_confidence",
        0.0,
        "Where the best label has a lower probability the exported model gives no answer.",
        lower_bound=0.0,
        upper_bound=1.0,
    )

    flags.mark_flag_as_required("output_dir", flag_values)
    flags.register_multi_flags_validator(
        ["do_train", "do_eval", "do_predict", "do_export", "do_frozen", "dry_run"],
        lambda wanted: any(wanted.values()),
        "nothing to do: give --do_train, --do_eval, --do_predict, --do_export, --do_frozen or "
        "--dry_run",
        flag_values,
    )
    flags.register_multi_flags_validator(
        ["num_trials", "do_train", "do_eval"],
        lambda values: values["num_trials"] == 1 or (values["do_train"] and values["do_eval"]),
        "several trials are compared by their evaluation: give --do_train and --do_eval",
        flag_values,
    )
    flags.register_multi_flags_validator(
        ["num_trials", "eval_checkpoint", "export_checkpoint"],
        lambda values: (
            values["num_trials"] == 1
            or {values["eval_checkpoint"], values["export_checkpoint"]} <= {"best", "last", None}
        ),
        "each trial has checkpoints of its own: give best or last",
        flag_values,
    )
    flags.register_multi_flags_validator(
        ["num_trials", "seed"],
        lambda values: values["seed"] + values["num_trials"] - 1 <= _INT32,
        "the last trial's seed, --seed + --num_trials - 1, is to be %d at most" % _INT32,
        flag_values,
    )
    flags.register_multi_flags_validator(
        ["calibrate", "do_export", "do_frozen"],
        lambda values: values["do_export"] or values["do_frozen"] or not values["calibrate"],
        "what is calibrated is an export: give --do_export or --do_frozen",
        flag_values,
    )
    flags.register_multi_flags_validator(
        ["calibrate", "horovod"],
        lambda values: not (values["calibrate"] and values["horovod"]),
        "a model is calibrated by one worker: export it in a call of its own",
        flag_values,
    )
    flags.register_multi_flags_validator(
        ["init_checkpoint", "warm_start_from"],
        lambda values: not (values["init_checkpoint"] and values["warm_start_from"]),
        "a model begins from one checkpoint: give one of the two",
        flag_values,
    )


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
        """One of `processors.PROBLEM_TYPES`."""
        return self.processor.task.problem_type


class InitialWeights(NamedTuple):
    """What training begins from."""

    checkpoint: str | None  # None: random values
    with_classifier: bool = True  # if the checkpoint has one of the same shape


class Job(NamedTuple):
    """One call of the program: what it is to do, with what, and who does it."""

    flags_obj: flags.FlagValues
    inputs: Inputs
    watched: Watched
    schedule: Schedule | None  # None when nothing is to be trained
    initial_weights: InitialWeights
    workers: Workers
    interruption: Interruption
    model_dir: str  # output_dir, in a form that TensorFlow takes for no pattern


def run_classifier(
    flags_obj: flags.FlagValues,
    interruption: Interruption | None = None,
    workers: Workers | None = None,
) -> dict[str, float]:
    """Does what the flags ask for, in this order: train, evaluate, predict, export.

    Returns:
        The metrics of the evaluation; empty if there was none, and for all workers but the chief.
    """
    if flags_obj.dry_run:
        flags_obj = copy.deepcopy(flags_obj)
        flags_obj.do_train = True
    if flags_obj.use_xla:
        threads.compile_on_cpus()
    job = make_job(flags_obj, workers or Workers(), interruption or Interruption())
    summary = job.workers.from_chief(lambda: inspect(job))
    metrics: dict[str, float] = {}
    if flags_obj.dry_run:
        return metrics
    with contextlib.ExitStack() as folder:
        job.workers.from_chief(lambda: open_folder(job, folder))
        if job.workers.is_chief:
            job = with_plain_paths(job, folder)
        for line in summary:
            _LOG.info("  %s", line)
        if flags_obj.amp and not has_gpu():
            _LOG.info("--amp has no effect: there is no GPU that TensorFlow can use")
        records = convert(job)
        estimator = make_estimator(job)
        if job.schedule:
            train(job, job.schedule, estimator, records)
        checkpoint_path = job.workers.from_chief(
            lambda: checkpoints.find(flags_obj.output_dir, flags_obj.eval_checkpoint)
        )
        if flags_obj.do_eval:
            metrics = evaluate(job, estimator, checkpoint_path, records)
        if job.workers.is_chief:
            if flags_obj.do_predict:
                predict(job, estimator, checkpoint_path, records)
            if flags_obj.do_export or flags_obj.do_frozen:
                export(job, estimator, records)
            if job.schedule:
                log_summary(job)
        job.workers.wait_for_all()
    return metrics


def run_trials(flags_obj: flags.FlagValues, interruption: Interruption, workers: Workers) -> None:
    """Trains with several seeds; writes mean and standard deviation of metrics to trials.json."""
    trials = []
    for number in range(1, flags_obj.num_trials + 1):
        trial = copy.deepcopy(flags_obj)
        trial.seed = flags_obj.seed + number - 1
        trial.output_dir = os.path.join(flags_obj.output_dir, "trial_%d" % number)
        trials.append(trial)
    # Before the first of them has removed anything, or taken its time.
    for trial in trials:
        workers.from_chief(functools.partial(check_folders, trial))
    results = []
    for number, trial in enumerate(trials, start=1):
        _LOG.info("***** Trial %d of %d: seed %d *****", number, len(trials), trial.seed)
        metrics = run_classifier(trial, interruption, workers)
        if flags_obj.dry_run:  # All of them have the same data and the same plan.
            return
        results.append({**metrics, "seed": trial.seed, "output_dir": trial.output_dir})
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
    task = get_processor(flags_obj.task_name, None, make_file_task(flags_obj)).task
    best = find_best_trial(results, watched_metric(flags_obj, task))
    files.write_json(
        os.path.join(flags_obj.output_dir, "trials.json"),
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


def make_job(flags_obj: flags.FlagValues, workers: Workers, interruption: Interruption) -> Job:
    """Reads and plans everything; raises BadInput for what is wrong with it."""
    trained = workers.from_chief(lambda: find_trained(flags_obj))
    flags_obj = workers.together(lambda: as_in_training(flags_obj, trained))
    # The others need not have output_dir.
    splits = workers.from_chief(lambda: needed_splits(flags_obj))
    inputs = workers.together(lambda: load_inputs(flags_obj, trained, splits))
    data_of_chief = workers.from_chief(lambda: inputs.fingerprints)
    workers.together(lambda: check_same_data(inputs.fingerprints, data_of_chief, workers))
    watched = workers.together(lambda: make_watched(flags_obj, inputs))
    schedule = None
    initial_weights = InitialWeights(flags_obj.init_checkpoint)
    if flags_obj.do_train:
        num_examples = len(inputs.examples["train"])
        schedule = plan = workers.together(
            lambda: make_schedule(flags_obj, num_examples, workers.size)
        )
        workers.from_chief(lambda: check_steps(flags_obj, plan))
        if flags_obj.warm_start_from:
            initial_weights = workers.from_chief(
                lambda: warm_start(flags_obj.warm_start_from, inputs.labels)
            )
    return Job(
        flags_obj,
        inputs,
        watched,
        schedule,
        initial_weights,
        workers,
        interruption,
        flags_obj.output_dir,
    )


def find_trained(flags_obj: flags.FlagValues) -> Trained:
    """Check checkpoints and folders; return what is known of a model that was trained."""
    if flags_obj.init_checkpoint:
        checkpoints.validate_init_checkpoint(flags_obj.init_checkpoint)
    check_folders(flags_obj)
    output_dir = flags_obj.output_dir
    if flags_obj.do_train:
        # They are looked at after the training, and a misspelled one is better told before.
        for path in other_checkpoints(flags_obj):
            checkpoints.find(output_dir, path)
        return Trained(None, None, None)
    wanted = sorted({flags_obj.eval_checkpoint, checkpoint_to_export(flags_obj)})
    paths = [checkpoints.find(output_dir, which) for which in wanted]
    folders = [runs.find_folder(path) or output_dir for path in paths]
    if len({os.path.realpath(folder) for folder in folders}) > 1:
        raise BadInput(
            "--export_checkpoint=%s: is of another run than --eval_checkpoint=%s; export it in a "
            "call of its own" % (flags_obj.export_checkpoint, flags_obj.eval_checkpoint)
        )
    labels = read_labels(folders[0])
    for path in paths:
        check_num_labels(labels, folders[0], path)
    sample_path = os.path.join(folders[0], _DEV_SAMPLE)
    is_pair = None
    if os.path.exists(sample_path):
        is_pair = serving.read_sample(sample_path)[0].text_b is not None
    return Trained(runs.read_record(folders[0]), labels, is_pair)


def other_checkpoints(flags_obj: flags.FlagValues) -> list[str]:
    """Lists the checkpoints to evaluate and export that are named and not of this run."""
    paths = {flags_obj.eval_checkpoint, checkpoint_to_export(flags_obj)} - {"best", "last"}
    return sorted(path for path in paths if own_step(flags_obj.output_dir, path) is None)


def own_step(output_dir: str, checkpoint_path: str) -> int | None:
    """Gives the step of a checkpoint that a run saves, None if the path is none of that run."""
    folder, name = os.path.split(checkpoint_path)
    saved = re.fullmatch(r"model\.ckpt-(\d+)", name)
    if saved and os.path.realpath(folder) == os.path.realpath(output_dir):
        return int(saved.group(1))
    return None


def check_steps(flags_obj: flags.FlagValues, schedule: Schedule) -> None:
    """Raises BadInput if a checkpoint is to be evaluated, or exported, that is never saved."""
    for path in (flags_obj.eval_checkpoint, checkpoint_to_export(flags_obj)):
        step = own_step(flags_obj.output_dir, path)
        if step and not schedule.is_due(step) and not checkpoints.files_of(path):
            raise BadInput(
                "%s: this training saves no checkpoint of step %d; give best or last as "
                "--eval_checkpoint or --export_checkpoint" % (path, step)
            )


def check_folders(flags_obj: flags.FlagValues) -> None:
    """Checks that nothing that is read is removed before, and that exports can be written.

    Raises:
        BadInput: one of them is not so.
    """
    overwrite = flags_obj.overwrite_output_dir and flags_obj.do_train
    runs.check_is_kept(flags_obj.output_dir, overwrite, files_to_read(flags_obj))
    if flags_obj.do_export and flags_obj.export_dir:
        files.check_can_be_written("export_dir", flags_obj.export_dir)


def files_to_read(flags_obj: flags.FlagValues) -> dict[str, list[str]]:
    """Lists the files and folders that flags name, and a call reads, by flag."""
    named: dict[str, list[str]] = {
        name: [flags_obj[name].value]
        for name in (
            "data_dir",
            "labels_file",
            "class_weights",
            "thresholds",
            "bert_config_file",
            "vocab_file",
        )
        if flags_obj[name].value
    }
    for name in ("train_file", "dev_file", "test_file"):
        if flags_obj[name].value:
            # They are looked for in data_dir first.
            in_data_dir = os.path.join(flags_obj.data_dir or "", flags_obj[name].value)
            named[name] = [in_data_dir, flags_obj[name].value]
    if flags_obj.init_checkpoint:
        named["init_checkpoint"] = checkpoints.files_of(flags_obj.init_checkpoint)
    if flags_obj.do_train:
        if flags_obj.warm_start_from:
            path = find_fine_tuned(flags_obj.warm_start_from)
            named["warm_start_from"] = checkpoints.files_of(path)
        for path in other_checkpoints(flags_obj):
            named.setdefault("eval_checkpoint", []).extend(checkpoints.files_of(path))
    return named


def checkpoint_to_export(flags_obj: flags.FlagValues) -> str:
    """Gives `best`, `last` or a path."""
    return flags_obj.export_checkpoint or flags_obj.eval_checkpoint


def as_in_training(flags_obj: flags.FlagValues, trained: Trained) -> flags.FlagValues:
    """Return flags which, where a call does not say otherwise, are those of the training run."""
    if trained.record:
        flags_obj = copy.deepcopy(flags_obj)
        given = {
            name: value for name, value in own_flags(flags_obj).items() if is_given(flags_obj, name)
        }
        for name, value in later_call.take_up(trained.record, given).items():
            # Another version may have had other flags.
            if name in flags_obj:
                flags_obj[name].value = value
        later_call.check(trained.record, own_flags(flags_obj), given)
    for name in ("task_name", "bert_config_file", "vocab_file"):
        if not flags_obj[name].value:
            raise BadInput(
                "--%s is missing: a training needs it, and so does a call without a run.json in "
                "--output_dir=%s" % (name, flags_obj.output_dir)
            )
    return flags_obj


def is_given(flags_obj: flags.FlagValues, name: str) -> bool:
    """Tell whether a flag is on the command line."""
    return bool(flags_obj[name].present)


def load_inputs(flags_obj: flags.FlagValues, trained: Trained, splits: Collection[str]) -> Inputs:
    """Reads configuration, vocabulary and the splits of the data that are needed."""
    # They are read again for the run's identity and for each export.
    for path in (flags_obj.bert_config_file, flags_obj.vocab_file):
        files.check_rereadable(path)
    bert_config = modeling.BertConfig.from_json_file(flags_obj.bert_config_file)
    tokenizer = load_tokenizer(flags_obj, bert_config)
    if flags_obj.max_seq_length > bert_config.max_position_embeddings:
        raise BadInput(
            "--max_seq_length=%d: %s allows up to %d (max_position_embeddings)"
            % (
                flags_obj.max_seq_length,
                flags_obj.bert_config_file,
                bert_config.max_position_embeddings,
            )
        )
    own_files = make_file_task(flags_obj)
    if flags_obj.labels_file and trained.labels and list(own_files.labels or ()) != trained.labels:
        raise BadInput(
            "--labels_file=%s: the model was trained with the labels %s; leave it out"
            % (flags_obj.labels_file, ", ".join(trained.labels))
        )
    processor = get_processor(flags_obj.task_name, trained.labels, own_files)
    examples = read_examples(flags_obj, processor, splits)
    for of_split in examples.values():
        check_texts_per_row(of_split, trained.is_pair)
    labels = processor.get_labels()
    problem_type = processor.task.problem_type
    class_weights = thresholds = None
    if problem_type == "regression" and (flags_obj.class_weights or flags_obj.label_smoothing):
        raise BadInput(
            "--class_weights and --label_smoothing are for classes, and this task's labels are "
            "numbers; leave them out"
        )
    if flags_obj.do_train and flags_obj.class_weights:
        class_weights = load_class_weights(flags_obj.class_weights, labels, examples["train"])
    if problem_type != "classification" and flags_obj.min_confidence:
        raise BadInput(
            "--min_confidence=%s: is for one label of several, not for a %s; leave it out"
            % (flags_obj.min_confidence, problem_type)
        )
    if problem_type == "regression" and flags_obj.calibrate:
        raise BadInput("--calibrate: a regression has no probabilities; leave it out")
    if problem_type == "multi_label":
        thresholds = trained.thresholds
        if thresholds is None or is_given(flags_obj, "thresholds"):
            thresholds = load_thresholds(flags_obj.thresholds, labels)
    fingerprints = {
        split: fingerprint(
            of_split,
            labels,
            flags_obj.max_seq_length,
            tokenizer,
            **conversion_options(flags_obj, problem_type, split),
        )
        for split, of_split in examples.items()
    }
    if trained.record and not any(is_given(flags_obj, name) for name in later_call.MAY_DIFFER):
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


def conversion_options(
    flags_obj: flags.FlagValues, problem_type: str, split: str
) -> dict[str, Any]:
    """Gives what `features.Converter` is to do with the labels and the long texts of a split."""
    return {
        "problem_type": problem_type,
        "truncation": flags_obj.truncation,
        # One window of a text may have nothing of what the label is about.
        "window_stride": 0 if split == "train" else flags_obj.window_stride,
    }


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


def load_tokenizer(
    flags_obj: flags.FlagValues, bert_config: modeling.BertConfig
) -> tokenization.FullTokenizer:
    """Loads the vocabulary and checks that it belongs to the model."""
    tokenization.validate_case_matches_checkpoint(
        flags_obj.do_lower_case, flags_obj.init_checkpoint
    )
    tokenizer = tokenization.FullTokenizer(flags_obj.vocab_file, flags_obj.do_lower_case)
    tokenization.validate_vocab(tokenizer.vocab, flags_obj.vocab_file)
    tokenization.log_repeated_tokens(flags_obj.vocab_file)
    if tokenizer.vocab_size > bert_config.vocab_size:
        raise BadInput(
            "%s: %d tokens, but vocab_size is %d in %s; give the model's own vocabulary"
            % (
                flags_obj.vocab_file,
                tokenizer.vocab_size,
                bert_config.vocab_size,
                flags_obj.bert_config_file,
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


def make_file_task(flags_obj: flags.FlagValues) -> Task:
    """Declares the user's own files."""
    return file_task(
        flags_obj.text_column,
        flags_obj.text_b_column,
        flags_obj.label_column,
        flags_obj.problem_type,
        load_labels(flags_obj.labels_file) if flags_obj.labels_file else None,
        flags_obj.file_format,
        flags_obj.has_header,
        flags_obj.label_separator,
        flags_obj.id_column,
        flags_obj.separator,
    )


def needed_splits(flags_obj: flags.FlagValues) -> list[str]:
    """Says which splits the wanted actions need."""
    exports = flags_obj.do_export or flags_obj.do_frozen
    has_sample = os.path.exists(os.path.join(flags_obj.output_dir, _DEV_SAMPLE))
    needs_dev = (
        flags_obj.do_train
        or flags_obj.do_eval
        or flags_obj.calibrate
        or (exports and not has_sample)
    )
    wanted = {"train": flags_obj.do_train, "dev": needs_dev, "test": flags_obj.do_predict}
    return [split for split, is_needed in wanted.items() if is_needed]


def read_examples(
    flags_obj: flags.FlagValues, processor: DataProcessor, splits: Collection[str]
) -> dict[str, Examples]:
    """Reads some of the splits."""
    data_dir = flags_obj.data_dir
    divides = "dev" in splits and not processor.has_dev_file(data_dir, flags_obj.dev_file)
    examples = {}
    if "train" in splits or divides:
        examples["train"] = processor.get_train_examples(data_dir, flags_obj.train_file)
    if divides:
        examples["train"], examples["dev"] = examples["train"].divide(flags_obj.dev_fraction)
        _LOG.info(
            "No dev file: %d of the %d training examples are set aside for the evaluation",
            len(examples["dev"]),
            len(examples["train"]) + len(examples["dev"]),
        )
    elif "dev" in splits:
        examples["dev"] = processor.get_dev_examples(data_dir, flags_obj.dev_file)
    if "test" in splits:
        examples["test"] = processor.get_test_examples(data_dir, flags_obj.test_file)
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
    flags_obj, inputs, schedule = job.flags_obj, job.inputs, job.schedule
    if schedule is None:
        return []
    report = inspection.inspect(
        inputs.examples,
        {split: examples.path for split, examples in inputs.examples.items()},
        inputs.labels,
        inputs.tokenizer,
        inputs.bert_config,
        job.initial_weights.checkpoint,
        schedule,
        flags_obj.max_seq_length,
        flags_obj.train_batch_size,
        inputs.problem_type,
        flags_obj.early_stopping_min_steps,
        flags_obj.gradient_checkpointing,
        job.initial_weights.with_classifier,
    )
    if flags_obj.dry_run:
        print("\n".join(report.lines), flush=True)
    if report.fatal:
        raise BadInput(report.fatal[0])
    return [*report.summary, *("WARNING: " + warning for warning in report.warnings)]


# Planning


def make_schedule(flags_obj: flags.FlagValues, num_examples: int, num_workers: int) -> Schedule:
    """Turns epochs into steps."""
    examples_per_step = flags_obj.train_batch_size * flags_obj.num_accumulation_steps * num_workers
    steps_per_epoch = num_examples / examples_per_step
    num_train_steps = int(steps_per_epoch * flags_obj.num_train_epochs)
    if num_train_steps == 0:
        raise BadInput(
            "--train_batch_size=%d: %d training examples and --num_train_epochs=%s make no single "
            "step of %d examples; lower the batch size or raise the epochs"
            % (
                flags_obj.train_batch_size,
                num_examples,
                flags_obj.num_train_epochs,
                examples_per_step,
            )
        )
    if num_train_steps > _INT64:
        raise BadInput(
            "--num_train_epochs=%s: makes more steps than can be counted; lower it"
            % flags_obj.num_train_epochs
        )
    save_steps = flags_obj.save_checkpoints_steps or half_an_epoch(steps_per_epoch, num_train_steps)
    patience = flags_obj.max_steps_without_improvement
    return Schedule(
        examples_per_step=examples_per_step,
        learning_rate=scale_learning_rate(flags_obj, num_workers),
        num_train_steps=num_train_steps,
        num_warmup_steps=int(num_train_steps * flags_obj.warmup_proportion),
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


def scale_learning_rate(flags_obj: flags.FlagValues, num_workers: int) -> float:
    """Gives the learning rate for the batches of several workers, and logs what it did."""
    scaling = flags_obj.learning_rate_scaling
    factor = {"none": 1.0, "linear": float(num_workers), "sqrt": math.sqrt(num_workers)}[scaling]
    learning_rate = flags_obj.learning_rate * factor
    if factor != 1:
        _LOG.info(
            "Learning rate %g x %g = %g: --learning_rate_scaling=%s, %d workers",
            flags_obj.learning_rate,
            factor,
            learning_rate,
            scaling,
            num_workers,
        )
    return learning_rate


def make_watched(flags_obj: flags.FlagValues, inputs: Inputs) -> Watched:
    """Gives the metric that says what is best, after checking that evaluations will have it."""
    watched = watched_metric(flags_obj, inputs.processor.task)
    known = metric_names(len(inputs.labels), inputs.processor.task.metrics, inputs.problem_type)
    if watched.metric not in known:
        raise BadInput(
            "--best_metric=%s: an evaluation has %s" % (watched.metric, ", ".join(known))
        )
    return watched


def watched_metric(flags_obj: flags.FlagValues, task: Task) -> Watched:
    """Gives the metric that says what is best, and its direction."""
    metric = flags_obj.best_metric or task.best_metric
    higher_is_better = flags_obj.best_metric_higher_is_better
    if higher_is_better is None:
        higher_is_better = not metric.endswith(("loss", "mse"))
    return Watched(metric, higher_is_better)


def make_identity(job: Job, schedule: Schedule) -> dict[str, Any]:
    """Collects everything that the weights of a run, and its choice of the best, depend on.

    Not among it: how patiently to wait for an improvement, and how the examples of a step are
    divided into batches and among workers. Who wants to wait longer, or has a GPU more, may go on.
    """
    flags_obj, inputs = job.flags_obj, job.inputs
    identity = {
        "bert_config_file": runs.content_hash(flags_obj.bert_config_file),
        "vocab_file": runs.content_hash(flags_obj.vocab_file),
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
    if flags_obj.init_checkpoint:
        index = checkpoints.index_file(flags_obj.init_checkpoint)
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
        identity[name] = flags_obj[name].value
    return identity


# Writing


def open_folder(job: Job, until_closed: contextlib.ExitStack) -> None:
    """Prepares output_dir and keeps it for this job; all that the log says goes there too."""
    flags_obj, output_dir = job.flags_obj, job.flags_obj.output_dir
    until_closed.enter_context(runs.locked(output_dir))
    if flags_obj.overwrite_output_dir and job.schedule:
        runs.clear(output_dir)
    runs.remove_leftovers(output_dir)
    if job.schedule:
        runs.check_identity(output_dir, make_identity(job, job.schedule))
    until_closed.enter_context(logs.also_to(os.path.join(output_dir, "run.log")))
    text = "".join(label + "\n" for label in job.inputs.labels)
    files.write_text(labels_path(output_dir), text)
    if "dev" in job.inputs.examples:
        sample = itertools.islice(job.inputs.examples["dev"], _SAMPLE_SIZE)
        serving.write_sample(os.path.join(output_dir, _DEV_SAMPLE), sample)


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
    flags_obj, inputs = job.flags_obj, job.inputs
    splits = inputs.examples if job.workers.size == 1 else {"test"} & inputs.examples.keys()
    records = {}
    for split in splits:
        name = "%s.%s.tf_record" % (split, inputs.fingerprints[split])
        records[split] = os.path.join(flags_obj.output_dir, name)
        write_records_once(
            inputs.examples[split],
            inputs.labels,
            flags_obj.max_seq_length,
            inputs.tokenizer,
            records[split],
            show_bar=logs.is_terminal(),
            **conversion_options(flags_obj, inputs.problem_type, split),
        )
    return records


def make_input_fn(
    job: Job, records: Mapping[str, str], split: str, batch_size: int, start_step: int = 0
) -> training.InputFn:
    """Builds the `input_fn` of a split: endless for `train`, one pass with all examples else.

    All workers that read the split call it.
    """
    flags_obj, inputs, examples = job.flags_obj, job.inputs, job.inputs.examples[split]
    is_training, seq_length = split == "train", flags_obj.max_seq_length
    options = conversion_options(flags_obj, inputs.problem_type, split)
    arguments: dict[str, Any] = {
        "is_training": is_training,
        "drop_remainder": is_training,
        "batch_size": batch_size,
        "seed": flags_obj.seed,
        "start_step": start_step,
        "examples_per_step": job.schedule.examples_per_step if job.schedule else None,
        "pad_to_multiple_of": pad_to_multiple_of(seq_length, flags_obj.use_xla),
    }
    if split in records:
        return file_based_input_fn_builder(
            records[split],
            seq_length,
            labelled=examples.is_labelled,
            problem_type=inputs.problem_type,
            num_labels=len(inputs.labels),
            has_windows=options["window_stride"] > 0,
            group_by_length=flags_obj.group_by_length,
            **arguments,
        )
    return input_fn_builder(
        list(examples),
        inputs.labels,
        seq_length,
        inputs.tokenizer,
        num_shards=job.workers.size,
        shard_index=job.workers.index,
        num_tokens=count_tokens(job, split) if flags_obj.group_by_length else None,
        **arguments,
        **options,
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
    options = conversion_options(job.flags_obj, inputs.problem_type, split)
    converter = Converter(inputs.labels, job.flags_obj.max_seq_length, inputs.tokenizer, **options)
    mine = itertools.islice(inputs.examples[split], workers.index, None, workers.size)
    num_tokens = np.empty(len(inputs.examples[split]), np.int64)
    for index, part in enumerate(workers.from_all(converter.count_tokens(mine))):
        num_tokens[index :: workers.size] = part
    return num_tokens


# The Estimator


def make_estimator(job: Job) -> tf.estimator.Estimator:
    """Wraps the model function in a plain Estimator."""
    flags_obj, inputs, schedule, workers = job.flags_obj, job.inputs, job.schedule, job.workers
    amp, num_parts = use_amp(flags_obj), count_parts(job)
    model_fn = model_fn_builder(
        bert_config=inputs.bert_config,
        num_labels=len(inputs.labels),
        # The others get the weights from the chief.
        init_checkpoint=job.initial_weights.checkpoint if workers.is_chief else None,
        learning_rate=schedule.learning_rate if schedule else 0.0,
        num_train_steps=schedule.num_train_steps if schedule else 0,
        num_warmup_steps=schedule.num_warmup_steps if schedule else 0,
        extra_metrics=inputs.processor.task.metrics,
        seed=flags_obj.seed,
        class_weights=inputs.class_weights,
        label_smoothing=flags_obj.label_smoothing,
        num_shards=workers.size,
        shard_index=workers.index,
        add_up=workers.add_up,
        problem_type=inputs.problem_type,
        thresholds=inputs.thresholds,
        gradient_checkpointing=flags_obj.gradient_checkpointing,
        num_parts=num_parts,
        with_classifier=job.initial_weights.with_classifier,
        optimizer=flags_obj.optimizer,
        weight_decay_rate=flags_obj.weight_decay_rate,
        clip_norm=flags_obj.clip_norm,
        num_accumulation_steps=flags_obj.num_accumulation_steps,
        layerwise_lr_decay=flags_obj.layerwise_lr_decay,
        num_hidden_layers=inputs.bert_config.num_hidden_layers,
        amp=amp,
        average_gradients=workers.average_gradients,
    )
    run_config = make_run_config(
        model_dir=job.model_dir,
        save_checkpoints_steps=schedule.save_checkpoints_steps if schedule else None,
        keep_checkpoint_max=flags_obj.keep_checkpoint_max,
        seed=flags_obj.seed,
        use_xla=flags_obj.use_xla,
        amp=amp,
        workers=workers,
        num_parts=num_parts,
    )
    return tf.estimator.Estimator(model_fn, config=run_config)


def count_parts(job: Job) -> int:
    """Says in how many parts a batch is computed: whole for a GPU, or where XLA compiles it."""
    if has_gpu() or job.flags_obj.use_xla:
        return 1
    return threads.count_parts(job.inputs.bert_config.hidden_size, job.workers.num_cores())


def use_amp(flags_obj: flags.FlagValues) -> bool:
    """Tells whether to compute in mixed precision, for which TensorFlow 1.15 needs a GPU."""
    return flags_obj.amp and has_gpu()


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
    flags_obj, workers, watched = job.flags_obj, job.workers, job.watched
    output_dir = flags_obj.output_dir
    started = time.monotonic()
    # The files that it is made of need not be where the other workers are.
    identity = workers.from_chief(lambda: make_identity(job, schedule))
    resumed_from = workers.from_chief(
        lambda: checkpoints.find_resumable(output_dir, flags_obj.keep_checkpoint_max)
    )
    start_step = workers.from_chief(lambda: checkpoints.step_of(resumed_from))
    history = workers.together(lambda: EvalHistory(eval_history_path(output_dir), watched))
    if workers.is_chief:
        history.forget_from(start_step + 1)

    progress = ProgressHook(
        flags_obj.log_every_n_iter,
        schedule.num_train_steps,
        schedule.steps_per_epoch,
        schedule.examples_per_step,
        flags_obj.num_accumulation_steps,
        show_bar=workers.is_chief and logs.is_terminal(),
    )
    early_stopping = make_early_stopping_hook(flags_obj, schedule, watched, estimator, workers)
    eval_input_fn = make_input_fn(job, records, "dev", flags_obj.eval_batch_size)
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
            serving.BestExporter(history, write, flags_obj.exports_to_keep),
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
        runs.write_record(output_dir, identity, own_flags(flags_obj), result)

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
            training.catch_up(
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
        training.train_and_evaluate(
            estimator,
            schedule,
            make_input_fn(
                job,
                records,
                "train",
                flags_obj.train_batch_size,
                start_step * flags_obj.num_accumulation_steps,
            ),
            eval_input_fn,
            exporters,
            early_stopping,
            [progress, CompilationHook()] if flags_obj.use_xla else [progress],
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
            % (progress.step_of_batch, flags_obj.learning_rate)
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
        % (answer, name, best.metrics[name], score, what_to_try(job.flags_obj, schedule))
    )


def what_to_try(flags_obj: flags.FlagValues, schedule: Schedule) -> str:
    """Return what most often helps where a model has learned nothing, the likeliest first."""
    cures = []
    if not flags_obj.init_checkpoint and not flags_obj.warm_start_from:
        cures.append("an --init_checkpoint")
    if flags_obj.optimizer == "adamw":
        cures.append("--optimizer=adamw_corrected")
    if schedule.num_train_steps < inspection.FEW_STEPS:
        cures.append("more --num_train_epochs")
    cures += ["another --seed", "a lower --learning_rate", "--dry_run to look at the data"]
    return ", ".join(cures)


def make_early_stopping_hook(
    flags_obj: flags.FlagValues,
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
        min_steps=flags_obj.early_stopping_min_steps,
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
    flags_obj = job.flags_obj
    _LOG.info("***** Eval results of %s *****", checkpoint_path)
    result = training.evaluate(
        estimator,
        make_input_fn(job, records, "dev", flags_obj.eval_batch_size),
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
    files.write_text(os.path.join(flags_obj.output_dir, "eval_results.txt"), lines)
    files.write_json(os.path.join(flags_obj.output_dir, "eval_results.json"), numbers)
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
    output_dir = job.flags_obj.output_dir
    path = os.path.join(output_dir, "test_results.tsv")
    settings = make_settings(job, examples.is_pair)
    if job.flags_obj.calibrate:
        temperature = calibrate(job, estimator, checkpoint_path, records)
        settings = settings._replace(temperature=temperature)
    _LOG.info("***** Predictions of %s *****", checkpoint_path)
    output = "predictions" if task.problem_type == "regression" else "probabilities"
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
            (prediction,) = answers.decide(settings, of_model[output][np.newaxis])
            texts = [example.text_a, example.text_b or ""]
            write(*form.cells(prediction, texts, name, example.label))
            if submit:
                submit(str(index), name_prediction(task, labels, of_model["predictions"]))
    _LOG.info("  %d predictions in %s", len(examples), path)
    if examples.unusable_label:
        _LOG.info("  no metrics: %s", examples.unusable_label)
    elif examples.is_labelled:
        score_predictions(job, estimator, checkpoint_path, records)


def score_predictions(
    job: Job, estimator: tf.estimator.Estimator, checkpoint_path: str, records: Mapping[str, str]
) -> None:
    """Write what the metrics of a labelled test file are to test_metrics.json."""
    input_fn = make_input_fn(job, records, "test", job.flags_obj.predict_batch_size)
    # By the chief alone, as the predictions are.
    result = training.evaluate(
        estimator, input_fn, checkpoint_path, Workers(), job.interruption, name="test"
    )
    metrics = {
        re.sub("^eval_", "test_", name): value.item()
        for name, value in sorted(result.items())
        if name.startswith("eval_")
    }
    for name, value in metrics.items():
        _LOG.info("  %s = %s", name, value)
    files.write_json(os.path.join(job.flags_obj.output_dir, "test_metrics.json"), metrics)


def predict_in_order(
    job: Job,
    estimator: tf.estimator.Estimator,
    checkpoint_path: str,
    records: Mapping[str, str],
    split: str,
) -> Iterator[dict[str, Any]]:
    """Gives what the model says about each example of a split, in the order of its file."""
    batch_size = job.flags_obj.predict_batch_size
    input_fn = make_input_fn(job, records, split, batch_size)
    predictions = training.predict(estimator, input_fn, checkpoint_path, count_parts(job))
    if not job.flags_obj.group_by_length:
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


def name_prediction(task: Task, labels: Sequence[str], prediction: Any) -> str:
    """Says a model's prediction in the words of the data files."""
    if task.problem_type == "regression":
        return "%.3f" % prediction
    if task.problem_type == "multi_label":
        return task.label_separator.join(itertools.compress(labels, prediction))
    return labels[prediction]


def export(job: Job, estimator: tf.estimator.Estimator, records: Mapping[str, str]) -> None:
    """Exports a checkpoint, as a SavedModel or as one file with a frozen graph, or both."""
    flags_obj, output_dir = job.flags_obj, job.flags_obj.output_dir
    checkpoint_path = checkpoints.find(output_dir, checkpoint_to_export(flags_obj))
    writer = make_bundle_writer(job)
    if flags_obj.calibrate:
        temperature = calibrate(job, estimator, checkpoint_path, records)
        writer = writer._replace(settings=writer.settings._replace(temperature=temperature))
    step = checkpoints.step_of(checkpoint_path)
    evaluation = EvalHistory(eval_history_path(output_dir), job.watched).at(step)
    metrics = evaluation.to_json() if evaluation else {"step": step, "metrics": {}}
    metrics["best_metric"] = job.watched.metric
    frozen_path = os.path.join(output_dir, "frozen_model.pb") if flags_obj.do_frozen else None
    if flags_obj.do_export:
        export_path = flags_obj.export_dir or os.path.join(output_dir, "export", "saved_model")
        writer.export(checkpoint_path, export_path, metrics, frozen_path)
    elif frozen_path:
        writer.freeze(checkpoint_path, frozen_path, metrics)


def make_settings(job: Job, is_pair: bool) -> bundle.Settings:
    """Collects how this run's texts become inputs of the model, and its outputs answers."""
    flags_obj, inputs = job.flags_obj, job.inputs
    return bundle.Settings(
        labels=inputs.labels,
        problem_type=inputs.problem_type,
        max_seq_length=flags_obj.max_seq_length,
        do_lower_case=flags_obj.do_lower_case,
        truncation=flags_obj.truncation,
        window_stride=flags_obj.window_stride,
        texts_per_example=2 if is_pair else 1,
        thresholds=inputs.thresholds,
        min_confidence=flags_obj.min_confidence,
        label_separator=inputs.processor.task.label_separator,
    )


def make_bundle_writer(job: Job) -> serving.BundleWriter:
    """Prepares what is exported with every checkpoint of this run."""
    flags_obj, inputs = job.flags_obj, job.inputs
    sample = serving.read_sample(os.path.join(flags_obj.output_dir, _DEV_SAMPLE))
    return serving.BundleWriter(
        make_estimator(job),
        make_settings(job, is_pair=sample[0].text_b is not None),
        inputs.tokenizer,
        flags_obj.vocab_file,
        flags_obj.bert_config_file,
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
    converter = Converter(
        inputs.labels, job.flags_obj.max_seq_length, inputs.tokenizer, inputs.problem_type
    )
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
    output_dir, watched = job.flags_obj.output_dir, job.watched
    record = runs.read_record(output_dir)
    if record is None:
        return
    result = record["result"]
    exports = serving.list_exports(os.path.join(output_dir, "export", "best_exporter"))
    folder = shlex.quote(output_dir)
    again = "python run_classifier_gpu.py --do_%s --output_dir=" + folder
    texts = " ".join(["TEXT", "TEXT_B"][: 2 if job.inputs.examples["dev"].is_pair else 1])
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
        ("answer", "python predictor.py %s %s" % (folder, texts) if exports else None),
        ("curves", "tensorboard --logdir=" + folder),
    ]
    _LOG.info("***** Training %s *****", result["status"])
    for name, value in rows:
        _LOG.info("  %-16s %s", name, "-" if value is None else value)
    if result.get("warning"):
        _LOG.warning("WARNING: %s", result["warning"])


def own_flags(flags_obj: flags.FlagValues) -> dict[str, Any]:
    """Gives the values of this program's flags, without those that absl and TensorFlow define."""
    return {flag.name: flag.value for flag in own_flag_list(flags_obj)}


def own_flag_list(flags_obj: flags.FlagValues) -> list[flags.Flag]:
    """Return this program's flags, without those that absl and TensorFlow define, in order."""
    our_module = flags_obj.find_module_defining_flag("do_train")
    return flags_obj.flags_by_module_dict()[our_module]


# The command line


def help_text(flag_values: flags.FlagValues) -> str:
    """Return what --help prints: the flags of this program in groups, with their defaults."""
    lines = [__doc__.strip()]
    for flag in own_flag_list(flag_values):
        if flag.name in _FLAG_GROUPS:
            lines += ["", _FLAG_GROUPS[flag.name] + ":"]
        default = "" if flag.default is None else " [%s]" % flag.default
        lines += textwrap.wrap(
            "  --%-28s %s%s" % (flag.name, flag.help, default), 100, subsequent_indent=" " * 33
        )
    return "\n".join(lines)


def parse_flags(argv: Sequence[str]) -> Sequence[str]:
    """Parses the command line; what is wrong with it is the user's to cure, like any bad input."""
    if len(argv) == 1:
        sys.exit(fail("nothing to do: give --do_train, or see --help", 2))
    if "--help" in argv or "-h" in argv:
        print(help_text(flags.FLAGS))
        sys.exit(0)
    try:
        unparsed = flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(fail(str(error), 2))
    if len(unparsed) > 1:
        sys.exit(fail("%r is no flag: flags begin with --" % unparsed[1], 2))
    return unparsed


def fail(message: str, exit_status: int) -> int:
    """Says in one line on stderr why the program ends; returns the exit status."""
    print("run_classifier_gpu.py: " + " ".join(message.splitlines()), file=sys.stderr)
    return exit_status


def bad_input_in(error: Exception) -> str | None:
    """Gives the message of a BadInput that was raised where TensorFlow reads examples."""
    found = re.search(r"BadInput: (.*)", str(error))
    return found.group(1) if found else None


def trouble_of_system(error: Exception) -> str | None:
    """Say in one line what the system has refused, if that is what an error is about."""
    if _tells_of_full_disk(error):
        return "the disk is full; free some space, then the same command goes on"
    if isinstance(error, (MemoryError, tf.errors.ResourceExhaustedError)):
        # What was at work is the innermost of these functions.
        names = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
        at_work = next((name for name in reversed(names) if name in _CURES_OF_MEMORY), "export")
        return "the memory is full; " + _CURES_OF_MEMORY[at_work]
    if isinstance(error, OSError) and error.filename:
        return "%s: %s" % (error.filename, error.strerror)
    return None


def _tells_of_full_disk(error: Exception) -> bool:
    numbers = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
    if isinstance(error, tf.errors.OpError):
        # TensorFlow's text is that of the system, behind a path.
        return any("; " + os.strerror(number) in error.message for number in numbers)
    return isinstance(error, OSError) and error.errno in numbers


def main(argv: Sequence[str]) -> int:
    """Runs the program; what the user can cure ends it with one line instead of a traceback."""
    del argv
    memory.keep_freed_memory()
    memory.skip_last_collection()
    threads.give_each_session_its_own()
    flags_obj = flags.FLAGS
    logs.log_to_stderr(flags_obj.debug)
    interruption = Interruption()
    interruption.watch()
    workers = Workers()
    try:
        # TensorFlow makes the paths of its checkpoints absolute.
        files.user_path(os.getcwd())
        workers = distributed.start(flags_obj.horovod, flags_obj.fp16_allreduce)
        if not workers.is_chief:
            logs.log_warnings_only()
        if flags_obj.num_trials > 1:
            run_trials(flags_obj, interruption, workers)
        else:
            run_classifier(flags_obj, interruption, workers)
    except SharedFailure as error:
        if workers.is_chief:
            fail(str(error), 2)
        # The launcher ends all workers when the first one ends: the chief has to speak before.
        with contextlib.suppress(tf.errors.OpError):
            workers.wait_for_all()
        if flags_obj.debug:
            raise
        return 2
    except serving.SelfTestFailed as error:
        return fail(str(error), 1)
    except Interrupted as signal:
        interruption.acknowledge()
        if not workers.is_chief:
            return signal.exit_status
        launcher = ["horovodrun", "-np", str(workers.size)] if workers.size > 1 else []
        words = [*launcher, "python", *sys.argv]
        if flags_obj.overwrite_output_dir:
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
        if flags_obj.debug or message is None:
            raise
        return fail(message, 2)
    return 0


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=parse_flags)

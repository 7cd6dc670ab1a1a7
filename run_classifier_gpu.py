"""Fine-tunes BERT for text classification with a plain tf.estimator.Estimator.

    python run_classifier_gpu.py --do_train --do_eval --task_name=mrpc --data_dir=... \\
        --bert_config_file=... --vocab_file=... --init_checkpoint=... --output_dir=...
    python run_classifier_gpu.py --do_eval --do_predict ...     # the best checkpoint of output_dir
    python run_classifier_gpu.py --do_export ...                # the same as a SavedModel

    horovodrun -np 4 python run_classifier_gpu.py --horovod --do_train ...      # on four GPUs

The same command again goes on where it was interrupted. `--help` lists the flags.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import functools
import itertools
import json
import logging
import math
import os
import pathlib
import platform
import re
import shlex
import sys
import time
import traceback
from typing import Any, Callable, Collection, Iterator, Mapping, NamedTuple, Sequence

import streams

if __name__ == "__main__":
    streams.prepare()

# Read by TensorFlow's C++ side when it is imported; it would log every CPU feature that it finds.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow.compat.v1 as tf
from absl import app, flags

import bundle
import calibration
import checkpoints
import distributed
import files
import inspection
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
from processors import (
    PROBLEM_TYPES,
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

# By these files in output_dir a later call knows how texts became inputs, and tests its exports.
_PREPROCESSING, _DEV_SAMPLE = "preprocessing.json", "dev_sample.jsonl"
_SAMPLE_SIZE = 8
_PREPROCESSING_FLAGS = ("max_seq_length", "do_lower_case", "truncation", "window_stride")

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

    switch("dry_run", False, "Check the data and the plan of a training run, and do nothing else.")

    # Data.
    text("task_name", None, "Task, e.g. mrpc, or file for your own files.")
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
    choice("file_format", None, list(tables.FORMATS), "Default: as the file's name says.")
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
        "Steps between checkpoints, each of which is evaluated. Default: one epoch, at most 1000.",
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
        "adamw",
        ["adamw", "adamw_corrected", "lamb"],
        "adamw is BERT's, without bias correction; adamw_corrected has it, as in transformers.",
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
    text("best_metric", "eval_loss", "Metric that says what is best.")
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

    for required in ("task_name", "bert_config_file", "vocab_file", "output_dir"):
        flags.mark_flag_as_required(required, flag_values)
    flags.register_multi_flags_validator(
        ["do_train", "do_eval", "do_predict", "do_export", "do_frozen"],
        lambda wanted: any(wanted.values()),
        "nothing to do: give --do_train, --do_eval, --do_predict, --do_export or --do_frozen",
        flag_values,
    )
    flags.register_multi_flags_validator(
        ["num_trials", "do_train", "do_eval"],
        lambda values: values["num_trials"] == 1 or (values["do_train"] and values["do_eval"]),
        "several trials are compared by their evaluation: give --do_train and --do_eval",
        flag_values,
    )
    flags.register_multi_flags_validator(
        ["num_trials", "seed"],
        lambda values: values["seed"] + values["num_trials"] - 1 <= _INT32,
        "the last trial's seed, --seed + --num_trials - 1, is to be %d at most" % _INT32,
        flag_values,
    )
    flags.register_multi_flags_validator(
        ["dry_run", "do_train"],
        lambda values: values["do_train"] or not values["dry_run"],
        "a dry run is one of a training run: give --do_train",
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


class Job(NamedTuple):
    """One call of the program: what it is to do, with what, and who does it."""

    flags_obj: flags.FlagValues
    inputs: Inputs
    watched: Watched
    schedule: Schedule | None  # None when nothing is to be trained
    warm_start: tf.estimator.WarmStartSettings | None
    workers: Workers
    interruption: Interruption


def run_classifier(
    flags_obj: flags.FlagValues,
    interruption: Interruption | None = None,
    workers: Workers | None = None,
) -> dict[str, float]:
    """Does what the flags ask for, in this order: train, evaluate, predict, export.

    Returns:
        The metrics of the evaluation; empty if there was none, and for all workers but the chief.
    """
    if flags_obj.use_xla:
        threads.compile_on_cpus()
    job = make_job(flags_obj, workers or Workers(), interruption or Interruption())
    summary = job.workers.from_chief(lambda: inspect(job))
    metrics: dict[str, float] = {}
    if flags_obj.dry_run:
        return metrics
    with contextlib.ExitStack() as folder:
        job.workers.from_chief(lambda: open_folder(job, folder))
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
    results = []
    for number in range(flags_obj.num_trials):
        trial = copy.deepcopy(flags_obj)
        trial.seed = flags_obj.seed + number
        trial.output_dir = os.path.join(flags_obj.output_dir, "trial_%d" % (number + 1))
        _LOG.info("***** Trial %d of %d: seed %d *****", number + 1, trial.num_trials, trial.seed)
        results.append(dict(run_classifier(trial, interruption, workers), seed=trial.seed))
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
    text = json.dumps({"trials": results, "summary": summary}, indent=2) + "\n"
    files.write_text(os.path.join(flags_obj.output_dir, "trials.json"), text)
    _LOG.info("***** %d trials *****", len(results))
    for name, numbers in summary.items():
        _LOG.info("  %s = %.4f +- %.4f", name, numbers["mean"], numbers["standard_deviation"])


# Reading


def make_job(flags_obj: flags.FlagValues, workers: Workers, interruption: Interruption) -> Job:
    """Reads and plans everything; raises BadInput for what is wrong with it."""
    known_labels = workers.from_chief(lambda: check_checkpoints(flags_obj))
    if not flags_obj.do_train:
        flags_obj = workers.together(lambda: as_in_training(flags_obj))
    # The others need not have output_dir.
    splits = workers.from_chief(lambda: needed_splits(flags_obj))
    inputs = workers.together(lambda: load_inputs(flags_obj, known_labels, splits))
    data_of_chief = workers.from_chief(lambda: inputs.fingerprints)
    workers.together(lambda: check_same_data(inputs.fingerprints, data_of_chief, workers))
    watched = workers.together(lambda: make_watched(flags_obj, inputs))
    schedule = None
    if flags_obj.do_train:
        num_examples = len(inputs.examples["train"])
        schedule = workers.together(lambda: make_schedule(flags_obj, num_examples, workers.size))
    warm_start = None
    if flags_obj.do_train and flags_obj.warm_start_from:
        source = flags_obj.warm_start_from
        warm_start = workers.from_chief(lambda: make_warm_start_settings(source, inputs.labels))
    return Job(flags_obj, inputs, watched, schedule, warm_start, workers, interruption)


def check_checkpoints(flags_obj: flags.FlagValues) -> list[str] | None:
    """Checks the checkpoints that are there; returns the labels of a model that was trained."""
    if flags_obj.init_checkpoint:
        checkpoints.validate_init_checkpoint(flags_obj.init_checkpoint)
    if flags_obj.do_train:
        return None
    for which in {flags_obj.eval_checkpoint, checkpoint_to_export(flags_obj)}:
        checkpoints.find(flags_obj.output_dir, which)
    return read_labels(flags_obj.output_dir)


def checkpoint_to_export(flags_obj: flags.FlagValues) -> str:
    """Gives `best`, `last` or a path."""
    return flags_obj.export_checkpoint or flags_obj.eval_checkpoint


def as_in_training(flags_obj: flags.FlagValues) -> flags.FlagValues:
    """Gives flags in which texts become inputs as they did in training, unless they say how."""
    path = os.path.join(flags_obj.output_dir, _PREPROCESSING)
    if not os.path.exists(path):
        return flags_obj
    with open(path, encoding="utf-8") as stream:
        recorded = json.load(stream)
    flags_obj = copy.deepcopy(flags_obj)
    for name, value in recorded.items():
        given = flags_obj[name]
        if not given.present:
            given.value = value
        elif given.value != value:
            _LOG.warning("--%s=%s, but the model was trained with %s", name, given.value, value)
    return flags_obj


def load_inputs(
    flags_obj: flags.FlagValues, known_labels: Sequence[str] | None, splits: Collection[str]
) -> Inputs:
    """Reads configuration, vocabulary and the splits of the data that are needed."""
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
    processor = get_processor(flags_obj.task_name, known_labels, make_file_task(flags_obj))
    examples = read_examples(flags_obj, processor, splits)
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
    if len(tokenizer.vocab) > bert_config.vocab_size:
        raise BadInput(
            "%s: %d tokens, but vocab_size is %d in %s; give the model's own vocabulary"
            % (
                flags_obj.vocab_file,
                len(tokenizer.vocab),
                bert_config.vocab_size,
                flags_obj.bert_config_file,
            )
        )
    return tokenizer


def read_labels(folder: str) -> list[str] | None:
    """Reads the labels of a model that was trained in a folder, None if it does not tell them."""
    path = os.path.join(folder, "labels.txt")
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as stream:
        return stream.read().splitlines()


def make_warm_start_settings(source: str, labels: Sequence[str]) -> tf.estimator.WarmStartSettings:
    """Prepares to begin from a fine-tuned model, its classifier included if the labels agree.

    Args:
        source: output_dir of a run, for its best checkpoint, or a checkpoint of it.
        labels: those of the new run.

    Raises:
        BadInput: there is no checkpoint, or it cannot be read.
    """
    try:
        path = checkpoints.find(source, "best" if os.path.isdir(source) else source)
    except BadInput as error:
        raise BadInput(
            "--warm_start_from=%s: no readable checkpoint; give the output_dir of a run, or a "
            "checkpoint of it" % source
        ) from error
    # The labels are in the output_dir, the checkpoint may be in its best/ or best/slim/.
    folders = list(pathlib.Path(os.path.abspath(path)).parents)[:3]
    found = next(filter(None, (read_labels(str(folder)) for folder in folders)), None)
    same_labels = found == list(labels)
    _LOG.info("Warm start from %s, %s classifier", path, "with its" if same_labels else "new")
    return tf.estimator.WarmStartSettings(
        path, vars_to_warm_start=".*" if same_labels else "bert/.*"
    )


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
        job.warm_start.ckpt_to_initialize_from if job.warm_start else flags_obj.init_checkpoint,
        schedule,
        flags_obj.max_seq_length,
        flags_obj.train_batch_size,
        inputs.problem_type,
        flags_obj.early_stopping_min_steps,
        flags_obj.gradient_checkpointing,
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
    save_steps = flags_obj.save_checkpoints_steps or min(1000, math.ceil(steps_per_epoch))
    patience = flags_obj.max_steps_without_improvement
    return Schedule(
        examples_per_step=examples_per_step,
        learning_rate=scale_learning_rate(flags_obj, num_workers),
        num_train_steps=num_train_steps,
        num_warmup_steps=int(num_train_steps * flags_obj.warmup_proportion),
        steps_per_epoch=steps_per_epoch,
        save_checkpoints_steps=save_steps,
        max_steps_without_improvement=3 * save_steps if patience is None else patience,
    )


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
    metric = flags_obj.best_metric
    known = metric_names(len(inputs.labels), inputs.processor.task.metrics, inputs.problem_type)
    if metric not in known:
        raise BadInput("--best_metric=%s: an evaluation has %s" % (metric, ", ".join(known)))
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
    files.write_text(os.path.join(output_dir, "labels.txt"), text)
    if job.schedule:
        recorded = {name: flags_obj[name].value for name in _PREPROCESSING_FLAGS}
        text = json.dumps(recorded, indent=2) + "\n"
        files.write_text(os.path.join(output_dir, _PREPROCESSING), text)
    if "dev" in job.inputs.examples:
        sample = itertools.islice(job.inputs.examples["dev"], _SAMPLE_SIZE)
        serving.write_sample(os.path.join(output_dir, _DEV_SAMPLE), sample)


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
        init_checkpoint=flags_obj.init_checkpoint if workers.is_chief else None,
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
        model_dir=flags_obj.output_dir,
        save_checkpoints_steps=schedule.save_checkpoints_steps if schedule else None,
        keep_checkpoint_max=flags_obj.keep_checkpoint_max,
        seed=flags_obj.seed,
        use_xla=flags_obj.use_xla,
        amp=amp,
        workers=workers,
        num_parts=num_parts,
    )
    warm_start = job.warm_start if workers.is_chief else None
    return tf.estimator.Estimator(model_fn, config=run_config, warm_start_from=warm_start)


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
    history = EvalHistory(eval_history_path(output_dir), watched)
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
        write = make_bundle_writer(job).export
        exporters = [
            EvaluationRecorder(history, schedule.max_steps_without_improvement),
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
    text = json.dumps(numbers, indent=2) + "\n"
    files.write_text(os.path.join(flags_obj.output_dir, "eval_results.json"), text)
    return numbers


def predict(
    job: Job,
    estimator: tf.estimator.Estimator,
    checkpoint_path: str,
    records: Mapping[str, str],
) -> None:
    """Writes test_results.tsv, under a header, and the file that GLUE wants.

    A row has the prediction and the probabilities of each label, if there are any, and the texts.
    """
    task, labels = job.inputs.processor.task, job.inputs.labels
    examples = job.inputs.examples["test"]
    output_dir = job.flags_obj.output_dir
    path = os.path.join(output_dir, "test_results.tsv")
    _LOG.info("***** Predictions of %s *****", checkpoint_path)
    predictions = predict_in_order(job, estimator, checkpoint_path, records, "test")
    has_probabilities = task.problem_type != "regression"
    header = ["index", "prediction"]
    header += ["p(%s)" % label for label in labels] if has_probabilities else []
    header += ["text_a", "text_b"]
    with contextlib.ExitStack() as until_done:
        write = write_rows(path, until_done)
        submit = None
        if task.submission:
            submit = write_rows(os.path.join(output_dir, task.submission), until_done)
            submit("index", "prediction")
        write(*header)
        for index, (example, prediction) in enumerate(zip(examples, predictions)):
            answer = name_prediction(task, labels, prediction["predictions"])
            numbers = prediction["probabilities"] if has_probabilities else []
            texts = (_in_a_cell(text or "") for text in (example.text_a, example.text_b))
            write(str(index), answer, *["%.6f" % p for p in numbers], *texts)
            if submit:
                submit(str(index), answer)
    _LOG.info("  %d predictions in %s", len(examples), path)


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


def _in_a_cell(text: str) -> str:
    # A cell of a CSV file may have what would end it here.
    return " ".join(re.split(r"[\t\r\n]+", text))


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
    frozen_path = os.path.join(output_dir, "frozen_model.pb") if flags_obj.do_frozen else None
    if flags_obj.do_export:
        export_path = flags_obj.export_dir or os.path.join(output_dir, "export", "saved_model")
        writer.export(checkpoint_path, export_path, metrics, frozen_path)
    elif frozen_path:
        writer.freeze(checkpoint_path, frozen_path, metrics)


def make_bundle_writer(job: Job) -> serving.BundleWriter:
    """Prepares what is exported with every checkpoint of this run."""
    flags_obj, inputs = job.flags_obj, job.inputs
    sample = serving.read_sample(os.path.join(flags_obj.output_dir, _DEV_SAMPLE))
    settings = bundle.Settings(
        labels=inputs.labels,
        problem_type=inputs.problem_type,
        max_seq_length=flags_obj.max_seq_length,
        do_lower_case=flags_obj.do_lower_case,
        truncation=flags_obj.truncation,
        window_stride=flags_obj.window_stride,
        texts_per_example=1 if sample[0].text_b is None else 2,
        thresholds=inputs.thresholds,
        min_confidence=flags_obj.min_confidence,
    )
    return serving.BundleWriter(
        make_estimator(job),
        settings,
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
    again = "python run_classifier_gpu.py %s (and the flags of the data and the model)"
    rows = [
        ("ended", result["reason"] or "all steps are done"),
        ("last step", "%(last_step)d of %(num_train_steps)d" % result),
        ("best step", result["best_step"]),
        ("best " + watched.metric, result["best_" + watched.metric]),
        ("time", "%(seconds)s seconds, %(examples_per_second)s examples/s in training" % result),
        ("peak memory", "%s MB, without that of a GPU" % result.get("peak_memory_mb", "unknown")),
        ("best checkpoint", tf.train.latest_checkpoint(checkpoints.best_dir(output_dir))),
        ("best export", exports[-1] if exports else None),
        ("evaluations", eval_history_path(output_dir)),
        ("evaluate", again % ("--do_eval --output_dir=" + shlex.quote(output_dir))),
        ("export", again % ("--do_export --output_dir=" + shlex.quote(output_dir))),
    ]
    _LOG.info("***** Training %s *****", result["status"])
    for name, value in rows:
        _LOG.info("  %-16s %s", name, "-" if value is None else value)


def own_flags(flags_obj: flags.FlagValues) -> dict[str, Any]:
    """Gives the values of this program's flags, without those that absl and TensorFlow define."""
    our_module = flags_obj.find_module_defining_flag("do_train")
    return {
        name: flags_obj[name].value
        for name in flags_obj
        if flags_obj.find_module_defining_flag(name) == our_module
    }


# The command line


def parse_flags(argv: Sequence[str]) -> Sequence[str]:
    """Parses the command line; what is wrong with it is the user's to cure, like any bad input."""
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
        message = str(error) if isinstance(error, BadInput) else trouble_of_system(error)
        if flags_obj.debug or message is None:
            raise
        return fail(message, 2)
    return 0


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=parse_flags)

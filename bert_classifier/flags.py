"""The command line: flags -> `config.Config`. Nothing else reads flags."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
import textwrap
from typing import Any, Callable, Mapping, Sequence

from absl import flags

from bert_classifier import config, files
from bert_classifier.config import Config
from bert_classifier.data import tables
from bert_classifier.data.features import TRUNCATIONS
from bert_classifier.data.tasks import TASKS
from bert_classifier.failures import fail
from bert_classifier.problem_types import PROBLEM_TYPES

# The largest numbers of some flags: beyond them TensorFlow fails, or does something else than what
# was asked for. Of batches of 2**40 examples it would try to make a list first.
_INT32, _INT64 = 2**31 - 1, 2**63 - 1
_LARGEST_BATCH = 10**6
_LARGEST_FLOAT = 1e30  # A float32, and so is its inverse.


class _PathParser(flags.ArgumentParser):
    """Parse the flags that name a file or a folder: see `files.user_path`."""

    def parse(self, argument: str) -> str:
        return files.user_path(argument)

    def flag_type(self) -> str:
        return "string"


class _Definer:
    """Defines flags of each kind. Their defaults are in `config`."""

    def __init__(self, flag_values: flags.FlagValues):
        self._flag_values = flag_values

    def switch(self, name: str, help_text: str) -> None:
        flags.DEFINE_bool(name, *self._rest(name, help_text))

    def text(self, name: str, help_text: str) -> None:
        flags.DEFINE_string(name, *self._rest(name, help_text))

    def choice(self, name: str, options: Sequence[str], help_text: str) -> None:
        flags.DEFINE_enum(
            name, config.DEFAULTS[name], list(options), help_text, flag_values=self._flag_values
        )

    def path(self, name: str, help_text: str) -> None:
        flags.DEFINE(_PathParser(), name, *self._rest(name, help_text), flags.ArgumentSerializer())

    def whole(self, name: str, help_text: str, lower_bound: int, upper_bound: int = _INT64) -> None:
        flags.DEFINE_integer(
            name,
            config.DEFAULTS[name],
            help_text,
            lower_bound,
            upper_bound,
            flag_values=self._flag_values,
        )

    def number(
        self,
        name: str,
        help_text: str,
        lower_bound: float,
        upper_bound: float = _LARGEST_FLOAT,
    ) -> None:
        flags.DEFINE_float(
            name,
            config.DEFAULTS[name],
            help_text,
            lower_bound,
            upper_bound,
            flag_values=self._flag_values,
        )
        message = "must be a finite number"
        flags.register_validator(name, math.isfinite, message, self._flag_values)

    def _rest(self, name: str, help_text: str) -> tuple[Any, str, flags.FlagValues]:
        return config.DEFAULTS[name], help_text, self._flag_values


def _define_actions(define: _Definer) -> None:
    define.switch("do_train", "Train, evaluating every checkpoint.")
    define.switch("do_eval", "Evaluate the best checkpoint on the dev set.")
    define.switch("do_predict", "Write predictions for the test set.")
    define.switch("do_export", "Export the best checkpoint as a SavedModel.")
    define.switch("do_frozen", "Write the best checkpoint as one file, frozen_model.pb.")
    define.switch("do_onnx", "Export the best checkpoint as an ONNX model.")
    define.switch("dry_run", "Check data and plan of a training run, and do nothing else.")


def _define_data(define: _Definer) -> None:
    define.text("task_name", "Task: %s; file is for your own files." % ", ".join(TASKS))
    define.path("data_dir", "Folder of the task's files.")
    define.path("train_file", "Training file, if not the task's usual one.")
    define.path("dev_file", "Dev file, if not the task's usual one.")
    define.path("test_file", "Test file, if not the task's usual one.")
    define.whole("max_seq_length", "Tokens that the model reads at once.", lower_bound=4)
    define.choice("truncation", list(TRUNCATIONS), "What is kept of a text that is too long.")
    define.whole(
        "window_stride",
        "Evaluate and predict long texts in windows that begin so many tokens apart, by the mean "
        "of their probabilities; 0 cuts long texts.",
        lower_bound=0,
    )


def _define_own_files(define: _Definer) -> None:
    define.choice(
        "problem_type",
        list(PROBLEM_TYPES),
        "What a label is: a class, a number, or several classes or none.",
    )
    define.text("text_column", "Column of the text: its name, or its number from 1.")
    define.text("text_b_column", "Column of the second text of a pair. Default: text_b, if any.")
    define.text("label_column", "Column of the label.")
    define.text("label_separator", "What stands between the labels of a cell that has several.")
    define.text(
        "id_column",
        "Column that names each row of the predictions. Default: id, index or guid, if any.",
    )
    define.choice("file_format", list(tables.FORMATS), "Default: as the file's name says.")
    define.choice("separator", list(tables.SEPARATORS), "Of CSV files. Default: as the rows tell.")
    define.switch(
        "has_header",
        "Whether the first row names the columns. Default: if it has one of these names.",
    )
    define.path("labels_file", "The labels, one per line. Default: from the training file, sorted.")
    define.number(
        "dev_fraction",
        "Part of the training examples that is evaluated and not learned if there is no dev file.",
        lower_bound=1e-9,
        upper_bound=0.9,
    )
    define.path(
        "thresholds",
        "Probability above which one of several labels is predicted: a number, or a file of "
        "label<TAB>threshold lines.",
    )


def _define_model(define: _Definer) -> None:
    define.path("bert_config_file", "JSON file with the encoder's shape.")
    define.path("vocab_file", "Vocabulary the encoder was trained with.")
    define.path(
        "spm_model_file",
        "SentencePiece model the encoder was trained with, if it has no vocabulary.",
    )
    define.path("init_checkpoint", "Prefix of the pretrained checkpoint.")
    define.path(
        "warm_start_from",
        "Instead of --init_checkpoint: output_dir or checkpoint of a fine-tuned model to begin "
        "from, its classifier included if the labels agree.",
    )
    define.switch("do_lower_case", "Lower-case the text: True for uncased models.")


def _define_run(define: _Definer) -> None:
    define.path("output_dir", "Folder for everything the run makes.")
    define.switch(
        "overwrite_output_dir",
        "Begin anew: remove the run that is in --output_dir, and nothing else from there.",
    )
    define.whole(
        "train_batch_size", "Batch size of training.", lower_bound=1, upper_bound=_LARGEST_BATCH
    )
    define.whole(
        "eval_batch_size", "Batch size of evaluation.", lower_bound=1, upper_bound=_LARGEST_BATCH
    )
    define.whole(
        "predict_batch_size", "Batch size of prediction.", lower_bound=1, upper_bound=_LARGEST_BATCH
    )
    define.switch("group_by_length", "Make batches of examples of similar length.")
    define.number("num_train_epochs", "Epochs of training.", lower_bound=0.0)
    define.whole(
        "seed",
        "Of the data's order, dropout and new weights.",
        lower_bound=-_INT32,
        upper_bound=_INT32,
    )
    define.whole("num_trials", "Trainings, with the seeds --seed, --seed + 1, ...", lower_bound=1)
    define.whole(
        "save_checkpoints_steps",
        "Steps between checkpoints, each of which is evaluated. Default: half an epoch, at "
        "most 1000.",
        lower_bound=1,
    )
    define.whole(
        "keep_checkpoint_max",
        "Recent checkpoints to keep, beside the best.",
        lower_bound=1,
        upper_bound=_INT32,
    )
    define.whole("log_every_n_iter", "Steps between log lines.", lower_bound=1)
    define.switch(
        "horovod",
        "This is one of the workers that horovodrun has started; --train_batch_size is of each.",
    )
    define.switch("fp16_allreduce", "Send gradients between workers as float16.")
    define.switch("use_xla", "Compile the graph with XLA.")
    define.switch(
        "amp",
        "Mixed precision: float16 on a GPU; with TensorFlow 2.15 bfloat16 on a CPU that has it.",
    )
    define.switch("tf32", "Let TensorFlow 2.15 use TF32 on GPUs that have it.")
    define.switch(
        "gradient_checkpointing",
        "Compute each layer again for its gradient instead of keeping it: less memory, more time.",
    )
    define.switch("debug", "Show tracebacks and TensorFlow's own log.")


def _define_optimizer(define: _Definer) -> None:
    define.choice(
        "optimizer",
        ["adamw", "adamw_corrected", "lamb"],
        "adamw_corrected is Adam with weight decay; adamw is google's, without bias correction.",
    )
    define.number("learning_rate", "Peak learning rate.", lower_bound=0.0)
    define.choice(
        "learning_rate_scaling",
        ["none", "linear", "sqrt"],
        "What the number of workers multiplies the learning rate by: 1, itself, or its root.",
    )
    define.number(
        "warmup_proportion",
        "Part of the steps in which the learning rate rises.",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    define.whole(
        "num_accumulation_steps",
        "Batches whose gradients make one step.",
        lower_bound=1,
        upper_bound=_LARGEST_BATCH,
    )
    define.number("weight_decay_rate", "Weight decay.", lower_bound=0.0)
    define.number("clip_norm", "Largest norm of the gradients.", lower_bound=1e-9)
    define.number(
        "layerwise_lr_decay",
        "Factor of the learning rate from each layer to the one below, as in ELECTRA.",
        lower_bound=1e-9,
        upper_bound=1.0,
    )
    define.path(
        "class_weights",
        "Factors of the loss of each class: balanced, or a file of label<TAB>weight lines.",
    )
    define.number(
        "label_smoothing",
        "Part of the target that is spread over all classes.",
        lower_bound=0.0,
        upper_bound=0.99,
    )


def _define_selection(define: _Definer) -> None:
    define.text(
        "best_metric",
        "Metric that says what is best. Default: the one that the task is ranked by, eval_loss for "
        "your own files.",
    )
    define.switch(
        "best_metric_higher_is_better",
        "Direction of --best_metric. Default: a loss should fall, everything else rise.",
    )
    define.whole(
        "max_steps_without_improvement",
        "Stop early after so many steps without a better evaluation; 0 never stops early. "
        "Default: 3 x save_checkpoints_steps.",
        lower_bound=0,
    )
    define.whole("early_stopping_min_steps", "Never stop early before this step.", lower_bound=0)
    define.whole("exports_to_keep", "Best exports to keep.", lower_bound=1)


def _define_exports(define: _Definer) -> None:
    define.path(
        "eval_checkpoint", "Checkpoint to evaluate, predict with and export: best, last, or a path."
    )
    define.path("export_checkpoint", "Checkpoint to export, if not --eval_checkpoint.")
    define.path(
        "export_dir",
        "Folder of --do_export; --do_onnx adds /onnx. Default: export/saved_model and export/onnx "
        "in --output_dir.",
    )
    define.switch(
        "onnx_int8",
        "Let --do_onnx write int8 weights, and compare the model with float32 on the dev set.",
    )
    define.switch(
        "calibrate",
        "Export with the temperature that makes the probabilities fit the dev set best.",
    )
    define.number(
        "min_confidence",
        "Where the best label has a lower probability the exported model gives no answer.",
        lower_bound=0.0,
        upper_bound=1.0,
    )


# What --help writes above the flags -> what defines them.
_GROUPS: Mapping[str, Callable[[_Definer], None]] = {
    "What to do": _define_actions,
    "Data": _define_data,
    "Your own files, for --task_name=file": _define_own_files,
    "Model": _define_model,
    "The run": _define_run,
    "Optimizer": _define_optimizer,
    "What is best, and when to stop": _define_selection,
    "Checkpoints and exports": _define_exports,
}


def define(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define every flag of the program, and the rules between them."""
    for define_group in _GROUPS.values():
        define_group(_Definer(flag_values))
    flags.register_validator(
        "output_dir", bool, "is missing: it is the folder for everything the run makes", flag_values
    )
    for names, is_right, message in _RULES:
        flags.register_multi_flags_validator(
            names, functools.partial(_apply, is_right), message, flag_values
        )


def _apply(is_right: Callable[..., bool], values: Mapping[str, Any]) -> bool:
    return is_right(**values)


# Flags, whether their values go together, and what to do if not.
_RULES: Sequence[tuple[Sequence[str], Callable[..., bool], str]] = (
    (
        ["do_train", "do_eval", "do_predict", "do_export", "do_frozen", "do_onnx", "dry_run"],
        lambda **wanted: any(wanted.values()),
        "nothing to do: give --do_train, --do_eval, --do_predict, --do_export, --do_frozen, "
        "--do_onnx or --dry_run",
    ),
    (
        ["num_trials", "do_train", "do_eval"],
        lambda num_trials, do_train, do_eval: num_trials == 1 or (do_train and do_eval),
        "several trials are compared by their evaluation: give --do_train and --do_eval",
    ),
    (
        ["num_trials", "eval_checkpoint", "export_checkpoint"],
        lambda num_trials, **which: (
            num_trials == 1 or set(which.values()) <= {"best", "last", None}
        ),
        "each trial has checkpoints of its own: give best or last",
    ),
    (
        ["num_trials", "seed"],
        lambda num_trials, seed: seed + num_trials - 1 <= _INT32,
        "the last trial's seed, --seed + --num_trials - 1, is to be %d at most" % _INT32,
    ),
    (
        ["calibrate", "do_export", "do_frozen", "do_onnx"],
        lambda calibrate, **exports: any(exports.values()) or not calibrate,
        "--calibrate needs --do_export, --do_frozen or --do_onnx",
    ),
    (
        ["onnx_int8", "do_onnx"],
        lambda onnx_int8, do_onnx: do_onnx or not onnx_int8,
        "--onnx_int8 needs --do_onnx",
    ),
    (
        ["calibrate", "horovod"],
        lambda calibrate, horovod: not (calibrate and horovod),
        "--calibrate works in one process: export in a call without --horovod",
    ),
    (
        ["init_checkpoint", "warm_start_from"],
        lambda init_checkpoint, warm_start_from: not (init_checkpoint and warm_start_from),
        "training begins from one checkpoint: give one of the two",
    ),
    (
        ["vocab_file", "spm_model_file"],
        lambda vocab_file, spm_model_file: not (vocab_file and spm_model_file),
        "texts are split by one file: give --spm_model_file for a SentencePiece model, as of "
        "google's English ALBERT, and else --vocab_file",
    ),
)


def parse(argv: Sequence[str], description: str) -> Sequence[str]:
    """Parse the command line into `flags.FLAGS`; end the program where there is nothing to do.

    Args:
        argv: the program and its arguments.
        description: of the program, for --help.
    """
    if len(argv) == 1:
        sys.exit(fail("nothing to do: give --do_train, or see --help", 2))
    if "--help" in argv or "-h" in argv:
        print(help_text(description))
        sys.exit(0)
    try:
        unparsed = flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(fail(str(error), 2))
    if len(unparsed) > 1:
        sys.exit(fail("%r is no flag: flags begin with --" % unparsed[1], 2))
    return unparsed


def read(flag_values: flags.FlagValues = flags.FLAGS) -> Config:
    """Return what parsed flags say."""
    own = {name: flag_values[name] for name in config.DEFAULTS}
    given = frozenset(name for name, flag in own.items() if flag.present)
    values = {name: flag.value for name, flag in own.items()}
    return dataclasses.replace(Config().replace(**values), given=given)


def help_text(description: str) -> str:
    """Return what --help prints: the flags in groups, with their defaults."""
    lines = [description.strip()]
    for title, of_group in groups().items():
        lines += ["", title + ":"]
        for flag in of_group:
            default = "" if flag.default in (None, "") else " [%s]" % flag.default
            lines += textwrap.wrap(
                "  --%-28s %s%s" % (flag.name, flag.help, default), 100, subsequent_indent=" " * 33
            )
    return "\n".join(lines)


def groups() -> dict[str, list[flags.Flag]]:
    """Return the flags below the title of each group, in the order of their definition."""
    found = {}
    for title, define_group in _GROUPS.items():
        of_group = flags.FlagValues()
        define_group(_Definer(of_group))
        found[title] = of_group.get_key_flags_for_module(__name__)
    return found

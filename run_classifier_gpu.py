"""Fine-tunes BERT for text classification with a plain tf.estimator.Estimator.

    python run_classifier_gpu.py --do_train --do_eval --task_name=mrpc --data_dir=... \\
        --bert_config_file=... --vocab_file=... --init_checkpoint=... --output_dir=...
    python run_classifier_gpu.py --do_eval --do_predict ...     # the best checkpoint of output_dir
    python run_classifier_gpu.py --do_export ...                # the same as a SavedModel

`--help` lists the flags.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import sys
import time
from typing import Any, Callable, Mapping, NamedTuple, Sequence

# Read by TensorFlow's C++ side when it is imported; it would log every CPU feature that it finds.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow.compat.v1 as tf
from absl import app, flags

import checkpoints
import files
import modeling
import serving
import tokenization
from classifier import create_model, metric_fn, metric_names, model_fn_builder  # noqa: F401
from errors import BadInput
from features import (  # noqa: F401
    InputFeatures,
    convert_single_example,
    file_based_convert_examples_to_features,
    file_based_input_fn_builder,
    write_records_once,
)
from history import EvalHistory, Watched
from hooks import (
    EarlyStoppingHook,
    EvaluationRecorder,
    ProgressHook,
    eval_history_path,
    stop_if_no_decrease_hook,
    stop_if_no_increase_hook,
)
from processors import DataProcessor, InputExample, get_processor

_LOG = logging.getLogger("run_classifier_gpu")
_LOG_FORMAT = logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S")


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines every flag of the program, and the rules between them."""

    def define(kind: Any, name: str, default: Any, help_text: str, **bounds: Any) -> None:
        kind(name, default, help_text, flag_values=flag_values, **bounds)

    # What to do.
    define(flags.DEFINE_bool, "do_train", False, "Train, evaluating at every checkpoint.")
    define(flags.DEFINE_bool, "do_eval", False, "Evaluate the best checkpoint on the dev set.")
    define(flags.DEFINE_bool, "do_predict", False, "Write predictions for the test set.")
    define(flags.DEFINE_bool, "do_export", False, "Export the best checkpoint as a SavedModel.")

    # Data.
    define(flags.DEFINE_string, "task_name", None, "Task, e.g. mrpc, or file for your own TSV.")
    define(flags.DEFINE_string, "data_dir", None, "Folder of the task's files.")
    define(flags.DEFINE_string, "train_file", None, "Training file, if not the task's usual one.")
    define(flags.DEFINE_string, "dev_file", None, "Dev file, if not the task's usual one.")
    define(flags.DEFINE_string, "test_file", None, "Test file, if not the task's usual one.")
    define(
        flags.DEFINE_integer,
        "max_seq_length",
        128,
        "Tokens per example, [CLS] and [SEP] included; longer texts are cut.",
        lower_bound=4,
    )

    # Model.
    define(flags.DEFINE_string, "bert_config_file", None, "JSON file with the encoder's shape.")
    define(flags.DEFINE_string, "vocab_file", None, "Vocabulary the encoder was trained with.")
    define(flags.DEFINE_string, "init_checkpoint", None, "Prefix of the pretrained checkpoint.")
    define(flags.DEFINE_bool, "do_lower_case", True, "Lower-case: True for uncased models.")

    # Training.
    define(flags.DEFINE_string, "output_dir", None, "Folder for everything the run makes.")
    define(flags.DEFINE_integer, "train_batch_size", 32, "Batch size of training.", lower_bound=1)
    define(flags.DEFINE_integer, "eval_batch_size", 8, "Batch size of evaluation.", lower_bound=1)
    define(
        flags.DEFINE_integer, "predict_batch_size", 8, "Batch size of prediction.", lower_bound=1
    )
    define(flags.DEFINE_float, "learning_rate", 5e-5, "Peak learning rate.", lower_bound=0.0)
    define(flags.DEFINE_float, "num_train_epochs", 3.0, "Epochs of training.", lower_bound=0.0)
    define(
        flags.DEFINE_float,
        "warmup_proportion",
        0.1,
        "Part of the steps in which the learning rate rises.",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    define(flags.DEFINE_integer, "seed", 12345, "Of the data's order, dropout and new weights.")
    define(
        flags.DEFINE_integer,
        "save_checkpoints_steps",
        None,
        "Steps between checkpoints, each of which is evaluated. Default: one epoch, at most 1000.",
        lower_bound=1,
    )
    define(
        flags.DEFINE_integer,
        "keep_checkpoint_max",
        2,
        "Recent checkpoints to keep; the best one is kept apart.",
        lower_bound=1,
    )
    define(flags.DEFINE_integer, "log_every_n_iter", 10, "Steps between log lines.", lower_bound=1)
    define(flags.DEFINE_bool, "use_xla", False, "Compile the graph with XLA.")

    # What is best, and when progress has ended.
    define(flags.DEFINE_string, "best_metric", "eval_loss", "Metric that says what is best.")
    define(
        flags.DEFINE_bool,
        "best_metric_higher_is_better",
        None,
        "Direction of --best_metric. Default: a loss should fall, everything else rise.",
    )
    define(
        flags.DEFINE_integer,
        "max_steps_without_improvement",
        None,
        "Stop early after so many steps without a better evaluation; 0 never stops early. "
        "Default: 3 x save_checkpoints_steps.",
        lower_bound=0,
    )
    define(flags.DEFINE_integer, "early_stopping_min_steps", 0, "Never stop before.", lower_bound=0)
    define(flags.DEFINE_integer, "exports_to_keep", 2, "Best exports to keep.", lower_bound=1)
    define(
        flags.DEFINE_string,
        "export_dir",
        None,
        "Folder of --do_export. Default: export/saved_model in --output_dir.",
    )
    define(flags.DEFINE_bool, "debug", False, "Show tracebacks and TensorFlow's own log.")

    for required in ("task_name", "bert_config_file", "vocab_file", "output_dir"):
        flags.mark_flag_as_required(required, flag_values)
    flags.register_multi_flags_validator(
        ["do_train", "do_eval", "do_predict", "do_export"],
        lambda wanted: any(wanted.values()),
        "nothing to do: give --do_train, --do_eval, --do_predict or --do_export",
        flag_values,
    )


class Schedule(NamedTuple):
    """The plan of a training run, in steps."""

    num_train_steps: int
    num_warmup_steps: int
    steps_per_epoch: float
    save_checkpoints_steps: int
    max_steps_without_improvement: int  # 0: never stop early


class Inputs(NamedTuple):
    """What is read and checked before anything is written."""

    bert_config: modeling.BertConfig
    tokenizer: tokenization.FullTokenizer
    processor: DataProcessor
    examples: dict[str, list[InputExample]]  # the splits that are needed: train, dev, test
    labels: list[str]


def run_classifier(flags_obj: flags.FlagValues) -> None:
    """Does what the flags ask for, in this order: train, evaluate, predict, export."""
    inputs = load_inputs(flags_obj)
    watched = make_watched(flags_obj, inputs)
    schedule = make_schedule(flags_obj, inputs)

    output_dir = flags_obj.output_dir
    os.makedirs(output_dir, exist_ok=True)
    log_to_file(os.path.join(output_dir, "run.log"))
    records = convert(flags_obj, inputs)
    assets = serving.write_assets(
        output_dir,
        flags_obj.vocab_file,
        flags_obj.bert_config_file,
        inputs.labels,
        flags_obj.max_seq_length,
        flags_obj.do_lower_case,
    )
    estimator = make_estimator(flags_obj, inputs, schedule)

    if schedule:
        train(flags_obj, inputs, schedule, watched, estimator, records, assets)
    checkpoint_path = trained_checkpoint(output_dir)
    if flags_obj.do_eval:
        evaluate(flags_obj, estimator, checkpoint_path, records["dev"])
    if flags_obj.do_predict:
        predict(flags_obj, inputs, estimator, checkpoint_path, records["test"])
    if flags_obj.do_export:
        serving.export_saved_model(
            estimator,
            flags_obj.export_dir or os.path.join(output_dir, "export", "saved_model"),
            serving.serving_input_fn_builder(flags_obj.max_seq_length),
            assets,
            checkpoint_path,
        )


def load_inputs(flags_obj: flags.FlagValues) -> Inputs:
    """Reads configuration, vocabulary and data; raises BadInput for what is wrong with them."""
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
    if flags_obj.init_checkpoint:
        checkpoints.validate_init_checkpoint(flags_obj.init_checkpoint)
    if not flags_obj.do_train:
        trained_checkpoint(flags_obj.output_dir)

    labels = None if flags_obj.do_train else labels_of_run(flags_obj.output_dir)
    processor = get_processor(flags_obj.task_name, labels)
    examples = read_examples(flags_obj, processor)
    return Inputs(bert_config, tokenizer, processor, examples, processor.get_labels())


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


def read_examples(
    flags_obj: flags.FlagValues, processor: DataProcessor
) -> dict[str, list[InputExample]]:
    """Reads the splits that the wanted actions need."""
    examples = {}
    if flags_obj.do_train:
        examples["train"] = processor.get_train_examples(flags_obj.data_dir, flags_obj.train_file)
    if flags_obj.do_train or flags_obj.do_eval:
        examples["dev"] = processor.get_dev_examples(flags_obj.data_dir, flags_obj.dev_file)
    if flags_obj.do_predict:
        examples["test"] = processor.get_test_examples(flags_obj.data_dir, flags_obj.test_file)
    return examples


def make_schedule(flags_obj: flags.FlagValues, inputs: Inputs) -> Schedule | None:
    """Turns epochs into steps; None when there is nothing to train."""
    if not flags_obj.do_train:
        return None
    num_examples = len(inputs.examples["train"])
    steps_per_epoch = num_examples / flags_obj.train_batch_size
    num_train_steps = int(steps_per_epoch * flags_obj.num_train_epochs)
    if num_train_steps == 0:
        raise BadInput(
            "--train_batch_size=%d: %d training examples and --num_train_epochs=%s make no single "
            "step; lower the batch size or raise the epochs"
            % (flags_obj.train_batch_size, num_examples, flags_obj.num_train_epochs)
        )
    save_steps = flags_obj.save_checkpoints_steps or min(1000, math.ceil(steps_per_epoch))
    patience = flags_obj.max_steps_without_improvement
    return Schedule(
        num_train_steps=num_train_steps,
        num_warmup_steps=int(num_train_steps * flags_obj.warmup_proportion),
        steps_per_epoch=steps_per_epoch,
        save_checkpoints_steps=save_steps,
        max_steps_without_improvement=3 * save_steps if patience is None else patience,
    )


def make_watched(flags_obj: flags.FlagValues, inputs: Inputs) -> Watched:
    """Gives the metric that says what is best, after checking that evaluations will have it."""
    metric = flags_obj.best_metric
    known = metric_names(len(inputs.labels), inputs.processor.task.metrics)
    if metric not in known:
        raise BadInput("--best_metric=%s: an evaluation has %s" % (metric, ", ".join(known)))
    higher_is_better = flags_obj.best_metric_higher_is_better
    if higher_is_better is None:
        higher_is_better = not metric.endswith("loss")
    return Watched(metric, higher_is_better)


def convert(flags_obj: flags.FlagValues, inputs: Inputs) -> dict[str, str]:
    """Converts each split to TFRecords; returns their paths."""
    return {
        split: write_records_once(
            examples,
            inputs.labels,
            flags_obj.max_seq_length,
            inputs.tokenizer,
            flags_obj.output_dir,
            split,
        )
        for split, examples in inputs.examples.items()
    }


def make_estimator(
    flags_obj: flags.FlagValues, inputs: Inputs, schedule: Schedule | None
) -> tf.estimator.Estimator:
    """Wraps the model function in a plain Estimator."""
    model_fn = model_fn_builder(
        bert_config=inputs.bert_config,
        num_labels=len(inputs.labels),
        init_checkpoint=flags_obj.init_checkpoint,
        learning_rate=flags_obj.learning_rate,
        num_train_steps=schedule.num_train_steps if schedule else 0,
        num_warmup_steps=schedule.num_warmup_steps if schedule else 0,
        extra_metrics=inputs.processor.task.metrics,
        seed=flags_obj.seed,
    )
    run_config = make_run_config(
        model_dir=flags_obj.output_dir,
        save_checkpoints_steps=schedule.save_checkpoints_steps if schedule else None,
        keep_checkpoint_max=flags_obj.keep_checkpoint_max,
        seed=flags_obj.seed,
        use_xla=flags_obj.use_xla,
    )
    return tf.estimator.Estimator(model_fn, config=run_config)


def make_run_config(
    model_dir: str,
    save_checkpoints_steps: int | None,
    keep_checkpoint_max: int,
    seed: int,
    use_xla: bool,
) -> tf.estimator.RunConfig:
    """Builds the RunConfig of the Estimator."""
    session_config = tf.ConfigProto()
    if use_xla:
        session_config.graph_options.optimizer_options.global_jit_level = tf.OptimizerOptions.ON_1
        # Without a GPU the level above alone compiles nothing. Read before the first session.
        os.environ["TF_XLA_FLAGS"] = os.environ.get("TF_XLA_FLAGS", "") + " --tf_xla_cpu_global_jit"
    return tf.estimator.RunConfig(
        model_dir=os.path.abspath(model_dir),
        tf_random_seed=seed,
        session_config=session_config,
        save_checkpoints_steps=save_checkpoints_steps,
        keep_checkpoint_max=keep_checkpoint_max,
        # ProgressHook logs the loss; Estimator's own lines would say it twice.
        log_step_count_steps=None,
    )


def train(
    flags_obj: flags.FlagValues,
    inputs: Inputs,
    schedule: Schedule,
    watched: Watched,
    estimator: tf.estimator.Estimator,
    records: Mapping[str, str],
    assets: Mapping[str, str],
) -> None:
    """Trains, evaluates every checkpoint, keeps the best, stops when progress has ended."""
    history = EvalHistory(eval_history_path(flags_obj.output_dir), watched)
    start_step = checkpoints.step_of(tf.train.latest_checkpoint(flags_obj.output_dir))
    _LOG.info("***** Running training *****")
    _LOG.info("  Num examples = %d", len(inputs.examples["train"]))
    _LOG.info("  Batch size = %d", flags_obj.train_batch_size)
    _LOG.info("  Num steps = %d, from step %d", schedule.num_train_steps, start_step)
    started = time.time()

    hooks: list[tf.train.SessionRunHook] = [
        ProgressHook(
            flags_obj.log_every_n_iter,
            schedule.num_train_steps,
            schedule.steps_per_epoch,
            flags_obj.train_batch_size,
        )
    ]
    early_stopping = make_early_stopping_hook(flags_obj, schedule, watched, estimator)
    if early_stopping:
        hooks.append(early_stopping)
    train_spec = tf.estimator.TrainSpec(
        file_based_input_fn_builder(
            records["train"],
            flags_obj.max_seq_length,
            is_training=True,
            drop_remainder=True,
            batch_size=flags_obj.train_batch_size,
            num_examples=len(inputs.examples["train"]),
            seed=flags_obj.seed,
            start_step=start_step,
        ),
        max_steps=schedule.num_train_steps,
        hooks=hooks,
    )
    eval_spec = tf.estimator.EvalSpec(
        eval_input_fn(flags_obj, records["dev"]),
        # All of the dev set, at every checkpoint: the defaults are 100 steps, every 600 seconds.
        steps=None,
        throttle_secs=0,
        exporters=[
            EvaluationRecorder(history, schedule.max_steps_without_improvement),
            serving.BestExporter(
                history,
                serving.serving_input_fn_builder(flags_obj.max_seq_length),
                assets,
                flags_obj.exports_to_keep,
            ),
        ],
    )
    write_run_json(flags_obj, records, {"status": "training"})
    tf.estimator.train_and_evaluate(estimator, train_spec, eval_spec)

    best = history.best()
    result = {
        "status": "stopped early" if early_stopping and early_stopping.reason else "finished",
        "reason": early_stopping.reason if early_stopping else None,
        "last_step": checkpoints.step_of(estimator.latest_checkpoint()),
        "best_step": best.step if best else None,
        "best_" + watched.metric: history.value(best) if best else None,
        "seconds": round(time.time() - started, 1),
    }
    write_run_json(flags_obj, records, result)
    _LOG.info("***** Training %s *****", result["status"])
    for name, value in result.items():
        _LOG.info("  %s = %s", name, value)


def make_early_stopping_hook(
    flags_obj: flags.FlagValues,
    schedule: Schedule,
    watched: Watched,
    estimator: tf.estimator.Estimator,
) -> EarlyStoppingHook | None:
    """Builds the hook for the metric's direction; None when stopping early is switched off."""
    if schedule.max_steps_without_improvement == 0:
        return None
    make_hook = stop_if_no_increase_hook if watched.higher_is_better else stop_if_no_decrease_hook
    return make_hook(
        estimator,
        watched.metric,
        schedule.max_steps_without_improvement,
        min_steps=flags_obj.early_stopping_min_steps,
        run_every_secs=None,
        run_every_steps=schedule.save_checkpoints_steps,
    )


def eval_input_fn(flags_obj: flags.FlagValues, record_file: str) -> Callable[[], tf.data.Dataset]:
    """Builds the `input_fn` of an evaluation: one pass, the short last batch included."""
    return file_based_input_fn_builder(
        record_file,
        flags_obj.max_seq_length,
        is_training=False,
        drop_remainder=False,
        batch_size=flags_obj.eval_batch_size,
    )


def evaluate(
    flags_obj: flags.FlagValues,
    estimator: tf.estimator.Estimator,
    checkpoint_path: str,
    record_file: str,
) -> None:
    """Evaluates a checkpoint on the dev set; writes eval_results.txt and eval_results.json."""
    _LOG.info("***** Eval results of %s *****", checkpoint_path)
    result = estimator.evaluate(
        eval_input_fn(flags_obj, record_file),
        checkpoint_path=checkpoint_path,
        # A folder of events of its own: those of `eval/` are the run's course.
        name="best",
    )
    numbers = {name: value.item() for name, value in sorted(result.items())}
    for name, value in numbers.items():
        _LOG.info("  %s = %s", name, value)
    lines = "".join("%s = %s\n" % item for item in numbers.items())
    files.write_text(os.path.join(flags_obj.output_dir, "eval_results.txt"), lines)
    files.write_text(
        os.path.join(flags_obj.output_dir, "eval_results.json"),
        json.dumps(numbers, indent=2) + "\n",
    )


def predict(
    flags_obj: flags.FlagValues,
    inputs: Inputs,
    estimator: tf.estimator.Estimator,
    checkpoint_path: str,
    record_file: str,
) -> None:
    """Writes test_results.tsv: label, probabilities and texts of each example, under a header."""
    examples = inputs.examples["test"]
    path = os.path.join(flags_obj.output_dir, "test_results.tsv")
    _LOG.info("***** Predictions of %s *****", checkpoint_path)
    predictions = estimator.predict(
        file_based_input_fn_builder(
            record_file,
            flags_obj.max_seq_length,
            is_training=False,
            drop_remainder=False,
            batch_size=flags_obj.predict_batch_size,
            labelled=examples[0].label is not None,
        ),
        checkpoint_path=checkpoint_path,
    )
    header = ["index", "prediction"] + ["p(%s)" % label for label in inputs.labels]
    header += ["text_a", "text_b"]
    with files.atomic(path) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        stream.write("\t".join(header) + "\n")
        for index, (example, prediction) in enumerate(zip(examples, predictions)):
            row = [str(index), inputs.labels[prediction["predictions"]]]
            row += ["%.6f" % p for p in prediction["probabilities"]]
            row += [example.text_a, example.text_b or ""]
            stream.write("\t".join(row) + "\n")
    _LOG.info("  %d predictions in %s", len(examples), path)


def trained_checkpoint(output_dir: str) -> str:
    """Gives the checkpoint to evaluate, predict with and export: the best, else the latest."""
    path = checkpoints.best_or_latest(output_dir)
    if path is None:
        raise BadInput("--output_dir=%s: no trained checkpoint; give --do_train first" % output_dir)
    return path


def labels_of_run(output_dir: str) -> list[str] | None:
    """Gives the labels that the model in `output_dir` was trained with, None before training."""
    path = os.path.join(output_dir, "labels.txt")
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as stream:
        return stream.read().splitlines()


def write_run_json(
    flags_obj: flags.FlagValues, records: Mapping[str, str], result: Mapping[str, Any]
) -> None:
    """Writes run.json: with what the run was made, and how it ended."""
    content = {
        "result": result,
        "flags": own_flags(flags_obj),
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "numpy": np.__version__,
        },
        "records": {split: os.path.basename(path) for split, path in records.items()},
    }
    files.write_text(
        os.path.join(flags_obj.output_dir, "run.json"), json.dumps(content, indent=2) + "\n"
    )


def own_flags(flags_obj: flags.FlagValues) -> dict[str, Any]:
    """Gives the values of this program's flags, without those that absl and TensorFlow define."""
    our_module = flags_obj.find_module_defining_flag("do_train")
    return {
        name: flags_obj[name].value
        for name in flags_obj
        if flags_obj.find_module_defining_flag(name) == our_module
    }


def log_to_stderr(debug: bool) -> None:
    """Sends the log to stderr, one line once: TensorFlow and absl bring handlers of their own."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LOG_FORMAT)
    logging.root.handlers = [handler]
    logging.root.setLevel(logging.INFO)
    tf_logger = logging.getLogger("tensorflow")
    tf_logger.handlers = []
    tf_logger.setLevel(logging.INFO if debug else logging.ERROR)


def log_to_file(path: str) -> None:
    """Sends the log to a file as well, after what earlier runs wrote there."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_LOG_FORMAT)
    logging.root.addHandler(handler)


def parse_flags(argv: Sequence[str]) -> Sequence[str]:
    """Parses the command line; what is wrong with it is the user's to cure, like any bad input."""
    try:
        unparsed = flags.FLAGS(argv)
    except flags.Error as error:
        fail(str(error))
    if len(unparsed) > 1:
        fail("%r is no flag: flags begin with --" % unparsed[1])
    return unparsed


def fail(message: str) -> None:
    """Ends the program with one line on stderr and status 2."""
    print("run_classifier_gpu.py: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def main(argv: Sequence[str]) -> None:
    """Runs the program; bad input ends with one line instead of a traceback."""
    del argv
    log_to_stderr(flags.FLAGS.debug)
    try:
        run_classifier(flags.FLAGS)
    except BadInput as error:
        if flags.FLAGS.debug:
            raise
        fail(str(error))


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=parse_flags)

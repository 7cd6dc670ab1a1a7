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
import logging
import os
import sys
from typing import Sequence

from bert_classifier import commands, streams

if __name__ == "__main__":
    streams.prepare()

# Read by TensorFlow's C++ side when it is imported; it would log every CPU feature that it finds,
# and, as an error, that there is no driver of a GPU.
os.environ.setdefault(
    "TF_CPP_MIN_LOG_LEVEL", "2" if os.path.exists("/proc/driver/nvidia/version") else "3"
)

try:
    import tensorflow.compat.v1 as tf
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    sys.exit(commands.tell_missing("run_classifier_gpu.py", error))
from absl import app

import modeling  # noqa: F401
import tokenization  # noqa: F401
from bert_classifier import (
    devices,
    flags,
    gpus,
    hook_builders,
    program,
    reporting,
    threads,
    trials,
)
from bert_classifier.config import Config
from bert_classifier.data.batches import file_based_input_fn_builder  # noqa: F401
from bert_classifier.data.examples import InputExample  # noqa: F401
from bert_classifier.data.features import InputFeatures  # noqa: F401
from bert_classifier.data.pipeline import Pipeline
from bert_classifier.data.processors import DataProcessor  # noqa: F401
from bert_classifier.data.serialization import (  # noqa: F401
    convert_single_example,
    file_based_convert_examples_to_features,
)
from bert_classifier.export import from_run
from bert_classifier.export.writer import metrics_of
from bert_classifier.inspection.verdict import judge
from bert_classifier.job import (
    Job,
    count_parts,
    history_of,
    identity_of,
    inspect,
    make_pipeline,
    open_folder,
    prepare,
    with_plain_paths,
)
from bert_classifier.model.classifier import (  # noqa: F401
    Share,
    create_model,
    metric_fn,
    model_fn_builder,
)
from bert_classifier.predictions import find_temperature, predictions, score_predictions
from bert_classifier.problem_types import ClassOptions
from bert_classifier.report import tensorboard
from bert_classifier.serving import test_results
from bert_classifier.summary import log_metrics, log_start, log_summary
from bert_classifier.training import checkpoints, loop, runs
from bert_classifier.training.interruption import Interruption
from bert_classifier.training.record import Run, RunRecord
from bert_classifier.training.run_config import make_run_config
from bert_classifier.training.schedule import Schedule
from bert_classifier.training.workers import Workers

_LOG = logging.getLogger("run_classifier_gpu")


def run_classifier(
    config: Config,
    interruption: Interruption | None = None,
    workers: Workers | None = None,
) -> dict[str, float]:
    """Do what the flags ask for, in this order: train, evaluate, predict, export.

    Returns:
        The metrics of the evaluation; empty if there was none, and for all workers but the chief.
    """
    if config.actions.dry_run:
        config = config.replace(do_train=True)
    workers = workers or Workers()
    device = workers.together(gpus.describe)
    job = prepare(config, workers, interruption or Interruption())
    config = job.config
    inspection = workers.from_chief(lambda: inspect(job))
    job = job._replace(data_summary=inspection.lines)
    metrics: dict[str, float] = {}
    if config.actions.dry_run:
        return metrics
    with contextlib.ExitStack() as folder:
        workers.from_chief(lambda: open_folder(job, folder))
        if workers.is_chief:
            job = with_plain_paths(job, folder)
        for line in inspection.to_log():
            _LOG.info("  %s", line)
        for line in ["Computing on " + device, *devices.prepare(config.devices)]:
            _LOG.info("%s", line)
        pipeline = make_pipeline(job)
        estimator = make_estimator(job)
        if job.schedule:
            train(job, job.schedule, estimator, pipeline)
        checkpoint_path = workers.from_chief(
            lambda: checkpoints.find(config.output.output_dir, config.evaluation.eval_checkpoint)
        )
        if config.actions.do_eval:
            metrics = evaluate(job, estimator, pipeline, checkpoint_path)
        elif job.schedule and workers.is_chief:
            reporting.report_training(job, estimator)
        if workers.is_chief:
            if config.actions.do_predict:
                predict(job, estimator, pipeline, checkpoint_path)
            if config.actions.exports:
                export(job, estimator, pipeline)
            if job.schedule:
                log_summary(job)
        workers.wait_for_all()
    return metrics


def make_estimator(job: Job) -> tf.estimator.Estimator:
    """Wrap the model function in a plain Estimator."""
    config, inputs, schedule, workers = job.config, job.inputs, job.schedule, job.workers
    training, weights = config.training, job.initial_weights
    precision, num_parts = devices.choose_precision(config.devices), count_parts(job)
    model_fn = model_fn_builder(
        bert_config=inputs.bert_config,
        num_labels=len(inputs.labels),
        # The others get the weights from the chief.
        init_checkpoint=weights.checkpoint if workers.is_chief else None,
        learning_rate=schedule.learning_rate if schedule else 0.0,
        num_train_steps=schedule.num_train_steps if schedule else 0,
        num_warmup_steps=schedule.num_warmup_steps if schedule else 0,
        extra_metrics=inputs.task.metrics,
        seed=training.seed,
        problem_type=inputs.problem_type,
        class_options=ClassOptions(
            inputs.class_weights, training.label_smoothing, inputs.thresholds
        ),
        share=Share(workers.size, workers.index, workers.add_up, num_parts),
        gradient_checkpointing=training.gradient_checkpointing,
        with_classifier=weights.with_classifier,
        optimizer=training.optimizer,
        weight_decay_rate=training.weight_decay_rate,
        clip_norm=training.clip_norm,
        num_accumulation_steps=training.num_accumulation_steps,
        layerwise_lr_decay=training.layerwise_lr_decay,
        layers_above=inputs.bert_config.layers_above,
        amp=precision.scales_loss,
        average_gradients=workers.average_gradients,
    )
    run_config = make_run_config(
        model_dir=job.model_dir,
        save_checkpoints_steps=schedule.save_checkpoints_steps if schedule else None,
        keep_checkpoint_max=config.output.keep_checkpoint_max,
        seed=training.seed,
        use_xla=config.devices.use_xla,
        precision=precision,
        workers=workers,
        num_parts=num_parts,
    )
    return tf.estimator.Estimator(model_fn, config=run_config)


def train(
    job: Job, schedule: Schedule, estimator: tf.estimator.Estimator, pipeline: Pipeline
) -> None:
    """Train, evaluate every checkpoint, keep the best, stop when progress has ended."""
    config, workers, output_dir = job.config, job.workers, job.config.output.output_dir
    # The files that it is made of need not be where the other workers are.
    identity = workers.from_chief(lambda: identity_of(job, schedule))
    resumed_from = workers.from_chief(
        lambda: checkpoints.find_resumable(output_dir, config.output.keep_checkpoint_max)
    )
    start_step = workers.from_chief(lambda: checkpoints.step_of(resumed_from))
    history = workers.together(lambda: history_of(job))
    if workers.is_chief:
        history.forget_from(start_step + 1)
    progress = hook_builders.make_progress_hook(job, schedule, estimator)
    record = RunRecord(
        Run(output_dir, identity, config.values()), schedule, history, progress, start_step, workers
    )
    early_stopping = hook_builders.make_early_stopping_hook(job, schedule, estimator)
    eval_input_fn = pipeline.input_fn("dev", config.evaluation.eval_batch_size)
    outputs = reporting.make_outputs_hook(job, eval_input_fn)
    exporters = hook_builders.make_exporters(job, schedule, estimator, history, outputs)
    eval_spec = loop.make_eval_spec(eval_input_fn, exporters, [outputs])
    verdict = functools.partial(judge, config, job.inputs, schedule, history)
    stop_reason = None
    if resumed_from:
        _LOG.info("Resuming from %s", resumed_from)
        if schedule.is_due(start_step):
            loop.catch_up(estimator, eval_spec, history, resumed_from, workers, job.interruption)
            stop_reason = early_stopping.should_stop(start_step)
    if stop_reason or start_step >= schedule.num_train_steps:
        _LOG.info("Nothing left to train: the run in %s has ended", output_dir)
        if workers.is_chief and not runs.has_ended(output_dir):
            record.write_end(stop_reason, verdict)
            tensorboard.write_end(config, estimator, history)
        return
    log_start(job, schedule, start_step, estimator.config.session_config)
    record.write("training")
    first_batch = start_step * config.training.num_accumulation_steps
    train_spec = tf.estimator.TrainSpec(
        pipeline.input_fn("train", config.training.train_batch_size, first_batch),
        max_steps=schedule.num_train_steps,
        hooks=[progress, *hook_builders.make_training_hooks(job, estimator)],
    )
    with record.failures_written(config.training):
        loop.train_and_evaluate(
            estimator,
            train_spec,
            eval_spec,
            schedule.save_checkpoints_steps,
            early_stopping,
            workers,
            job.interruption,
        )
    record.check_is_complete(early_stopping.reason)
    record.write_end(early_stopping.reason, verdict)
    if workers.is_chief:
        tensorboard.write_end(config, estimator, history)


def evaluate(
    job: Job, estimator: tf.estimator.Estimator, pipeline: Pipeline, checkpoint_path: str
) -> dict[str, float]:
    """Evaluate a checkpoint on the dev set; write the results and a report."""
    _LOG.info("***** Eval results of %s *****", checkpoint_path)
    input_fn = pipeline.input_fn("dev", job.config.evaluation.eval_batch_size)
    hook = reporting.make_outputs_hook(job, input_fn)
    # A folder of events of its own: those of `eval/` are the run's course.
    name = reporting.name_of_events(job, checkpoint_path)
    result = loop.evaluate(
        estimator,
        input_fn,
        checkpoint_path,
        job.workers,
        job.interruption,
        name=name,
        hooks=[hook],
    )
    if not job.workers.is_chief:
        return {}
    numbers = {name: value.item() for name, value in sorted(result.items())}
    log_metrics(numbers)
    assert hook.outputs is not None
    reporting.write_evaluation(job, estimator, checkpoint_path, name, numbers, hook.outputs)
    return numbers


def predict(
    job: Job, estimator: tf.estimator.Estimator, pipeline: Pipeline, checkpoint_path: str
) -> None:
    """Write test_results.tsv; test_metrics.json too if the test file has labels."""
    config, inputs, examples = job.config, job.inputs, job.inputs.examples["test"]
    settings = from_run.make_settings(config, inputs, examples.is_pair)
    if config.export.calibrate:
        temperature = find_temperature(job, estimator, pipeline, checkpoint_path)
        settings = settings._replace(temperature=temperature)
    _LOG.info("***** Predictions of %s *****", checkpoint_path)
    outputs = predictions(job, estimator, pipeline, checkpoint_path, "test")
    path = test_results.write(config.output.output_dir, settings, inputs.task, examples, outputs)
    _LOG.info("  %d predictions in %s", len(examples), path)
    if examples.unusable_label:
        _LOG.info("  no metrics: %s", examples.unusable_label)
    elif examples.is_labelled:
        score_predictions(job, estimator, pipeline, checkpoint_path)


def export(job: Job, estimator: tf.estimator.Estimator, pipeline: Pipeline) -> None:
    """Export a checkpoint: as a SavedModel, as a frozen graph, as an ONNX model."""
    config, output_dir = job.config, job.config.output.output_dir
    checkpoint_path = checkpoints.find(output_dir, config.checkpoint_to_export())
    writer = from_run.make_bundle_writer(config, job.inputs, estimator)
    if config.export.calibrate:
        temperature = find_temperature(job, estimator, pipeline, checkpoint_path)
        writer = writer._replace(settings=writer.settings._replace(temperature=temperature))
    history = history_of(job)
    metrics = metrics_of(history, checkpoints.step_of(checkpoint_path))
    dev_set = None
    if config.export.onnx_int8:
        dev_set = from_run.make_dev_set(job.inputs, job.watched.metric)
    writer.write(checkpoint_path, metrics, from_run.destinations(config), dev_set)


def parse_flags(argv: Sequence[str]) -> Sequence[str]:
    """Parse the command line."""
    # TensorFlow 2.15 looks at its devices, and at this, as soon as the flags are parsed.
    threads.compile_on_cpus()
    return flags.parse(argv, __doc__)


def main(argv: Sequence[str]) -> int:
    """Do what the command line says; return the exit status."""
    del argv
    config = flags.read()
    if config.training.num_trials > 1:
        return program.run(config, functools.partial(trials.run_trials, run_classifier))
    return program.run(config, run_classifier)


if __name__ == "__main__":
    flags.define()
    app.run(main, flags_parser=parse_flags)

"""Train, evaluate and predict with an Estimator, on one worker or several.

All workers take each training step together; the chief saves, evaluates and exports.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, Iterator, Sequence

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import files
from bert_classifier.data import processes
from bert_classifier.data.pipeline import InputFn
from bert_classifier.training import checkpoints
from bert_classifier.training.history import EvalHistory
from bert_classifier.training.hooks import (
    AddUpMetricsHook,
    CheckpointHook,
    EarlyStoppingHook,
    JoinEvaluationsHook,
    ReplaceEventsHook,
)
from bert_classifier.training.interruption import (
    Interruption,
    LeaveWhenInterrupted,
    StopWhenInterrupted,
)
from bert_classifier.training.workers import Workers


def make_eval_spec(
    input_fn: InputFn,
    exporters: Sequence[tf.estimator.Exporter],
    hooks: Sequence[tf.train.SessionRunHook] = (),
) -> tf.estimator.EvalSpec:
    """Return how every checkpoint of a training is evaluated: at once, and on the whole dev set.

    Args:
        input_fn: gives this worker's part of the dev set, once.
        exporters: what the chief calls after an evaluation, in this order.
        hooks: of every worker's evaluation.
    """
    # The defaults are 100 batches, and at most one evaluation in 600 seconds.
    return tf.estimator.EvalSpec(
        input_fn, steps=None, throttle_secs=0, exporters=exporters, hooks=hooks
    )


def train_and_evaluate(
    estimator: tf.estimator.Estimator,
    train_spec: tf.estimator.TrainSpec,
    eval_spec: tf.estimator.EvalSpec,
    save_checkpoints_steps: int,
    early_stopping: EarlyStoppingHook,
    workers: Workers,
    interruption: Interruption,
) -> None:
    """Train to the end, or until there is no more progress, and evaluate every checkpoint.

    All workers call it. `tf.estimator.train_and_evaluate` is for a process that saves checkpoints,
    the chief. The others train for the same steps and take part in the chief's evaluations.

    Args:
        estimator: of this worker.
        train_spec: endless batches of this worker, the number of steps, and the hooks that log.
        eval_spec: see `make_eval_spec`.
        save_checkpoints_steps: steps between checkpoints.
        early_stopping: stops all workers at the same step.
        workers: those that train together.
        interruption: watches for signals.

    Raises:
        Interrupted: a signal came. What was trained is saved.
        NanLossDuringTrainingError: the loss is NaN.
    """
    interrupted = StopWhenInterrupted(interruption, workers.add_up)
    if workers.is_chief:
        at_checkpoints = CheckpointHook(
            estimator.model_dir, save_checkpoints_steps, lambda: interrupted.stops
        )
    else:
        at_checkpoints = JoinEvaluationsHook(
            lambda: join_evaluation(
                estimator, eval_spec.input_fn, workers, interruption, eval_spec.hooks
            ),
            save_checkpoints_steps,
            lambda: interrupted.stops,
        )
    train_spec = train_spec._replace(
        hooks=[
            *workers.first_hooks(),
            *train_spec.hooks,
            at_checkpoints,
            # Both ask after the evaluation of a step, if there is one.
            early_stopping,
            interrupted,
        ]
    )
    with interruption.deferred():
        if workers.is_chief:
            hooks = _writing_hooks(estimator, eval_spec.name, workers, interruption)
            eval_spec = eval_spec._replace(hooks=[*hooks, *eval_spec.hooks])
            tf.estimator.train_and_evaluate(estimator, train_spec, eval_spec)
        else:
            estimator.train(train_spec.input_fn, train_spec.hooks, max_steps=train_spec.max_steps)
        # A worker that ends with a signal's status makes the launcher end the others, while the
        # chief may still be saving: all workers end in the same way, and now.
        if workers.any(interruption.requested):
            interruption.request()


def catch_up(
    estimator: tf.estimator.Estimator,
    eval_spec: tf.estimator.EvalSpec,
    history: EvalHistory,
    checkpoint_path: str,
    workers: Workers,
    interruption: Interruption,
) -> None:
    """Do what a killed run had still to do after its last checkpoint: evaluate, keep, export.

    `tf.estimator.train_and_evaluate` does not evaluate the checkpoint that it resumes from. All
    workers call this.

    Args:
        estimator: of this worker.
        eval_spec: see `make_eval_spec`.
        history: of the run. An evaluation that is there is not repeated.
        checkpoint_path: the last checkpoint.
        workers: those that train together.
        interruption: watches for signals.
    """

    def known_result() -> dict[str, Any] | None:
        step = checkpoints.step_of(checkpoint_path)
        evaluation = history.at(step)
        return dict(evaluation.metrics, global_step=step) if evaluation else None

    result = workers.from_chief(known_result)
    if result is None:
        result = evaluate(
            estimator,
            eval_spec.input_fn,
            checkpoint_path,
            workers,
            interruption,
            hooks=eval_spec.hooks,
        )
    if workers.is_chief:
        for exporter in eval_spec.exporters:
            folder = os.path.join(estimator.model_dir, "export", exporter.name)
            exporter.export(estimator, folder, checkpoint_path, result, is_the_final_export=False)


def evaluate(
    estimator: tf.estimator.Estimator,
    input_fn: InputFn,
    checkpoint_path: str,
    workers: Workers,
    interruption: Interruption,
    name: str | None = None,
    hooks: Sequence[tf.train.SessionRunHook] = (),
) -> dict[str, Any]:
    """Evaluate a checkpoint, each worker on a part of the data.

    Args:
        estimator: of this worker.
        input_fn: gives this worker's part of the data, once.
        checkpoint_path: the checkpoint; only the chief reads it.
        workers: those that evaluate together; all of them call this.
        interruption: watches for signals.
        name: the events are written to the folder `eval_<name>`; default: `eval`.
        hooks: further ones, of every worker.

    Returns:
        The metrics of all the data by name; empty for all workers but the chief.
    """
    if not workers.is_chief:
        join_evaluation(estimator, input_fn, workers, interruption, hooks)
        return {}
    hooks = [*_writing_hooks(estimator, name, workers, interruption), *hooks]
    with files.plain_path(checkpoint_path) as plain:
        return estimator.evaluate(input_fn, hooks=hooks, checkpoint_path=plain, name=name)


def predict(
    estimator: tf.estimator.Estimator, input_fn: InputFn, checkpoint_path: str, num_threads: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the predictions of each example by name, in order, as `estimator.predict` does.

    Several batches are computed at a time; `estimator.predict` computes one after the other.

    Args:
        estimator: of this worker.
        input_fn: gives the data, once.
        checkpoint_path: the checkpoint.
        num_threads: how many batches are computed at a time, each in a thread.
    """
    with tf.Graph().as_default() as graph:
        batches = tf.data.make_initializable_iterator(input_fn())
        features = batches.get_next()
        mode = tf.estimator.ModeKeys.PREDICT
        predictions = estimator.model_fn(features, None, mode, estimator.config).predictions
        saver = tf.train.Saver()
    session = tf.Session(graph=graph, config=estimator.config.session_config)

    def read() -> Iterator[dict[str, np.ndarray]]:
        session.run(batches.initializer)
        with contextlib.suppress(tf.errors.OutOfRangeError):
            while True:
                yield session.run(features)

    def compute(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return session.run(predictions, {features[name]: batch[name] for name in features})

    with contextlib.closing(session):
        # Where execution is eager by default, a Saver works only with a graph as the default one.
        with files.plain_path(checkpoint_path) as plain, graph.as_default():
            saver.restore(session, plain)
        for batch in processes.map_in_threads(compute, read(), num_threads):
            for row in zip(*batch.values()):
                yield dict(zip(batch, row))


def evaluation_hooks(workers: Workers, interruption: Interruption) -> list[tf.train.SessionRunHook]:
    """Return hooks with which all workers evaluate the chief's weights and share their metrics."""
    if workers.add_up and workers.gather:
        # A worker that left an evaluation would keep the others waiting. A signal ends it after the
        # next training step, on all workers.
        return [*workers.first_hooks(), AddUpMetricsHook(workers.add_up, workers.gather)]
    return [LeaveWhenInterrupted(interruption)]


def _writing_hooks(
    estimator: tf.estimator.Estimator,
    name: str | None,
    workers: Workers,
    interruption: Interruption,
) -> list[tf.train.SessionRunHook]:
    """Return the hooks of a chief that evaluates: Estimator writes the metrics for TensorBoard."""
    events_dir = estimator.eval_dir(name)
    return [*evaluation_hooks(workers, interruption), ReplaceEventsHook(events_dir)]


class _LeaveBeforeWriting(tf.train.SessionRunHook):
    """Leave an evaluation by an exception, before Estimator writes the metrics to an event file.

    Estimator has no option not to write them, and only the chief writes files.
    """

    class Left(Exception):
        """The evaluation is over."""

    def end(self, session: tf.Session) -> None:
        """Leave."""
        raise self.Left


def join_evaluation(
    estimator: tf.estimator.Estimator,
    input_fn: InputFn,
    workers: Workers,
    interruption: Interruption,
    hooks: Sequence[tf.train.SessionRunHook] = (),
) -> None:
    """Do this worker's part of an evaluation that the chief makes; write nothing.

    The arguments are those of `evaluate`.
    """
    hooks = [*evaluation_hooks(workers, interruption), *hooks, _LeaveBeforeWriting()]
    with contextlib.suppress(_LeaveBeforeWriting.Left):
        estimator.evaluate(input_fn, hooks=hooks)

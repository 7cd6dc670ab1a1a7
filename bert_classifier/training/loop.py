"""The training loop: all workers step together, the chief saves, evaluates, keeps and exports.

Beside it the other uses of an Estimator: one evaluation, predictions.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, Callable, Iterator, NamedTuple, Sequence

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import files
from bert_classifier.data import processes
from bert_classifier.training import checkpoints
from bert_classifier.training.history import EvalHistory
from bert_classifier.training.hooks import (
    AddUpMetricsHook,
    CheckpointHook,
    EarlyStoppingHook,
    JoinEvaluationsHook,
    SameFetchesHook,
)
from bert_classifier.training.interruption import (
    Interruption,
    LeaveWhenInterrupted,
    StopWhenInterrupted,
)
from bert_classifier.training.workers import Workers

InputFn = Callable[[], tf.data.Dataset]


class Schedule(NamedTuple):
    """The plan of a training run, in steps; a step is one update of the weights."""

    examples_per_step: int  # of all workers together
    learning_rate: float  # the highest
    num_train_steps: int
    num_warmup_steps: int
    steps_per_epoch: float
    save_checkpoints_steps: int
    max_steps_without_improvement: int  # 0: never stop early

    def is_due(self, step: int) -> bool:
        """Tells whether a run that nobody interrupts evaluates the checkpoint of a step."""
        if step == 0:
            return False
        return step % self.save_checkpoints_steps == 0 or step == self.num_train_steps


def train_and_evaluate(
    estimator: tf.estimator.Estimator,
    schedule: Schedule,
    train_input_fn: InputFn,
    eval_input_fn: InputFn,
    exporters: Sequence[tf.estimator.Exporter],
    early_stopping: EarlyStoppingHook,
    loggers: Sequence[tf.train.SessionRunHook],
    workers: Workers,
    interruption: Interruption,
) -> None:
    """Trains to the end, or until progress has ended, and evaluates every checkpoint.

    All workers call it. `tf.estimator.train_and_evaluate` is for a process that saves checkpoints:
    the chief. The others train with the same steps and take part in its evaluations.

    Args:
        estimator: that of this worker.
        schedule: the plan.
        train_input_fn: gives the batches of this worker, for ever.
        eval_input_fn: gives this worker's part of the dev set, once.
        exporters: what the chief does after an evaluation.
        early_stopping: the hook that asks whether to stop, and gets the same answer everywhere.
        loggers: hooks that log.
        workers: those who train together.
        interruption: watches for signals.

    Raises:
        Interrupted: a signal came. What was trained is saved.
        NanLossDuringTrainingError: the loss is NaN.
    """
    interrupted = StopWhenInterrupted(interruption, workers.add_up)

    def hooks(at_checkpoints: tf.train.SessionRunHook) -> list[tf.train.SessionRunHook]:
        # After an evaluation it is asked whether progress has ended, and whether a signal has come.
        return [
            *workers.first_hooks(),
            *loggers,
            SameFetchesHook(),
            at_checkpoints,
            early_stopping,
            interrupted,
        ]

    with interruption.deferred():
        if workers.is_chief:
            saver = CheckpointHook(
                estimator.model_dir,
                schedule.save_checkpoints_steps,
                is_in_a_hurry=lambda: interrupted.stops,
            )
            tf.estimator.train_and_evaluate(
                estimator,
                tf.estimator.TrainSpec(
                    train_input_fn, max_steps=schedule.num_train_steps, hooks=hooks(saver)
                ),
                tf.estimator.EvalSpec(
                    eval_input_fn,
                    # All of the dev set, at every checkpoint: the defaults are 100 steps, every
                    # 600 seconds.
                    steps=None,
                    throttle_secs=0,
                    hooks=evaluation_hooks(workers, interruption),
                    exporters=exporters,
                ),
            )
        else:
            joining = JoinEvaluationsHook(
                lambda: join_evaluation(estimator, eval_input_fn, workers, interruption),
                schedule.save_checkpoints_steps,
                is_in_a_hurry=lambda: interrupted.stops,
            )
            estimator.train(
                train_input_fn, max_steps=schedule.num_train_steps, hooks=hooks(joining)
            )
        # The launcher ends all workers when one ends with a signal's status, but the chief may
        # still be saving. And who has a signal must not end alone.
        if workers.any(interruption.requested):
            interruption.request()


def catch_up(
    estimator: tf.estimator.Estimator,
    eval_input_fn: InputFn,
    exporters: Sequence[tf.estimator.Exporter],
    history: EvalHistory,
    checkpoint_path: str,
    workers: Workers,
    interruption: Interruption,
) -> None:
    """Does what a killed run still had to do after its last checkpoint: evaluate, keep, export.

    `train_and_evaluate` does not evaluate the checkpoint that it resumes from.
    """

    def known_result() -> dict[str, Any] | None:
        step = checkpoints.step_of(checkpoint_path)
        evaluation = history.at(step)
        return dict(evaluation.metrics, global_step=step) if evaluation else None

    result = workers.from_chief(known_result)
    if result is None:
        result = evaluate(estimator, eval_input_fn, checkpoint_path, workers, interruption)
    if workers.is_chief:
        for exporter in exporters:
            folder = os.path.join(estimator.model_dir, "export", exporter.name)
            exporter.export(estimator, folder, checkpoint_path, result, is_the_final_export=False)


def evaluate(
    estimator: tf.estimator.Estimator,
    input_fn: InputFn,
    checkpoint_path: str,
    workers: Workers,
    interruption: Interruption,
    name: str | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint, each worker a part of the data.

    Args:
        estimator: that of this worker.
        input_fn: gives this worker's part of the data.
        checkpoint_path: the checkpoint; only the chief reads it.
        workers: those who evaluate together; all of them call this.
        interruption: watches for signals.
        name: of the folder of events.

    Returns:
        The metrics, the same as those of one worker; empty for all but the chief.
    """
    if not workers.is_chief:
        join_evaluation(estimator, input_fn, workers, interruption)
        return {}
    hooks = evaluation_hooks(workers, interruption)
    with files.plain_path(checkpoint_path) as plain:
        return estimator.evaluate(input_fn, hooks=hooks, checkpoint_path=plain, name=name)


def predict(
    estimator: tf.estimator.Estimator, input_fn: InputFn, checkpoint_path: str, num_threads: int
) -> Iterator[dict[str, np.ndarray]]:
    """Gives what `estimator.predict` gives: the predictions of each example, by name, in order.

    So many batches are computed at a time, each in a thread of its own: `estimator.predict` reads,
    computes and hands out one after the other.

    Args:
        estimator: that of this worker.
        input_fn: gives the data, once.
        checkpoint_path: the checkpoint.
        num_threads: how many batches at a time.
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
        with files.plain_path(checkpoint_path) as plain:
            saver.restore(session, plain)
        for batch in processes.map_in_threads(compute, read(), num_threads):
            for row in zip(*batch.values()):
                yield dict(zip(batch, row))


def evaluation_hooks(workers: Workers, interruption: Interruption) -> list[tf.train.SessionRunHook]:
    """Gives the hooks of an evaluation: the weights are the chief's, the metrics those of all."""
    if workers.add_up and workers.gather:
        # None of them leaves: the others would wait for it. All stop after the next step.
        return [*workers.first_hooks(), AddUpMetricsHook(workers.add_up, workers.gather)]
    return [LeaveWhenInterrupted(interruption)]


class _LeaveBeforeWriting(tf.train.SessionRunHook):
    """Leaves an evaluation when the sums are made: Estimator would write an event file."""

    class Left(Exception):
        """Nothing more is to be done."""

    def end(self, session: tf.Session) -> None:
        """Leaves."""
        raise self.Left


def join_evaluation(
    estimator: tf.estimator.Estimator,
    input_fn: InputFn,
    workers: Workers,
    interruption: Interruption,
) -> None:
    """Does a worker's part of an evaluation of the chief's, and writes nothing."""
    hooks = [*evaluation_hooks(workers, interruption), _LeaveBeforeWriting()]
    try:
        estimator.evaluate(input_fn, hooks=hooks)
    except _LeaveBeforeWriting.Left:
        pass

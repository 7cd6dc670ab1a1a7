from __future__ import annotations

import collections
import json
import logging
import os
import re

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bert_classifier.export import writer
from bert_classifier.training import checkpoints, hooks
from bert_classifier.training.history import EvalHistory, Watched, eval_history_path

SAVE_STEPS = 10


class ScriptedRun:
    """A real Estimator whose evaluations give scripted values, one per checkpoint."""

    def __init__(self, folder, values, watched, patience, exports_to_keep=2, max_steps=100):
        self.history = EvalHistory(eval_history_path(folder), watched)
        self.values = values
        self.watched = watched
        self.estimator = tf.estimator.Estimator(
            self.model_fn,
            config=tf.estimator.RunConfig(
                model_dir=folder,
                save_checkpoints_steps=SAVE_STEPS,
                keep_checkpoint_max=2,
                log_step_count_steps=None,
                save_summary_steps=None,  # As in `make_run_config`.
            ),
        )
        make_hook = (
            hooks.stop_if_no_increase_hook
            if watched.higher_is_better
            else hooks.stop_if_no_decrease_hook
        )
        self.early_stopping = make_hook(
            self.estimator,
            watched.metric,
            patience,
            run_every_secs=None,
            run_every_steps=SAVE_STEPS,
        )
        self.exporters = [
            hooks.EvaluationRecorder(self.history, patience, max_steps),
            writer.BestExporter(self.history, self.export, exports_to_keep),
        ]
        self.max_steps = max_steps

    def model_fn(self, features, labels, mode):
        del labels
        step = tf.train.get_or_create_global_step()
        weight = tf.get_variable("weight", [], initializer=tf.zeros_initializer())
        loss = tf.reduce_mean(tf.cast(features["x"], tf.float32)) * 0 + tf.cast(step, tf.float32)
        if mode == tf.estimator.ModeKeys.PREDICT:
            return tf.estimator.EstimatorSpec(mode, predictions={"weight": weight + features["x"]})
        if mode == tf.estimator.ModeKeys.EVAL:
            index = tf.minimum(tf.cast(step // SAVE_STEPS - 1, tf.int32), len(self.values) - 1)
            value = tf.gather(tf.constant(self.values, tf.float32), index)
            metrics = {self.watched.metric: tf.metrics.mean(value)}
            return tf.estimator.EstimatorSpec(mode, loss=loss, eval_metric_ops=metrics)
        tf.identity(loss, name="total_loss")
        tf.constant(0.5, name="learning_rate")
        tf.constant(2.0, name="gradient_norm")
        with tf.control_dependencies([loss]):
            update = tf.group(weight.assign_add(1.0), step.assign_add(1))
        return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=update)

    @staticmethod
    def input_fn():
        return tf.data.Dataset.from_tensors({"x": np.ones([2], np.float32)}).repeat()

    def export(self, checkpoint_path, export_path, metrics):
        folder = tf.compat.as_str(
            self.estimator.export_saved_model(
                export_path, self.serving_input_fn, checkpoint_path=checkpoint_path
            )
        )
        os.makedirs(os.path.join(folder, "assets.extra"))
        with open(os.path.join(folder, "assets.extra", "metrics.json"), "w") as stream:
            json.dump(metrics, stream)
        return folder

    @staticmethod
    def serving_input_fn():
        x = tf.placeholder(tf.float32, [None], name="x")
        return tf.estimator.export.ServingInputReceiver({"x": x}, {"x": x})

    def train_and_evaluate(self, extra_hooks=()):
        tf.estimator.train_and_evaluate(
            self.estimator,
            tf.estimator.TrainSpec(
                self.input_fn, self.max_steps, hooks=[self.early_stopping, *extra_hooks]
            ),
            tf.estimator.EvalSpec(
                lambda: self.input_fn().take(1),
                steps=None,
                throttle_secs=0,
                exporters=self.exporters,
            ),
        )
        return checkpoints.step_of(self.estimator.latest_checkpoint())

    def exported_steps(self):
        """The steps of the exports, told by the weight, which counts them."""
        steps = []
        for folder in writer.list_exports(self.estimator.model_dir + "/export/best_exporter"):
            with tf.Session(graph=tf.Graph()) as session:
                model = tf.saved_model.load(session, ["serve"], folder)
                output = model.signature_def["serving_default"].outputs["weight"].name
                steps.append(int(session.run(output, {"x:0": [0.0]})))
        return steps


LOSS = Watched("eval_loss", higher_is_better=False)
F1 = Watched("eval_f1", higher_is_better=True)
NAN = float("nan")


@pytest.mark.parametrize(
    ("watched", "values", "stop_step", "best_step", "exports"),
    [
        pytest.param(LOSS, [1, 2, 3, 4, 5], 40, 10, [10], id="the first is the best"),
        pytest.param(LOSS, [5, 3, 1, 2, 3, 4, 5], 60, 30, [20, 30], id="a middle one is the best"),
        pytest.param(LOSS, [5, 4, 3, 2, 1], 50, 50, [40, 50], id="the last is the best"),
        pytest.param(F1, [0.5, 0.7, 0.6, 0.6, 0.6, 0.6], 50, 20, [10, 20], id="higher is better"),
        pytest.param(LOSS, [2, 2, 2, 2, 2], 40, 10, [10], id="ties are no improvement"),
        pytest.param(LOSS, [NAN, 3, 2, NAN, 3, 4, 5], 60, 30, [20, 30], id="NaN never wins"),
    ],
)
def test_stop_best_checkpoint_and_exports_agree(
    tmp_path, watched, values, stop_step, best_step, exports
):
    run = ScriptedRun(str(tmp_path), values, watched, 30, max_steps=10 * len(values))
    assert run.train_and_evaluate() == stop_step
    assert run.history.best().step == best_step
    best = tf.train.latest_checkpoint(str(tmp_path / "best"))
    assert checkpoints.find(str(tmp_path), "best") == best
    assert tf.train.load_variable(best, "weight") == best_step
    assert run.exported_steps() == exports
    assert bool(run.early_stopping.reason) == (stop_step < run.max_steps)


def test_a_restarted_run_remembers_what_was_best(tmp_path):
    values = [5, 1, 3, 4, 4, 4]
    first = ScriptedRun(str(tmp_path), values, LOSS, patience=30, max_steps=30)
    assert first.train_and_evaluate() == 30
    second = ScriptedRun(str(tmp_path), values, LOSS, patience=30, max_steps=60)
    assert second.train_and_evaluate() == 50
    assert "since step 20" in second.early_stopping.reason
    assert second.exported_steps() == [10, 20]


def test_min_steps_delays_the_stop(tmp_path):
    run = ScriptedRun(str(tmp_path), [1, 2], LOSS, patience=10)
    run.early_stopping = hooks.stop_if_no_decrease_hook(
        run.estimator, "eval_loss", 10, min_steps=40, run_every_secs=None, run_every_steps=10
    )
    assert run.train_and_evaluate() == 40


def test_the_chief_decides_for_all_workers(tmp_path):
    actions = []

    def from_chief(action):
        actions.append(action)
        return "what the chief says"

    run = ScriptedRun(str(tmp_path), [], LOSS, patience=10)
    hook = hooks.stop_if_no_decrease_hook(run.estimator, "eval_loss", 10, from_chief=from_chief)
    assert hook.should_stop(10) == "what the chief says"
    run.history.add(10, {"eval_loss": 1})
    run.history.add(20, {"eval_loss": 2})
    (decide,) = actions
    assert decide() == "eval_loss has not improved for 10 steps, since step 10"


def test_the_hook_adds_nothing_to_the_graph(tmp_path):
    run = ScriptedRun(str(tmp_path), [1, 2], LOSS, patience=10)
    run.train_and_evaluate()
    names = {name for name, _ in tf.train.list_variables(run.estimator.latest_checkpoint())}
    assert names == {"global_step", "weight"}


@pytest.mark.parametrize("secs,steps", [(None, None), (60, 10)])
def test_exactly_one_way_to_say_when(secs, steps):
    with pytest.raises(ValueError, match="exactly one"):
        hooks.EarlyStoppingHook(lambda step: None, secs, steps)


def test_progress_lines(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run = ScriptedRun(str(tmp_path), [2, 1], LOSS, patience=0, max_steps=25)
    run.early_stopping = hooks.ProgressHook(
        10, 25, steps_per_epoch=20.0, examples_per_step=2, events_dir=run.estimator.model_dir
    )
    run.train_and_evaluate()
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("step ")]
    # The loss of step n is n - 1 here, and a line has the mean since the line before.
    assert [re.match(r"step \S+ \| epoch \S+ \| loss \S+", line).group() for line in lines] == [
        "step 10/25 | epoch 0.50 | loss 4.5000",
        "step 20/25 | epoch 1.00 | loss 14.5000",
        "step 25/25 | epoch 1.25 | loss 22.0000",
    ]
    assert "learning rate 5.00e-01 | gradient norm 2.00" in lines[0]
    assert lines[2].endswith("ETA 0:00:00")
    # TensorBoard has the same numbers.
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    expected = {"loss": [4.5, 14.5, 22.0], "learning_rate": [0.5] * 3, "gradient_norm": [2.0] * 3}
    for tag, values in expected.items():
        points = [(event.step, event.value) for event in events.Scalars(tag)]
        assert points == list(zip([10, 20, 25], values))
    for event, line in zip(events.Scalars("examples_per_second"), lines):
        assert " | %.1f examples/s" % event.value in line


def test_an_evaluation_says_what_comes_next(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    values = [2, 1, 3, 4, 5]
    ScriptedRun(str(tmp_path), values, LOSS, patience=20, max_steps=50).train_and_evaluate()
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("evaluation")]
    assert [line.split(" | ")[1] for line in lines] == [
        "best so far; stops early after 20 more steps without improvement",
        "best so far; stops early after 20 more steps without improvement",
        "best eval_loss 1.0000 at step 20, 1 evaluations without improvement; "
        "stops early after 10 more steps without improvement",
        "best eval_loss 1.0000 at step 20, 2 evaluations without improvement; stops early now",
    ]


def test_a_stop_that_cannot_come_is_not_announced(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run = ScriptedRun(str(tmp_path), [2, 1, 3], LOSS, patience=20, max_steps=30)
    run.train_and_evaluate()
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("evaluation")]
    assert [line.split(" | ")[1] for line in lines] == [
        # At the last step there is nothing left to stop.
        "best so far",
        "best so far",
        "best eval_loss 1.0000 at step 20, 1 evaluations without improvement",
    ]


def test_all_steps_ask_for_the_same_tensors(tmp_path, monkeypatch):
    """TensorFlow prepares the graph once for each set of tensors, which takes a second or two."""
    asked_for = collections.Counter()
    run = tf.Session.run

    def spy(session, fetches, *args, **kwargs):
        # Only a MonitoredSession asks for what the caller and the hooks want, under these names.
        if isinstance(fetches, dict) and "caller" in fetches:
            asked_for[
                frozenset(tensor.name for tensor in tf.nest.flatten([*fetches.values()]))
            ] += 1
        return run(session, fetches, *args, **kwargs)

    monkeypatch.setattr(tf.Session, "run", spy)
    scripted = ScriptedRun(str(tmp_path), [1], LOSS, patience=0)
    scripted.estimator.train(
        scripted.input_fn,
        max_steps=5,
        hooks=[hooks.ProgressHook(2, 5, 5.0, 2, events_dir=scripted.estimator.model_dir)],
    )
    assert sorted(asked_for.values()) == [5]


def test_what_xla_compiles_is_logged_once_per_shape(caplog):
    caplog.set_level(logging.INFO)
    shape = tf.placeholder(tf.int32, [2])
    tf.identity(shape, name="batch_shape")
    with tf.train.SingularMonitoredSession([hooks.CompilationHook()]) as session:
        for seq_length in (32, 64, 32, 64):
            session.run(shape, {shape: [8, seq_length]})
    lines = [record.getMessage() for record in caplog.records if "XLA" in record.getMessage()]
    pattern = (
        r"XLA: the first step with batches of 8 x %d tokens, shape number %d, took \d+\.\d seconds"
    )
    assert len(lines) == 2
    assert re.fullmatch(pattern % (32, 1), lines[0])
    assert re.fullmatch(pattern % (64, 2), lines[1])

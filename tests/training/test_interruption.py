"""SIGTERM and Ctrl-C, wherever the program is: it says how to go on, and goes on as if never asked.

The signals come from inside the process, before a certain call, so that they hit what they are
meant to. See test_kill_and_resume.py for those that come from outside, at random.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import sys
from typing import NamedTuple

import pytest
import tensorflow.compat.v1 as tf
from program import assert_equal, end_state, parsed

from bert_classifier.report.next_commands import python
from bert_classifier.training import checkpoints, interruption
from bert_classifier.training.interruption import Interrupted, Interruption

SIGTERM, SIGINT = signal.SIGTERM, signal.SIGINT


@pytest.fixture
def watched():
    """Watches in this very process, for the time of a test."""
    handlers = {number: signal.getsignal(number) for number in (SIGTERM, SIGINT, signal.SIGALRM)}
    watched = Interruption()
    watched.watch()
    yield watched
    watched.acknowledge()
    for number, handler in handlers.items():
        signal.signal(number, handler)


def send(number):
    os.kill(os.getpid(), number)


class TestInterruption:
    @pytest.mark.parametrize("number,exit_status", [(SIGTERM, 143), (SIGINT, 130)])
    def test_a_signal_ends_what_is_done(self, watched, number, exit_status):
        assert not watched.requested
        watched.check()
        with pytest.raises(Interrupted, match=number.name) as error:
            send(number)
        assert error.value.exit_status == exit_status
        assert watched.requested

    @pytest.mark.parametrize("number", [SIGTERM, SIGINT])
    def test_what_must_not_be_left_half_done_is_finished(self, watched, number):
        done = []
        with pytest.raises(Interrupted, match=number.name):
            with watched.deferred():
                send(number)
                done.append(watched.requested)
            done.append("never")
        assert done == [True]

    def test_without_a_signal_nothing_happens(self, watched):
        with watched.deferred():
            watched.check()
        assert not watched.requested

    def test_an_error_of_the_block_is_not_hidden(self, watched):
        with pytest.raises(ZeroDivisionError), watched.deferred():
            send(SIGTERM)
            1 / 0  # noqa: B018

    def test_it_is_not_lost_in_the_log(self, watched):
        class Struck(logging.StreamHandler):
            def format(self, record):
                send(SIGTERM)
                return "line"

        log = logging.Logger("struck")
        log.addHandler(Struck(sys.stdout))
        with pytest.raises(Interrupted):
            log.info("line")

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_what_a_destructor_swallows_comes_again(self, watched, monkeypatch):
        """TensorFlow runs one for each record that it writes."""
        monkeypatch.setattr(interruption, "_REMIND_SECONDS", 1)

        class Destroyed:
            def __del__(self):
                send(SIGTERM)

        Destroyed()
        assert watched.requested
        with pytest.raises(Interrupted):
            signal.pause()

    def test_the_second_one_ends_the_process(self):
        child = os.fork()
        if not child:
            try:
                watched = Interruption()
                watched.watch()
                with watched.deferred():
                    send(SIGTERM)
                    send(SIGINT)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == SIGINT

    def test_the_hooks_do_nothing_without_one(self):
        calm = Interruption()
        interruption.LeaveWhenInterrupted(calm).after_run(None, None)
        # Without a context, so that a request to stop would fail.
        interruption.StopWhenInterrupted(calm).after_run(None, None)


class Moment(NamedTuple):
    """Where a signal comes: before the `number`-th call of `function`; and what is there then."""

    name: str
    function: str
    number: int
    arguments: tuple = ()
    last_checkpoint: int | None = None
    evaluations: tuple = ()


STEP = "hooks.ProgressHook.before_run"
SAVE = "tf.train.Saver.save"
EVALUATE = "tf.estimator.Estimator.evaluate"
EXPORT = "tf.saved_model.builder.SavedModelBuilder.save"
# Those of a run of its own. Checkpoints are due, and evaluated, every 5 steps.
MOMENTS = [
    Moment("converting", "features.Converter.convert", 20),
    Moment("first step", STEP, 1, (), 1),
    Moment("step", STEP, 3, (), 3),
    Moment("last step before a save", STEP, 5, (), 5),
    Moment("first save", SAVE, 1, (), 1),
    Moment("save", SAVE, 2, (), 5),
    Moment("first evaluation", EVALUATE, 1, (), 5),
    Moment("export", EXPORT, 1, (), 5, (5,)),
    Moment("later evaluation", EVALUATE, 2, (), 10, (5,)),
    Moment("evaluation at the last step", EVALUATE, 3, (), 15, (5, 10)),
    Moment("final evaluation", EVALUATE, 4, (), 15, (5, 10, 15)),
    Moment("final export", EXPORT, 2, ("--do_export",), 15, (5, 10, 15)),
]


class Interrupting:
    """Runs the program in one folder, and interrupts it."""

    def __init__(self, small_run, forks, folder):
        self.output_dir = folder / "a  folder's name"
        self.command = small_run.command(self.output_dir, "--do_predict")
        self._forks = forks
        self._log = folder / "log"

    def interrupt(self, number, moment):
        arguments = [*self.command, *moment.arguments]
        strike = "os.kill(os.getpid(), %d)" % number
        status = self._forks.run(arguments, self._log, moment.function, moment.number, strike)
        log = self._log.read_text()
        assert status == 128 + number, log
        assert "Traceback" not in log
        said, command = log.splitlines()[-1].split(": go on with: ")
        assert said == "run_classifier_gpu.py: " + number.name
        assert shlex.split(command) == [python(), "run_classifier_gpu.py", *arguments]

        newest = tf.train.latest_checkpoint(str(self.output_dir))
        assert (newest and checkpoints.step_of(newest)) == moment.last_checkpoint
        assert self.evaluations() == list(moment.evaluations)
        return log

    def evaluations(self):
        path = self.output_dir / "eval_history.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line)["step"] for line in lines]

    def status(self):
        result = json.loads((self.output_dir / "run.json").read_text())["result"]
        return result["status"], result["reason"]

    def finish(self):
        status = self._forks.run(self.command, self._log)
        assert status == 0, self._log.read_text()


@pytest.fixture
def interrupting(small_run, forks, tmp_path):
    return Interrupting(small_run, forks, tmp_path)


def assert_ended_like(small_run, output_dir):
    assert_equal(end_state(output_dir), end_state(small_run.output_dir))
    for name in ("eval_results.json", "test_results.tsv"):
        with open(os.path.join(small_run.output_dir, name)) as stream:
            assert (output_dir / name).read_text() == stream.read()


def test_a_run_that_is_interrupted_in_everything_it_does(interrupting, small_run):
    """One after the other, in the same run: what one has left, the next must cope with."""
    run = interrupting
    run.interrupt(SIGTERM, Moment("converting", "features.Converter.convert", 20))
    assert not list(run.output_dir.glob("*.tf_record*"))
    run.interrupt(SIGINT, Moment("step", STEP, 3, (), 3))
    assert run.status() == ("interrupted", "SIGINT")
    run.interrupt(SIGTERM, Moment("export", EXPORT, 1, (), 5, (5,)))
    assert run.status() == ("interrupted", "SIGTERM")
    run.interrupt(SIGINT, Moment("save", SAVE, 1, (), 10, (5,)))
    run.interrupt(SIGTERM, Moment("evaluation of the checkpoint", EVALUATE, 1, (), 10, (5,)))
    run.interrupt(SIGINT, Moment("evaluation", EVALUATE, 2, (), 15, (5, 10)))
    assert run.status() == ("interrupted", "SIGINT")
    run.interrupt(SIGTERM, Moment("final evaluation", EVALUATE, 2, (), 15, (5, 10, 15)))
    assert run.status()[0] == "stopped early"
    assert not (run.output_dir / "eval_results.json").exists()
    only_predict = ("--nodo_train", "--nodo_eval", "--predict_batch_size=4")
    # By then the weights are loaded and a batch has been read.
    predicting = Moment("prediction", "tf.Session.run", 4, only_predict, 15, (5, 10, 15))
    run.interrupt(SIGINT, predicting)
    assert not list(run.output_dir.glob("test_results*"))
    run.finish()
    assert_ended_like(small_run, run.output_dir)


@pytest.mark.slow
@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.name)
def test_a_run_that_is_interrupted_once(interrupting, small_run, number, moment):
    interrupting.interrupt(number, moment)
    interrupting.finish()
    assert_ended_like(small_run, interrupting.output_dir)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--optimizer=lamb"],
        ["--layerwise_lr_decay=0.8", "--weight_decay_rate=0.1", "--clip_norm=0.1"],
        ["--class_weights=balanced", "--label_smoothing=0.1"],
        ["--class_weights={weights}", "--seed=7"],
        ["--num_accumulation_steps=2", "--train_batch_size=4"],
        ["--init_checkpoint=", "--warm_start_from={source}"],
        ["--init_checkpoint="],
    ],
    ids=lambda options: options[-1].split("=")[0],
)
def test_however_a_run_trains_it_goes_on_exactly(small_run, forks, tmp_path, options):
    weights = tmp_path / "weights.tsv"
    weights.write_text("positive\t2\nnegative\t0.5\n")
    options = [o.format(weights=weights, source=small_run.output_dir) for o in options]
    options += ["--num_train_epochs=3", "--max_steps_without_improvement=0"]
    small_run.run(tmp_path / "expected", *options)
    expected = end_state(tmp_path / "expected")
    assert expected["weights"][""] != end_state(small_run.output_dir)["weights"][""]
    command = small_run.command(tmp_path / "output", *options)
    strike = "os.kill(os.getpid(), signal.SIGTERM)"
    # Where two batches make a step, both times after the first of them.
    for calls in (3, 5):
        assert forks.run(command, tmp_path / "log", STEP, calls, strike) == 143
    assert forks.run(command, tmp_path / "log") == 0
    assert_equal(end_state(tmp_path / "output"), expected)


def test_to_go_on_is_not_to_begin_anew(forks, small_run, tmp_path):
    """A command that overwrites would throw away what the signal has left."""
    command = small_run.command(tmp_path / "output", "--overwrite_output_dir")
    log = tmp_path / "log"
    strike = "os.kill(os.getpid(), signal.SIGTERM)"
    assert forks.run(command, log, "features.Converter.convert", 1, strike) == 143
    again = shlex.split(log.read_text().splitlines()[-1].split(": go on with: ")[1])
    assert again[:2] == [python(), "run_classifier_gpu.py"]
    assert not parsed(*again[2:]).output.overwrite_output_dir
    # To overwrite what has not come to training yet is nothing to refuse, though.
    assert forks.run(command, log, "features.Converter.convert", 1, strike) == 143

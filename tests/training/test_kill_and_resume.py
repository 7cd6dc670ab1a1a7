"""A run that is killed at any moment, and goes on by the same command, ends as if it never was."""

from __future__ import annotations

import collections
import contextlib
import glob
import itertools
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
import tensorflow.compat.v1 as tf
from conftest import CONFIG
from program import ROOT, assert_equal, end_state, model_flags, write_data

from bert_classifier.report.next_commands import python

SEED = 20191010
SAVE_STEPS = 10
# Of one process, on a machine that has other things to do. Only a process that hangs takes as long.
TIMEOUT_SECONDS = 300
# What is there for a moment only, and for good when the process is killed meanwhile.
TEMPORARY = {
    "converting": "*.tf_record.tmp-*",
    "saving": "model.ckpt-*_temp_*",
    "copying": "best/**/*.t*mp*",
    "exporting": "export/best_exporter/temp-*",
}


class Run:
    """One output_dir, and the command that works in it: again and again, until it is done."""

    def __init__(self, output_dir, *arguments):
        self.output_dir = str(output_dir)
        self.command = [python(), "run_classifier_gpu.py", *arguments]
        self.command += ["--output_dir=" + self.output_dir, "--log_every_n_iter=1"]
        self._log_file = self.output_dir + ".stderr"

    @contextlib.contextmanager
    def process(self):
        self._earlier = set(self._temporary_files())
        with open(self._log_file, "w") as log:
            process = subprocess.Popen(
                [sys.executable, *self.command[1:]],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3"),
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def finish(self):
        with self.process() as process:
            status = process.wait(TIMEOUT_SECONDS)
        assert status == 0, self.log()

    def interrupt(self, number, moment):
        """Sends a signal at a moment: a phase, a step, or seconds after the first line of the log.

        Returns:
            The phase that was interrupted; None if the run was done before.
        """
        with self.process() as process:
            deadline = time.time() + TIMEOUT_SECONDS
            while process.poll() is None and not self._has_come(moment):
                assert time.time() < deadline, self.log()
                time.sleep(0.0005)
            phase = self.phase()
            process.send_signal(number)
            status = process.wait(TIMEOUT_SECONDS)
        if status == 0:
            return None
        if number == signal.SIGKILL:
            assert status == -number, self.log()
            return self.phase()
        assert status == 128 + number, self.log()
        message, _, command = self.log().splitlines()[-1].partition(": go on with: ")
        assert message == "run_classifier_gpu.py: " + number.name
        assert shlex.split(command) == self.command
        return phase

    def _has_come(self, moment):
        phase = self.phase()
        if phase == "importing":
            self._at_work_since = time.time()
        if isinstance(moment, str):
            return phase == moment
        if isinstance(moment, int):
            return " step %d/" % moment in self.log()
        return time.time() - self._at_work_since > moment

    def log(self):
        with open(self._log_file) as log:
            return log.read()

    def phase(self):
        """Names what the process does, or did when it ended."""
        for path, phase in self._temporary_files().items():
            if path not in self._earlier:
                return phase
        lines = re.findall(r"^\d\d:\d\d:\d\d .*", self.log(), re.MULTILINE)
        if not lines:
            return "importing"
        step = re.search(r" step (\d+)/", lines[-1])
        if step:
            return "evaluating" if int(step.group(1)) % SAVE_STEPS == 0 else "training"
        return "exporting" if " evaluation at step " in lines[-1] else "preparing"

    def _temporary_files(self):
        folder = glob.escape(self.output_dir)
        return {
            path: phase
            for phase, pattern in TEMPORARY.items()
            for path in glob.glob(os.path.join(folder, pattern), recursive=True)
        }


class Runs:
    """Runs of the same command in folders of their own, one of which is never interrupted."""

    def __init__(self, folder, tiny_bert, *arguments):
        self._folder = folder
        # Most of the time goes into building graphs: one layer is as good as two, and quicker.
        config = folder / "bert_config.json"
        config.write_text(json.dumps(dict(CONFIG, num_hidden_layers=1)))
        self._arguments = [
            "--do_train",
            "--task_name=file",
            "--data_dir=" + write_data(folder / "data"),
            "--max_seq_length=16",
            "--train_batch_size=8",
            "--save_checkpoints_steps=%d" % SAVE_STEPS,
            *model_flags(tiny_bert._replace(bert_config_file=str(config))),
            *arguments,
        ]
        self._numbers = itertools.count(1)
        self.uninterrupted = Run(folder / "uninterrupted", *self._arguments)

    def new(self):
        return Run(self._folder / ("run_%d" % next(self._numbers)), *self._arguments)


def interrupt_until_done(runs, number, moments):
    """Interrupts a run, or more when one is done too early, and checks the end of each.

    Returns:
        How often each phase was interrupted.
    """
    expected = end_state(runs.uninterrupted.output_dir)
    phases = collections.Counter()
    run = runs.new()
    for moment in moments:
        phase = run.interrupt(number, moment)
        while phase is None:
            assert_equal(end_state(run.output_dir), expected)
            run = runs.new()
            phase = run.interrupt(number, moment)
        phases[phase] += 1
        print("seed %d, moment %s: %s while %s" % (SEED, moment, number.name, phase))
    run.finish()
    assert_equal(end_state(run.output_dir), expected)
    return phases


def test_three_interruptions(tmp_path, tiny_bert):
    arguments = ["--num_train_epochs=4", "--best_metric=eval_accuracy"]
    # Patience ends with the last step: the run is to say that it has finished all the same.
    runs = Runs(tmp_path, tiny_bert, *arguments, "--max_steps_without_improvement=10")
    run = runs.new()
    with runs.uninterrupted.process() as uninterrupted:
        run.interrupt(signal.SIGKILL, "exporting")
        run.interrupt(signal.SIGTERM, "training")
        run.interrupt(signal.SIGKILL, 20)
        run.finish()
        assert uninterrupted.wait(TIMEOUT_SECONDS) == 0
    expected = end_state(runs.uninterrupted.output_dir)
    # With TensorFlow 2.15 the last evaluation is better still.
    best_step = 10 if tf.__version__.startswith("1.") else 20
    assert (expected["result"]["status"], expected["result"]["best_step"]) == (
        "finished",
        best_step,
    )
    assert_equal(end_state(run.output_dir), expected)


# The evaluations of these 80 steps get better, worse, and better again.
PLAIN = ["--num_train_epochs=16", "--learning_rate=5e-4", "--max_steps_without_improvement=0"]
# These get worse from the first one on, and the run would stop at step 30 if it might.
ACCUMULATION = [
    "--num_accumulation_steps=2",
    "--num_train_epochs=40",
    "--learning_rate=3e-4",
    "--max_steps_without_improvement=20",
    "--early_stopping_min_steps=35",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "arguments", "moments", "num_more"),
    [
        (signal.SIGKILL, PLAIN, ["importing", *TEMPORARY, "evaluating", "training"], 13),
        (signal.SIGTERM, ACCUMULATION, ["evaluating", "exporting", "training", 36], 3),
    ],
    ids=["SIGKILL", "SIGTERM"],
)
def test_interruptions_at_random(tmp_path, tiny_bert, number, arguments, moments, num_more):
    runs = Runs(tmp_path, tiny_bert, *arguments)
    started = time.time()
    runs.uninterrupted.finish()
    seconds = time.time() - started

    chance = random.Random(SEED)
    moments = moments + [chance.uniform(0, seconds / 2) for _ in range(num_more)]
    chance.shuffle(moments)
    interrupted = interrupt_until_done(runs, number, moments)
    assert {moment for moment in moments if isinstance(moment, str)} <= set(interrupted)

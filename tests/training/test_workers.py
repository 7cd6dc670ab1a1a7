"""Several workers, as horovodrun starts them, do what one does: real processes on this machine.

To launch them takes long, so most tests look at what the jobs of one launch have left.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import random
import re
import shutil
import signal
import time
import types
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from conftest import CONFIG
from program import (
    Launch,
    assert_equal,
    end_state,
    model_flags,
    numbers_of,
    parsed,
    write_data,
)

import run_classifier_gpu
from bert_classifier import devices
from bert_classifier.config import Devices
from bert_classifier.export import writer
from bert_classifier.model import weights
from bert_classifier.training import checkpoints
from bert_classifier.training.workers import _HorovodWorkers

# Of one worker: together it is 12.
BATCH_SIZE = {n: "--train_batch_size=%d" % (12 / n) for n in (1, 2, 3)}
# Sums that are rounded in another order: 50 steps have changed no weight by more than 3e-6.
WEIGHTS = {"rtol": 0, "atol": 1e-5}
METRICS = {"rel": 0, "abs": 1e-6}
METRICS_OF_SUCH_WEIGHTS = {"rel": 0, "abs": 1e-5}

EVERYTHING = ["--do_eval", "--do_predict", "--do_export"]
TO_THE_END = ["--max_steps_without_improvement=0"]

# What happens to a worker: before which call, and what, as `disturbance.disturb` takes it.
STEP = "hooks.ProgressHook.before_run"
SAVE = "tf.train.Saver.save"
EVALUATE = "tf.estimator.Estimator.evaluate"
MERGE_METRICS = "hooks.AddUpMetricsHook.end"
EXPORT = "tf.saved_model.builder.SavedModelBuilder.save"
TERMINATE, KILL = ("os.kill(os.getpid(), %d)" % number for number in (15, 9))
# The alarm is for a signal that is there before the pause.
TERMINATE_LAUNCHER = (
    "signal.signal(signal.SIGALRM, lambda *_: None); signal.alarm(3);"
    "os.kill(int(os.environ['LAUNCHER']), 15); signal.pause(); signal.alarm(0)"
)
# As a scheduler does. The launcher passes its own on, so it comes to each worker twice.
TERMINATE_ALL = "[os.kill(int(open('../pid_%d' % n).read()), 15) for n in (0, 1)];"
TERMINATE_ALL += TERMINATE_LAUNCHER


class Alone:
    """What one worker makes of some data, with a model without dropout: masks would be different.

    Nothing in the dev set is of class 1, whose recall is so always 0: the first evaluation, at step
    10, stays the best, and the run may stop early at step 30 of 50.
    """

    def __init__(self, folder, tiny_bert):
        self.folder = folder
        config = folder / "bert_config.json"
        no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        config.write_text(json.dumps(dict(CONFIG, num_hidden_layers=1, **no_dropout)))
        data_dir = write_data(folder / "data")
        write_rows(folder / "data" / "dev.tsv", ["negative"], 18)
        self.arguments = [
            "--task_name=file",
            "--data_dir=" + data_dir,
            "--max_seq_length=16",
            *model_flags(tiny_bert._replace(bert_config_file=str(config))),
            "--num_train_epochs=15",
            "--learning_rate=1e-3",
            "--save_checkpoints_steps=10",
            "--best_metric=eval_recall",
            "--max_steps_without_improvement=20",
        ]
        self.early = self.run("early", *EVERYTHING)
        self.finished = shutil.copytree(self.early, str(folder / "finished"))
        self.run("finished", *TO_THE_END)

    def command(self, name, num_workers, *arguments):
        """Gives the flags with which one of several workers trains in a folder."""
        output_dir = "--output_dir=%s" % (self.folder / name)
        command = ["--do_train", *self.arguments, BATCH_SIZE[num_workers], output_dir, *arguments]
        return command if num_workers == 1 else ["--horovod", *command]

    def run(self, name, *arguments):
        """Trains in this process; returns the output_dir."""
        run_classifier_gpu.run_classifier(parsed(*self.command(name, 1, *arguments)))
        return str(self.folder / name)


def write_rows(path, labels, count):
    chance = random.Random(1)
    words = ["good", "great", "fine", "bad", "poor", "awful"]
    rows = [
        "%s\tthe %s was really %s ." % tuple(map(chance.choice, (labels, ["film", "phone"], words)))
        for _ in range(count)
    ]
    path.write_text("\n".join(["label\ttext", *rows, ""]))


@pytest.fixture(scope="module")
def alone(tmp_path_factory, tiny_bert):
    return Alone(tmp_path_factory.mktemp("alone"), tiny_bert)


class Evaluations:
    """Evaluations of 23 examples in 6 batches, and of so few that all but one worker have none."""

    cases = [(2, "two_classes"), (2, "four_classes"), (2, "one_batch"), (3, "two_classes")]
    cases += [(3, "four_classes")]

    def __init__(self, alone):
        self._alone = alone
        folder = alone.folder
        two, four = ["negative", "positive"], list("abcd")
        for name, labels, count in (
            ("two_classes", two, 23),
            ("one_batch", two, 3),
            ("four_classes", four, 23),
            ("train", four, 40),
        ):
            write_rows(folder / (name + ".tsv"), labels, count)
        dev_file = "--dev_file=%s" % (folder / "four_classes.tsv")
        of_four_classes = alone.run(
            "four", "--data_dir=%s" % folder, dev_file, "--save_checkpoints_steps=50"
        )
        self._sources = {
            "two_classes": alone.finished,
            "one_batch": alone.finished,
            "four_classes": of_four_classes,
        }
        self.expected = {
            name: run_classifier_gpu.run_classifier(parsed(*self._command(1, name)))
            for name in self._sources
        }

    def output_dir(self, num_workers, name):
        return str(self._alone.folder / ("%s_by_%d" % (name, num_workers)))

    def jobs(self, num_workers):
        return {
            "evaluate_" + name: ["--horovod", *self._command(num_workers, name)]
            for number, name in self.cases
            if number == num_workers
        }

    def _command(self, num_workers, name):
        output_dir = shutil.copytree(self._sources[name], self.output_dir(num_workers, name))
        return [
            "--do_eval",
            *self._alone.arguments,
            "--dev_file=%s" % (self._alone.folder / (name + ".tsv")),
            "--eval_batch_size=4",
            "--eval_checkpoint=last",
            "--output_dir=" + output_dir,
        ]


@pytest.fixture(scope="module")
def evaluations(alone):
    return Evaluations(alone)


class Ended(NamedTuple):
    """How a job of several workers has ended, and what there was of its run then."""

    launch: Launch
    status: int
    newest_step: int
    result: dict


@pytest.fixture(scope="module")
def ended(alone):
    """One run that is ended from outside again and again."""

    def end(name, disturbances):
        jobs = {"job": alone.command("two_early", 2, *EVERYTHING)}
        launch = Launch(alone.folder / ("launch_" + name), 2, jobs, disturbances)
        status, output_dir = launch.wait(), str(alone.folder / "two_early")
        return Ended(launch, status, newest_step(output_dir), result_of(output_dir))

    moments = {
        "terminated": {0: [[STEP, 7, TERMINATE_ALL]]},
        "chief_killed": {0: [[MERGE_METRICS, 1, KILL]]},
        "other_killed": {1: [[STEP, 6, KILL]]},
    }
    return {name: end(name, disturbances) for name, disturbances in moments.items()}


BAD_INPUT = {
    "no_data": (["--data_dir=missing"], "missing/train.tsv"),
    "no_init_checkpoint": (["--init_checkpoint=missing"], "missing: no readable checkpoint"),
    "no_such_metric": (["--best_metric=eval_f2"], "eval_f1"),
    "no_step": (["--train_batch_size=400"], "make no single step of 800 examples"),
    "nothing_trained": (["--nodo_train", "--do_eval"], "no trained checkpoint"),
    "no_folder": (["--output_dir=/dev/null/output"], "--output_dir=/dev/null/output"),
}


@pytest.fixture(scope="module")
def launches(alone, evaluations, ended):
    """What two workers do, and what three do, one job after the other."""
    del ended
    shutil.copytree(alone.early, str(alone.folder / "two_longer"))
    bad = functools.partial(alone.command, "two_bad", 2)
    other_data = "--train_file=%s" % (alone.folder / "two_classes.tsv")
    jobs_of_two = {
        "interrupted": alone.command("two_early", 2, *EVERYTHING),
        "early": alone.command("two_early", 2, *EVERYTHING),
        "again": alone.command("two_early", 2),
        "longer": alone.command("two_longer", 2, *TO_THE_END),
        "accumulated": alone.command(
            "two_accumulated",
            2,
            "--train_batch_size=3",
            "--num_accumulation_steps=2",
            "--save_checkpoints_steps=50",
        ),
        **evaluations.jobs(2),
        **{name: bad(*arguments) for name, (arguments, _) in BAD_INPUT.items()},
        "other_run": alone.command("two_early", 2, "--learning_rate=9"),
        "other_data": (bad(), {1: [other_data]}),
        "nan": alone.command("two_nan", 2, "--learning_rate=1e30", "--warmup_proportion=0"),
        "trials": alone.command(
            "two_trials",
            2,
            "--do_eval",
            "--num_trials=2",
            "--num_train_epochs=1",
            "--fp16_allreduce",
            "--amp",
            "--log_every_n_iter=1",
        ),
    }
    jobs_of_three = {
        "train": alone.command("three", 3, "--save_checkpoints_steps=50"),
        **evaluations.jobs(3),
    }
    # Together, because each of them leaves the machine idle now and then. The signal comes in
    # "interrupted".
    started = {
        3: Launch(alone.folder / "launch_of_3", 3, jobs_of_three),
        2: Launch(alone.folder / "launch_of_2", 2, jobs_of_two, {1: [[STEP, 5, TERMINATE]]}),
    }
    for launch in started.values():
        assert launch.wait() == 0, launch.log()
    return started


@pytest.fixture(scope="module")
def two(launches):
    return launches[2]


def read_json(*names):
    with open(os.path.join(*names)) as stream:
        return json.load(stream)


def result_of(output_dir):
    return read_json(output_dir, "run.json")["result"]


def newest_step(output_dir):
    return checkpoints.step_of(tf.train.latest_checkpoint(output_dir))


def assert_same_weights(checkpoint, expected):
    found, expected = tf.train.load_checkpoint(checkpoint), tf.train.load_checkpoint(expected)
    names = expected.get_variable_to_shape_map()
    assert found.get_variable_to_shape_map() == names
    for name in names:
        np.testing.assert_allclose(
            found.get_tensor(name), expected.get_tensor(name), err_msg=name, **WEIGHTS
        )


def assert_same_metrics(found, expected, tolerance):
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, **tolerance), name


def assert_same_end(output_dir, expected_dir):
    """Compares what two runs have left, as exactly as rounding allows."""
    found, expected = end_state(output_dir), end_state(expected_dir)
    exact = expected.keys() - {"weights", "evaluations", "exported weights", "outputs"}
    assert_equal(found, {part: expected[part] for part in exact})
    assert len(found["evaluations"]) == len(expected["evaluations"])
    for line, other_line in zip(found["evaluations"], expected["evaluations"]):
        evaluation, other = json.loads(line), json.loads(other_line)
        assert (evaluation["step"], evaluation["is_best"]) == (other["step"], other["is_best"])
        assert_same_metrics(evaluation["metrics"], other["metrics"], METRICS_OF_SUCH_WEIGHTS)
    for checkpoint, other in zip(all_weights(output_dir), all_weights(expected_dir)):
        assert_same_weights(checkpoint, other)


def all_weights(output_dir):
    """Lists the newest checkpoint of each folder, and those of the best exports."""
    folders = [os.path.join(output_dir, name) for name in ("", "best", "best/slim")]
    exports = writer.list_exports(os.path.join(output_dir, "export", "best_exporter"))
    newest = [tf.train.latest_checkpoint(folder) for folder in folders]
    return newest + [os.path.join(export, "variables", "variables") for export in exports]


def ends(launch, job):
    """Gives the exit statuses of all workers, and the last steps of what they have trained."""
    found = launch.ends(job)
    return [end["status"] for end in found], [end["steps"] for end in found]


def assert_no_traceback(launch):
    told = [line for line in launch.log().splitlines() if re.match(r"\[\d\]<stderr>:", line)]
    assert told and not any("Traceback" in line for line in told), launch.log()


# What they make of the data


@pytest.mark.parametrize("name", ["two_longer", "two_accumulated", "three"])
def test_the_weights_are_those_of_one_worker(alone, launches, name):
    assert newest_step(str(alone.folder / name)) == 50
    checkpoint = tf.train.latest_checkpoint(str(alone.folder / name))
    assert_same_weights(checkpoint, os.path.join(alone.finished, "model.ckpt-50"))


@pytest.mark.parametrize("num_workers,name", Evaluations.cases)
def test_the_metrics_are_those_of_one_worker(evaluations, launches, num_workers, name):
    expected = evaluations.expected[name]
    # So that it matters what is counted.
    assert 0 < expected["eval_accuracy"] < 1 and 0 < expected["eval_f1"] < 1
    assert ("eval_recall_at_3" in expected) == (name == "four_classes")
    assert "loss" in expected
    found = read_json(evaluations.output_dir(num_workers, name), "eval_results.json")
    assert_same_metrics(numbers_of(found), expected, METRICS)


@pytest.mark.parametrize("num_workers,name", Evaluations.cases)
def test_the_report_is_that_of_one_worker(evaluations, launches, num_workers, name):
    found, of_one = (evaluations.output_dir(number, name) for number in (num_workers, 1))
    results, of_one_results = (read_json(path, "eval_results.json") for path in (found, of_one))
    assert results["num_examples"] == {"one_batch": 3}.get(name, 23)
    for part in ("classes", "averages", "confusion_matrix", "baseline", "num_examples"):
        assert results[part] == of_one_results[part], part
    pages = []
    for folder in (found, of_one):
        with open(os.path.join(folder, "report.html"), encoding="utf-8") as stream:
            pages.append(stream.read())
    for panel in ("confusion", "classes"):
        sections = [re.search('<section id="%s">.*?</section>' % panel, p, re.S) for p in pages]
        assert sections[0].group() == sections[1].group(), panel


def test_the_predictions_are_those_of_one_worker(alone, two):
    def rows(folder):
        with open(os.path.join(str(alone.folder / folder), "test_results.tsv")) as stream:
            return [line.split("\t") for line in stream]

    found, expected = rows("two_early"), rows("early")
    assert len(found) == len(expected) == 11
    for row, other in zip(found[1:], expected[1:]):
        assert row[:2] + row[5:] == other[:2] + other[5:]
        assert float(row[3]) == pytest.approx(float(other[3]), abs=1e-5)


def test_trials(alone, two):
    """With gradients as float16, and with mixed precision where it has an effect."""
    assert ends(two, "trials") == ([0, 0], [[3, 3], [3, 3]])
    trials = read_json(str(alone.folder / "two_trials"), "trials.json")["trials"]
    assert len({trial["eval_loss"] for trial in trials}) == len(trials) == 2
    log = "\n".join(two.said("trials", 0))
    losses = [float(loss) for loss in re.findall(r" step .* loss (\S+)", log)]
    assert len(losses) == 6 and all(0.1 < loss < 2 for loss in losses)
    precision = devices.choose_precision(Devices(amp=True))
    assert ("--amp has no effect" in log) == (precision.dtype == "float32")


def names_below(folder):
    """Lists files and folders, without the times in their names."""
    paths = [
        os.path.relpath(os.path.join(parent, name), str(folder))
        for parent, folders, names in os.walk(str(folder))
        for name in folders + names
    ]
    return {re.sub(r"\b\d{10}\b", "TIME", path) for path in paths}


def test_only_the_chief_writes(alone, launches):
    of_one = names_below(alone.early)
    only_of_one = {
        name
        for name in of_one
        if re.fullmatch(r"(train|dev)\.[0-9a-f]+\.tf_record(\.index)?", name)
    }
    assert len(only_of_one) == 4
    assert names_below(alone.folder / "two_early") == of_one - only_of_one
    for num_workers, launch in launches.items():
        for worker in range(num_workers):
            names = names_below(launch.folder / ("home_%d" % worker))
            if worker == 0:  # It draws, and Matplotlib keeps there which fonts it has found.
                names = {n for n in names if not re.match(r"\.(cache|config)(/matplotlib|$)", n)}
            # Keras has this file from when it is imported.
            assert names <= {".keras", ".keras/keras.json"}


# When they end


def test_sigterm_to_the_launcher_and_all_workers(ended):
    end = ended["terminated"]
    assert end.status != 0
    assert ends(end.launch, "job") == ([143, 143], [[7], [7]]), end.launch.log()
    assert end.newest_step == 7
    assert (end.result["status"], end.result["reason"]) == ("interrupted", "SIGTERM")
    assert "run_classifier_gpu.py: SIGTERM: " in end.launch.said("job", 0)[-1]
    assert_no_traceback(end.launch)


# The chief while the checkpoint of step 10 is evaluated, the other one before step 16.
@pytest.mark.parametrize("name,survivor", [("chief_killed", 1), ("other_killed", 0)])
def test_when_a_worker_is_killed_the_others_say_so_and_end(ended, name, survivor):
    end = ended[name]
    assert end.status != 0
    assert [e["status"] for e in end.launch.ends("job")] == [1], end.launch.log()
    said = end.launch.said("job", survivor)
    assert any("another worker has died or was killed" in line for line in said)
    assert end.newest_step == 10
    assert_no_traceback(end.launch)


@pytest.mark.parametrize("op_type, is_loss", [("HorovodAllreduce", True), ("MatMul", False)])
def test_what_the_network_says_may_reach_a_worker_before_horovod_does(op_type, is_loss):
    op = types.SimpleNamespace(type=op_type, name="votes_to_stop", traceback=[], _original_op=None)
    said = "[gloo/transport/tcp/pair.cc:598] Connection closed by peer [127.0.0.1]:43757"
    error = tf.errors.UnknownError(None, op, said)
    workers = object.__new__(_HorovodWorkers)
    assert bool(workers.loss_of_worker(error)) == is_loss


def test_sigterm_to_one_worker(two):
    assert ends(two, "interrupted") == ([143, 143], [[15], [15]])
    assert "run_classifier_gpu.py: SIGTERM: " in two.said("interrupted", 0)[-1]


def test_after_all_this_they_stop_early_together_where_one_does(alone, two):
    assert any("from step 10" in line for line in two.said("interrupted", 0))
    assert any("from step 15" in line for line in two.said("early", 0))
    assert ends(two, "early") == ([0, 0], [[30], [30]])
    assert result_of(alone.early)["status"] == "stopped early"
    assert_same_end(str(alone.folder / "two_early"), alone.early)


def test_a_run_that_has_ended_is_not_trained_again(two):
    assert ends(two, "again") == ([0, 0], [[0], [0]])
    assert any("Nothing left to train" in line for line in two.said("again", 0))


def test_after_an_early_stop_workers_may_go_on_where_one_has_begun(alone, two):
    assert ends(two, "longer") == ([0, 0], [[50], [50]])
    assert_same_end(str(alone.folder / "two_longer"), alone.finished)


def test_a_loss_that_is_not_a_number(alone, two):
    statuses, steps = ends(two, "nan")
    assert statuses == [2, 2] and steps[0] == steps[1]
    assert "the loss of step %d is NaN" % steps[0][0] in two.said("nan", 0)[-1]
    assert not any("run_classifier_gpu.py: " in line for line in two.said("nan", 1))
    result = result_of(str(alone.folder / "two_nan"))
    assert (result["status"], result["reason"]) == ("failed", "the loss is NaN")


# What they are given


@pytest.mark.parametrize(
    "name,message",
    [
        *((name, message) for name, (_, message) in BAD_INPUT.items()),
        ("other_run", "learning_rate was 0.001 and is 9.0"),
        ("other_data", "worker 1 on .* has other train data, vocabulary or labels than worker 0"),
    ],
)
def test_bad_input_is_told_once_before_anything_is_written(alone, two, name, message):
    assert ends(two, name) == ([2, 2], [[], []])
    (line,) = two.said(name, 0)
    assert re.search(message, line)
    assert two.said(name, 1) == []
    assert not (alone.folder / "two_bad").exists()


def test_horovod_without_its_launcher_is_one_worker(alone, forks, tmp_path):
    shutil.copytree(alone.early, str(alone.folder / "no_launcher"))
    command = alone.command("no_launcher", 1, "--horovod", *TO_THE_END)
    assert forks.run(command, tmp_path / "log") == 0
    assert_equal(end_state(str(alone.folder / "no_launcher")), end_state(alone.finished))


def test_without_horovod_it_says_what_to_install(alone, forks, tmp_path):
    command = alone.command("no_horovod", 1, "--horovod")
    hide = "sys.modules['horovod'] = None"
    assert forks.run(command, tmp_path / "log", "program.program.start", 1, hide) == 2
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.startswith("run_classifier_gpu.py: --horovod: Horovod cannot be imported")
    assert line.endswith("install it with `make horovod`")
    assert not (alone.folder / "no_horovod").exists()


# At length


@pytest.mark.slow
@pytest.mark.parametrize(
    "num_workers,worker,disturbance",
    [
        (2, 0, [STEP, 7, TERMINATE_LAUNCHER]),
        (3, 2, [STEP, 7, TERMINATE]),
        (2, 1, [EVALUATE, 1, TERMINATE]),
        (2, 0, [EVALUATE, 1, TERMINATE]),
        (2, 0, [EXPORT, 1, TERMINATE]),
        (3, 1, [EVALUATE, 1, KILL]),
        (2, 0, [EXPORT, 1, KILL]),
        (2, 0, [SAVE, 2, KILL]),
    ],
)
def test_a_run_that_is_ended_once(alone, tmp_path, num_workers, worker, disturbance):
    output_dir = str(tmp_path / "output")
    jobs = {"job": alone.command(output_dir, num_workers, *TO_THE_END)}
    launch = Launch(tmp_path / "first", num_workers, jobs, {worker: [disturbance]})
    assert launch.wait() != 0
    assert_no_traceback(launch)
    if disturbance[2] != KILL:
        # The signals that do not come in a step come at the first evaluation, after step 10.
        last_step = 7 if disturbance[0] == STEP else 11
        assert ends(launch, "job") == ([143] * num_workers, [[last_step]] * num_workers)
        assert newest_step(output_dir) == last_step
    assert Launch(tmp_path / "second", num_workers, jobs).wait() == 0
    assert_same_end(output_dir, alone.finished)


@pytest.mark.slow
def test_who_waits_long_for_the_chief_does_not_complain(alone, tmp_path):
    """Horovod itself would warn after 60 seconds."""
    jobs = {"job": alone.command(tmp_path / "output", 2)}
    launch = Launch(tmp_path / "launch", 2, jobs, {0: [[EXPORT, 1, "time.sleep(75)"]]})
    assert launch.wait() == 0, launch.log()
    assert "from step 0" in launch.log()
    assert not re.search("stall|subset of ranks", launch.log(), re.IGNORECASE), launch.log()


SEED = 20191010
NUM_KILLS = 30


class Killed:
    """A run in which workers are killed, and which goes on with two of them or with three."""

    def __init__(self, alone, folder):
        self.output_dir = str(folder / "output")
        self._alone = alone
        self._folder = folder
        self._numbers = itertools.count(1)

    def launch(self, num_workers):
        arguments = [*TO_THE_END, *EVERYTHING]
        command = self._alone.command(self.output_dir, num_workers, *arguments)
        folder = self._folder / ("launch_%d" % next(self._numbers))
        return Launch(folder, num_workers, {"job": command})

    def kill(self, num_workers, worker, moment):
        """Kills a worker, `moment` seconds after all have begun.

        Returns:
            The seconds until the job has ended; None if it was done before.
        """
        launch = self.launch(num_workers)
        launch.wait_for_workers()
        time.sleep(moment)
        before = self._readable()
        with contextlib.suppress(ProcessLookupError):
            os.kill(launch.pids()[worker], signal.SIGKILL)
        killed = time.time()
        if launch.wait(60) == 0:
            return None
        seconds = time.time() - killed
        assert_no_traceback(launch)
        after = self._readable()
        for folder, steps in before.items():
            newest = max(after[folder], default=0)
            assert all(step in after[folder] or step < newest for step in steps), launch.log()
        return seconds

    def _readable(self):
        """Lists the steps of the checkpoints that are complete."""
        folders = (self.output_dir, os.path.join(self.output_dir, "best"))
        prefixes = {folder: checkpoints._prefixes(folder) for folder in folders}
        return {
            folder: [
                int(prefix.rpartition("-")[2])
                for prefix in of_folder
                if weights.unreadable(prefix) is None
            ]
            for folder, of_folder in prefixes.items()
        }


@pytest.mark.slow
def test_workers_are_killed_at_random(alone, tmp_path):
    numbers = itertools.count(1)

    def new_run():
        folder = tmp_path / ("run_%d" % next(numbers))
        folder.mkdir()
        return Killed(alone, folder)

    launch = new_run().launch(2)
    launch.wait_for_workers()
    started = time.time()
    assert launch.wait() == 0, launch.log()
    seconds = time.time() - started

    chance = random.Random(SEED)
    run = new_run()
    num_kills = 0
    while num_kills < NUM_KILLS:
        num_workers = chance.choice([2, 3])
        worker, moment = chance.randrange(num_workers), chance.uniform(0, seconds)
        until_end = run.kill(num_workers, worker, moment)
        if until_end is None:
            assert_same_end(run.output_dir, alone.finished)
            run = new_run()
            continue
        num_kills += 1
        what = (num_kills, worker, num_workers, moment, seconds, until_end)
        print("kill %d: worker %d of %d at %.1f of %.1f s, the job ended after %.1f s" % what)
    assert run.launch(2).wait() == 0
    assert_same_end(run.output_dir, alone.finished)

"""Running the program in tests: in processes of its own, in this one, and what is left of a run."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time

import absl.flags
import numpy as np
import tensorflow.compat.v1 as tf

import run_classifier_gpu
from bert_classifier import flags
from bert_classifier.export import bundle, writer
from bert_classifier.training import outputs as outputs_files

ROOT = os.path.dirname(os.path.abspath(run_classifier_gpu.__file__))


def run(*arguments, **environment):
    """Runs the program in a process of its own."""
    return subprocess.run(
        [sys.executable, "run_classifier_gpu.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=dict(os.environ, **environment),
    )


@contextlib.contextmanager
def changed_description(export):
    """Yields the content of an export's bundle.json, to be changed."""
    path = os.path.join(export, bundle.ASSETS, bundle.DESCRIPTION)
    with open(path, encoding="utf-8") as stream:
        description = json.load(stream)
    yield description
    with open(path, "w", encoding="utf-8") as stream:
        json.dump(description, stream)


def succeed(*arguments, **environment):
    process = run(*arguments, **environment)
    assert process.returncode == 0, process.stderr
    return process.stderr


class Forks:
    """Runs the program in real processes, in each of which something happens at a certain moment.

    They are forks of one process that has imported TensorFlow, which takes longer than all the rest
    of many a test.
    """

    def __init__(self):
        self._parent = subprocess.Popen(
            [sys.executable, "-c", FORKS],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3"),
        )

    def run(
        self,
        arguments,
        stderr,
        function="hooks.ProgressHook.begin",
        number=0,
        action="",
        folder=ROOT,
    ):
        """Runs the program to its end.

        Args:
            arguments: those of the command line.
            stderr: the file for what it prints.
            function: what is to be disturbed, e.g. `tf.train.Saver.save`.
            number: which of the calls of it, from 1; 0 for none.
            action: what to do before that call, in Python.
            folder: where it runs.

        Returns:
            The exit status.
        """
        job = [str(folder), arguments, str(stderr), function, number, action]
        self._parent.stdin.write(json.dumps(job) + "\n")
        self._parent.stdin.flush()
        return int(self._parent.stdout.readline())

    def close(self):
        self._parent.stdin.close()
        self._parent.wait()


FORKS = """
import faulthandler, json, os, sys
sys.path[:1] = [os.getcwd(), os.path.join(os.getcwd(), "tests")]
from disturbance import disturb, program

def main(folder, arguments, stderr, *disturbance):
    os.chdir(folder)
    faulthandler.dump_traceback_later(300, exit=True)
    with open(stderr, "w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    program.streams.prepare()
    disturb(*disturbance)
    sys.argv = ["run_classifier_gpu.py", *arguments]
    program.flags.define()
    program.app.run(program.main, flags_parser=program.parse_flags)

for line in sys.stdin:
    child = os.fork()
    if not child:
        main(*json.loads(line))
    status = os.waitpid(child, 0)[1]
    print(os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status), flush=True)
"""


class Launch:
    """The program in several processes of horovodrun, which do one job after the other.

    Whatever they write without being told where is in the folders `home_0`, `home_1` and so on.
    """

    def __init__(self, folder, num_workers, jobs, disturbances=None):
        """Starts the processes.

        Args:
            folder: a new folder, for what is told about the jobs.
            num_workers: how many processes.
            jobs: name -> arguments of the command line, or a pair: these, and those that one worker
                is given besides, by its index.
            disturbances: index of a worker -> what happens there, as `disturbance.disturb` takes
                it. The environment variable LAUNCHER has the process of horovodrun.
        """
        self.folder = folder
        self.num_workers = num_workers
        folder.mkdir()
        pairs = {name: job if isinstance(job, tuple) else (job, {}) for name, job in jobs.items()}
        content = {
            "jobs": [[name, *pair] for name, pair in pairs.items()],
            "disturbances": disturbances or {},
        }
        (folder / "launch.json").write_text(json.dumps(content))
        launcher = os.path.join(os.path.dirname(sys.executable), "horovodrun")
        assert os.path.exists(launcher), "there is no Horovod: `make horovod`"
        worker = [sys.executable, os.path.join("tests", "worker.py"), str(folder)]
        with open(str(folder / "stderr"), "w") as stderr:
            self.process = subprocess.Popen(
                ["sh", "-c", 'LAUNCHER=$$ exec "$@"', "sh"]
                + [launcher, "--gloo", "-np", str(num_workers), *worker],
                cwd=ROOT,
                stdout=stderr,
                stderr=stderr,
                # The launcher has a cache there.
                env=dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3", HOME=str(folder)),
            )

    def pids(self):
        """Gives the processes of the workers that have begun, by index."""
        paths = self.folder.glob("pid_?")
        return {int(path.name[-1]): int(path.read_text()) for path in paths}

    def wait_for_workers(self):
        while len(self.pids()) < self.num_workers:
            assert self.process.poll() is None, self.log()
            time.sleep(0.01)

    def wait(self, timeout=600):
        """Waits for the end of all; returns the exit status of horovodrun."""
        try:
            return self.process.wait(timeout)
        finally:
            # Where the launcher is gone, what it has started ends too.
            self.process.kill()
            self.process.wait()

    def log(self):
        return (self.folder / "stderr").read_text()

    def said(self, job, worker):
        """Gives the lines that a worker printed in a job."""
        prefix = "[%d]<stderr>:" % worker
        lines = [line[len(prefix) :] for line in self.log().splitlines() if line.startswith(prefix)]
        of_jobs = "\n".join(["", *lines]).split("\nJOB ")[1:]
        return next(text for text in of_jobs if text.split("\n")[0] == job).splitlines()[1:]

    def ends(self, job):
        """Gives exit status and last step of each training, of all workers that told them."""
        paths = sorted(self.folder.glob(glob.escape(job) + ".[0-9].json"))
        return [json.loads(path.read_text()) for path in paths]


def write_data(folder):
    """40 rows to learn from, 18 to evaluate, 10 without labels to predict."""
    opinions = {"positive": ["good", "great", "fine"], "negative": ["bad", "poor", "awful"]}
    random = np.random.RandomState(0)

    def row():
        label = random.choice(sorted(opinions))
        return label, "the %s was really %s ." % (
            random.choice(["film", "phone"]),
            random.choice(opinions[label]),
        )

    folder.mkdir()
    for name, count in (("train", 40), ("dev", 18)):
        rows = "".join("%s\t%s\n" % row() for _ in range(count))
        (folder / (name + ".tsv")).write_text("label\ttext\n" + rows)
    (folder / "test.tsv").write_text("text\n" + "".join(row()[1] + "\n" for _ in range(10)))
    return str(folder)


def model_flags(tiny_bert):
    return ["--%s=%s" % item for item in tiny_bert._asdict().items()]


def parsed(*arguments):
    """The config that a command line stands for."""
    flag_values = absl.flags.FlagValues()
    flags.define(flag_values)
    flag_values(["run_classifier_gpu.py", *arguments])
    return flags.read(flag_values)


def numbers_of(results):
    """Gives the metrics of eval_results.json, which also has what is known of each class."""
    of_evaluation = ("eval_", "global_step", "loss")
    return {name: value for name, value in results.items() if name.startswith(of_evaluation)}


class SmallRun:
    """A run that stops early at step 15 of 30, on every machine: to copy and to go on with.

    Nothing in its dev set is of class 1, whose recall is so always 0: the first evaluation, at step
    5, stays the best. It also evaluates, predicts and exports.
    """

    def __init__(self, folder, tiny_bert, num_hidden_layers=1):
        self.output_dir = str(folder / "small_run")
        self.data_dir = write_data(folder / "data")
        dev_file = os.path.join(self.data_dir, "dev.tsv")
        with open(dev_file) as stream:
            lines = [line for line in stream if not line.startswith("positive")]
        with open(dev_file, "w") as stream:
            stream.writelines(lines)
        # One layer: what takes time is to build the graph.
        with open(tiny_bert.bert_config_file) as stream:
            config = dict(json.load(stream), num_hidden_layers=num_hidden_layers)
        config_file = folder / "bert_config.json"
        config_file.write_text(json.dumps(config))
        self.arguments = [
            "--task_name=file",
            "--data_dir=" + self.data_dir,
            "--max_seq_length=16",
            *model_flags(tiny_bert._replace(bert_config_file=str(config_file))),
            "--train_batch_size=8",
            "--num_train_epochs=6",
            "--learning_rate=1e-3",
            "--save_checkpoints_steps=5",
            "--best_metric=eval_recall",
            "--max_steps_without_improvement=10",
        ]
        self.run(self.output_dir, "--do_predict", "--do_export")

    def command(self, output_dir, *arguments):
        """Gives the flags that train and evaluate, and further ones."""
        output_dir = "--output_dir=%s" % output_dir
        return ["--do_train", "--do_eval", *self.arguments, output_dir, *arguments]

    def run(self, output_dir, *arguments):
        """Trains and evaluates in this process; returns the metrics."""
        return run_classifier_gpu.run_classifier(parsed(*self.command(output_dir, *arguments)))

    def copy(self, folder):
        """Copies the finished run."""
        return shutil.copytree(self.output_dir, str(folder))


def tensors(checkpoint):
    """A digest of each tensor: bit for bit, and short to look at."""
    reader = tf.train.load_checkpoint(checkpoint)
    return {
        name: hashlib.sha256(reader.get_tensor(name).tobytes()).hexdigest()[:12]
        for name in reader.get_variable_to_shape_map()
    }


def end_state(output_dir):
    """Everything that a run leaves and that no interruption may change."""

    def path(*names):
        return os.path.join(output_dir, *names)

    def read(*names):
        with open(path(*names)) as stream:
            return stream.read()

    checkpoints = {
        folder: tf.train.latest_checkpoint(path(folder)) for folder in ("", "best", "best/slim")
    }
    exports = writer.list_exports(path("export", "best_exporter"))
    result = json.loads(read("run.json"))["result"]
    outputs = outputs_files.read(outputs_files.outputs_path(output_dir))
    assert outputs is not None
    return {
        "checkpoints": {name: os.path.basename(prefix) for name, prefix in checkpoints.items()},
        "weights": {name: tensors(prefix) for name, prefix in checkpoints.items()},
        "number of checkpoints": len(glob.glob(path("model.ckpt-*.index"))),
        "files of the best": sorted(os.listdir(path("best")) + os.listdir(path("best", "slim"))),
        "evaluations": read("eval_history.jsonl").splitlines(),
        "outputs": (outputs.step, outputs.predictions.tolist(), outputs.losses.tolist()),
        "exports": [writer.exported_step(folder) for folder in exports],
        "exported weights": [tensors(os.path.join(e, "variables", "variables")) for e in exports],
        "result": {name: result[name] for name in ("status", "reason", "last_step", "best_step")},
        "leftovers": [
            name
            for _, folders, files in os.walk(output_dir)
            for name in folders + files
            if re.search(r"\.tmp|_temp_|temp-|\.tempstate|\.corrupt", name)
        ],
    }


def assert_equal(state, expected):
    """Compares part by part, so that a failure is about the one that differs."""
    assert state["leftovers"] == []
    for part, value in expected.items():
        assert state[part] == value, part

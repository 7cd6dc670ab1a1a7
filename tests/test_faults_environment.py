"""What surrounds the program: variables, streams, signals, clocks, file systems, odd flags."""

from __future__ import annotations

import datetime
import errno
import json
import os
import signal
import subprocess
import sys
import time

import absl.flags
import pytest
import tensorflow.compat.v1 as tf
from program import ROOT, parsed

import run_classifier_gpu
from bert_classifier import convert, devices, failures, files, job, logs, predict, program, threads
from bert_classifier.config import Devices
from bert_classifier.errors import BadInput
from bert_classifier.inspection import checks
from bert_classifier.job import prepare
from bert_classifier.training import hooks, interruption, runs
from bert_classifier.training.schedule import Schedule, make_schedule
from bert_classifier.training.workers import Workers, _HorovodWorkers, start


def cluster(task_type=None, index=0, **hosts):
    task = {"task": {"type": task_type, "index": index}} if task_type else {}
    return json.dumps({"cluster": hosts, **task})


TWO = {"chief": ["a:1"], "worker": ["b:1"]}


class TestTfConfig:
    @pytest.mark.parametrize(
        "value",
        [
            pytest.param("", id="F04 empty"),
            pytest.param("{}", id="F04 nothing in it"),
            pytest.param('{"model_dir": "/elsewhere"}', id="F04i"),
            pytest.param(cluster("master", master=["a:1"]), id="F04 AI Platform, one machine"),
            pytest.param(cluster("worker", worker={"0": "a:1"}), id="F04 one worker, as a dict"),
            pytest.param(cluster("worker", ps=[], worker=["a:1"]), id="F04 no parameter servers"),
            pytest.param(cluster(chief=["a:1"]), id="F04 no task"),
        ],
    )
    def test_a_job_of_one_process_ignores_it(self, monkeypatch, value):
        monkeypatch.setenv("TF_CONFIG", value)
        assert start(use_horovod=False).size == 1
        # Estimator would read it.
        assert "TF_CONFIG" not in os.environ
        assert tf.estimator.RunConfig(model_dir="x").is_chief

    @pytest.mark.parametrize(
        "value",
        [
            pytest.param(cluster("chief", **TWO), id="F04a"),
            pytest.param(cluster("worker", **TWO), id="F04b"),
            pytest.param(cluster("ps", chief=["a:1"], ps=["b:1"]), id="F04 parameter server"),
            pytest.param(cluster("evaluator", chief=["a:1"]), id="F04 evaluator"),
            pytest.param(cluster("worker", worker=["a:1", "b:1"]), id="F04e two workers"),
            pytest.param(cluster("worker", 1), id="F04 worker 1, no cluster"),
            pytest.param('{"sparseCluster": {"worker": {}}}', id="F04h"),
        ],
    )
    def test_a_job_of_several_is_not_trained_several_times(self, monkeypatch, value):
        monkeypatch.setenv("TF_CONFIG", value)
        with pytest.raises(BadInput, match="^TF_CONFIG: .* names other processes .* unset it"):
            start(use_horovod=False)

    @pytest.mark.parametrize("value", ["none", "[]", "7", '{"cluster": 7}', '{"task": "chief"}'])
    def test_what_cannot_be_understood(self, monkeypatch, value):
        """F04g."""
        monkeypatch.setenv("TF_CONFIG", value)
        with pytest.raises(BadInput, match="^TF_CONFIG: .* cannot be understood"):
            start(use_horovod=False)


class TestLock:
    @pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
    def test_a_file_system_without_locks(self, monkeypatch, tmp_path, caplog, number):
        """F07a, F07b."""

        def flock(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(runs.fcntl, "flock", flock)
        with runs.locked(str(tmp_path)):
            assert "has no locks (%s)" % os.strerror(number) in caplog.text

    @pytest.mark.parametrize("number", [errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES])
    def test_another_process(self, monkeypatch, tmp_path, number):
        def flock(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(runs.fcntl, "flock", flock)
        with pytest.raises(BadInput, match="another process"), runs.locked(str(tmp_path)):
            pass


def shell(script, *arguments):
    """Runs a script of bash; "$@" are the interpreter and the arguments."""
    return subprocess.run(
        ["bash", "-c", script, "bash", sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        env=dict(os.environ, PYTHONIOENCODING="ascii"),
    )


class TestStreams:
    PRINT = (
        "import sys, time; from bert_classifier import streams; "
        "streams.prepare(); time.sleep(0.2); print('\\u4e2d'); "
        "print('\\u597d\\udce9', file=sys.stderr); [print('x' * 99, file=sys.stderr) "
        "for _ in range(999)]; f = open(sys.argv[1], 'w'); print(f.fileno(), file=f)"
    )

    @pytest.mark.parametrize(
        "redirection,status",
        [
            ('"$@" 2>&-', 0),
            ('"$@" <&- >&- 2>&-', 0),
            ('"$@" >&-', 0),
            ('"$@" 2>/dev/full', 0),
            ('"$@" 2>&1 >/dev/null | true; exit ${PIPESTATUS[0]}', 0),
        ],
    )
    def test_nothing_that_is_written_is_an_error(self, tmp_path, redirection, status):
        """F08, and `2>&1 | head`. No file gets the number of a stream."""
        process = shell(redirection, "-c", self.PRINT, str(tmp_path / "file"))
        assert process.returncode == status, process.stderr
        assert int((tmp_path / "file").read_text()) > 2

    def test_what_cannot_be_encoded_is_an_escape(self, tmp_path):
        """F28."""
        process = shell('"$@"', "-c", self.PRINT, str(tmp_path / "file"))
        assert process.stdout == b"\\u4e2d\n"
        assert process.stderr.startswith(b"\\u597d\\udce9\n")

    def test_a_dry_run(self, small_run, tmp_path):
        """F08d and F28a together: no stderr, no stdin, and an ASCII stdout."""
        train = tmp_path / "train.tsv"
        rows = ["%s\tgood %d" % (label, n) for n in range(12) for label in ("\u597d", "neg")]
        train.write_text("\n".join(["label\ttext", *rows, ""]), encoding="utf-8")
        arguments = ["--train_file=%s" % train, "--dev_file=%s" % train, "--dry_run"]
        command = small_run.command(tmp_path / "output", *arguments)
        process = shell('"$@" <&- 2>&-', "run_classifier_gpu.py", *command)
        assert process.returncode == 0
        assert process.stdout.startswith(b"Data\n") and b"\\u597d" in process.stdout

    def test_a_dry_run_for_a_reader_that_has_gone(self, small_run, tmp_path, capsys, monkeypatch):
        def gone(*_, **__):
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

        left = []
        monkeypatch.setattr(program.streams, "leave_stdout", lambda: left.append(1))
        monkeypatch.setattr(run_classifier_gpu, "run_classifier", gone)
        assert main(monkeypatch, small_run.command(tmp_path)) == 0
        assert left and capsys.readouterr().err == ""

    def test_a_name_that_is_no_text_is_in_the_log(self, tmp_path, monkeypatch):
        # pytest's own handlers would put the name into the report, which a worker cannot send.
        monkeypatch.setattr(logs.logging.root, "handlers", [])
        logs.logging.root.setLevel("INFO")
        with logs.also_to(str(tmp_path / "run.log")):
            logs.logging.info("caf\udce9")
        assert (tmp_path / "run.log").read_text().endswith("caf\\udce9\n")


def main(monkeypatch, arguments):
    """Calls the program's `main` here, which must leave nothing behind in the process."""
    for module, name in (
        (program.memory, "keep_freed_memory"),
        (program.memory, "skip_last_collection"),
        (program.threads, "give_each_session_its_own"),
        (program.Interruption, "watch"),
    ):
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr(program.logs, "log_to_stderr", lambda debug: None)
    config = parsed(*arguments)
    monkeypatch.setattr(run_classifier_gpu.flags, "read", lambda: config)
    return run_classifier_gpu.main([])


@pytest.mark.parametrize("ignored", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_was_ignored_stays_so(ignored):
    """F16a."""
    child = os.fork()
    if not child:
        try:
            signal.signal(ignored, signal.SIG_IGN)
            watched = interruption.Interruption()
            watched.watch()
            os.kill(os.getpid(), ignored)
            watched.check()
            with watched.deferred():
                os.kill(os.getpid(), ({signal.SIGINT, signal.SIGTERM} - {ignored}).pop())
                os._exit(0 if watched.requested else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


class TestFlags:
    @pytest.mark.parametrize(
        "flag",
        [
            "--seed=99999999999999999999",  # F20b
            "--seed=2147483648",
            "--seed=2147483647 --num_trials=2 --do_train --do_eval",
            "--eval_batch_size=99999999999999999999",
            "--predict_batch_size=1000000000000",
            "--train_batch_size=9223372036854775808",
            "--num_accumulation_steps=9999999999",
            "--keep_checkpoint_max=2147483648",
            "--save_checkpoints_steps=9223372036854775808",
            "--max_steps_without_improvement=9223372036854775808",
            "--early_stopping_min_steps=-1",
            "--learning_rate=1e39",
            "--clip_norm=1e38",
            "--num_train_epochs=1e309",
            "--weight_decay_rate=1e300",
        ],
    )
    def test_numbers_beyond_what_can_be(self, small_run, flag):
        name = flag.split("=")[0].strip("-")
        with pytest.raises(absl.flags.Error, match=name):
            parsed(*small_run.arguments, "--do_eval", "--output_dir=x", *flag.split())

    @pytest.mark.parametrize("flag", ["--seed=-5", "--seed=2147483646 --num_trials=2"])
    def test_numbers_that_can_be(self, small_run, flag):
        parsed(*small_run.arguments, "--do_train", "--do_eval", "--output_dir=x", *flag.split())

    def test_more_steps_than_can_be_counted(self, small_run):
        config = parsed(*small_run.command("x", "--num_train_epochs=1e25"))
        with pytest.raises(BadInput, match=r"--num_train_epochs=1e\+25: makes more steps than"):
            make_schedule(config.training, 40, 1)

    def test_a_home_is_expanded_in_every_path(self, small_run, monkeypatch, tmp_path):
        """F23a, F23b."""
        monkeypatch.setenv("HOME", str(tmp_path))
        names = ["data_dir", "train_file", "dev_file", "test_file", "labels_file", "output_dir"]
        names += ["bert_config_file", "vocab_file", "init_checkpoint", "export_dir", "thresholds"]
        names += ["class_weights", "eval_checkpoint", "export_checkpoint"]
        config = parsed(*small_run.arguments, "--do_eval", *["--%s=~/x" % n for n in names])
        assert {config.values()[name] for name in names} == {str(tmp_path / "x")}

    @pytest.mark.parametrize(
        "path,message",
        [
            ("~no_such_user/x", "no user has this home; write ./~no_such_user for a folder"),
            ("caf\udce9", "is not UTF-8"),  # F20c
        ],
    )
    def test_paths_that_cannot_be(self, small_run, path, message, tmp_path, capsys):
        with pytest.raises(absl.flags.Error, match=message):
            parsed(*small_run.command(path))
        assert convert.main([path, str(tmp_path / "new")]) == 2
        assert convert.main([str(tmp_path), path]) == 2
        assert message in capsys.readouterr().err
        for arguments in ([path, "text"], ["x", "--input_file=" + path]):
            assert predict.main(arguments) == 2
            assert message in capsys.readouterr().err

    def test_a_home_is_expanded_for_the_predictor(self, monkeypatch, tmp_path, capsys):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert predict.main(["~/export", "--input_file=~/in", "--output_file=~/no/out"]) == 2
        assert "--output_file=%s/no/out: there is no such" % tmp_path in capsys.readouterr().err
        assert predict.main(["~/export", "text"]) == 2
        assert "%s/export" % tmp_path in capsys.readouterr().err

    @pytest.mark.parametrize("path", ["", "x/~", "./~x", "best", "caf\u00e9"])
    def test_other_paths_are_as_they_were(self, path):
        assert files.user_path(path) == path

    def test_a_working_folder_that_is_not_utf_8(self, small_run, monkeypatch, capsys):
        monkeypatch.setattr(os, "getcwd", lambda: "/caf\udce9")
        assert main(monkeypatch, small_run.command("x")) == 2
        assert "is not UTF-8" in capsys.readouterr().err


class TestClocks:
    @pytest.mark.parametrize("name", ["time", "monotonic"])
    def test_one_that_stands_still(self, small_run, monkeypatch, tmp_path, name):
        """F26a, and libfaketime, which stops both."""
        now = getattr(time, name)()
        monkeypatch.setattr(time, name, lambda: now)
        metrics = small_run.run(tmp_path, "--num_train_epochs=1", "--log_every_n_iter=1")
        assert metrics

    def test_a_very_long_time(self):
        assert hooks._clock(1e30) == str(datetime.timedelta(seconds=hooks._LONGEST))


class TestPlan:
    @staticmethod
    def rows(last, interval, patience=0, min_steps=0):
        report = checks.Report([], [], [], [])
        schedule = Schedule(8, 1e-3, last, 0, 3.0, interval, patience)
        checks._add_plan(report, schedule, min_steps)
        return " ".join(" ".join(report.lines).split())

    @pytest.mark.parametrize("last", range(1, 36))
    @pytest.mark.parametrize("interval", [1, 3, 10, 40])
    def test_evaluations_are_those_that_are_due(self, last, interval):
        schedule = Schedule(8, 1e-3, last, 0, 3.0, interval, 0)
        due = [step for step in range(last + 1) if schedule.is_due(step)]
        expected = ", ".join(map(str, due[:10]))
        expected += ", and %d more" % (len(due) - 10) if len(due) > 10 else ""
        assert "evaluations %d, at steps %s early" % (len(due), expected) in self.rows(
            last, interval
        )
        for patience in (1, 4, 20):
            stops = [step for step in due[:-1] if step >= interval + patience]
            expected = "possible from step %d on" % stops[0] if stops else "can never act"
            assert expected in self.rows(last, interval, patience)

    def test_until_it_stops_early(self):
        """F27a."""
        rows = self.rows(2**63 - 1, 3, 9)
        assert "at steps 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, and 3,074,457,345,618,258,593" in rows
        assert "possible from step 12 on" in rows
        report = checks.Report([], [], [], [])
        checks._add_time(report, 1e40)
        assert "999999999 days" in report.lines[0]


class View(Workers):
    """One of two hosts: what the first tells the other is in `told`."""

    size = 2

    def __init__(self, index, told):
        self.index = index
        self._told = told

    def from_chief(self, action):
        if not self.is_chief:
            return self._told.pop(0)
        self._told.append(action())
        return self._told[-1]


@pytest.mark.parametrize("action", ["--do_predict --do_export", "--do_predict", "--do_frozen"])
def test_only_the_first_host_has_the_output_dir(small_run, tmp_path, action):
    """What depends on it is the same for all: which splits are read."""
    command = [*small_run.arguments, *action.split()]
    told = []
    jobs = [
        prepare(
            parsed(*command, "--output_dir=%s" % folder),
            View(index, told),
            interruption.Interruption(),
        )
        for index, folder in enumerate([small_run.output_dir, tmp_path])
    ]
    assert jobs[0].inputs.fingerprints == jobs[1].inputs.fingerprints
    assert told == []


def test_a_split_that_the_chief_has_not(small_run):
    with pytest.raises(BadInput, match="worker 1 .* has other dev data"):
        job._check_same_data({"dev": "a"}, {}, View(1, []))


class TestXla:
    @pytest.mark.parametrize(
        "before,after",
        [
            (None, "--tf_xla_cpu_global_jit"),
            ("--a", "--a --tf_xla_cpu_global_jit"),
            ("--tf_xla_cpu_global_jit=false", "--tf_xla_cpu_global_jit=false"),
        ],
    )
    def test_the_variable_is_set_once(self, monkeypatch, before, after):
        monkeypatch.setenv("TF_XLA_FLAGS", before or "")
        threads.compile_on_cpus()
        threads.compile_on_cpus()
        assert os.environ["TF_XLA_FLAGS"] == after

    def test_an_agreement_of_workers_comes_before_the_model(self, small_run, forks, tmp_path):
        """The session in which workers agree is TensorFlow's first one, and reads the variable."""
        dump = tmp_path / "xla"
        agree = "os.environ['XLA_FLAGS'] = '--xla_dump_to=%s'; tf.Session().close()" % dump
        output_dir = small_run.copy(tmp_path / "output")
        arguments = [*small_run.arguments, "--do_eval", "--use_xla", "--output_dir=" + output_dir]
        log = tmp_path / "log"
        assert forks.run(arguments, log, "program.prepare", 1, agree) == 0, log.read_text()
        assert list(dump.iterdir()), "nothing was compiled"


def raised(error, *names):
    """Gives an error that was raised in functions of these names, the last one innermost."""

    def innermost():
        raise error

    function = innermost
    for name in reversed(names):
        scope = {"inner": function}
        exec("def %s(): inner()" % name, scope)
        function = scope[name]
    try:
        function()
    except Exception as caught:
        return caught


OOM = "OOM when allocating tensor with shape[8,128]"


class TestTrouble:
    @pytest.mark.parametrize(
        "functions,cure",
        [
            (("train", "train_and_evaluate"), "--train_batch_size"),
            (("train", "train_and_evaluate", "evaluate", "run"), "--eval_batch_size"),
            (("evaluate",), "--eval_batch_size"),
            (("predict", "compute"), "--predict_batch_size"),
            (("export", "calibrate", "predict"), "--predict_batch_size"),
            (("train", "evaluate", "export"), "end other programs"),
        ],
    )
    @pytest.mark.parametrize(
        "make_error",
        [lambda: tf.errors.ResourceExhaustedError(None, None, OOM), MemoryError],
        ids=["TensorFlow", "Python"],
    )
    def test_a_full_memory(self, functions, cure, make_error):
        line = failures.message_for_user(raised(make_error(), *functions))
        assert line.startswith("the memory is full; ") and cure in line
        assert "--train_batch_size" not in line or cure == "--train_batch_size"

    def test_a_real_evaluation_in_training(self, small_run, tmp_path, monkeypatch):
        def full(*_, **__):
            raise tf.errors.ResourceExhaustedError(None, None, OOM)

        monkeypatch.setattr(hooks.EvaluationRecorder, "_log", lambda *_: None)
        monkeypatch.setattr(tf.metrics, "mean", full)
        with pytest.raises(tf.errors.ResourceExhaustedError) as error:
            small_run.run(tmp_path, "--num_train_epochs=1")
        assert "--eval_batch_size" in failures.message_for_user(error.value)

    @pytest.mark.parametrize(
        "error,line",
        [
            (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run.json"), "the disk is full"),
            (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "the disk is full"),
            (
                tf.errors.ResourceExhaustedError(None, None, "/x; No space left on device"),
                "the disk is full",
            ),
            (tf.errors.UnknownError(None, None, "/x; Disk quota exceeded"), "the disk is full"),
            (
                PermissionError(errno.EACCES, os.strerror(errno.EACCES), "x/labels.txt"),
                "x/labels.txt: Permission denied",
            ),
        ],
    )
    def test_what_the_system_refuses(self, error, line):
        assert failures.message_for_user(error).startswith(line)

    @pytest.mark.parametrize("function", ["runs.write_record", "runs.files.write_text"])
    def test_a_disk_that_is_full_when_a_file_is_written(self, small_run, forks, tmp_path, function):
        fill = "raise OSError(28, 'No space left on device', 'run.json')"
        log = tmp_path / "log"
        command = small_run.command(tmp_path / "output", "--num_train_epochs=1")
        assert forks.run(command, log, "program." + function, 2, fill) == 2
        last = log.read_text().splitlines()[-1]
        assert last.startswith("run_classifier_gpu.py: the disk is full")
        assert "Traceback" not in log.read_text()

    def test_a_log_on_a_full_disk_hides_no_error(self):
        with pytest.raises(BadInput, match="why"), logs.also_to("/dev/full"):
            logs.logging.error("one line")
            raise BadInput("why")


class TestLossOfWorker:
    @staticmethod
    def verdict(error):
        workers = object.__new__(_HorovodWorkers)
        return workers.loss_of_worker(error)

    def test_what_horovod_says(self):
        message = "Horovod has been shut down. This was caused by an exception"
        assert self.verdict(tf.errors.UnknownError(None, None, message))

    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.EIO, os.strerror(errno.EIO), "/data/Horovod/run.json"),
            BadInput("--output_dir=/Horovod: is a file"),
            tf.errors.NotFoundError(None, None, "/Horovod/model.ckpt-5"),
            tf.errors.UnknownError(None, None, "/Horovod/events; Input/output error"),
            tf.errors.InvalidArgumentError(None, None, "[[node HorovodAllreduce]]"),
        ],
    )
    def test_what_is_in_a_folder_of_that_name(self, error):
        assert self.verdict(error) is None


def test_that_mixed_precision_has_no_effect_is_said_once(small_run, tmp_path, caplog):
    caplog.set_level("INFO")
    small_run.run(tmp_path, "--num_train_epochs=1", "--amp", "--do_export")
    has_no_effect = devices.choose_precision(Devices(amp=True)).dtype == "float32"
    assert caplog.text.count("--amp has no effect") == has_no_effect

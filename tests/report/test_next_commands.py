"""The commands that the summary of a run prints, run as they are printed."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys

import pytest
from program import ROOT, parsed

import run_classifier_gpu
from bert_classifier import compare, predict
from bert_classifier.data.inputs import make_task
from bert_classifier.data.processors import get_processor
from bert_classifier.report import next_commands as module
from bert_classifier.report.next_commands import next_commands

# What a shell, an option parser or TensorFlow could take for something else.
ODD_NAMES = ["run", "a run", "-run", "ru'n $HOME;", "./~run", "[1e-5]*"]


def commands_of(small_run, output_dir, *arguments):
    config = parsed(*small_run.command(output_dir, *arguments))
    return dict(next_commands(config, get_processor("file", None, make_task(config.own_files))))


@pytest.fixture
def beside(small_run, tmp_path, monkeypatch):
    """Copies the small run and another one into a folder, from which the commands are called."""

    def copy(name):
        monkeypatch.chdir(tmp_path)
        small_run.copy(tmp_path / name)
        small_run.copy(tmp_path / "other")
        return commands_of(small_run, name)

    return copy


def words_of(command):
    """Split a line as a shell does; return the words after the interpreter, and its variables."""
    words = shlex.split(command)
    variables = dict(word.split("=", 1) for word in words[:1] if word.startswith("PYTHONPATH="))
    return words[len(variables) :], variables


def test_each_use_has_a_command(beside):
    assert list(beside("run")) == ["evaluate", "predict", "export", "answer", "compare", "curves"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_the_shell_gives_each_word_back(beside, name):
    commands = beside(name)
    for use, command in commands.items():
        # `printf` of a real shell, which would expand what is not quoted.
        words, _ = words_of(command)
        script = command.replace("PYTHONPATH=%s " % shlex.quote(ROOT), "", 1)
        told = subprocess.check_output(["sh", "-c", "printf '%s\\n' " + script]).decode()
        assert told.splitlines() == words, use
    assert words_of(commands["evaluate"])[0][-1] == "--output_dir=" + name
    assert words_of(commands["answer"])[0][3] in (name, "./" + name)


@pytest.mark.parametrize("name", ["a run", "-run", "[1e-5]*"])
def test_answer_and_compare_work(beside, capsys, name):
    commands = beside(name)
    for use, main in (("answer", predict.main), ("compare", compare.main)):
        words, variables = words_of(commands[use])
        assert variables == {"PYTHONPATH": ROOT}
        assert words[1] == "-m" and words[2] == main.__module__
        assert main(words[3:]) == 0
        assert capsys.readouterr().out.count("\n") >= 2


@pytest.mark.slow
@pytest.mark.parametrize("use", ["evaluate", "predict", "export"])
def test_the_program_works(beside, use):
    words, _ = words_of(beside("a 'run'")[use])
    config = parsed(*words[2:])
    run_classifier_gpu.run_classifier(config)


@pytest.mark.slow
def test_a_real_shell_runs_them(beside):
    commands = beside("a run")
    for use in ("answer", "compare"):
        environment = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"}
        output = subprocess.check_output(["sh", "-c", commands[use]], env=environment)
        assert output.count(b"\n") >= 2
    # Without the rest of the line it would serve until it is stopped.
    assert subprocess.call(["sh", "-c", commands["curves"] + " --inspect"]) == 0


def test_what_a_later_call_does_not_take_up_is_given_again(small_run, tmp_path):
    several = ["--problem_type=multi_label", "--thresholds=0.3,0.7"]
    commands = commands_of(small_run, tmp_path, *several, "--do_export", "--calibrate")
    for use in ("evaluate", "predict", "export"):
        words = words_of(commands[use])[0]
        assert "--thresholds=0.3,0.7" in words
        # Which is for exports, and refused without one.
        assert ("--calibrate=True" in words) == (use == "export")
        assert parsed(*words[2:]).data.thresholds == "0.3,0.7"


@pytest.mark.parametrize(
    "output_dir,parent", [("runs/a/", "runs"), ("runs/..", "./.."), (".", "./.."), ("..", "../..")]
)
def test_runs_beside_are_found_however_the_folder_is_written(
    output_dir, parent, tmp_path, monkeypatch
):
    os.makedirs(str(tmp_path / "above" / "here" / "runs" / "a"))
    monkeypatch.chdir(tmp_path / "above" / "here")
    own = os.path.realpath(output_dir)
    beside = os.path.join(os.path.dirname(own), "beside")
    os.makedirs(beside)
    for folder in (own, beside):
        with open(os.path.join(folder, "run.json"), "w"):
            pass
    assert module._runs_beside(output_dir) == [os.path.join(parent, "beside")]


@pytest.mark.parametrize(
    "version,output_dir,logdir",
    [
        ("1.15.0", "lr=1,bs=2", None),
        ("2.15.2", "lr=1,bs=2", "lr=1,bs=2"),
        ("1.15.0", "/runs/lr:1", "/runs/lr:1"),
        ("1.15.0", "lr:1", os.path.abspath("lr:1")),
    ],
)
def test_curves_of_a_folder_with_a_comma_or_a_colon(
    small_run, monkeypatch, version, output_dir, logdir
):
    monkeypatch.setattr(module.tensorboard, "__version__", version)
    monkeypatch.setattr(module, "_texts", lambda output_dir: ["text"])
    command = commands_of(small_run, output_dir).get("curves")
    assert (command and shlex.split(command)[-1]) == (logdir and "--logdir=" + logdir)


def test_without_a_test_file_there_is_nothing_to_predict(small_run, tmp_path):
    data_dir = tmp_path / "data"
    shutil.copytree(small_run.data_dir, str(data_dir))
    os.remove(str(data_dir / "test.tsv"))
    commands = commands_of(small_run, small_run.output_dir, "--data_dir=%s" % data_dir)
    assert "predict" not in commands and "evaluate" in commands


def test_python_is_named_as_the_shell_finds_it(monkeypatch, tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    os.makedirs(str(python.parent))
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PATH", str(python.parent))
    assert module.python() == "python"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert module.python() == os.path.join("venv", "bin", "python")
    monkeypatch.chdir(python.parent.parent)
    assert module.python() == os.path.join("bin", "python")
    monkeypatch.chdir(os.path.dirname(sys.base_prefix))
    assert module.python() == str(python)


@pytest.mark.parametrize(
    "text,expected",
    [
        ("--help me", "help me"),
        ("a\tb\nc", "a b c"),
        ("\x1b[31mred", "[31mred"),
        ("---", "text"),
        ("word " * 40, ("word " * 12).strip()),
        ("好" * 100, "好" * 60),
    ],
)
def test_the_example_of_a_text_can_be_pasted(text, expected):
    assert module._shorten(text) == expected

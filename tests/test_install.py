"""The package as it is installed, and as an application imports it."""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import sys
import venv

import pytest
from program import ROOT, parsed
from served import Server

import bert_classifier
import run_classifier_gpu
from bert_classifier import commands

# What is installed must not be hidden by what this process imports.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

# An application's own modules, which have the names of modules of ours.
OWN_MODULES = ("errors", "tables", "records", "files", "logs")
SOURCES = ("run_classifier_gpu.py", "modeling.py", "optimization.py", "tokenization.py")
SOURCES += ("encoder_config.py", "tf_metrics.py", "pyproject.toml", "README.md", "bert_classifier")

APPLICATION = """
import errors, files, logs, records, tables
from bert_classifier import Predictor
from bert_classifier.errors import BadInput

with Predictor(%r) as predictor:
    print([prediction.label for prediction in predictor.predict(["good", "bad"])])
try:
    Predictor("nothing/here")
except BadInput as error:
    print(error)
"""


@pytest.mark.parametrize(
    "statement", ["import bert_classifier", "from bert_classifier import Predictor"]
)
def test_tensorflow_is_not_imported_before_a_model_is_opened(statement):
    code = statement + "; import sys; print('tensorflow' in sys.modules)"
    assert _output([sys.executable, "-c", code], cwd=ROOT).split() == ["False"]


def test_the_package_has_a_version_and_no_other_names():
    assert bert_classifier.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="no attribute 'Classifier'"):
        bert_classifier.Classifier  # noqa: B018


def _output(command, cwd, **environment):
    return subprocess.run(
        command,
        cwd=str(cwd),
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


# A process in which packages cannot be imported, as if they were not installed.
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in %r.split():
            raise ModuleNotFoundError("No module named %%r" %% name, name=name)

sys.meta_path.insert(0, Missing())
"""
COMMAND = "from bert_classifier import commands; sys.exit(commands.%s())"


@pytest.mark.parametrize(
    "missing, code, told",
    [
        ("tensorflow", COMMAND % "compare", "bert_classifier.compare: needs TensorFlow, "),
        ("tensorflow", COMMAND % "convert", "bert_classifier.convert: needs TensorFlow, "),
        (
            "tensorflow",
            "import runpy; runpy.run_path('run_classifier_gpu.py', run_name='__main__')",
            "run_classifier_gpu.py: needs TensorFlow, ",
        ),
        ("uvicorn starlette", COMMAND % "serve", "bert_classifier.serve: needs uvicorn, "),
        ("starlette", COMMAND % "serve", "bert_classifier.serve: needs starlette, "),
        ("httptools", COMMAND % "serve", "bert_classifier.serve: needs httptools, "),
        ("prometheus_client", COMMAND % "serve", "bert_classifier.serve: needs prometheus_client,"),
    ],
)
def test_a_missing_package_is_told_in_one_line(missing, code, told):
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT % missing + code, "x"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    extra = "tensorflow" if missing == "tensorflow" else "server"
    assert line.startswith(told)
    assert line.endswith("which is not installed; install it with `pip install '.[%s]'`" % extra)


def test_the_extras_have_what_commands_need():
    with open(os.path.join(ROOT, "pyproject.toml")) as stream:
        project = stream.read()
    for package, extra in commands._EXTRAS.items():
        listed = project.partition("\n%s = [" % extra)[2].partition("]")[0]
        assert '"%s' % package in listed


def test_a_missing_module_of_another_kind_keeps_its_traceback():
    with pytest.raises(ModuleNotFoundError):
        commands.tell_missing("x", ModuleNotFoundError("No module named 'y'", name="y"))


def copy_sources(folder):
    sources = folder / "sources"
    sources.mkdir()
    for name in SOURCES:
        path = os.path.join(ROOT, name)
        if os.path.isdir(path):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, str(sources / name), ignore=ignored)
        else:
            shutil.copy(path, str(sources))
    return sources


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Installs the project in a new virtual environment, which has our dependencies; no network."""
    folder = tmp_path_factory.mktemp("installed")
    sources = copy_sources(folder)
    environment = folder / "environment"
    venv.create(str(environment), symlinks=True)
    python = str(environment / "bin" / "python")
    site_packages = _output(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], folder
    ).strip()
    others = [path for path in sys.path if os.path.basename(path) == "site-packages"]
    with open(os.path.join(site_packages, "dependencies.pth"), "w") as stream:
        stream.write("\n".join(others) + "\n")
    pip = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-build-isolation"]
    _output([*pip, "--no-deps", str(sources)], folder)
    return environment


def find_python(version):
    """Returns the path of an interpreter; skips the test if there is none."""
    of_pyenv = os.path.expanduser("~/.pyenv/versions/%s.*/bin/python" % version)
    for path in [shutil.which("python" + version), *glob.glob(of_pyenv)]:
        # One on PATH may be a shim that starts nothing.
        if path and subprocess.run([path, "-c", ""], stderr=subprocess.DEVNULL).returncode == 0:
            return path
    return pytest.skip("there is no Python %s" % version)


@pytest.fixture(params=["3.9", "3.10", "3.11", "3.12", "3.13"])
def with_onnx(request, tmp_path):
    """Installs the project with its extra `onnx`, and so without TensorFlow, for a Python."""
    environment = tmp_path / "environment"
    _output([find_python(request.param), "-m", "venv", str(environment)], tmp_path)
    sources = copy_sources(tmp_path)
    python = str(environment / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", str(sources) + "[onnx]"]
    # The answers are what is tested, and not the network.
    if subprocess.run(install, cwd=str(tmp_path), env=_ENVIRONMENT).returncode != 0:
        pytest.skip("the packages cannot be installed")
    return python


@pytest.fixture(scope="module")
def export(small_run, tmp_path_factory):
    """Exports the model of a small run; gives the folder."""
    output_dir = small_run.copy(tmp_path_factory.mktemp("to_export") / "output")
    arguments = ["--do_export", "--output_dir=" + output_dir]
    run_classifier_gpu.run_classifier(parsed(*small_run.arguments, *arguments))
    return os.path.join(output_dir, "export", "saved_model")


@pytest.fixture()
def application(tmp_path):
    """Gives the folder of an application that has modules of its own."""
    for name in OWN_MODULES:
        (tmp_path / (name + ".py")).write_text("raise_no_error_of_ours = True\n")
    return tmp_path


@pytest.mark.slow
def test_an_application_answers_texts_with_the_installed_package(installed, export, application):
    (application / "application.py").write_text(APPLICATION % export)
    python = str(installed / "bin" / "python")
    labels, refused = _output([python, "application.py"], application, PYTHONPATH="").splitlines()
    assert labels.count("'") == 4
    assert refused.startswith("nothing/here: no such file or folder")
    where = [python, "-c", "import bert_classifier, modeling; print(modeling.__file__)"]
    assert _output(where, application, PYTHONPATH="").startswith(str(installed))


@pytest.mark.slow
def test_the_installed_commands_do_what_python_m_does(installed, export, application):
    predict = str(installed / "bin" / "bert-classifier-predict")
    arguments = [export, "good", "--output_format=jsonl"]
    answered = _output([predict, *arguments], application, PYTHONPATH="")
    by_module = [str(installed / "bin" / "python"), "-m", "bert_classifier.predict"]
    assert answered == _output([*by_module, *arguments], application, PYTHONPATH="")
    assert json.loads(answered)["text"] == "good"
    for name, argument in (("convert", "hf_dir"), ("compare", "RUN")):
        command = str(installed / "bin" / ("bert-classifier-" + name))
        assert argument in _output([command, "--help"], application, PYTHONPATH="")


@pytest.mark.slow
def test_an_installed_package_has_all_files(installed):
    """Those too that are no modules, such as the page of the server."""
    (package,) = glob.glob(str(installed / "lib" / "*" / "site-packages" / "bert_classifier"))
    assert files_below(package) == files_below(os.path.join(ROOT, "bert_classifier"))


def files_below(folder):
    """Gives the paths of files from a folder on, but what Python compiled."""
    return {
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, _, names in os.walk(folder)
        for name in names
        if not parent.endswith("__pycache__")
    }


@pytest.mark.slow
def test_the_installed_server_answers(installed, export, tmp_path):
    program = ["env", "PYTHONPATH=", str(installed / "bin" / "bert-classifier-serve")]
    server = Server(tmp_path, export, program=program)
    try:
        server.wait_until_ready()
        assert b"<textarea" in server.raw_request("GET", "/")[2]
        status, answer = server.request("POST", "/v1/texts", {"texts": ["good", "bad"]})
        assert (status, len(answer["predictions"])) == (200, 2)
    finally:
        assert server.end() == 0, server.log()


ANSWERS = """
import json, sys
from bert_classifier import Predictor
with Predictor(sys.argv[1]) as predictor:
    found = predictor.predict(["good", "bad", "good " * 99])
print(json.dumps([list(answer.probabilities.values()) for answer in found]))
assert "tensorflow" not in sys.modules
"""


@pytest.mark.slow
def test_an_onnx_model_is_answered_without_tensorflow(with_onnx, small_run, tmp_path):
    pytest.importorskip("tf2onnx")
    output_dir = small_run.copy(tmp_path / "output")
    arguments = ["--do_export", "--do_onnx", "--output_dir=" + output_dir]
    run_classifier_gpu.run_classifier(parsed(*small_run.arguments, *arguments))
    is_there = "import importlib.util; print(importlib.util.find_spec('tensorflow'))"
    assert _output([with_onnx, "-c", is_there], tmp_path, PYTHONPATH="") == "None\n"
    command = [with_onnx, "-c", ANSWERS, os.path.join(output_dir, "export", "onnx")]
    answered = json.loads(_output(command, tmp_path, PYTHONPATH=""))
    with bert_classifier.Predictor(os.path.join(output_dir, "export", "saved_model")) as predictor:
        expected = predictor.predict(["good", "bad", "good " * 99])
    for numbers, answer in zip(answered, expected):
        assert numbers == pytest.approx(list(answer.probabilities.values()), abs=1e-5)

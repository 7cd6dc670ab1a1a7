"""What TensorFlow 1.15 has written is read by 2.15, and the reverse, in real processes.

The other environment is .venv or .venv-tf2.15 beside the project, or the one of $OTHER_PYTHON.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from program import ROOT, numbers_of

from bert_classifier.export import bundle

pytestmark = pytest.mark.slow

PREDICT = """
import json, sys
from bert_classifier import Predictor

texts = ["the film was good .", "bad", "", "the phone was really not nice"]
answers = {}
for path in sys.argv[1:]:
    with Predictor(path) as predictor:
        answers[path] = [list(answer.probabilities.values()) for answer in predictor.predict(texts)]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def other_python():
    venv = ".venv-tf2.15" if tf.__version__.startswith("1.") else ".venv"
    default = os.path.join(ROOT, venv, "bin", "python")
    python = os.environ.get("OTHER_PYTHON", default)
    if not os.path.exists(python):
        pytest.skip("there is no %s; make it (README), or name one with $OTHER_PYTHON" % python)
    return python


@pytest.fixture(params=["written here", "written there"])
def pythons(request, other_python):
    """The interpreter that writes first, and the one that goes on."""
    pythons = (sys.executable, other_python)
    return pythons if request.param == "written here" else pythons[::-1]


def execute(python, *arguments):
    """Runs a command on the CPU; returns its stdout and its stderr."""
    process = subprocess.run(
        [python, *arguments],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert process.returncode == 0, process.stderr
    return process.stdout, process.stderr


def read_json(*names):
    with open(os.path.join(*names)) as stream:
        return json.load(stream)


def read_probabilities(folder):
    """The columns `p(<label>)` of test_results.tsv."""
    with open(os.path.join(folder, "test_results.tsv"), encoding="utf-8") as stream:
        header, *rows = (line.split("\t") for line in stream)
    columns = [number for number, name in enumerate(header) if name.startswith("p(")]
    return np.array([[float(row[number]) for number in columns] for row in rows])


def exports_of(folder):
    """The best export, the one of --do_export, the frozen graph."""
    (best,) = bundle.list_exports(os.path.join(folder, "export", "best_exporter"))
    saved_model = bundle.list_exports(os.path.join(folder, "export", "saved_model"))[-1]
    return [best, saved_model, os.path.join(folder, bundle.FROZEN_GRAPH)]


def records_of(folder):
    """The files of converted examples, and when they were written."""
    paths = [entry for entry in os.scandir(folder) if ".tf_record" in entry.name]
    return {entry.name: entry.stat().st_mtime_ns for entry in paths}


def test_a_run_goes_on_in_the_other_version(pythons, small_run, tmp_path):
    writer, reader = pythons
    written, read = str(tmp_path / "written"), str(tmp_path / "read")
    actions = ["--do_eval", "--do_predict", "--do_export", "--do_frozen"]
    # It stops early, at step 15 of 30, where a longer patience can go on.
    training = ["run_classifier_gpu.py", "--do_train", *small_run.arguments]
    execute(writer, *training, *actions, "--output_dir=" + written)
    shutil.copytree(written, read)

    # Its best checkpoint is evaluated, predicted with and exported.
    execute(reader, "run_classifier_gpu.py", *actions, "--output_dir=" + read)
    assert records_of(read).keys() == records_of(written).keys()
    metrics, expected = (
        numbers_of(read_json(folder, "eval_results.json")) for folder in (read, written)
    )
    assert metrics == pytest.approx(expected, rel=0, abs=1e-6)
    probabilities = read_probabilities(written)
    assert probabilities.shape == (10, 2)
    np.testing.assert_allclose(read_probabilities(read), probabilities, rtol=0, atol=1e-5)

    # All exports answer alike in both versions.
    exports = [*exports_of(written), *exports_of(read)]
    answers = [json.loads(execute(python, "-c", PREDICT, *exports)[0]) for python in pythons]
    rows = np.array([of_export for answer in answers for of_export in answer.values()])
    assert rows.shape == (12, 4, 2)
    np.testing.assert_allclose(rows, np.broadcast_to(rows[0], rows.shape), rtol=0, atol=1e-5)

    # Its training goes on, from the last checkpoint and with the history of the evaluations.
    converted = records_of(read)
    patience = "--max_steps_without_improvement=1000"
    _, log = execute(reader, *training, "--do_eval", patience, "--output_dir=" + read)
    assert "Resuming from" in log and "Resuming with other versions" in log
    assert records_of(read) == converted
    result = read_json(read, "run.json")["result"]
    assert (result["status"], result["last_step"]) == ("finished", 30)
    parts = result["trained_with"]
    assert [part["from_step"] for part in parts] == [0, 15]
    assert parts[0]["tensorflow"] != parts[1]["tensorflow"]
    histories = []
    for folder in (written, read):
        with open(os.path.join(folder, "eval_history.jsonl")) as stream:
            histories.append(stream.read().splitlines())
    assert histories[1][:3] == histories[0]
    assert [json.loads(line)["step"] for line in histories[1]] == [5, 10, 15, 20, 25, 30]
    # And back again, where it has nothing left to train.
    _, log = execute(writer, *training, patience, "--output_dir=" + read)
    assert "Nothing left to train" in log

"""ONNX models: what they answer, with which faults they are refused, what int8 costs."""

from __future__ import annotations

import glob
import json
import logging
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from program import ROOT, changed_description, parsed

import run_classifier_gpu
from bert_classifier import Predictor
from bert_classifier.errors import BadInput
from bert_classifier.export import bundle, onnx, onnx_models, scoring, writer

pytest.importorskip("tf2onnx")
onnxruntime = onnx_models.import_onnxruntime()

# A process in which TensorFlow, and what makes ONNX models, cannot be imported.
WITHOUT_TENSORFLOW = """
import json, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tensorflow_core", "tf2onnx", "onnx"):
            raise ModuleNotFoundError("No module named %r" % name, name=name)

sys.meta_path.insert(0, Missing())
sys.path.insert(0, sys.argv[1])
"""
ANSWERS = """
from bert_classifier import Predictor
with Predictor(sys.argv[2]) as predictor:
    answers = predictor.predict(json.loads(sys.argv[3]))
print(json.dumps([list(answer.probabilities.values()) for answer in answers]))
"""
TEXTS = ["good", "the film was bad .", "good " * 40, ""]


@pytest.fixture(scope="module")
def output_dir(small_run, tmp_path_factory):
    """A run with a SavedModel, an ONNX model and a frozen graph."""
    folder = small_run.copy(tmp_path_factory.mktemp("onnx") / "run")
    arguments = ["--do_export", "--do_onnx", "--do_frozen", "--output_dir=" + folder]
    run_classifier_gpu.run_classifier(parsed(*small_run.arguments, *arguments))
    return folder


@pytest.fixture(scope="module")
def saved_model(output_dir):
    return writer.list_exports(os.path.join(output_dir, "export", "saved_model"))[-1]


@pytest.fixture(scope="module")
def exported(output_dir):
    (folder,) = writer.list_exports(os.path.join(output_dir, "export", "onnx"))
    return folder


@pytest.fixture()
def copied(exported, tmp_path):
    return shutil.copytree(exported, str(tmp_path / "copy"))


def numbers_of(path, texts=TEXTS, **options):
    with Predictor(path, **options) as predictor:
        answers = predictor.predict(texts)
    return np.array([list(a.probabilities.values()) for a in answers])


def test_it_answers_like_the_saved_model(exported, saved_model):
    np.testing.assert_allclose(numbers_of(exported), numbers_of(saved_model), atol=1e-5)
    of_batches = numbers_of(exported, TEXTS * 3, batch_size=2)
    np.testing.assert_allclose(of_batches, np.tile(numbers_of(exported), [3, 1]), atol=1e-6)


def test_an_onnx_model_answers_one_call_after_the_other(exported, saved_model):
    """Its own threads share each call."""
    with Predictor(exported) as onnx_model, Predictor(saved_model) as other:
        assert onnx_model.calls_at_a_time == 1
        assert other.calls_at_a_time == len(os.sched_getaffinity(0))


def assert_closed(predictor):
    def answers():
        yield lambda: predictor.predict(["good"])
        yield lambda: predictor.predict(["good"] * 99)  # In several threads.
        yield lambda: predictor.predict([])
        yield lambda: list(predictor.predict_stream(["good"]))
        yield lambda: predictor.run({name: [[1, 2, 3]] for name in bundle.INPUTS})

    for answer in answers():
        with pytest.raises(RuntimeError, match="^the Predictor is closed; make a new one$"):
            answer()


@pytest.mark.parametrize("kind", ["onnx", "saved_model", "frozen", "server"])
def test_a_closed_predictor_says_so(output_dir, exported, saved_model, kind):
    paths = {"onnx": exported, "frozen": os.path.join(output_dir, "frozen_model.pb")}
    server = "http://localhost:1/v1/models/m" if kind == "server" else None
    predictor = Predictor(paths.get(kind, saved_model), server=server)
    streamed = predictor.predict_stream(["good"])
    predictor.close()
    predictor.close()
    assert_closed(predictor)
    with pytest.raises(RuntimeError, match="is closed"):
        next(streamed)


def test_the_bundle_has_the_same_parts(exported, saved_model):
    ours, theirs = bundle.read_contents(exported), bundle.read_contents(saved_model)
    assert ours.settings == theirs.settings
    assert ours.parts == theirs.parts
    with open(os.path.join(exported, "assets.extra", "bundle.json")) as stream:
        description = json.load(stream)
    assert set(description["made_with"]) == {"tensorflow", "tf2onnx", "onnxruntime"}
    assert set(description["digests"]) == {*ours.parts, "model.onnx"}
    assert os.listdir(os.path.dirname(exported)) == [os.path.basename(exported)]


def test_others_can_read_the_model(exported):
    """With ONNX Runtime alone, by the names and shapes that the documentation tells."""
    session = onnxruntime.InferenceSession(
        os.path.join(exported, "model.onnx"), providers=["CPUExecutionProvider"]
    )
    assert {i.name: i.type for i in session.get_inputs()} == {
        name: "tensor(int32)" for name in ("input_ids", "input_mask", "segment_ids")
    }
    assert all(i.shape == ["batch_size", "seq_length"] for i in session.get_inputs())
    shapes = {output.name: output.shape for output in session.get_outputs()}
    assert shapes["probabilities"][0] == "batch_size"
    assert set(shapes) == {"probabilities", "predictions", "top_3"}
    with open(os.path.join(exported, "assets.extra", "sample_request.json")) as stream:
        instance = json.load(stream)["instances"][0]
    feeds = {name: np.array([instance[name]], np.int32) for name in bundle.INPUTS}
    probabilities, predictions, top_3 = session.run(
        ["probabilities", "predictions", "top_3"], feeds
    )
    assert predictions[0] == top_3[0][0] == np.argmax(probabilities[0])
    format_of_onnx = pytest.importorskip("onnx")
    model = format_of_onnx.load(os.path.join(exported, "model.onnx"))
    assert [(entry.domain, entry.version) for entry in model.opset_import][0] == ("", 17)
    format_of_onnx.checker.check_model(model)


@pytest.mark.parametrize("batch_size", [1, 7])
@pytest.mark.parametrize("length", [1, 5, 16])
def test_batch_and_length_are_of_any_size(exported, saved_model, batch_size, length):
    chance = np.random.RandomState(0)
    mask = np.arange(length) < chance.randint(1, length + 1, [batch_size, 1])
    feeds = {
        "input_ids": chance.randint(5, 20, [batch_size, length]) * mask,
        "input_mask": mask,
        "segment_ids": chance.randint(0, 2, [batch_size, length]) * mask,
    }
    feeds = {name: value.astype(np.int32) for name, value in feeds.items()}
    opened = [bundle.open_bundle(path).model for path in (exported, saved_model)]
    ours, theirs = (model.run(feeds) for model in opened)
    np.testing.assert_allclose(ours["probabilities"], theirs["probabilities"], atol=1e-5)
    np.testing.assert_array_equal(ours["predictions"], theirs["predictions"])
    for model in opened:
        model.close()


@pytest.mark.parametrize("path", ["", "/", "/export", "/export/onnx"])
def test_the_path_may_be_that_of_a_folder_above(output_dir, exported, tmp_path, path):
    run = str(tmp_path / "run")
    shutil.copytree(os.path.join(output_dir, "export", "onnx"), run + "/export/onnx")
    expected = os.path.join(run, "export", "onnx", os.path.basename(exported))
    assert os.path.normpath(bundle.find(run + path)) == expected
    assert bundle.find(expected + "/model.onnx") == expected
    assert bundle.is_export(expected + "/model.onnx")


# Without TensorFlow


def python(code, *arguments):
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW + code, ROOT, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_answers_need_no_tensorflow(exported):
    process = python(ANSWERS, exported, json.dumps(TEXTS))
    assert process.stderr == ""  # Not even the line about the version of NumPy.
    np.testing.assert_allclose(json.loads(process.stdout), numbers_of(exported), atol=1e-6)


def test_the_command_needs_no_tensorflow(exported):
    code = "from bert_classifier import predict; sys.exit(predict.main(sys.argv[2:]))"
    process = python(code, exported, "good", "--output_format=jsonl")
    assert (process.returncode, process.stderr) == (0, "")
    assert json.loads(process.stdout)["text"] == "good"


def told_without_tensorflow(path):
    code = "from bert_classifier import predict; sys.exit(predict.main(sys.argv[2:]))"
    process = python(code, path, "good")
    (line,) = process.stderr.splitlines()
    assert process.returncode == 2
    return line


def test_a_saved_model_says_that_it_needs_tensorflow(saved_model, tmp_path):
    alone = shutil.copytree(saved_model, str(tmp_path / "alone"))
    assert told_without_tensorflow(alone) == (
        "bert_classifier.predict: %s: needs TensorFlow, which is not installed; install it, or "
        "export with --do_onnx" % alone
    )


def test_an_onnx_model_beside_it_is_named(output_dir, exported, saved_model, tmp_path):
    run, export_dir = str(tmp_path / "run"), str(tmp_path / "models" / "mine")
    for name in ("9", "10"):
        shutil.copytree(exported, os.path.join(run, "export", "onnx", name))
        shutil.copytree(exported, os.path.join(export_dir, "onnx", name))
    os.makedirs(os.path.join(run, "export", "onnx", "11"))  # It has no model.
    shutil.copytree(saved_model, os.path.join(run, "export", "best_exporter", "7"))
    shutil.copytree(saved_model, os.path.join(export_dir, "7"))
    for folder in (run, export_dir):
        shutil.copy(os.path.join(output_dir, "frozen_model.pb"), folder)
    expected = "needs TensorFlow, which is not installed; install it, or give %s"
    for path in (run, run + "/frozen_model.pb", os.path.relpath(run)):
        assert told_without_tensorflow(path).endswith(expected % (run + "/export/onnx/10"))
    for path in (export_dir, export_dir + "/frozen_model.pb"):
        assert told_without_tensorflow(path).endswith(expected % (export_dir + "/onnx/10"))


# Faults


def assert_refused(path, expected):
    with pytest.raises(BadInput) as caught:
        Predictor(path)
    assert path in str(caught.value) and expected in str(caught.value)
    assert "\n" not in str(caught.value)


def damage(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("change", [damage, lambda content: content[:-1], lambda content: b""])
@pytest.mark.parametrize("name", ["model.onnx", "assets.extra/labels.txt"])
def test_a_damaged_file_is_refused(copied, name, change):
    path = os.path.join(copied, name)
    with open(path, "rb") as stream:
        content = stream.read()
    with open(path, "wb") as stream:
        stream.write(change(content))
    assert_refused(copied, "%s is not what was exported" % os.path.basename(name))


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x07"])
def test_a_model_that_is_none_is_refused_even_with_its_digest(copied, content):
    with open(os.path.join(copied, "model.onnx"), "wb") as stream:
        stream.write(content)
    with changed_description(copied) as description:
        description["digests"]["model.onnx"] = bundle.files.digest(content)
    assert_refused(copied, "cannot be loaded")


def test_a_model_without_a_digest_is_refused(copied):
    with changed_description(copied) as description:
        del description["digests"]["model.onnx"]
    assert_refused(copied, "bundle.json is damaged")


def test_a_missing_model_is_no_export(copied):
    os.remove(os.path.join(copied, "model.onnx"))
    assert_refused(copied, "no saved_model.pb or model.onnx")


def test_a_missing_onnxruntime_is_told(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert_refused(exported, "needs ONNX Runtime, which is not installed; install it with `pip")


class Broken:
    """Makes the import of a package fail, as if a library or a package of its own were missing."""

    def __init__(self, name, error):
        self.name = name
        self.error = error

    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            raise self.error


def break_package(monkeypatch, name, error):
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(name, error), *sys.meta_path])


ERRORS = [
    ImportError("libx.so.1: cannot open\nshared object file"),
    ModuleNotFoundError("No module named 'coloredlogs'", name="coloredlogs"),
    AttributeError("_ARRAY_API not found"),
]


@pytest.mark.parametrize("error", ERRORS)
def test_a_broken_onnxruntime_is_told(exported, monkeypatch, error):
    """To export again, as after damage, would not help."""
    break_package(monkeypatch, "onnxruntime", error)
    told = "needs ONNX Runtime, which cannot be imported (%s); install it again with `pip install "
    assert_refused(exported, told % str(error).replace("\n", " "))


@pytest.mark.parametrize("name", ["onnx", "onnxruntime", "tf2onnx"])
@pytest.mark.parametrize("error", [*ERRORS[:1], None])
def test_what_does_not_make_one_is_told_before_the_work(
    small_run, tmp_path, monkeypatch, name, error
):
    error = error or ModuleNotFoundError("No module named %r" % name, name=name)
    break_package(monkeypatch, name, error)
    with pytest.raises(BadInput) as caught:
        run_classifier_gpu.run_classifier(
            parsed(*small_run.arguments, "--do_train", "--do_onnx", "--output_dir=%s" % tmp_path)
        )
    told = str(caught.value)
    assert told.startswith("--do_onnx: needs onnx, onnxruntime and tf2onnx, and there is an error")
    assert str(error).replace("\n", " ") in told and told.endswith("with `make venv`")
    assert "\n" not in told and os.listdir(str(tmp_path)) == []


@pytest.mark.parametrize("change, is_refused", [(2e-5, True), (5e-6, False)])
def test_a_model_that_answers_otherwise_gets_no_name(
    small_run, tmp_path, monkeypatch, change, is_refused
):
    run = onnx_models.OnnxModel.run

    def changed(self, *arguments):
        answers = run(self, *arguments)
        return dict(answers, probabilities=answers["probabilities"] + change)

    monkeypatch.setattr(onnx_models.OnnxModel, "run", changed)
    folder = small_run.copy(tmp_path / "run")
    export_dir = tmp_path / "mine"
    arguments = ["--do_onnx", "--output_dir=" + folder, "--export_dir=%s" % export_dir]
    config = parsed(*small_run.arguments, *arguments)
    if is_refused:
        with pytest.raises(writer.SelfTestFailed, match="self-test of the ONNX model"):
            run_classifier_gpu.run_classifier(config)
        assert os.listdir(str(export_dir / "onnx")) == []
    else:
        run_classifier_gpu.run_classifier(config)
        assert len(os.listdir(str(export_dir / "onnx"))) == 1


def test_an_interrupted_export_leaves_nothing_and_the_next_one_cleans_up(
    small_run, tmp_path, monkeypatch
):
    folder = small_run.copy(tmp_path / "run")
    config = parsed(*small_run.arguments, "--do_onnx", "--output_dir=" + folder)
    exports = os.path.join(folder, "export", "onnx")

    def fail(graph_def, path):
        with open(path, "wb") as stream:
            stream.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(onnx, "write", fail)
        with pytest.raises(KeyboardInterrupt):
            run_classifier_gpu.run_classifier(config)
    assert os.listdir(exports) == []
    # A process that is killed cannot clean up after itself.
    os.makedirs(os.path.join(exports, "temp-5"))
    run_classifier_gpu.run_classifier(config)
    (name,) = os.listdir(exports)
    assert name.isdigit()


# int8


@pytest.fixture(scope="module")
def quantized(small_run, tmp_path_factory):
    """The folder of an int8 model, of a run whose metrics are known."""
    folder = small_run.copy(tmp_path_factory.mktemp("int8") / "run")
    arguments = ["--do_eval", "--do_onnx", "--onnx_int8", "--output_dir=" + folder]
    run_classifier_gpu.run_classifier(parsed(*small_run.arguments, *arguments))
    (export,) = writer.list_exports(os.path.join(folder, "export", "onnx"))
    return export


def test_int8_is_compared_on_the_whole_dev_set(quantized):
    path = os.path.join(quantized, "assets.extra", "metrics.json")
    with open(path) as stream:
        metrics = json.load(stream)
    found = metrics["quantization"]
    # The oracle of the metric is the evaluation of the checkpoint, by TensorFlow.
    results = os.path.join(quantized, "..", "..", "..", "eval_results.json")
    with open(results) as stream:
        assert found["float32"] == pytest.approx(json.load(stream)[found["metric"]], abs=1e-5)
    assert 0 <= found["int8"] <= 1
    assert 0 < found["largest_difference"] < 0.2


def test_int8_makes_the_model_smaller(quantized, exported):
    sizes = [os.path.getsize(os.path.join(path, "model.onnx")) for path in (quantized, exported)]
    assert sizes[0] < sizes[1]  # By little: this model is small, and has many nodes.
    format_of_onnx = pytest.importorskip("onnx")
    weights = format_of_onnx.load(os.path.join(quantized, "model.onnx")).graph.initializer
    assert format_of_onnx.TensorProto.INT8 in {weight.data_type for weight in weights}
    difference = np.abs(numbers_of(quantized) - numbers_of(exported)).max()
    assert 0 < difference < 0.2


def test_int8_needs_the_model(small_run, tmp_path):
    with pytest.raises(Exception, match="--onnx_int8 needs --do_onnx"):
        parsed("--do_export", "--onnx_int8", "--output_dir=%s" % tmp_path)


@pytest.mark.parametrize(
    "after, is_costly", [(0.894, True), (0.896, False), (0.95, False), (float("nan"), True)]
)
def test_a_loss_of_more_than_half_a_point_is_warned_of(monkeypatch, caplog, after, is_costly):
    scores = {0.0: 0.9, 1.0: after}
    monkeypatch.setattr(
        scoring.DevSet, "metrics", lambda self, outputs: {"m": scores[float(outputs[0])]}
    )
    comparison = scoring.DevSet([], None, None, (), "m").compare(np.zeros(2), np.ones(2))
    assert comparison[:2] == ("m", 0.9) and comparison.difference == 1.0
    with caplog.at_level(logging.INFO):
        writer._log_comparison(comparison, 2)
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert bool(warnings) == comparison.is_costly == is_costly


def test_one_import_alone_is_silent(capfd):
    code = "from bert_classifier.export.onnx_models import import_onnxruntime as load; load()"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE)
    assert process.stderr == b""


def test_no_other_file_is_left(output_dir):
    assert glob.glob(os.path.join(output_dir, "**", "*.int8"), recursive=True) == []

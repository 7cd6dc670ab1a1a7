"""Bundles: what is in them, what is wrong with a damaged one, and who else can read them."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import signal
import subprocess

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from program import ROOT, changed_description, parsed

import run_classifier_gpu
from bert_classifier import files
from bert_classifier.errors import BadInput
from bert_classifier.export import bundle, graphs, writer


@pytest.fixture(scope="module")
def exported(tmp_path_factory, small_run):
    """Gives an export and a frozen graph, both with a temperature."""
    output_dir = small_run.copy(tmp_path_factory.mktemp("exported") / "output")
    arguments = ["--do_export", "--do_frozen", "--calibrate", "--output_dir=" + output_dir]
    run_classifier_gpu.run_classifier(parsed(*small_run.arguments, *arguments))
    exports = writer.list_exports(os.path.join(output_dir, "export", "saved_model"))
    return exports[-1], os.path.join(output_dir, "frozen_model.pb")


@pytest.fixture()
def copied(exported, tmp_path):
    """The same to damage."""
    folder, frozen = exported
    return (
        shutil.copytree(folder, str(tmp_path / "export")),
        shutil.copyfile(frozen, str(tmp_path / "frozen.pb")),
    )


def read(path):
    with open(path, "rb") as stream:
        return stream.read()


def write(path, content):
    with open(path, "wb") as stream:
        stream.write(content)


def test_what_is_in_an_export(exported, small_run):
    folder, frozen = exported
    assert sorted(os.listdir(os.path.join(folder, "assets.extra"))) == [
        "bert_config.json",
        "bundle.json",
        "labels.txt",
        "metrics.json",
        "sample_request.json",
        "vocab.txt",
    ]
    of_folder, of_file = bundle.open_bundle(folder), bundle.open_bundle(frozen)
    assert of_folder.settings == of_file.settings
    assert of_folder.parts == of_file.parts
    assert of_folder.settings.labels == ["negative", "positive"]
    assert of_folder.settings.max_seq_length == 16
    assert of_folder.settings.temperature != 1
    metrics = json.loads(of_folder.parts["metrics.json"].decode())
    assert metrics["step"] == 5 and metrics["metrics"]["eval_recall"] == 0
    # Slim: the weights, and nothing that only training needs.
    variables = tf.train.list_variables(os.path.join(folder, "variables", "variables"))
    assert not [name for name, _ in variables if "adam" in name]
    for opened in (of_folder, of_file):
        opened.model.close()


def test_the_sample_request_is_answered(exported):
    folder, frozen = exported
    for path in (folder, frozen):
        opened = bundle.open_bundle(path)
        request = json.loads(opened.parts["sample_request.json"].decode())
        instances = request["instances"]
        columns = {name: [row[name] for row in instances] for name in bundle.INPUTS}
        answer = opened.model.run(columns, request["signature_name"])
        assert answer["probabilities"].sum() == pytest.approx(1, abs=1e-6)
        opened.model.close()


def test_a_frozen_graph_has_the_tensors_that_are_documented(exported):
    graph_def = tf.GraphDef()
    graph_def.ParseFromString(read(exported[1]))
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        tensors = {
            name: graph.get_tensor_by_name(name + ":0") for name in bundle.INPUTS + bundle.OUTPUTS
        }
        assert all(tensors[name].dtype == tf.int32 for name in bundle.INPUTS)
        assert tensors["probabilities"].shape.as_list() == [None, 2]
        operations = [operation.type for operation in graph.get_operations()]
        # Neither variables nor what parses serialized examples.
        assert not set(operations) & {"VariableV2", "VarHandleOp", "RestoreV2", "ParseExample"}
        # One pooler: the batch of who serves it is not cut in parts.
        assert operations.count("Tanh") == 1
        vocab = graph.get_tensor_by_name("bundle/vocab.txt:0")
        with tf.Session() as session:
            assert b"[CLS]\n" in session.run(vocab)
            probabilities = session.run(
                tensors["probabilities"], {tensors[name]: [[1, 2, 3]] for name in bundle.INPUTS}
            )
    assert probabilities.shape == (1, 2)


PARTS = [
    "saved_model.pb",
    "variables/variables.index",
    "variables/variables.data-00000-of-00001",
    "assets.extra/vocab.txt",
    "assets.extra/labels.txt",
    "assets.extra/bert_config.json",
    "assets.extra/metrics.json",
    "assets.extra/sample_request.json",
    "assets.extra/bundle.json",
]


def assert_refused(path, *words):
    with pytest.raises(BadInput) as refused:
        bundle.open_bundle(path)
    message = str(refused.value)
    assert "\n" not in message
    for word in (path, *words):
        assert word in message


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_named(copied, part):
    folder, _ = copied
    os.remove(os.path.join(folder, part))
    assert_refused(folder, os.path.basename(part))


@pytest.mark.parametrize("part", PARTS[:-1])
def test_a_damaged_part_is_named(copied, part):
    folder, _ = copied
    path = os.path.join(folder, part)
    content = bytearray(read(path))
    content[len(content) // 2] ^= 1
    write(path, bytes(content))
    assert_refused(folder, part.replace("assets.extra/", ""), "--do_export")


def described(folder, **changes):
    with changed_description(folder) as description:
        description.update(changes)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_is_refused(copied, version):
    described(copied[0], format=version)
    assert_refused(copied[0], "format %r" % (version,), "reads 1")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"7"])
def test_a_description_that_is_none_is_refused(copied, content):
    write(os.path.join(copied[0], "assets.extra", "bundle.json"), content)
    assert_refused(copied[0], "bundle.json")


def test_a_setting_that_is_unknown_is_refused(copied):
    described(copied[0], settings={"problem_type": "classification", "colour": "red"})
    assert_refused(copied[0], "colour")


def described_again(folder, change):
    """Changes bundle.json of a folder."""
    with changed_description(folder) as description:
        change(description)


def test_a_length_that_the_encoder_does_not_have_is_refused(copied):
    """A text as long as that would have no answer, but a traceback."""
    folder, _ = copied
    described_again(folder, lambda d: d["settings"].update(max_seq_length=32))
    bundle.open_bundle(folder).model.close()
    described_again(folder, lambda d: d["settings"].update(max_seq_length=33))
    expected = ["max_seq_length 33, and bert_config.json max_position_embeddings 32"]
    assert_refused(folder, *expected)
    with pytest.raises(BadInput, match=expected[0]):
        bundle.read_contents(folder)


@pytest.mark.parametrize("content", [b"{}", b"[]", b'{"vocab_size": "many"}', b"[" * 100000])
def test_an_encoder_that_is_none_is_refused(copied, content):
    folder, _ = copied
    write(os.path.join(folder, "assets.extra", "bert_config.json"), content)
    digest = {"bert_config.json": files.digest(content)}
    described_again(folder, lambda d: d["digests"].update(digest))
    assert_refused(folder, "cannot be loaded")


@pytest.mark.parametrize("part", PARTS[:3])
def test_a_file_of_the_model_without_a_digest_is_refused(copied, part):
    folder, _ = copied
    described_again(folder, lambda d: d["digests"].pop(part))
    assert_refused(folder, "bundle.json is damaged")
    bundle.read_contents(folder)  # The model may be elsewhere.


def test_a_frozen_graph_without_a_digest_is_refused(copied):
    _, frozen = copied
    graph_def = tf.GraphDef.FromString(read(frozen))
    parts = graphs.take_parts(graph_def)
    description = json.loads(parts["bundle.json"].decode())
    del description["digests"]["graph"]
    graphs.put_parts(graph_def, {**parts, "bundle.json": json.dumps(description).encode()})
    write(frozen, graph_def.SerializeToString(deterministic=True))
    assert_refused(frozen, "bundle.json is damaged")


@pytest.mark.parametrize("name", ["no/where", "\0", "variables", "x" * 300])
def test_a_digest_of_nothing_is_refused(copied, name):
    folder, _ = copied
    described_again(folder, lambda d: d["digests"].update({name: "0"}))
    assert_refused(folder, "is missing")


def test_labels_that_do_not_fit_are_refused(copied):
    folder, _ = copied
    path = os.path.join(folder, "assets.extra", "labels.txt")
    write(path, b"negative\nneutral\npositive\n")
    digests = json.loads(read(os.path.join(folder, "assets.extra", "bundle.json")).decode())
    digests = dict(digests["digests"], **{"labels.txt": files.digest(read(path))})
    described(folder, digests=digests)
    assert_refused(folder, "3 labels", "2 outputs")


def test_other_folders_are_refused(tmp_path):
    assert_refused(str(tmp_path), "no saved_model.pb")
    assert_refused(str(tmp_path / "missing"), "no such file")


def test_a_damaged_frozen_graph_is_refused(copied):
    _, frozen = copied
    content = read(frozen)
    position = content.index(b"[CLS]")
    for damaged, words in (
        (content[:-1000], ["frozen graph"]),
        (b"no graph at all", ["frozen graph"]),
        (b"", ["bundle.json"]),
        (content[:position] + b"[cls]" + content[position + 5 :], ["vocab.txt"]),
    ):
        write(frozen, damaged)
        assert_refused(frozen, *words)
    # Some byte of the weights: still a graph, and no longer the one that was written.
    graph_def = tf.GraphDef.FromString(content)
    weights = max((node.attr["value"].tensor for node in graph_def.node), key=tf.NodeDef.ByteSize)
    tensor = bytearray(weights.tensor_content)
    tensor[len(tensor) // 2] ^= 1
    weights.tensor_content = bytes(tensor)
    write(frozen, graph_def.SerializeToString())
    assert_refused(frozen, "graph is not what was exported")


def test_an_export_that_answers_otherwise_is_none(small_run, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    output_dir = small_run.copy(tmp_path / "output")
    run = graphs.GraphModel.run

    def slightly_wrong(self, inputs, signature):
        answers = run(self, inputs, signature)
        return dict(answers, probabilities=answers["probabilities"] + 2e-5)

    monkeypatch.setattr(graphs.GraphModel, "run", slightly_wrong)
    arguments = [*small_run.arguments, "--output_dir=" + output_dir]
    export_dir = str(tmp_path / "exports")
    with pytest.raises(writer.SelfTestFailed, match="2.0e-05"):
        run_classifier_gpu.run_classifier(
            parsed(*arguments, "--do_export", "--do_frozen", "--export_dir=" + export_dir)
        )
    assert os.listdir(export_dir) == []
    assert not os.path.exists(os.path.join(output_dir, "frozen_model.pb"))
    # In training the checkpoint is worth more than its export.
    trained = str(tmp_path / "trained")
    small_run.run(trained)
    assert os.listdir(os.path.join(trained, "export", "best_exporter")) == []
    assert "Not exported: self-test" in caplog.text


def begin_export(parent):
    """Begins an export in a process of its own, which waits; gives its id and its folder."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with writer._new_folder(parent) as folder:
            write(os.path.join(folder, "saved_model.pb"), b"half")
            os.write(writing, folder.encode() + b"\n")
            signal.pause()
    os.close(writing)
    with open(reading) as stream:
        return pid, stream.readline().strip()


def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_what_a_killed_export_leaves_is_removed_by_the_next(tmp_path):
    parent = str(tmp_path)
    of_user = ["temp-2024", "temp-12345678901", "temp-1795409899.old", "temp-1795409900"]
    for name in of_user:
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("x")
    (tmp_path / "temp-1795409901").mkdir()
    (killed, left), (living, in_use) = begin_export(parent), begin_export(parent)
    try:
        end(killed)
        assert os.path.isdir(left) and left != in_use
        with writer._new_folder(parent) as folder, writer._new_folder(parent) as other:
            # The empty one may have been made just now.
            expected = [folder, other, in_use, str(tmp_path / "temp-1795409901")]
            expected += [str(tmp_path / name) for name in of_user[:-1]]
            assert sorted(os.path.join(parent, name) for name in os.listdir(parent)) == sorted(
                expected
            )
    finally:
        end(living)


def test_without_locks_nothing_of_others_is_removed(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    pid, left = begin_export(str(tmp_path))
    end(pid)
    monkeypatch.setattr(writer.fcntl, "flock", flock)
    with writer._new_folder(str(tmp_path)) as folder:
        assert sorted(os.listdir(str(tmp_path))) == sorted(map(os.path.basename, [left, folder]))


def test_a_sample_comes_back_as_it_was(tmp_path):
    path = str(tmp_path / "sample.jsonl")
    examples = [
        writer.InputExample("", "naïve \u2028 text\n", "and \ud800 another"),
        writer.InputExample("", "", None),
    ]
    writer.write_sample(path, examples)
    assert writer.read_sample(path) == examples
    with open(path, "a") as stream:
        stream.write("{")
    with pytest.raises(BadInput, match="--dev_file"):
        writer.read_sample(path)


IN_TENSORFLOW_2 = """
import json, sys
import tensorflow as tf
assert tf.__version__.startswith("2.")
folder = sys.argv[1]
with open(folder + "/assets.extra/sample_request.json") as stream:
    (instance,) = json.load(stream)["instances"]
model = tf.saved_model.load(folder)
inputs = {name: tf.constant([ids], tf.int32) for name, ids in instance.items()}
serialized = tf.train.Example()
for name, ids in instance.items():
    serialized.features.feature[name].int64_list.value.extend(ids)
answers = {
    "serving_default": model.signatures["serving_default"](**inputs),
    "label_ids:serving_default": model.signatures["label_ids:serving_default"](
        label_ids=tf.constant([0]), **inputs
    ),
    "examples:serving_default": model.signatures["examples:serving_default"](
        examples=tf.constant([serialized.SerializeToString()])
    ),
}
print(json.dumps({name: a["probabilities"].numpy().tolist() for name, a in answers.items()}))
"""


@pytest.mark.slow
def test_tensorflow_2_gives_the_same_probabilities(exported):
    """In an environment of its own, which is kept: `.cache/tensorflow_2`."""
    environment = os.path.join(ROOT, ".cache", "tensorflow_2")
    python = os.path.join(environment, "bin", "python")
    if not os.path.exists(python):
        uv = subprocess.run(["tools/find_uv.sh"], cwd=ROOT, check=True, stdout=subprocess.PIPE)
        uv = uv.stdout.decode().strip()
        subprocess.run([uv, "venv", "--quiet", "--python=3.11", environment], check=True)
        packages = ["tensorflow-cpu==2.15.1"]
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *packages], check=True)
    opened = bundle.open_bundle(exported[0])
    (instance,) = json.loads(opened.parts["sample_request.json"].decode())["instances"]
    expected = opened.model.run({name: [ids] for name, ids in instance.items()})["probabilities"]
    opened.model.close()
    process = subprocess.run(
        [python, "-c", IN_TENSORFLOW_2, exported[0]], stdout=subprocess.PIPE, check=True
    )
    answers = json.loads(process.stdout.decode().splitlines()[-1])
    assert set(answers) == set(opened.model.signatures)
    for probabilities in answers.values():
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)

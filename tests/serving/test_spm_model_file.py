"""A run with --spm_model_file: its later calls, its exports, and the answers of these."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import sentence_pieces
import sentencepiece
import tensorflow.compat.v1 as tf
from conftest import CONFIG
from program import changed_description, parsed, write_data

import run_classifier_gpu
import tokenization
from bert_classifier import files, predict
from bert_classifier.data import features, records, serialization
from bert_classifier.data.examples import InputExample
from bert_classifier.errors import BadInput
from bert_classifier.export import bundle
from bert_classifier.serving.predictor import Predictor

SENTENCES = ["the film was really good .", "the phone was really not great , 12,000 .", "bad, poor"]


def call(*arguments):
    return run_classifier_gpu.run_classifier(parsed(*arguments))


class Run:
    """A training with a SentencePiece model; `folder` has what it reads, and its output_dir."""

    def __init__(self, folder):
        self.folder = folder
        self.model = folder / "30k-clean.model"
        self.model.write_bytes(sentence_pieces.train_small(SENTENCES * 20))
        self.tokenizer = tokenization.FullTokenizer("", spm_model_file=str(self.model))
        config = dict(CONFIG, vocab_size=self.tokenizer.vocab_size, num_hidden_layers=1)
        (folder / "albert_config.json").write_text(json.dumps(config))
        self.data_dir = write_data(folder / "data")
        self.flags = [
            "--task_name=file",
            "--data_dir=" + self.data_dir,
            "--bert_config_file=%s" % (folder / "albert_config.json"),
            "--max_seq_length=16",
            "--train_batch_size=8",
            "--num_train_epochs=1",
        ]
        self.output_dir = str(folder / "output")
        actions = ["--do_train", "--do_eval", "--do_predict", "--do_export", "--do_frozen"]
        self.scores = call(*actions, *self.flags, self.spm_flag, "--output_dir=" + self.output_dir)

    @property
    def spm_flag(self):
        return "--spm_model_file=%s" % self.model

    @property
    def export(self):
        return bundle.find(os.path.join(self.output_dir, "export", "saved_model"))

    @property
    def frozen(self):
        return os.path.join(self.output_dir, "frozen_model.pb")

    def read(self, name):
        with open(os.path.join(self.output_dir, name), encoding="utf-8") as stream:
            return stream.read()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("run"))


@pytest.fixture()
def later(run, tmp_path):
    """Calls with a copy of the run, of which nothing but the output_dir is given."""
    folder = shutil.copytree(run.output_dir, str(tmp_path / "output"))
    return lambda *arguments: call("--output_dir=" + folder, *arguments)


def test_a_later_call_finds_the_model_again(run, later):
    assert later("--do_eval") == pytest.approx(run.scores, abs=1e-6)


def test_the_identity_of_the_run_has_the_model_and_no_vocabulary(run):
    record = json.loads(run.read("run.json"))
    digest = files.digest(run.model.read_bytes())
    assert record["identity"]["spm_model_file"] == digest[:12]
    assert "vocab_file" not in record["identity"]
    assert record["flags"]["spm_model_file"] == str(run.model)


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--spm_model_file={}/other.model", "--spm_model_file=.*other.model is not what it was"),
        ("--spm_model_file={}/missing.model", "--spm_model_file=.*missing.model is not there"),
        ("--vocab_file={}/vocab.txt", "--vocab_file=.*vocab.txt: the model was trained without"),
    ],
)
def test_another_tokenizer_than_that_of_the_training_is_refused(
    later, tmp_path, tiny_bert, flag, message
):
    shutil.copy(tiny_bert.vocab_file, str(tmp_path / "vocab.txt"))
    (tmp_path / "other.model").write_bytes(sentence_pieces.train_small(SENTENCES[:2] * 20))
    with pytest.raises(BadInput, match=message):
        later("--do_eval", flag.format(tmp_path))


def test_a_run_with_a_vocabulary_takes_no_model(small_run, run, tmp_path):
    folder = small_run.copy(tmp_path / "output")
    with pytest.raises(BadInput, match="--spm_model_file=.*: the model was trained without one"):
        call("--do_eval", "--output_dir=" + folder, run.spm_flag)
    flags = [
        flag
        for flag in small_run.command(folder)
        if not flag.startswith(("--vocab_file", "--init_checkpoint"))
    ]
    config_file = "--bert_config_file=%s" % (run.folder / "albert_config.json")
    with pytest.raises(BadInput, match="spm_model_file was None and is "):
        call(*flags, run.spm_flag, config_file)


# Files that cannot be used, and none


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], r"^--vocab_file \(or --spm_model_file\) is missing"),
        (["--spm_model_file={}/empty.model"], r"empty.model: is empty; --spm_model_file must"),
        (["--spm_model_file={}/cut.model"], r"cut.model: is no SentencePiece model, or a damaged"),
        (
            ["--spm_model_file={}/vocab.txt"],
            r"vocab.txt: is no SentencePiece model, .*--vocab_file",
        ),
        (["--spm_model_file={}/t5.model"], r"t5.model: has no \[CLS\], \[SEP\]; "),
        (["--spm_model_file={}"], r"[dD]irectory; --spm_model_file"),
        (["--vocab_file={}/whole.model"], r"whole.model:\d+: is not UTF-8; .*--spm_model_file"),
        (["--spm_model_file={}/large.model"], r"large.model: \d+ tokens, but vocab_size is \d+ in"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(run, tmp_path, tiny_bert, flags, message):
    content = run.model.read_bytes()
    shutil.copy(tiny_bert.vocab_file, str(tmp_path / "vocab.txt"))
    (tmp_path / "empty.model").write_bytes(b"")
    (tmp_path / "cut.model").write_bytes(content[:-1])
    (tmp_path / "whole.model").write_bytes(content)
    t5 = sentence_pieces.train_small(SENTENCES * 20, control_symbols=[])
    (tmp_path / "t5.model").write_bytes(t5)
    large = sentence_pieces.train(sentence_pieces.example_lines(), 700)
    (tmp_path / "large.model").write_bytes(large)
    with pytest.raises(BadInput, match=message) as refused:
        call(
            "--do_train",
            *run.flags,
            "--output_dir=%s" % (tmp_path / "output"),
            *(flag.format(tmp_path) for flag in flags),
        )
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "output").exists()


# Exports


def test_exports_have_the_model(run):
    content = run.model.read_bytes()
    assert "vocab.txt" not in os.listdir(os.path.join(run.export, "assets.extra"))
    for path in (run.export, run.frozen):
        opened = bundle.open_bundle(path)
        assert opened.parts["spiece.model"] == content
        opened.model.close()
    graph_def = tf.GraphDef()
    with open(run.frozen, "rb") as stream:
        graph_def.ParseFromString(stream.read())
    with tf.Graph().as_default() as graph, tf.Session() as session:
        tf.import_graph_def(graph_def, name="")
        assert session.run(graph.get_tensor_by_name("bundle/spiece.model:0")) == content


def test_exports_answer_as_the_run_has_predicted(run, tmp_path):
    """After all that it was trained with has been moved away."""
    header, *rows = run.read("test_results.tsv").splitlines()
    column = header.split("\t").index("p(positive)")
    texts = [row.split("\t")[-1] for row in rows]
    os.rename(str(run.model), str(tmp_path / "moved"))
    try:
        for path in (run.export, run.frozen, run.output_dir):
            with Predictor(path) as predictor:
                answers = predictor.predict(texts)
            np.testing.assert_allclose(
                [answer.probabilities["positive"] for answer in answers],
                [float(row.split("\t")[column]) for row in rows],
                atol=2e-6,
            )
    finally:
        os.rename(str(tmp_path / "moved"), str(run.model))


def test_predict_answers_from_the_command_line(run, capsys):
    assert predict.main([run.frozen, SENTENCES[0]]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split("\t")[0] == "label" and row.endswith(SENTENCES[0])


def test_a_request_has_the_ids_of_the_pieces(run):
    request = json.loads(bundle.open_bundle(run.export).parts["sample_request.json"].decode())
    (instance,) = request["instances"]
    ids = [number for number in instance["input_ids"] if number]
    assert ids[0] == run.tokenizer.vocab["[CLS]"] == 2
    assert ids[-1] == run.tokenizer.vocab["[SEP]"] == 3
    with open(os.path.join(run.data_dir, "dev.tsv")) as stream:
        text = stream.read().splitlines()[1].split("\t")[1]
    pieces = run.tokenizer.convert_ids_to_tokens(ids[1:-1])
    assert pieces == run.tokenizer.tokenize(text)[: len(pieces)]


def test_a_damaged_model_in_an_export_is_named(run, tmp_path):
    folder = shutil.copytree(run.export, str(tmp_path / "export"))
    path = os.path.join(folder, "assets.extra", "spiece.model")
    with open(path, "r+b") as stream:
        stream.seek(1000)
        stream.write(b"\xff")
    with pytest.raises(BadInput, match="spiece.model is not what was exported"):
        bundle.open_bundle(folder)
    os.remove(path)
    with pytest.raises(BadInput, match="spiece.model is missing"):
        bundle.open_bundle(folder)


@pytest.mark.parametrize("names", [[], ["spiece.model", "vocab.txt"]])
def test_an_export_has_one_tokenizer(run, tmp_path, names):
    folder = shutil.copytree(run.export, str(tmp_path / "export"))
    with changed_description(folder) as description:
        digest = description["digests"].pop("spiece.model")
        description["digests"].update(dict.fromkeys(names, digest))
    with pytest.raises(BadInput, match="bundle.json is damaged"):
        bundle.open_bundle(folder)


# Records and checks


def examples(count):
    return [InputExample(str(n), SENTENCES[n % 3] + " %d," % n, None, "a") for n in range(count)]


def test_records_of_several_processes_are_those_of_one(run, tmp_path):
    converter = features.Converter(["a"], 32, run.tokenizer)
    paths = [str(tmp_path / ("%d.tf_record" % number)) for number in (1, 2)]
    for number, path in enumerate(paths, start=1):
        serialization.write_records(examples(2500), converter, path, num_processes=number)
    first, second = (open(path, "rb").read() for path in paths)
    assert first == second
    assert len(records.RecordFile(paths[0]).num_tokens) == 2500


def test_the_fingerprint_changes_with_model_and_case(run, tmp_path):
    def fingerprint(content, do_lower_case=True):
        (tmp_path / "a.model").write_bytes(content)
        tokenizer = tokenization.FullTokenizer(None, do_lower_case, str(tmp_path / "a.model"))
        return features.fingerprint(examples(3), features.Converter(["a"], 32, tokenizer))

    content = bytearray(run.model.read_bytes())
    before = fingerprint(bytes(content))
    assert fingerprint(bytes(content)) == before
    assert fingerprint(bytes(content), do_lower_case=False) != before
    content[content.index(b"\x0a\x03\xe2\x96\x81\x15") + 6] ^= 1  # The score of a piece.
    assert fingerprint(bytes(content)) != before


def dry_run(run, tmp_path, capsys, rows, *flags):
    text = "".join("%s\t%s\n" % row for row in rows)
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text("label\ttext\n" + text, encoding="utf-8")
    call(
        "--dry_run",
        "--do_train",
        *run.flags,
        run.spm_flag,
        "--data_dir=%s" % tmp_path,
        "--output_dir=%s" % (tmp_path / "output"),
        "--train_batch_size=1",
        *flags,
    )
    return " ".join(capsys.readouterr().out.split())


ROWS = [("a", "the film"), ("b", "bad \u4e2d\u6587 \u4e2d film"), ("a", "the film was really")]


def test_a_dry_run_counts_unknown_pieces_and_their_characters(run, tmp_path, capsys):
    screen = dry_run(run, tmp_path, capsys, ROWS)
    model = sentencepiece.SentencePieceProcessor(model_file=str(run.model))
    ids = [model.encode(text) for _, text in ROWS]
    num_unknown, num_tokens = sum(i.count(1) for i in ids), sum(map(len, ids))
    share = 100 * num_unknown / num_tokens
    assert num_unknown == 2
    assert "[UNK] 2 (%.3g %%) tokens" % share in screen
    assert "the vocabulary lacks '\u4e2d' U+4E2D 2 x, '\u6587' U+6587 1 x" in screen
    assert "the longest has %d cut" % (2 + max(map(len, ids))) in screen


def test_case_is_checked_of_a_model_too(run, tmp_path, capsys):
    rows = [("a", "The Film"), ("b", "Bad film"), ("a", "THE film was really")]
    assert "upper-case" not in dry_run(run, tmp_path, capsys, rows)
    screen = dry_run(run, tmp_path, capsys, rows, "--nodo_lower_case")
    assert "the vocabulary has no upper-case letters: give --do_lower_case" in screen
    assert "'T' U+0054" in screen

"""Directories for transformers: read back by the converter, and by transformers itself."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import sentence_pieces
import tensorflow.compat.v1 as tf
from conftest import CONFIG, VOCAB
from program import ROOT

import modeling
from bert_classifier import convert
from bert_classifier.data import features
from bert_classifier.data.examples import InputExample
from bert_classifier.errors import BadInput
from bert_classifier.export import bundle
from bert_classifier.hugging_face import reading, writing
from bert_classifier.hugging_face.configs import Classifier
from bert_classifier.hugging_face.models import Model
from bert_classifier.hugging_face.tokenizers import SENTENCE_PIECES, WORD_PIECES, Tokenizer
from bert_classifier.model import weights
from tokenization import FullTokenizer

TRANSFORMERS = os.path.join(ROOT, ".venv-hugging-face", "bin", "python")
ALBERT = {
    "model_type": "albert",
    "embedding_size": 16,
    "num_hidden_groups": 1,
    "inner_group_num": 1,
}
ELECTRA = {"model_type": "electra", "embedding_size": 16, "hidden_act": "gelu_erf"}
KINDS = {
    "bert": {},
    "bert with an epsilon": {"layer_norm_eps": 1e-5, "hidden_act": "relu"},
    "bert with a dropout": {"classifier_dropout_prob": 0.3},
    "albert": ALBERT,
    "albert in 2 groups": dict(ALBERT, num_hidden_groups=2, hidden_act="gelu_erf"),
    "albert in groups of 2": dict(ALBERT, inner_group_num=2, hidden_act="relu"),
    "albert without projection": dict(ALBERT, embedding_size=32, classifier_dropout_prob=0.0),
    "albert with pieces": dict(ALBERT, vocab_size=120),
    "electra": ELECTRA,
    "electra without projection": dict(ELECTRA, embedding_size=32, hidden_act="gelu_new"),
}
CLASSIFIERS = {
    "classification": Classifier(["bad", "so so", "gut, größer"], "classification"),
    "regression": Classifier(["score"], "regression"),
    "multi_label": Classifier(["a", "b"], "multi_label"),
}
TEXTS = [
    ("the film was good .", None),
    ("", None),
    ("``1,000'' films: the caf\u00e9, 2,5 (good)", None),
    ("The phone is really not nice films, xyz", "sad"),
    ("good", "great fine nice bad poor awful sad the film phone was is really not ."),
]


def make_model(folder: pathlib.Path, kind: str, classifier: Classifier | None) -> Model:
    """A model of random weights, of which every one counts."""
    folder.mkdir(parents=True)
    settings = dict(dict(CONFIG, num_hidden_layers=4), **KINDS[kind])
    config_file = folder / "bert_config.json"
    config_file.write_text(json.dumps(settings))
    config = modeling.BertConfig.from_json_file(str(config_file))
    shapes = config.variable_shapes()
    if classifier:
        num_labels = len(classifier.labels)
        shapes.update(output_weights=[num_labels, 32], output_bias=[num_labels])
    chance = np.random.RandomState(0)
    variables = {
        name: (chance.normal(0, 0.2, shape) + name.endswith("gamma")).astype(np.float32)
        for name, shape in shapes.items()
    }
    weights.write_checkpoint(variables, str(folder / "bert_model.ckpt"))
    return Model(
        config,
        str(config_file),
        str(folder / "bert_model.ckpt"),
        make_tokenizer(folder, settings["vocab_size"]),
        24,
        classifier,
    )


def make_tokenizer(folder: pathlib.Path, vocab_size: int) -> Tokenizer:
    if vocab_size == len(VOCAB):
        content = "".join(token + "\n" for token in VOCAB).encode()
        splitting = WORD_PIECES
    else:
        content = sentence_pieces.train(sentence_pieces.example_lines(), vocab_size)
        splitting = SENTENCE_PIECES
    path = folder / splitting.file_name
    path.write_bytes(content)
    return Tokenizer(splitting, str(path), do_lower_case=True)


def all_tensors(checkpoint: str) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(checkpoint)
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def read_json(*parts):
    with open(os.path.join(*map(str, parts))) as stream:
        return json.load(stream)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("problem_type", [None, "classification"])
def test_a_model_comes_back_as_it_was(kind, problem_type, tmp_path):
    model = make_model(tmp_path / "ours", kind, CLASSIFIERS.get(problem_type))
    num_tensors = writing.write(model, str(tmp_path / "hf"))
    assert num_tensors == len(safetensors.numpy.load_file(str(tmp_path / "hf/model.safetensors")))
    back = reading.convert(str(tmp_path / "hf"), str(tmp_path / "back"))
    before, after = all_tensors(model.checkpoint), all_tensors(back.init_checkpoint)
    if not back.has_classifier:
        for name in ("output_weights", "output_bias"):
            before.pop(name, None)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert value.tobytes() == after[name].tobytes(), name
    ours, theirs = (modeling.BertConfig.from_json_file(m.config_file) for m in (model, back))
    for name in ("activation", "norm_epsilon", "dropout_of_classifier", "scope", "num_groups"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.variable_shapes() == theirs.variable_shapes()
    assert ours.layer_scopes() == theirs.layer_scopes()
    with open(model.tokenizer.path, "rb") as first, open(back.tokenizer.path, "rb") as second:
        assert first.read() == second.read()
    assert back.tokenizer.do_lower_case is True
    # The classifier of transformers' ELECTRA has a layer more.
    assert back.has_classifier == (bool(problem_type) and "electra" not in kind)
    if back.has_classifier:
        labels = pathlib.Path(back.labels_file).read_text(encoding="utf-8").splitlines()
        assert labels == CLASSIFIERS["classification"].labels


def test_bert_comes_back_with_the_same_config(tmp_path):
    model = make_model(tmp_path / "ours", "bert", None)
    writing.write(model, str(tmp_path / "hf"))
    back = reading.convert(str(tmp_path / "hf"), str(tmp_path / "back"))
    assert read_json(back.config_file) == read_json(model.config_file)


@pytest.mark.parametrize(
    "problem_type, theirs, id2label",
    [
        (
            "classification",
            "single_label_classification",
            {"0": "bad", "1": "so so", "2": "gut, größer"},
        ),
        ("regression", "regression", {"0": "score"}),
        ("multi_label", "multi_label_classification", {"0": "a", "1": "b"}),
    ],
)
def test_config_has_the_labels_and_the_problem_type(problem_type, theirs, id2label, tmp_path):
    model = make_model(tmp_path / "ours", "albert", CLASSIFIERS[problem_type])
    writing.write(model, str(tmp_path / "hf"))
    settings = read_json(tmp_path, "hf", "config.json")
    assert settings["problem_type"] == theirs
    assert settings["id2label"] == id2label
    assert settings["label2id"] == {label: int(number) for number, label in id2label.items()}
    assert settings["architectures"] == ["AlbertForSequenceClassification"]
    assert settings["hidden_act"] == "gelu_pytorch_tanh"
    assert settings["classifier_dropout_prob"] == 0.1
    # Without the class of the tokenizer transformers would look for spiece.model.
    assert read_json(tmp_path, "hf", "tokenizer_config.json") == {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": 24,
        "tokenize_chinese_chars": True,
    }
    with safetensors.safe_open(str(tmp_path / "hf" / "model.safetensors"), "numpy") as opened:
        assert opened.metadata() == {"format": "pt"}


# A byte order mark, blanks and ids would be parts of a token there.
def test_the_vocabulary_is_what_our_tokenizer_reads(tmp_path):
    model = make_model(tmp_path / "ours", "bert", None)
    content = "\ufeff" + "\r\n".join([*VOCAB[:-1], " %s\t" % VOCAB[-1], "\u2028", "end", "", ""])
    pathlib.Path(model.tokenizer.path).write_bytes(content.encode())
    writing.write(model, str(tmp_path / "hf"))
    written = (tmp_path / "hf" / "vocab.txt").read_bytes().decode().split("\n")
    assert written == [*VOCAB, "", "end", ""]


def test_a_token_in_two_lines_keeps_its_id(tmp_path):
    model = make_model(tmp_path / "ours", "bert", None)
    pathlib.Path(model.tokenizer.path).write_text("\n".join(["good", *VOCAB, "good"]))
    writing.write(model, str(tmp_path / "hf"))
    written = (tmp_path / "hf" / "vocab.txt").read_text().split("\n")
    assert written.index("good") == len(VOCAB) + 1
    assert written.index("bad") == VOCAB.index("bad") + 1


def test_what_transformers_cannot_compute_is_refused(tmp_path):
    folder = tmp_path / "ours"
    model = make_model(folder, "bert", None)
    settings = dict(CONFIG, model_type="albert_zh", ln_type="postln")
    config = modeling.BertConfig.from_dict(settings)
    with pytest.raises(BadInput, match="bert_config.json: is of brightmart's ALBERT, which tra"):
        writing.write(model._replace(config=config), str(tmp_path / "hf"))
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    model = make_model(tmp_path / "ours", "bert", None)
    model = model._replace(classifier=CLASSIFIERS["classification"])
    with pytest.raises(BadInput, match="lacks 2 variables .* the first is output_weights"):
        writing.write(model, str(tmp_path / "hf"))
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("No space left on device")

    model = make_model(tmp_path / "ours", "bert", None)
    monkeypatch.setattr(writing.tokenizers, "write", fail)
    with pytest.raises(OSError, match="No space left"):
        writing.write(model, str(tmp_path / "hf"))
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


# The command, with a run and with an export


def test_the_command_writes_the_best_checkpoint_of_a_run(small_run, tmp_path, capsys):
    hf_dir = tmp_path / "new" / "hf"
    assert convert.main(["--to_hugging_face", small_run.output_dir, str(hf_dir)]) == 0
    printed = capsys.readouterr().out
    assert "best/model.ckpt-5" in printed and "from_pretrained('%s')" % hf_dir in printed
    assert sorted(path.name for path in hf_dir.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer_config.json",
        "vocab.txt",
    ]
    settings = read_json(hf_dir, "config.json")
    assert settings["id2label"] == {"0": "negative", "1": "positive"}
    assert settings["problem_type"] == "single_label_classification"
    assert read_json(hf_dir, "tokenizer_config.json")["model_max_length"] == 16
    back = reading.convert(str(hf_dir), str(tmp_path / "back"))
    before = all_tensors(os.path.join(small_run.output_dir, "best", "model.ckpt-5"))
    for name, value in all_tensors(back.init_checkpoint).items():
        assert value.tobytes() == before[name].tobytes()


def test_an_export_makes_the_same_directory_as_its_run(small_run, tmp_path):
    export = bundle.list_exports(os.path.join(small_run.output_dir, "export", "saved_model"))[-1]
    for source, name in ((small_run.output_dir, "run"), (export, "export")):
        assert convert.main(["--to_hugging_face", source, str(tmp_path / name)]) == 0
    for path in (tmp_path / "run").iterdir():
        assert path.read_bytes() == (tmp_path / "export" / path.name).read_bytes()


def test_a_run_whose_vocabulary_is_gone_tells_of_its_exports(small_run, tmp_path, capsys):
    run = small_run.copy(tmp_path / "run")
    record = read_json(run, "run.json")
    record["flags"]["vocab_file"] = str(tmp_path / "gone.txt")
    pathlib.Path(run, "run.json").write_text(json.dumps(record))
    assert convert.main(["--to_hugging_face", str(run), str(tmp_path / "hf")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "gone.txt" in line and "export of the run" in line
    assert not (tmp_path / "hf").exists()


def test_labels_that_do_not_fit_the_run_are_refused(small_run, tmp_path, capsys):
    run = pathlib.Path(small_run.copy(tmp_path / "run"))
    (run / "labels.txt").write_text("one\n")
    assert convert.main(["--to_hugging_face", str(run), str(tmp_path / "hf")]) == 2
    assert "labels.txt" in capsys.readouterr().err
    (run / "labels.txt").unlink()
    assert convert.main(["--to_hugging_face", str(run), str(tmp_path / "hf")]) == 2
    assert "labels.txt: no such file" in capsys.readouterr().err


def test_what_is_no_run_is_refused(tmp_path, capsys):
    for source, word in ((tmp_path / "nothing", "no such folder"), (tmp_path, "no export")):
        assert convert.main(["--to_hugging_face", str(source), str(tmp_path / "hf")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(str(source)) and word in line


def test_thresholds_and_temperature_are_told_as_left_out(tmp_path):
    model = make_model(tmp_path / "ours", "bert", CLASSIFIERS["multi_label"])
    assert "Not written" not in convert.report_of_written(model, 3, "hf")
    model = model._replace(thresholds=[0.25, 0.5], temperature=1.5)
    told = convert.report_of_written(model, 3, "hf").splitlines()[-1]
    assert told.endswith(": thresholds 0.25, 0.5; temperature 1.5")


# transformers itself

ASK_TRANSFORMERS = """
import json, logging, os, sys, torch, transformers

class Said(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())

transformers.logging.get_logger("transformers").addHandler(Said(logging.WARNING))
answers, pairs = {}, json.loads(sys.argv[1])
for folder in sys.argv[2:]:
    said = []
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, output_loading_info=True
    )
    # The fast tokenizer of pieces needs protobuf.
    use_fast = not os.path.exists(folder + "/spiece.model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, use_fast=use_fast)
    amiss = [*said, *(str(name) for names in info.values() for name in names)]
    texts = [[text for text in pair if text is not None] for pair in pairs]
    rows = [tokenizer(*pair, truncation=True) for pair in texts]
    with torch.no_grad():
        logits = model.eval()(**tokenizer.pad(rows, return_tensors="pt")).logits
    answers[folder] = dict(
        logits=logits.tolist(),
        tokens=[row["input_ids"] for row in rows],
        model=type(model).__name__,
        labels=[model.config.id2label[i] for i in range(model.config.num_labels)],
        problem_type=model.config.problem_type,
        length=tokenizer.model_max_length,
        amiss=amiss,
    )
print(json.dumps(answers))
"""


def ask_transformers(folders) -> dict:
    if not os.path.exists(TRANSFORMERS):
        pytest.skip("there is no .venv-hugging-face: tools/make_hugging_face.sh")
    command = [TRANSFORMERS, "-c", ASK_TRANSFORMERS, json.dumps(TEXTS), *map(str, folders)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout)


def our_logits(model: Model) -> tuple[np.ndarray, list[list[int]]]:
    """Return the logits, float32 `[batch, num_labels]`, and the tokens of TEXTS."""
    tokenizer = FullTokenizer(**{model.tokenizer.splitting.flag: model.tokenizer.path})
    converter = features.Converter(["a"], model.max_seq_length, tokenizer)
    rows = [converter.convert(InputExample("", *pair)) for pair in TEXTS]
    length = max(len(row.input_ids) for row in rows)
    ids, mask, segments = (
        np.array([getattr(row, n) + [0] * (length - len(row.input_ids)) for row in rows], np.int32)
        for n in ("input_ids", "input_mask", "segment_ids")
    )
    with tf.Graph().as_default(), tf.Session() as session:
        encoder = modeling.BertModel(model.config, False, *map(tf.constant, (ids, mask, segments)))
        tf.train.Saver(tf.trainable_variables()).restore(session, model.checkpoint)
        pooled = session.run(encoder.get_pooled_output())
    head = all_tensors(model.checkpoint)
    return pooled @ head["output_weights"].T + head["output_bias"], [row.input_ids for row in rows]


@pytest.mark.slow
def test_transformers_computes_our_logits(tmp_path):
    made = {
        (kind, problem_type): make_model(tmp_path / "ours" / kind / problem_type, kind, classifier)
        for kind in KINDS
        for problem_type, classifier in CLASSIFIERS.items()
    }
    folders = {key: str(tmp_path / "hf" / "-".join(key).replace(" ", "_")) for key in made}
    for key, model in made.items():
        writing.write(model, folders[key])
    answers = ask_transformers(folders.values())
    for (kind, problem_type), model in made.items():
        answer = answers[folders[kind, problem_type]]
        expected, tokens = our_logits(model)
        assert answer["amiss"] == []
        assert answer["tokens"] == tokens
        tolerance = 1e-4 if "electra" in kind else 1e-5
        np.testing.assert_allclose(answer["logits"], expected, atol=tolerance, err_msg=kind)
        assert np.ptp(expected, axis=0).min() > 0.01  # They tell the texts apart.
        assert answer["labels"] == model.classifier.labels
        assert answer["problem_type"].startswith(("single_label_", problem_type))
        assert answer["model"].endswith("ForSequenceClassification")
        assert answer["length"] == 24


def test_pieces_have_the_settings_of_the_slow_tokenizer(tmp_path):
    model = make_model(tmp_path / "ours", "albert with pieces", CLASSIFIERS["regression"])
    writing.write(model, str(tmp_path / "hf"))
    assert read_json(tmp_path, "hf", "tokenizer_config.json") == {
        "tokenizer_class": "AlbertTokenizer",
        "do_lower_case": True,
        "model_max_length": 24,
        "keep_accents": False,
        "remove_space": True,
    }
    written = (tmp_path / "hf" / "spiece.model").read_bytes()
    assert written == pathlib.Path(model.tokenizer.path).read_bytes()
    assert not (tmp_path / "hf" / "vocab.txt").exists()

"""Faults that others have met with exports and answers; the names are those of their list."""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from program import ROOT, changed_description, parsed

import run_classifier_gpu
from bert_classifier import predict
from bert_classifier.errors import BadInput
from bert_classifier.export import bundle, writer
from bert_classifier.serving import answers, predictor
from bert_classifier.training import runs

SETTINGS = bundle.Settings(["a", "b"], "classification", 16, True, "head", 0, 1)


@pytest.fixture(scope="module")
def output_dir(small_run, tmp_path_factory):
    """A run with every kind of export."""
    folder = small_run.copy(tmp_path_factory.mktemp("exports") / "plain")
    arguments = ["--do_export", "--do_frozen", "--output_dir=" + folder]
    run_classifier_gpu.run_classifier(parsed(*small_run.arguments, *arguments))
    return folder


def exports_in(*names):
    return writer.list_exports(os.path.join(*names))


# 2.4 and defect 1: which export is meant


def test_the_path_of_an_export_may_be_that_of_several_or_of_a_run(output_dir, tmp_path):
    best = exports_in(output_dir, "export", "best_exporter")[-1]
    saved = exports_in(output_dir, "export", "saved_model")
    frozen = os.path.join(output_dir, "frozen_model.pb")
    for path, expected in {
        output_dir: best,
        output_dir + "/": best,
        output_dir + "/export": best,
        output_dir + "/export/best_exporter": best,
        output_dir + "/export/saved_model": saved[-1],
        saved[0]: saved[0],
        frozen: frozen,
    }.items():
        assert os.path.normpath(bundle.find(path)) == os.path.normpath(expected)
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(frozen, str(run))
    assert bundle.find(str(run)) == str(run / "frozen_model.pb")
    for number in ("9", "10"):  # Numbers and not words.
        shutil.copytree(saved[0], str(run / "export" / "saved_model" / number))
    assert bundle.find(str(run)) == str(run / "export" / "saved_model" / "10")
    (run / "export" / "saved_model" / "11").write_text("no folder")
    assert bundle.find(str(run)) == str(run / "export" / "saved_model" / "10")


def test_which_export_was_taken_is_said(output_dir, capsys, caplog):
    caplog.set_level(logging.INFO)
    assert predict.main([output_dir, "good"]) == 0
    out, err = capsys.readouterr()
    best = exports_in(output_dir, "export", "best_exporter")[-1]
    assert err == "bert_classifier.predict: the model is %s (step 5, eval_recall 0.0000)\n" % best
    assert out.startswith("label\tconfidence\t")
    assert "the model is %s (step 5" % best in caplog.text
    assert predict.main([best, "good"]) == 0
    assert capsys.readouterr() == (out, "")


@pytest.mark.parametrize("is_word", [False, True])
def test_a_text_that_is_an_export_is_refused(output_dir, capsys, monkeypatch, is_word):
    """A shell puts all exports in the place of a *; the second would be a text of a pair."""
    first = exports_in(output_dir, "export", "best_exporter")[0]
    others = [*exports_in(output_dir, "export", "saved_model"), output_dir + "/frozen_model.pb"]
    others.append(output_dir + "/export/saved_model")
    if is_word:  # As in the folder itself.
        monkeypatch.chdir(os.path.join(output_dir, "export", "saved_model"))
        others = os.listdir(".")
    for other in others:
        for texts in ([other], [other, "good"], ["good", other]):
            assert predict.main([first, *texts]) == 2
            out, err = capsys.readouterr()
            assert out == "" and err.count("\n") == 1
            assert err.startswith("bert_classifier.predict: TEXT: %s is an export" % other)


def test_other_texts_may_look_like_paths(output_dir, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(output_dir)
    (export,) = exports_in(output_dir, "export", "saved_model")[-1:]
    for text in ("export", "best", "/tmp", "README.md", "x" * 5000, "\ud800", "no/where.pb", ""):
        assert predict.main([export, text]) == 0, text
        capsys.readouterr()


# F05: brackets in a path


@pytest.mark.parametrize("name", ["lr=[5e-5]", "x[1]", "back\\slash"])
def test_f05_brackets_in_the_path_of_an_export(small_run, tmp_path, name):
    export_dir = str(tmp_path / name)
    arguments = [*small_run.arguments, "--output_dir=" + small_run.copy(tmp_path / "run")]
    run_classifier_gpu.run_classifier(
        parsed(*arguments, "--do_export", "--do_frozen", "--export_dir=" + export_dir)
    )
    (export,) = exports_in(export_dir)
    shutil.move(str(tmp_path / "run" / "frozen_model.pb"), export_dir)
    answered = []
    for path in (export, os.path.join(export_dir, "frozen_model.pb"), export_dir):
        with predictor.Predictor(path) as loaded:
            answered.append(loaded.predict(["good"])[0].probabilities["positive"])
    np.testing.assert_allclose(answered, answered[0], atol=1e-6)
    # The name itself may have them too.
    renamed = shutil.move(export, os.path.join(export_dir, "e[1]"))
    with predictor.Predictor(renamed) as loaded:
        assert loaded.export == renamed


# F08: streams that are closed


@pytest.mark.parametrize(
    "closed, arguments, status, answered",
    [
        ("<&- 2>&-", ["good"], 0, True),
        ("<&- >&- 2>&-", ["good", "--output_file=OUT"], 0, True),
        ("<&-", [], 2, False),
        (">&-", ["good"], 2, False),
    ],
)
def test_f08a_a_closed_stream(output_dir, tmp_path, closed, arguments, status, answered):
    out = str(tmp_path / "out")
    arguments = [a.replace("OUT", out) for a in arguments]
    frozen = output_dir + "/frozen_model.pb"
    command = [sys.executable, "-m", "bert_classifier.predict", frozen, *arguments]
    process = subprocess.run(
        ["sh", "-c", '"$@" ' + closed, "sh", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == status
    assert "Traceback" not in process.stderr
    text = process.stdout
    if os.path.exists(out):
        with open(out) as stream:
            text = stream.read()
    # Nothing but answers: what is printed does not get into a file that took a stream's place.
    assert text.count("\n") == (2 if answered else 0)
    assert not answered or text.startswith("label\t")


# Defect 12: what a Python program is told


QUIET = """
import sys
from bert_classifier.serving.predictor import BadInput, Predictor
with Predictor(sys.argv[1]) as predictor:
    assert predictor.predict(["good"])[0].label
try:
    Predictor("no/where")
except BadInput as error:
    print(error)
"""


def test_a_python_program_is_told_nothing_that_it_did_not_ask_for(output_dir):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    process = subprocess.run(
        [sys.executable, "-c", QUIET, output_dir],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0
    lines = process.stderr.splitlines()
    # NumPy and TensorFlow 1.15 warn of each other when they are imported; not of this program.
    assert [line for line in lines if "tensorflow/" in line and "FutureWarning" not in line] == []
    assert "deprecat" not in process.stderr.lower().replace("deprecated; in a future version", "")
    assert process.stdout == (
        "no/where: no such file or folder; give an export or a frozen graph\n"
    )


# F25: what TensorFlow Serving does to a batch


@pytest.mark.parametrize("signature", ["serving_default", "label_ids:serving_default"])
def test_f25a_the_padding_of_serving_does_no_harm(output_dir, signature):
    opened = bundle.open_bundle(exports_in(output_dir, "export", "saved_model")[-1])
    vocab = opened.parts["vocab.txt"].decode().split("\n")
    ids = [vocab.index(token) for token in ("[CLS]", "the", "film", "was", "good", "[SEP]")]
    plain = {"input_ids": ids, "input_mask": [1] * 6, "segment_ids": [0] * 6}

    def ask(padding):
        columns = {name: [row + [padding(row)] * 5] for name, row in plain.items()}
        return opened.model.run(dict(columns, label_ids=[0]), signature)["probabilities"]

    expected = opened.model.run(
        dict({name: [row] for name, row in plain.items()}, label_ids=[0]), signature
    )["probabilities"]
    np.testing.assert_allclose(ask(lambda row: 0), expected, atol=1e-6)
    np.testing.assert_allclose(ask(lambda row: row[0]), expected, atol=1e-6)
    opened.model.close()


def test_f25b_a_tf_example_that_is_too_long(output_dir):
    opened = bundle.open_bundle(exports_in(output_dir, "export", "saved_model")[-1])
    example = tf.train.Example()
    for name in bundle.INPUTS:
        example.features.feature[name].int64_list.value.extend([1] * 40)
    with pytest.raises(tf.errors.InvalidArgumentError, match="more tokens than the 16 that the"):
        opened.model.run({"examples": [example.SerializeToString()]}, "examples:serving_default")
    opened.model.close()


# F26: a clock that was set anew


@pytest.mark.parametrize("seconds", [5, 86400, 12345678901])
def test_f26b_the_name_of_an_export_has_any_number_of_digits(
    small_run, tmp_path, monkeypatch, seconds
):
    folder = small_run.copy(tmp_path / "run")
    shutil.rmtree(os.path.join(folder, "export"))
    monkeypatch.setattr(writer.time, "time", lambda: float(seconds))
    arguments = [*small_run.arguments, "--output_dir=" + folder, "--do_export"]
    run_classifier_gpu.run_classifier(parsed(*arguments))
    expected = os.path.join(folder, "export", "saved_model", str(seconds))
    assert bundle.find(folder) == expected
    run_classifier_gpu.run_classifier(parsed(*arguments))
    assert bundle.find(folder) == expected[: -len(str(seconds))] + str(seconds + 1)
    runs.clear(folder)
    assert not os.path.exists(os.path.join(folder, "export"))


# F30b, defect 15: one form of answers


@pytest.mark.parametrize(
    "separator, labels, expected",
    [
        (",", ["a", "b", "c"], "a,b"),
        (";", ["food, drink", "x", "c"], "food, drink;x"),
        # Exports that were made before have no separator, and so a comma.
        (",", ["food, drink", "x", "c"], "food, drink;x"),
        (",", ["a,b;c|d", "x/y", "c"], "a,b;c|d!x/y"),
        ("\t", ["a b", "c", "d"], "a b,c"),
        (" and ", ["a", "b", "c"], "a and b"),
    ],
)
def test_f30b_several_labels_in_a_cell(separator, labels, expected):
    settings = SETTINGS._replace(
        problem_type="multi_label", labels=labels, label_separator=separator
    )
    (prediction,) = answers.decide(settings, np.array([[0.9, 0.8, 0.1]], np.float32))
    assert prediction.label == tuple(labels[:2])
    assert answers.Form(settings).cells(prediction, ["t"])[0] == expected


def test_an_export_keeps_the_separator_of_the_training(small_run, tmp_path):
    train = tmp_path / "train.tsv"
    rows = ["food, drink;x\tgood film", "x\tbad film"] * 12
    train.write_text("label\ttext\n" + "".join(row + "\n" for row in rows))
    test = tmp_path / "test.tsv"
    test.write_text("label\ttext\tguid\nx\tgood film\tn 1\n\tbad film\tn 2\n")
    kept = ("--max_seq", "--bert", "--vocab", "--init", "--train_batch")
    output_dir = str(tmp_path / "run")
    run_classifier_gpu.run_classifier(
        parsed(
            *[a for a in small_run.arguments if a.startswith(kept)],
            *("--do_train", "--do_eval", "--do_predict", "--do_export", "--task_name=file"),
            *("--problem_type=multi_label", "--label_separator=;", "--thresholds=0.001"),
            "--num_train_epochs=1",
            "--train_file=%s" % train,
            "--test_file=%s" % test,
            "--output_dir=" + output_dir,
        )
    )
    out = tmp_path / "answers.tsv"
    arguments = ["--input_file=%s" % test, "--output_file=%s" % out]
    assert predict.main([output_dir, *arguments]) == 0
    predicted = (tmp_path / "run" / "test_results.tsv").read_text().splitlines()
    told = out.read_text().splitlines()
    header = ["guid", "label", "p(food, drink)", "p(x)"]
    assert told[0].split("\t") == [*header, "text"]
    assert predicted[0].split("\t") == [*header, "true_label", "text"]
    for row, other, name, truth in zip(told[1:], predicted[1:], ("n 1", "n 2"), ("x", "")):
        row, other = row.split("\t"), other.split("\t")
        assert row[:2] == other[:2] == [name, "food, drink;x"]
        assert other[4] == truth and row[-1] == other[-1]
        np.testing.assert_allclose(
            [float(p) for p in row[2:4]], [float(p) for p in other[2:4]], atol=2e-6
        )


def columns_of(settings, *arguments):
    return answers.Form(settings, *arguments).header


def test_the_columns_of_answers():
    regression = SETTINGS._replace(problem_type="regression", labels=["score"])
    pairs = SETTINGS._replace(texts_per_example=2)
    of_labels = ["p(a)", "p(b)"]
    assert columns_of(SETTINGS) == ["label", "confidence", *of_labels, "text"]
    assert columns_of(pairs, "guid", True) == (
        ["guid", "label", "confidence", *of_labels, "true_label", "text", "text_b"]
    )
    several = SETTINGS._replace(problem_type="multi_label")
    assert columns_of(several, "index") == ["index", "label", *of_labels, "text"]
    assert columns_of(regression, None, True) == ["score", "true_score", "text"]
    # Two columns of one name are one too many, in a table and in JSON.
    for name in ("label", "text", "confidence", "top_k", "p(a)"):
        assert columns_of(several, name)[0] == "id"


def test_no_cell_has_a_control_character():
    pairs = SETTINGS._replace(texts_per_example=2)
    (prediction,) = answers.decide(pairs, np.array([[0.25, 0.75]], np.float32))
    form = answers.Form(pairs, "i\td", True)
    cells = form.cells(prediction, ["a\tb\r\n", "\x1b[1m\u2028"], "1\t2", "a")
    assert form.header[0] == "i d"
    assert cells == ["1 2", "b", "0.750000", "0.250000", "0.750000", "a", "a b  ", " [1m "]
    assert len(cells) == len(form.header)


def answers_to(settings, *rows):
    return answers.decide(settings, np.array(rows, np.float32))


def test_json_lines_have_the_names_of_the_columns():
    (prediction,) = answers_to(SETTINGS, [0.25, 0.75])
    told = json.loads(answers.Form(SETTINGS, "guid").json_line(prediction, ["t"], "7"))
    assert told == {
        "guid": "7",
        "label": "b",
        "confidence": 0.75,
        "probabilities": {"a": 0.25, "b": 0.75},
        "top_k": [{"label": "b", "probability": 0.75}, {"label": "a", "probability": 0.25}],
        "text": "t",
    }
    regression = SETTINGS._replace(problem_type="regression", labels=["score"])
    (prediction,) = answers_to(regression, 2.5)
    assert json.loads(answers.Form(regression).json_line(prediction, ["t"])) == {
        "score": 2.5,
        "text": "t",
    }


@pytest.mark.parametrize(
    "content, arguments, name, expected",
    [
        ("id\ttext\nx\tgood\ny\tbad\n", [], "id", ["x", "y"]),
        ("text\tindex\tguid\ngood\t7\tx\nbad\t8\ty\n", [], "index", ["7", "8"]),
        ("text\tkey\ngood\tx\nbad\ty\n", ["--id_column=key"], "key", ["x", "y"]),
        ("good\tx\nbad\ty\n", ["--id_column=2", "--text_column=1"], "id", ["x", "y"]),
        ("text\ngood\nbad\n", [], "index", ["0", "1"]),
        ("text\tid\tid\ngood\tx\ty\nbad\tx\ty\n", [], "index", ["0", "1"]),
    ],
)
def test_what_names_a_row_is_kept(output_dir, tmp_path, capsys, content, arguments, name, expected):
    path = tmp_path / "t.tsv"
    path.write_text(content)
    export = os.path.join(output_dir, "frozen_model.pb")
    arguments = [export, "--input_file=%s" % path, *arguments]
    assert predict.main(arguments) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows[0][0] == name and [row[0] for row in rows[1:]] == expected
    assert predict.main([*arguments, "--output_format=jsonl"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line[name] for line in lines] == expected


def test_columns_are_for_tables(output_dir, capsys):
    export = os.path.join(output_dir, "frozen_model.pb")
    for flag in ("--id_column=x", "--text_column=x", "--text_b_column=x", "--separator=comma"):
        assert predict.main([export, "good", flag]) == 2
        assert flag.split("=")[0] in capsys.readouterr().err


def test_what_is_not_sure_enough_is_left_out_by_both_programs(small_run, output_dir, tmp_path):
    folder = small_run.copy(tmp_path / "run")
    arguments = [*small_run.arguments, "--output_dir=" + folder, "--do_predict"]
    run_classifier_gpu.run_classifier(parsed(*arguments))

    def rows():
        with open(os.path.join(folder, "test_results.tsv")) as stream:
            return [line.rstrip("\n").split("\t") for line in stream][1:]

    before = rows()
    threshold = sorted(float(row[2]) for row in before)[len(before) // 2]
    more = ["--min_confidence=%f" % threshold, "--do_export", "--calibrate"]
    run_classifier_gpu.run_classifier(parsed(*arguments, *more[:1]))
    labels = [row[1] for row in rows()]
    assert [row[2:] for row in rows()] == [row[2:] for row in before]
    sure = [float(row[2]) > threshold for row in before]
    assert all(bool(label) for label in itertools.compress(labels, sure))
    assert "" in labels
    # With a temperature as well.
    run_classifier_gpu.run_classifier(parsed(*arguments, *more))
    with predictor.Predictor(os.path.join(folder, "export", "saved_model")) as loaded:
        assert loaded.settings.temperature != 1
        told = loaded.predict([row[-1] for row in before])
    for row, answer in zip(rows(), told):
        assert row[1] == (answer.label or "")
        assert float(row[2]) == pytest.approx(answer.confidence, abs=2e-6)


# 2.9: a description that is damaged


@pytest.mark.parametrize(
    "change",
    [
        {"digests": None},
        {"digests": []},
        {"digests": {}},
        {"settings": None},
        {"settings": []},
        {"settings": {}},
        {"settings": {"problem_type": "guess"}},
        {"settings": {"problem_type": ["classification"]}},
        {"settings": {"max_seq_length": "16"}},
        {"settings": {"max_seq_length": True}},
        {"settings": {"do_lower_case": "yes"}},
        {"settings": {"truncation": []}},
        {"settings": {"window_stride": -1}},
        {"settings": {"texts_per_example": 3}},
        {"settings": {"thresholds": [0.5]}},
        {"settings": {"thresholds": 0.5}},
        {"settings": {"temperature": 0}},
        {"settings": {"temperature": "warm"}},
        {"settings": {"temperature": float("nan")}},
        {"settings": {"min_confidence": 2}},
        {"settings": {"label_separator": 1}},
    ],
)
def test_a_damaged_description_is_told_in_one_line(output_dir, tmp_path, change):
    export = str(tmp_path / "export")
    shutil.copytree(exports_in(output_dir, "export", "saved_model")[-1], export)
    with changed_description(export) as description:
        for name, value in change.items():
            if isinstance(value, dict) and value:
                description[name].update(value)
            elif value is None:
                del description[name]
            else:
                description[name] = value
    with pytest.raises(BadInput) as refused:
        bundle.open_bundle(export)
    assert "\n" not in str(refused.value) and "--do_export" in str(refused.value)


def test_a_description_that_is_nested_too_deeply_is_told_in_one_line(output_dir, tmp_path):
    export = str(tmp_path / "export")
    shutil.copytree(exports_in(output_dir, "export", "saved_model")[-1], export)
    with open(os.path.join(export, "assets.extra", "bundle.json"), "w") as stream:
        stream.write("[" * 100000)
    with pytest.raises(BadInput, match="bundle.json is damaged"):
        bundle.open_bundle(export)


def test_an_export_of_before_opens(output_dir, tmp_path):
    export = str(tmp_path / "export")
    shutil.copytree(exports_in(output_dir, "export", "saved_model")[-1], export)
    with changed_description(export) as description:
        del description["settings"]["label_separator"]
    with predictor.Predictor(export) as loaded:
        assert loaded.settings.label_separator == ","

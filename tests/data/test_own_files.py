"""A user's own files, from the command line to the answers: any format, any columns, any labels."""

from __future__ import annotations

import csv
import gzip
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from program import parsed

import run_classifier_gpu
import tokenization
from bert_classifier.config import OwnFiles
from bert_classifier.data import examples as examples_module
from bert_classifier.data import labels as labels_files
from bert_classifier.data import tables, tasks
from bert_classifier.data.examples import Examples
from bert_classifier.data.features import Converter
from bert_classifier.data.processors import get_processor
from bert_classifier.data.tasks import file_task
from bert_classifier.errors import BadInput
from bert_classifier.serving.predictor import Predictor

TEXTS = [
    "the film was %s ." % word for word in ("good", "bad", "fine", "awful", "great", "sad")
] * 6
SENTIMENTS = ["positive", "negative"] * 18
SCORES = [4.5, 0.5] * 18
TAGS = [("film", "praise"), ("film",), ()] * 12


def write_csv(path, *rows):
    with open(str(path), "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    return str(path)


def read(task, path, split="train"):
    return list(getattr(get_processor("file", None, task), "get_%s_examples" % split)(None, path))


def pairs_of(examples):
    return [(example.text_a, example.label) for example in examples]


# Reading


def test_the_same_examples_from_every_format(tmp_path):
    expected = list(zip(TEXTS, SENTIMENTS))
    rows = [(number, label, text) for number, (text, label) in enumerate(expected)]
    header = ("id", "sentiment", "review text")
    tsv = "".join("%s\t%s\t%s\n" % row for row in [header, *rows])
    (tmp_path / "a.tsv").write_text(tsv)
    with gzip.open(str(tmp_path / "b.tsv.gz"), "wt") as stream:
        stream.write(tsv)
    write_csv(tmp_path / "c.csv", header, *rows)
    objects = "".join(json.dumps(dict(zip(header, row))) + "\n" for row in rows)
    (tmp_path / "d.jsonl").write_text(objects)
    (tmp_path / "e.data").write_text(tsv)
    for text, label in (("review text", "sentiment"), ("3", "2")):
        for name in "a.tsv", "b.tsv.gz", "c.csv", "d.jsonl":
            has_header = True if text == "3" else None
            task = file_task(OwnFiles(text_column=text, label_column=label, has_header=has_header))
            assert pairs_of(read(task, str(tmp_path / name))) == expected, name
    task = file_task(
        OwnFiles(text_column="review text", label_column="sentiment", file_format="tsv")
    )
    assert pairs_of(read(task, str(tmp_path / "e.data"))) == expected


def test_a_file_without_header_has_numbered_columns(tmp_path):
    path = write_csv(tmp_path / "x.csv", ("a", "good"), ("b", "text"))
    assert pairs_of(read(file_task(OwnFiles(text_column="2", label_column="1")), path)) == [
        ("good", "a"),
        ("text", "b"),
    ]
    # A cell that is the name of a column makes a header of its row, unless told.
    path = write_csv(tmp_path / "y.csv", ("label", "text"), ("a", "good"), ("b", "bad"))
    assert len(read(file_task(), path)) == 2


@pytest.mark.parametrize("text_b_column", [None, "other", "text_b"])
def test_pairs_where_there_is_a_second_column(tmp_path, text_b_column):
    name = text_b_column or "text_b"
    path = write_csv(tmp_path / "x.csv", ("text", name, "label"), ("a", "b", "0"), ("c", "d", "1"))
    examples = read(file_task(OwnFiles(text_b_column=text_b_column)), path)
    assert [(e.text_a, e.text_b) for e in examples] == [("a", "b"), ("c", "d")]


def test_labels_are_found_or_given(tmp_path):
    path = write_csv(tmp_path / "x.csv", ("text", "label"), ("a", "y"), ("b", "x"))
    processor = get_processor("file", None, file_task())
    processor.get_train_examples(None, path)
    assert processor.get_labels() == ["x", "y"]
    (tmp_path / "labels.txt").write_text("y\nz\nx\n")
    labels = labels_files.load_labels(str(tmp_path / "labels.txt"))
    processor = get_processor("file", None, file_task(labels=labels))
    processor.get_train_examples(None, path)
    assert processor.get_labels() == ["y", "z", "x"]


def test_numbers_and_sets_of_labels(tmp_path):
    path = write_csv(tmp_path / "x.csv", ("text", "label"), ("a", "1.5"), ("b", "-2"))
    task = file_task(OwnFiles(problem_type="regression"))
    assert pairs_of(read(task, path)) == [("a", 1.5), ("b", -2.0)]
    path = write_csv(tmp_path / "y.csv", ("text", "label"), ("a", "x; y"), ("b", ""), ("c", "y"))
    task = file_task(OwnFiles(problem_type="multi_label", label_separator=";"))
    assert pairs_of(read(task, path)) == [("a", ("x", "y")), ("b", ()), ("c", ("y",))]
    rows = '{"text": "a", "label": ["x", "y"]}\n{"text": "b", "label": []}\n'
    (tmp_path / "z.jsonl").write_text(rows)
    task = file_task(OwnFiles(problem_type="multi_label"))
    assert pairs_of(read(task, str(tmp_path / "z.jsonl"))) == [("a", ("x", "y")), ("b", ())]


def test_examples_are_read_as_often_as_asked_for(tmp_path):
    path = write_csv(tmp_path / "x.csv", ("text", "label"), *zip(TEXTS, SENTIMENTS))
    examples = get_processor("file").get_train_examples(None, path)
    assert isinstance(examples, Examples) and len(examples) == 36
    assert list(examples) == list(examples)
    assert examples.label_counts == {"positive": 18, "negative": 18}
    assert next(iter(examples)) in examples


def test_a_small_file_is_read_once_and_a_large_one_is_not_kept(tmp_path, monkeypatch):
    path = write_csv(tmp_path / "x.csv", ("text", "label"), *zip(TEXTS, SENTIMENTS))
    read_to_the_end = []

    def counted(table):
        yield from original(table)
        read_to_the_end.append(table.path)

    original = tables.Table.__iter__
    monkeypatch.setattr(tables.Table, "__iter__", counted)
    contents = []
    for kept_bytes, num_reads in ((examples_module._KEPT_BYTES, 1), (1000, 7)):
        monkeypatch.setattr(examples_module, "_KEPT_BYTES", kept_bytes)
        del read_to_the_end[:]
        whole = get_processor("file").get_train_examples(None, path)
        parts = whole.divide(0.25)
        contents.append([(list(part), part.label_counts) for part in (whole, *parts)])
        assert [part.set_type for part in parts] == ["train", "dev"]
        assert len(read_to_the_end) == num_reads
    assert contents[0] == contents[1]
    assert {example.guid.split("-")[0] for example in contents[0][2][0]} == {"dev"}


CELLS = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=40)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=4), do_lower_case=st.booleans())
def test_any_text_is_read_and_split_as_google_does(
    tmp_path_factory, tiny_bert, google_with_the_last_control_rule, rows, do_lower_case
):
    path = str(tmp_path_factory.mktemp("rows") / "x.jsonl")
    with open(path, "w", encoding="utf-8") as stream:
        for text, text_b in rows:
            stream.write(json.dumps({"text": text, "text_b": text_b}, ensure_ascii=False) + "\n")
    try:
        examples = read(file_task(labels=["a", "b"]), path, "test")
    except BadInput as error:
        assert "\n" not in str(error)
        # A NUL byte, or a cell with nothing but white space.
        assert any(not cell.strip() or "\0" in cell for row in rows for cell in row)
        return
    assert [(example.text_a, example.text_b) for example in examples] == rows
    ours, theirs = (
        module.FullTokenizer(tiny_bert.vocab_file, do_lower_case)
        for module in (tokenization, google_with_the_last_control_rule)
    )
    converter = Converter(["a", "b"], 16, ours)
    for example in examples:
        for text in example.text_a, example.text_b:
            assert ours.tokenize(text) == theirs.tokenize(text)
            words = theirs.basic_tokenizer.tokenize(text)
            assert ours.basic_tokenizer.tokenize(text) == words
        assert len(converter.convert(example).input_ids) <= 16


# A dev set


@pytest.mark.parametrize(
    "fraction,of_dev", [(0.1, (10, 3, 1)), (0.5, (50, 15, 2)), (1e-6, (1, 1, 1))]
)
def test_each_class_gives_its_part_to_the_dev_set(tmp_path, fraction, of_dev):
    labels = ["a"] * 100 + ["b"] * 30 + ["c"] * 5
    rows = [("text %d" % number, label) for number, label in enumerate(labels)]
    path = write_csv(tmp_path / "x.csv", ("text", "label"), *rows)
    whole = get_processor("file").get_train_examples(None, path)
    train, dev = whole.divide(fraction)
    assert tuple(dev.label_counts[label] for label in "abc") == of_dev
    assert sorted(pairs_of(train) + pairs_of(dev)) == sorted(rows)
    assert len(train) + len(dev) == 135
    # Always the same ones, in the file's order, and not just the first of each class.
    again = get_processor("file").get_train_examples(None, path).divide(fraction)
    assert [list(part) for part in again] == [list(train), list(dev)]
    numbers = [int(example.text_a.split()[1]) for example in dev]
    assert numbers == sorted(numbers) and numbers[0] > 0


def test_a_class_of_one_example_is_learned(tmp_path):
    rows = [("a", "x"), ("b", "y"), ("c", "y"), ("d", "y")]
    path = write_csv(tmp_path / "x.csv", ("text", "label"), *rows)
    train, dev = get_processor("file").get_train_examples(None, path).divide(0.9)
    assert train.label_counts == {"x": 1} and dev.label_counts == {"y": 3}


# From end to end


@pytest.fixture
def run_own_file(small_run, tmp_path):
    def run(problem_type, header, rows, *arguments):
        train_file = write_csv(tmp_path / "train.csv", header, *rows)
        test_file = write_csv(tmp_path / "test.csv", header[:1], *[row[:1] for row in rows[:5]])
        model = [a for a in small_run.arguments if "bert" in a or "vocab" in a or "init" in a]
        output_dir = str(tmp_path / "output")
        metrics = run_classifier_gpu.run_classifier(
            parsed(
                "--do_train",
                "--do_eval",
                "--do_predict",
                "--do_export",
                "--task_name=file",
                "--problem_type=" + problem_type,
                "--train_file=" + train_file,
                "--test_file=" + test_file,
                "--output_dir=" + output_dir,
                "--max_seq_length=16",
                "--train_batch_size=8",
                "--num_train_epochs=1",
                "--dev_fraction=0.3",
                *model,
                *arguments,
            )
        )
        with open(os.path.join(output_dir, "test_results.tsv"), encoding="utf-8") as stream:
            table = [line.rstrip("\n").split("\t") for line in stream]
        (export,) = os.listdir(os.path.join(output_dir, "export", "saved_model"))
        with Predictor(os.path.join(output_dir, "export", "saved_model", export)) as predictor:
            answers = predictor.predict([row[0] for row in rows[:5]])
        return metrics, table, answers

    return run


def test_numbers_from_training_to_the_predictor(run_own_file):
    metrics, table, answers = run_own_file(
        "regression", ("text", "label"), list(zip(TEXTS, SCORES)), "--best_metric=eval_pearson"
    )
    assert set(metrics) >= {"eval_pearson", "eval_spearman", "eval_mse", "eval_loss"}
    assert metrics["eval_mse"] == pytest.approx(metrics["eval_loss"], abs=1e-6)
    assert table[0] == ["index", "score", "text"]
    told = [float(row[1]) for row in table[1:]]
    np.testing.assert_allclose([answer.label for answer in answers], told, atol=1e-3)
    assert answers[0].probabilities == {} and answers[0].confidence is None


def test_several_labels_from_training_to_the_predictor(run_own_file):
    rows = [(text, ",".join(tags)) for text, tags in zip(TEXTS, TAGS)]
    metrics, table, answers = run_own_file(
        "multi_label", ("text", "label"), rows, "--best_metric=eval_f1_micro", "--thresholds=0.4"
    )
    assert set(metrics) >= {"eval_accuracy", "eval_f1_micro", "eval_f1_macro", "eval_loss"}
    assert table[0] == ["index", "label", "p(film)", "p(praise)", "text"]
    for row, answer in zip(table[1:], answers):
        probabilities = [float(p) for p in row[2:4]]
        above = [label for label, p in zip(("film", "praise"), probabilities) if p > 0.4]
        assert row[1] == ",".join(above)
        assert answer.label == tuple(above)
        np.testing.assert_allclose(list(answer.probabilities.values()), probabilities, atol=1e-5)


def test_long_texts_are_read_in_windows(run_own_file, tmp_path):
    rows = [(" ".join([text] * 5), label) for text, label in zip(TEXTS, SENTIMENTS)]
    header = ("review", "class")
    columns = ("--text_column=review", "--label_column=class")
    _, table, _ = run_own_file("classification", header, rows, *columns, "--window_stride=7")
    exports = os.path.join(str(tmp_path), "output", "export", "saved_model")
    (export,) = os.listdir(exports)
    with Predictor(os.path.join(exports, export)) as predictor:
        answers = predictor.predict([text for text, _ in rows])
    for row, answer in zip(table[1:], answers):
        told = [float(p) for p in row[3:5]]
        np.testing.assert_allclose(list(answer.probabilities.values()), told, atol=1e-5)


def test_what_glue_wants_to_be_submitted(small_run, tmp_path):
    def write(name, lines):
        (tmp_path / name).write_text("".join(line + "\n" for line in lines))

    labelled = ["%s\t%d" % (text, number % 2) for number, text in enumerate(TEXTS)]
    write("train.tsv", ["sentence\tlabel", *labelled])
    write("dev.tsv", ["sentence\tlabel", *labelled[:9]])
    write("test.tsv", ["index\tsentence", *("%d\t%s" % item for item in enumerate(TEXTS[:4]))])
    model = [a for a in small_run.arguments if "bert" in a or "vocab" in a or "init" in a]
    output_dir = tmp_path / "output"
    run_classifier_gpu.run_classifier(
        parsed(
            "--do_train",
            "--do_predict",
            "--task_name=sst-2",
            "--data_dir=" + str(tmp_path),
            "--output_dir=" + str(output_dir),
            "--max_seq_length=16",
            "--train_batch_size=8",
            "--num_train_epochs=1",
            *model,
        )
    )
    lines = (output_dir / "SST-2.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction"
    told = [
        line.split("\t")[1] for line in (output_dir / "test_results.tsv").read_text().splitlines()
    ]
    assert [line.split("\t") for line in lines[1:]] == [
        [str(index), label] for index, label in enumerate(told[1:])
    ]


def test_glue_has_a_submission_file_for_every_task():
    files = {name: task.submission for name, task in tasks.TASKS.items() if task.submission}
    assert files == {
        "cola": "CoLA.tsv",
        "mnli": "MNLI-m.tsv",
        "mnli-mm": "MNLI-mm.tsv",
        "mrpc": "MRPC.tsv",
        "qnli": "QNLI.tsv",
        "qqp": "QQP.tsv",
        "rte": "RTE.tsv",
        "sst-2": "SST-2.tsv",
        "sts-b": "STS-B.tsv",
        "wnli": "WNLI.tsv",
    }


def test_weights_of_classes_are_not_for_numbers(small_run, tmp_path):
    path = write_csv(tmp_path / "x.csv", ("text", "label"), *zip(TEXTS, SCORES))
    config = parsed(
        *small_run.command(
            tmp_path / "output", "--problem_type=regression", "--label_smoothing=0.1"
        ),
        "--train_file=" + path,
        "--dev_file=" + path,
    )
    with pytest.raises(BadInput, match="are for classes"):
        run_classifier_gpu.run_classifier(config)
    assert not (tmp_path / "output").exists()

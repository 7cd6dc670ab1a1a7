"""Files that people have, and what this program once made of them."""

from __future__ import annotations

import json
import os
import random

import pytest
from program import model_flags, parsed

import run_classifier_gpu
import tokenization
from bert_classifier import predict
from bert_classifier.config import OwnFiles
from bert_classifier.data import labels as labels_files
from bert_classifier.data import tasks
from bert_classifier.data.inputs import load_inputs, needed_splits
from bert_classifier.data.processors import get_processor
from bert_classifier.data.trained import Trained
from bert_classifier.errors import BadInput
from bert_classifier.inspection import checks

DAY_AND_NIGHT = [
    (f"{'sun' if n % 2 else 'rain'} w{n}", "pos" if n % 2 else "neg") for n in range(24)
]
TSV = "label\ttext\n" + "".join(f"{label}\t{text}\n" for text, label in DAY_AND_NIGHT)
TAGS = [["a", "b"], ["b", "c"]] * 12
NUMBERED = ["--label_column=1", "--text_column=2"]
SEVERAL = ["--problem_type=multi_label"]
HTML = "Tom &amp; Jerry &lt;3"
BLANK = "is blank; remove it"


def json_lines(*rows, **extra):
    return "".join(json.dumps({**row, **extra}) + "\n" for row in rows)


def rows_of(*pairs):
    return [{"text": text, "label": label} for text, label in pairs]


def without_label(pairs, label):
    return "label\ttext\n" + "".join(f"{label}\t{text}\n" for text, _ in pairs)


def named(label):
    """The texts, of which the good ones have another label."""
    return TSV.replace("pos", label)


def csv_of(separator, first="", quote="%s"):
    return first + "".join(f"{label}{separator}{quote % text}\n" for text, label in DAY_AND_NIGHT)


# The training file and its name, flags, and its labels or what the error has to say.
TRAIN_FILES = {
    "F03a another separator": (
        json_lines(*rows_of(*((f"w{n}", tags) for n, tags in enumerate(TAGS)))),
        "l.jsonl",
        [*SEVERAL, "--label_separator=;"],
        ["a", "b", "c"],
    ),
    "F03b another separator": (
        json_lines(*rows_of(*((f"w{n}", tags) for n, tags in enumerate(TAGS)))),
        "l.jsonl",
        [*SEVERAL, "--label_separator=|"],
        ["a", "b", "c"],
    ),
    "F03 a label with the separator": (
        json_lines(*rows_of(("sun", ["food, drink", "x"]), ("rain", ["x"]), ("joy", ["a;b"]))),
        "l.jsonl",
        SEVERAL,
        ["a;b", "food, drink", "x"],
    ),
    "F03 texts beside lists": (
        json_lines(*rows_of(("sun", "a; b"), ("rain", ["b"]), ("joy", []), ("w1", None))),
        "l.jsonl",
        [*SEVERAL, "--label_separator=;"],
        ["a", "b"],
    ),
    "F03 lists of one class": (
        json_lines(*rows_of(("sun", ["a,b"]), ("rain", ["c"]), ("joy", ["c"]))),
        "l.jsonl",
        [],
        ["a,b", "c"],
    ),
    "F03 lists of several where one is read": (
        json_lines(*rows_of(("sun", ["a"]), ("rain", ["a", "b"]))),
        "l.jsonl",
        [],
        "l.jsonl:2: 2 labels; give --problem_type=multi_label",
    ),
    "F10a entities in every row": (
        csv_of(",", quote=HTML + " %s"),
        "h.csv",
        [*NUMBERED, "--nohas_header"],
        "commas as well as semicolons may separate its columns; give --separator=comma or",
    ),
    "F10a entities in every row, told": (
        csv_of(",", quote=HTML + " %s"),
        "h.csv",
        [*NUMBERED, "--nohas_header", "--separator=comma"],
        ["neg", "pos"],
    ),
    "F10a entities in every row, told otherwise": (
        csv_of(";", quote="%s, joy"),
        "h.csv",
        [*NUMBERED, "--separator=semicolon"],
        ["neg", "pos"],
    ),
    "F10b semicolons in the first row": (
        csv_of(",", "pos,sun; sun; w1\n"),
        "h.csv",
        [*NUMBERED, "--nohas_header"],
        ["neg", "pos"],
    ),
    "F10 commas in the first row": (
        csv_of(";", "pos;sun, sun, w1\n"),
        "h.csv",
        [*NUMBERED, "--nohas_header"],
        ["neg", "pos"],
    ),
    "F10 semicolons in a header": (csv_of(",", "label,text\n"), "h.csv", [], ["neg", "pos"]),
    "F11a an object that nobody asks for": (
        json_lines(*rows_of(*DAY_AND_NIGHT), meta={}),
        "j.jsonl",
        [],
        ["neg", "pos"],
    ),
    "F11b a key of some rows": (
        json_lines(*rows_of(*DAY_AND_NIGHT)) + json_lines(*rows_of(*DAY_AND_NIGHT), vote="2"),
        "j.jsonl",
        [],
        ["neg", "pos"],
    ),
    "F11c an object of the first row": (
        json_lines(*rows_of(*DAY_AND_NIGHT[:1]), style={"Format:": " Hardcover"})
        + json_lines(*rows_of(*DAY_AND_NIGHT[1:])),
        "j.jsonl",
        [],
        ["neg", "pos"],
    ),
    "F11d lists with commas": (
        json_lines(*rows_of(*DAY_AND_NIGHT), words=["a,b"]),
        "j.jsonl",
        [],
        ["neg", "pos"],
    ),
    "F11f lists of lists": (
        json_lines(*rows_of(*DAY_AND_NIGHT), spans=[[0, 2]], score=float("nan")),
        "j.jsonl",
        [],
        ["neg", "pos"],
    ),
    "F11 an object that is asked for": (
        json_lines({"text": {"en": "sun"}, "label": "pos"}),
        "j.jsonl",
        [],
        "j.jsonl:1: the value of 'text' cannot be used",
    ),
    "F11 an object that a flag asks for": (
        json_lines({"review": {"en": "sun"}, "stars": "pos"}),
        "j.jsonl",
        ["--text_column=review", "--label_column=2"],
        "j.jsonl:1: the value of 'review' cannot be used",
    ),
    "F11 a second text of later rows only": (
        json_lines(*rows_of(*DAY_AND_NIGHT)) + json_lines(*rows_of(*DAY_AND_NIGHT), text_b="joy"),
        "j.jsonl",
        [],
        "j.jsonl:25: key 'text_b' is not in the first object",
    ),
    "F11 a label under a wrong key": (
        json_lines(*rows_of(("sun", ["a"]), ("rain", ["b"])), {"text": "joy", "lable": ["a"]}),
        "j.jsonl",
        SEVERAL,
        "j.jsonl:3: key 'lable' is not in the first object; add it there, as null, or correct it",
    ),
    "F18a ZWNJ": (named("\u0645\u06cc\u200c\u0634\u0648\u062f"), "u.tsv", [], None),
    "F18c ideographic space": (named("\u552e\u540e\u3000\u670d\u52a1"), "u.tsv", [], None),
    "F18e ZWJ": (named("\u0915\u094d\u200d\u0937"), "u.tsv", [], None),
    "F18f soft hyphen": (named("Liefer\u00adzeit"), "u.tsv", [], None),
    "F18 no-break space": (named("tr\u00e8s\u00a0bien"), "u.tsv", [], None),
    "F18 a bell": (named("po\x07s"), "u.tsv", [], "u.tsv:3: label 'po\\x07s' has the character"),
    "F18 a line separator": (
        named("po\u2028s"),
        "u.tsv",
        [],
        "has the character '\\u2028'; remove",
    ),
    "F18 a tab in CSV": (
        'label,text\n"a\tb",c\n',
        "u.csv",
        [],
        "has the character '\\t'; remove it",
    ),
    "F19a a line of 1.2 MB": (TSV + "pos\t" + "sun w1 " * 170000 + "\n", "g.tsv", [], None),
    "F19b a cell of 1,200 lines": (
        csv_of(",", "label,text\n") + 'pos,"' + "sun w1\n" * 1200 + '"\n',
        "g.csv",
        [],
        ["neg", "pos"],
    ),
    "F20a no separator": (
        TSV,
        "a.tsv",
        [*SEVERAL, "--label_separator="],
        "--label_separator='': cannot stand between labels; give a character such as ,",
    ),
    "F20a a separator that ends a cell": (
        TSV,
        "a.tsv",
        [*SEVERAL, "--label_separator=\t"],
        "--label_separator='\\t': cannot stand between labels",
    ),
    "F21 one of several labels": (named(""), "a.tsv", SEVERAL, ["neg"]),
    "F21 one class": (TSV.replace("pos", "neg"), "a.tsv", [], "'neg' is the only label; a class"),
    "F22a CSV": (csv_of(",", "label,text\nneg,a\n\n"), "b.csv", [], f"b.csv:3: {BLANK}"),
    "F22b TSV": (TSV.replace("neg", "\nneg", 1), "b.tsv", [], f"b.tsv:2: {BLANK}"),
    "F22 one column": ("text\nsun\n\nrain\n", "b.tsv", ["--label_column=1"], "b.tsv:3: column"),
    "F24a sep=;": (
        csv_of(";", "sep=;\nlabel;text\n", "%s, joy").replace("\n", "\r\n"),
        "e.csv",
        [],
        ["neg", "pos"],
    ),
    "F24 sep=, and no header": (csv_of(",", "sep=,\n"), "e.csv", NUMBERED, ["neg", "pos"]),
    "F29 a header where a number is read": (
        "score\ttext x\n1.5\tsun\n2\train\n",
        "n.tsv",
        [*NUMBERED, "--problem_type=regression"],
        "n.tsv:1: label 'score' is no number; write one, such as 2.5; if this is a header, give",
    ),
    "F30a parquet": ("PAR1" + "\0" * 60, "p.tsv", [], "p.tsv:1: is no text file; save the table"),
    "N10 an id per row": (
        "label\ttext\n" + "".join(f"{n}\tsun w{n}\n" for n in range(300)),
        "i.tsv",
        [],
        "i.tsv: 300 examples are too few to set some aside for the evaluation: there are 300 labels"
        " of one example each; give a --dev_file, or another --label_column if 'label' is not",
    ),
    "N14 no text column": (
        "review\tlabel\nsun\tpos\n",
        "c.tsv",
        [],
        "no column 'text'; the columns, separated by tabs, are ['review', 'label']; give --text_",
    ),
    "N14 no label column": ("text\tstars\nsun\t5\n", "c.tsv", [], "]; give --label_column"),
    "N14 no second text": (TSV, "c.tsv", ["--text_b_column=b"], "]; give --text_b_column"),
    "N14 no label column in JSON": (json_lines({"text": "a"}), "c.json", [], "give --label_column"),
}


@pytest.fixture
def load(tmp_path, tiny_bert):
    """Writes files, and reads what flags say about them as a run does."""

    def load_files(files, *arguments, task="file", actions=("--do_train",)):
        for name, text in files.items():
            (tmp_path / name).write_bytes(text.encode("utf-8"))
        config = parsed(
            *actions,
            "--task_name=" + task,
            "--data_dir=" + str(tmp_path),
            "--output_dir=" + str(tmp_path / "output"),
            "--max_seq_length=16",
            *model_flags(tiny_bert),
            *arguments,
        )
        splits = needed_splits(config.actions, config.export.calibrate, has_sample=False)
        return load_inputs(config, Trained(), splits)

    return load_files


@pytest.mark.parametrize("name", TRAIN_FILES)
def test_training_file(load, name):
    text, file_name, arguments, expected = TRAIN_FILES[name]
    arguments = [f"--train_file={file_name}", *arguments]
    if isinstance(expected, str):
        with pytest.raises(BadInput) as error:
            load({file_name: text}, *arguments)
        assert expected in str(error.value)
        assert str(error.value).isprintable() and len(str(error.value)) < 1000
    else:
        inputs = load({file_name: text}, *arguments)
        assert len(inputs.labels) == 2 if expected is None else inputs.labels == expected


# What the program reads more than once


@pytest.mark.parametrize(
    "flag",
    [
        "train_file",
        "dev_file",
        "test_file",
        "labels_file",
        "class_weights",
        "thresholds",
        "vocab_file",
        "bert_config_file",
    ],
)
@pytest.mark.parametrize("kind", ["FIFO", "pipe"])
def test_F02_a_pipe_is_no_file(load, tmp_path, flag, kind):
    path = str(tmp_path / "pipe.tsv")
    ends = os.pipe()
    if kind == "FIFO":
        os.mkfifo(path)
    else:
        path = f"/dev/fd/{ends[0]}"
    actions = ["--do_train", "--do_predict"]
    if flag == "thresholds":
        actions += SEVERAL
    with pytest.raises(BadInput) as error:
        load(
            {"train.tsv": TSV, "test.tsv": TSV},
            f"--{flag}={path}",
            "--file_format=tsv",
            actions=actions,
        )
    said = f"{path}: is a pipe and can be read only once; write it to a file first"
    assert str(error.value) == said
    for end in ends:
        os.close(end)


@pytest.mark.parametrize("flag", ["train_file", "labels_file", "vocab_file", "bert_config_file"])
def test_F02_a_folder_is_no_file(load, tmp_path, flag):
    with pytest.raises(BadInput) as error:
        load({"train.tsv": TSV}, f"--{flag}={tmp_path}")
    assert str(error.value).startswith(f"{tmp_path}: ") and "directory" in str(error.value)
    assert "\n" not in str(error.value)


def test_F02_a_pipe_is_no_input_file_of_the_predictor(small_run, tmp_path, capsys):
    os.mkfifo(str(tmp_path / "q.tsv"))
    folder = os.path.join(small_run.output_dir, "export", "saved_model")
    (export,) = os.listdir(folder)
    arguments = [os.path.join(folder, export), f"--input_file={tmp_path / 'q.tsv'}"]
    assert predict.main(arguments) == 2
    printed = capsys.readouterr()
    assert "q.tsv: is a pipe and can be read only once; write it to a file first" in printed.err
    assert len(printed.out.splitlines()) <= 1


# QQP


QQP = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
QQP_TRAIN = QQP + "".join(f"{n}\t1\t2\tsun w{n}\train w{n}\t{n % 2}\n" for n in range(12))
QQP_TEST = "id\tquestion1\tquestion2\n0\tsun\train\n"


def test_F06_rows_of_qqp_without_a_question_are_left_out_and_counted(load):
    files = {
        "train.tsv": QQP_TRAIN + "310137\t1\t2\tsun w1\t\t0\n1\t1\t2\tsun\n2\t1\t2\t \tsun\t1\n",
        "dev.tsv": QQP_TRAIN + "9\t1\t2\tsun w1\t\t0\n",
        "test.tsv": QQP_TEST + "5\tsun\t\n6\t\train\n",
    }
    actions = ["--do_train", "--do_eval", "--do_predict"]
    inputs = load(files, task="qqp", actions=actions)
    assert [len(inputs.examples[split]) for split in ("train", "dev", "test")] == [12, 12, 3]
    assert [inputs.examples[split].skipped for split in ("train", "dev", "test")] == [3, 1, 0]
    test = inputs.examples["test"]
    assert [(e.text_a, e.text_b) for e in test] == [("sun", "rain"), ("sun", ""), ("", "rain")]
    assert list(test.ids()) == ["0", "5", "6"]
    assert [len(list(part.ids())) for part in inputs.examples["train"].divide(0.25)] == [8, 4]


def test_F06_texts_of_pairs_that_are_empty_are_still_pairs(load, tiny_bert):
    files = {"train.tsv": QQP_TRAIN, "dev.tsv": QQP_TRAIN, "test.tsv": QQP_TEST + "5\tsun\t\n"}
    inputs = load(files, task="qqp", actions=["--do_train", "--do_predict"])
    tokenizer = tokenization.FullTokenizer(tiny_bert.vocab_file)
    splits = {
        name: checks._Split(name, "x", examples, tokenizer, "classification")
        for name, examples in inputs.examples.items()
    }
    assert all(split.texts_per_row == {2} for split in splits.values())
    assert splits["test"].num_empty == 1


def test_F06_other_tasks_want_all_their_texts(load):
    files = {"train.tsv": TSV, "test.tsv": "text\nsun\n \nrain\n"}
    with pytest.raises(BadInput, match="test.tsv:3: column 'text' is empty"):
        load(files, actions=["--do_train", "--do_predict"])


# Labels of test files

TESTS = {
    "F09a -1": ("classification", "-1", "unknown label '-1'; known are neg, pos"),
    "F09b empty": ("classification", "", "column 'label' is empty; complete the row or remove it"),
    "F09c ?": ("classification", "?", "unknown label '?'; known are neg, pos"),
    "F09d NA": ("regression", "NA", "label 'NA' is no number; write one, such"),
    "F09 inf": ("regression", "inf", "label 'inf' is no number; write one, such"),
    "F09 one of several": ("multi_label", "-1", "unknown label '-1'; known are neg, pos"),
    "F09 control": ("classification", "a\x07", "label 'a\\x07' has the character"),
}


@pytest.mark.parametrize("name", TESTS)
def test_F09_labels_that_are_none(tmp_path, name):
    problem_type, label, reason = TESTS[name]
    task = tasks.file_task(OwnFiles(problem_type=problem_type))
    good = "1.5" if problem_type == "regression" else "pos"
    rows = f"{good}\tsun\n" * 24 + f"{label}\tjoy\n"
    (tmp_path / "test.tsv").write_text("label\ttext\n" + rows)
    processor = get_processor("file", ["neg", "pos"], task)
    examples = processor.get_test_examples(str(tmp_path))
    assert not examples.is_labelled
    assert examples.unusable_label.startswith(f"{tmp_path / 'test.tsv'}:")
    assert reason in examples.unusable_label
    assert {example.label for example in examples} == {None}
    assert len(examples) == 25 and not examples.label_counts


def test_F09_objects_in_place_of_labels(tmp_path):
    rows = json_lines(*rows_of(("sun", "pos"), ("rain", {"stars": 1})))
    (tmp_path / "t.jsonl").write_text(rows)
    examples = get_processor("file", ["neg", "pos"]).get_test_examples(
        None, str(tmp_path / "t.jsonl")
    )
    assert not examples.is_labelled
    assert "t.jsonl:2: the value of 'label' cannot be used" in examples.unusable_label
    assert [example.text_a for example in examples] == ["sun", "rain"]


def test_F09_texts_without_any_of_several_labels(tmp_path):
    task = tasks.file_task(OwnFiles(problem_type="multi_label"), ["a", "b"])
    for text, is_labelled in (
        ("label\ttext\n\tsun\n\train\n", False),
        ("label\ttext\n\tsun\na\tx\n", True),
    ):
        (tmp_path / "test.tsv").write_text(text)
        examples = get_processor("file", None, task).get_test_examples(str(tmp_path))
        assert examples.is_labelled == is_labelled
        assert (examples.unusable_label is None) == is_labelled
    (tmp_path / "dev.tsv").write_text("label\ttext\n\tsun\n")
    assert get_processor("file", None, task).get_dev_examples(str(tmp_path)).is_labelled


def test_F09_labels_that_are_some(tmp_path):
    (tmp_path / "test.tsv").write_text(TSV)
    examples = get_processor("file", ["neg", "pos"]).get_test_examples(str(tmp_path))
    assert examples.is_labelled and examples.unusable_label is None
    assert [example.label for example in examples] == [label for _, label in DAY_AND_NIGHT]


def test_F09_no_labels_are_no_reason(tmp_path):
    (tmp_path / "test.tsv").write_text("text\nsun\n")
    examples = get_processor("file", ["neg", "pos"]).get_test_examples(str(tmp_path))
    assert not examples.is_labelled and examples.unusable_label is None


@pytest.mark.parametrize(
    "text, says",
    [
        ("label\ttext\n-1\tsun\npos\t \n", "test.tsv:3: column 'text' is empty"),
        ("label\ttext\n-1\tsun\npos\n", "test.tsv:3: columns: 1, but 2"),
        ("label\tx\n-1\tsun\n", "test.tsv:1: no column 'text'; "),
    ],
)
def test_F09_what_is_wrong_with_texts_is_still_wrong(tmp_path, text, says):
    (tmp_path / "test.tsv").write_text(text)
    with pytest.raises(BadInput, match=says):
        get_processor("file", ["neg", "pos"]).get_test_examples(str(tmp_path))


def test_F09_the_label_column_alone_shows_a_header(tmp_path):
    """Without its labels a file is read with the columns that it had with them."""
    (tmp_path / "test.tsv").write_text("label\tx\n-1\tsun\n")
    task = tasks.file_task(OwnFiles(text_column="2"))
    examples = get_processor("file", ["neg", "pos"], task).get_test_examples(str(tmp_path))
    assert [example.text_a for example in examples] == ["sun"]


def test_F09_the_label_column_alone_shows_the_separator(tmp_path):
    (tmp_path / "t.csv").write_text("label,x;y\n-1,sun;joy\n?,rain\n")
    task = tasks.file_task(OwnFiles(text_column="2"))
    examples = get_processor("file", ["a", "b"], task).get_test_examples(
        None, str(tmp_path / "t.csv")
    )
    assert [example.text_a for example in examples] == ["sun;joy", "rain"]


def test_F09_predictions_need_no_labels(small_run, tmp_path):
    output_dir = small_run.copy(tmp_path / "run")
    (tmp_path / "t.tsv").write_text("label\ttext\n-1\tthe film was good\npositive\tbad film\n")
    run_classifier_gpu.run_classifier(
        parsed(
            "--do_predict",
            *small_run.arguments,
            f"--output_dir={output_dir}",
            f"--test_file={tmp_path / 't.tsv'}",
        )
    )
    lines = (tmp_path / "run" / "test_results.tsv").read_text().splitlines()
    assert len(lines) == 3 and "the film was good" in lines[1]


# Vocabularies


@pytest.mark.parametrize("repeated", ["film", "[UNK]"])
def test_F12_a_token_twice(load, tiny_bert, tmp_path, caplog, repeated):
    with open(tiny_bert.vocab_file) as stream:
        tokens = stream.read().splitlines()
    lines = [*tokens[:-1], repeated]
    files = {"train.tsv": TSV, "v.txt": "\n".join(lines) + "\n\n\n"}
    inputs = load(files, f"--vocab_file={tmp_path / 'v.txt'}")
    assert inputs.tokenizer.vocab[repeated] == len(tokens) - 1
    (said,) = [r.getMessage() for r in caplog.records if "tokens in several lines" in r.msg]
    first = tokens.index(repeated) + 1
    assert said.endswith(f"counts: 1, the first {repeated!r} in lines {first} and {len(tokens)}")
    # A vocabulary that only lacks the line is another one.
    other = load(
        {"v.txt": "\n".join([*tokens[:-1], "other"])}, f"--vocab_file={tmp_path / 'v.txt'}"
    )
    assert other.fingerprints != inputs.fingerprints


def test_F12_more_lines_than_embeddings(load, tiny_bert, tmp_path):
    with open(tiny_bert.vocab_file) as stream:
        text = stream.read()
    with pytest.raises(BadInput, match="v.txt: 23 tokens, but vocab_size is 22"):
        load({"train.tsv": TSV, "v.txt": text + "film\n"}, f"--vocab_file={tmp_path / 'v.txt'}")


# Classes that are never learned


def test_F21_F29_are_told_before_a_run(tmp_path, tiny_bert, capsys):
    header = "cat\treview x\n"
    rows = TSV.split("\n", 1)[1]
    (tmp_path / "train.tsv").write_text(header + rows)
    (tmp_path / "dev.tsv").write_text(header + rows + "neu\tsun\n")
    (tmp_path / "labels.txt").write_text("cat\nneg\nneu\npos\n")
    run_classifier_gpu.run_classifier(
        parsed(
            "--do_train",
            "--dry_run",
            "--task_name=file",
            *NUMBERED,
            f"--data_dir={tmp_path}",
            f"--labels_file={tmp_path / 'labels.txt'}",
            f"--output_dir={tmp_path / 'output'}",
            "--max_seq_length=16",
            *model_flags(tiny_bert),
        )
    )
    screen = " ".join(capsys.readouterr().out.split())
    train_file, dev_file = tmp_path / "train.tsv", tmp_path / "dev.tsv"
    said = f"{train_file}:1: dev too begins with 'cat': if this is a header, give --has_header"
    assert said in screen
    assert f"{dev_file}:26: no example of 'neu' in {train_file}: such rows count as" in screen


def test_F21_classes_of_dev_that_labels_file_names(load, tmp_path):
    files = {"train.tsv": TSV, "dev.tsv": TSV + "neu\tsun\n", "labels.txt": "neg\nneu\npos\n"}
    inputs = load(files, f"--labels_file={tmp_path / 'labels.txt'}")
    assert inputs.labels == ["neg", "neu", "pos"]
    assert inputs.examples["dev"].label_counts["neu"] == 1


def test_F18_labels_of_a_file_are_as_those_of_the_data(tmp_path):
    (tmp_path / "labels.txt").write_text("a\u200cb\nc\n", encoding="utf-8")
    assert labels_files.load_labels(str(tmp_path / "labels.txt")) == ["a\u200cb", "c"]
    (tmp_path / "labels.txt").write_text("a\u2028b\nc\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"labels.txt:1: label 'a\\u2028b' has the character"):
        labels_files.load_labels(str(tmp_path / "labels.txt"))


def test_F22c_a_blank_line_among_weights(tmp_path):
    (tmp_path / "w.txt").write_text("pos\t2\n\nneg\t1\n")
    for load_numbers in (
        lambda path: labels_files.load_thresholds(path, ["neg", "pos"]),
        lambda path: labels_files.load_class_weights(path, ["neg", "pos"], {}),
    ):
        with pytest.raises(BadInput, match=f"w.txt:2: {BLANK}"):
            load_numbers(str(tmp_path / "w.txt"))


# The dev set that is set aside


def divided(tmp_path, labels, fraction=0.1, problem_type="classification"):
    rows = json_lines(*rows_of(*((f"w{n}", label) for n, label in enumerate(labels))))
    (tmp_path / "x.jsonl").write_text(rows)
    task = tasks.file_task(OwnFiles(problem_type=problem_type))
    whole = get_processor("file", None, task).get_train_examples(None, str(tmp_path / "x.jsonl"))
    return whole.divide(fraction)


def some_labels(num_rows, num_labels, most):
    chance = random.Random(1)
    return [
        chance.sample([f"l{n}" for n in range(num_labels)], chance.randint(0, most))
        for _ in range(num_rows)
    ]


@pytest.mark.parametrize("fraction", [0.1, 0.3])
@pytest.mark.parametrize(
    "num_rows, num_labels, most", [(1000, 30, 4), (1000, 5, 5), (500, 200, 6), (300, 1, 1)]
)
def test_R8_of_several_labels_each_gives_its_part(tmp_path, num_rows, num_labels, most, fraction):
    labels = some_labels(num_rows, num_labels, most)
    train, dev = divided(tmp_path, labels, fraction, "multi_label")
    assert len(dev) == pytest.approx(fraction * num_rows, rel=0.15)
    whole = train.label_counts + dev.label_counts
    for label, number in whole.items():
        if fraction * number >= 5:
            assert dev.label_counts[label] == pytest.approx(fraction * number, rel=0.6)


def test_R8_sets_of_labels_that_are_all_different(tmp_path):
    labels = [[f"tag {n}", f"l{n % 7}"] for n in range(500)]
    train, dev = divided(tmp_path, labels, problem_type="multi_label")
    assert len(dev) == pytest.approx(50, abs=5)
    assert all(train.label_counts[f"l{n}"] and dev.label_counts[f"l{n}"] for n in range(7))


@pytest.mark.parametrize("num_classes, of_each", [(200, 2), (1000, 3), (150, 4)])
def test_R8_many_small_classes(tmp_path, num_classes, of_each):
    labels = [f"c{n % num_classes}" for n in range(num_classes * of_each)]
    train, dev = divided(tmp_path, labels)
    assert len(dev) == pytest.approx(0.1 * len(labels), abs=2)
    assert len(train.label_counts) == num_classes and max(dev.label_counts.values()) == 1


def test_R8_a_large_class_gives_the_same_rows_beside_many_small_ones(tmp_path):
    large = ["a"] * 100
    _, alone = divided(tmp_path, [*large, "b", "b"])
    expected = [example for example in alone if example.label == "a"]
    _, dev = divided(tmp_path, large + [f"c{n // 2}" for n in range(400)])
    assert [example for example in dev if example.label == "a"] == expected
    assert len(expected) == 10 and len(dev) == pytest.approx(50, abs=2)

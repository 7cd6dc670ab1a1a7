"""Whatever is wrong with what a user gives: one line says what and where, and nothing is left."""

from __future__ import annotations

import gzip
import json
import os
import shutil

import pytest
from program import write_data

DIRECTORY = object()  # in place of a file
ROWS = b"positive\tthe film was good\nnegative\tthe film was bad\n"
LABELS_AND_TEXTS = b"label\ttext\n" + ROWS

# What is put in place of which file (None removes it), further flags, what the line has to say.
CASES = {
    # Data: the file.
    "missing train file": (
        {"data/train.tsv": None},
        [],
        "train.tsv: No such file or directory; ch",
    ),
    "missing dev file": ({}, ["--dev_file=none.tsv"], "none.tsv: No such file"),
    "missing test file": ({"data/test.tsv": None}, ["--do_predict"], "test.tsv: No such file"),
    "empty train file": ({"data/train.tsv": b""}, [], "train.tsv: is empty; check"),
    "empty dev file": ({"data/dev.tsv": b""}, [], "dev.tsv: is empty"),
    "blank lines only": ({"data/train.tsv": b"\n\r\n\n"}, [], "train.tsv: is empty"),
    "header only": ({"data/train.tsv": b"label\ttext\n"}, [], "train.tsv: holds no examples"),
    "directory for a file": ({"data/train.tsv": DIRECTORY}, [], "train.tsv: Is a directory"),
    "no data at all": ({}, ["--data_dir="], "no train file: set --data_dir or --train_file"),
    "data_dir that is a file": ({}, ["--data_dir=vocab.txt"], "train.tsv: Not a directory"),
    "unknown extension": ({"x.dat": LABELS_AND_TEXTS}, ["--train_file=x.dat"], "set --file_format"),
    "truncated gzip": (
        {"x.tsv.gz": gzip.compress(LABELS_AND_TEXTS * 99)[:60]},
        ["--train_file=x.tsv.gz"],
        "damaged gzip",
    ),
    # Data: the encoding.
    "UTF-16": ({"data/train.tsv": LABELS_AND_TEXTS.decode().encode("utf-16")}, [], ":1: is UTF-16"),
    "UTF-16 without a mark": (
        {"data/train.tsv": LABELS_AND_TEXTS.decode().encode("utf-16-le")},
        [],
        ":1: is UTF-16",
    ),
    "GBK": (
        {"data/train.tsv": LABELS_AND_TEXTS + "positive\t\u4e2d\u6587\n".encode("gbk")},
        [],
        "train.tsv:4: is not UTF-8; convert the file, for example with `iconv -f GB18030",
    ),
    "invalid UTF-8 in the middle": (
        {"data/train.tsv": LABELS_AND_TEXTS + b"positive\tgo\xffod\n" + ROWS},
        [],
        "train.tsv:4: is not UTF-8",
    ),
    "Latin-1 in the dev file": (
        {"data/dev.tsv": LABELS_AND_TEXTS + "positive\tcaf\u00e9\n".encode("latin-1")},
        [],
        "dev.tsv:4: is not UTF-8",
    ),
    "NUL byte": (
        {"data/train.tsv": LABELS_AND_TEXTS + b"negative\t\0\n"},
        [],
        ":4: has a NUL byte",
    ),
    "binary file": ({"data/train.tsv": bytes(range(256)) * 9}, [], "train.tsv:1: "),
    "line of 20 MB": (
        {"data/train.tsv": LABELS_AND_TEXTS + b"negative\t" + b"x" * 2 * 10**7 + b"\n"},
        [],
        "train.tsv:4: is longer than",
    ),
    # Data: columns and cells.
    "cell too few": (
        {"data/train.tsv": LABELS_AND_TEXTS + b"negative\n"},
        [],
        ":4: columns: 1, but",
    ),
    "cell too many": (
        {"data/dev.tsv": LABELS_AND_TEXTS + b"negative\tbad\tvery\n"},
        [],
        "dev.tsv:4: columns: 3, but 2 in line 1; a tab must stand",
    ),
    "blank line in the middle": (
        {"data/train.tsv": LABELS_AND_TEXTS + b"\n" + ROWS},
        [],
        "train.tsv:4: is blank; remove it",
    ),
    "unknown text column": (
        {},
        ["--text_column=txt"],
        "no column 'txt'; did you mean 'text'? the ",
    ),
    "unknown label column": ({}, ["--label_column=class"], "train.tsv:1: no column 'class'"),
    "unknown second text": ({}, ["--text_b_column=other"], "train.tsv:1: no column 'other'"),
    "column number too large": ({}, ["--text_column=3"], "no column '3'"),
    "column number 0": ({}, ["--text_column=0"], "no column '0'"),
    "column twice": (
        {"data/train.tsv": b"label\ttext\ttext\npositive\tgood\tfine\n"},
        [],
        "train.tsv:1: column 'text' is there more than once",
    ),
    "no header": ({"data/train.tsv": ROWS}, [], "taken for a row and not for a header"),
    "header denied": ({}, ["--nohas_header"], "taken for a row"),
    "CSV read as TSV": ({}, ["--train_file=data/train.tsv", "--file_format=csv"], "no column"),
    "unbalanced quote": (
        {"x.csv": b'label,text\npositive,"the film was good\nnegative,bad\n'},
        ["--train_file=x.csv"],
        "x.csv:2: a quotation mark opens a cell that does not end",
    ),
    "text after a quote": (
        {"x.csv": b'label,text\npositive,"good" film\n'},
        ["--train_file=x.csv"],
        "x.csv:2: text after the closing quotation mark",
    ),
    "JSON that is none": (
        {"x.jsonl": b'{"label": "positive", "text": "good"}\n{"label": \n'},
        ["--train_file=x.jsonl"],
        "x.jsonl:2: is no JSON",
    ),
    "JSON list": ({"x.json": b'[{"label": "a"}]\n'}, ["--train_file=x.json"], "x.json:1: "),
    "JSON number": ({"x.jsonl": b"7\n"}, ["--train_file=x.jsonl"], "x.jsonl:1: is no JSON object"),
    "nested JSON": (
        {"x.jsonl": b'{"label": "a", "text": {"en": "b"}}\n'},
        ["--train_file=x.jsonl"],
        "x.jsonl:1: the value of 'text' cannot be used",
    ),
    "JSON with a new key": (
        {"x.jsonl": b'{"label": "a", "text": "b"}\n{"label": "b", "txt": "b"}\n'},
        ["--train_file=x.jsonl"],
        "x.jsonl:2: key 'txt' is not in the first object",
    ),
    "empty text": (
        {"data/train.tsv": LABELS_AND_TEXTS + b"negative\t \n"},
        [],
        ":4: column 'text' is",
    ),
    "empty label": (
        {"data/train.tsv": LABELS_AND_TEXTS + b"\tgood\n"},
        [],
        ":4: column 'label' is ",
    ),
    "empty second text": (
        {"data/train.tsv": b"label\ttext\ttext_b\npositive\tgood\t\n"},
        [],
        "train.tsv:2: column 'text_b' is empty",
    ),
    # Data: labels.
    "unknown label in dev": (
        {"data/dev.tsv": LABELS_AND_TEXTS + b"neutral\tgood\n"},
        [],
        "dev.tsv:4: unknown label 'neutral'; known are negative, positive",
    ),
    "labels of dev never in train": (
        {"data/dev.tsv": b"label\ttext\ngood\tgood\nbad\tbad\n"},
        [],
        "dev.tsv:2: unknown label 'good'",
    ),
    "label of another case": (
        {"data/dev.tsv": b"label\ttext\nPositive\tgood\n"},
        [],
        "dev.tsv:2: unknown label 'Positive'",
    ),
    "one class only": (
        {"data/train.tsv": b"label\ttext\n" + b"positive\tgood\n" * 40},
        [],
        "'positive' is the only label",
    ),
    "unknown label of a GLUE task": (
        {"data/train.tsv": b"sentence\tlabel\ngood\t2\n"},
        ["--task_name=sst-2"],
        "train.tsv:2: unknown label '2'; known are 0, 1",
    ),
    "columns of another task": ({}, ["--task_name=mrpc"], "train.tsv:1: no column '#1 String'"),
    "label not in labels_file": (
        {"labels.txt": b"positive\nneutral\n"},
        ["--labels_file=labels.txt"],
        "unknown label 'negative'; known are positive, neutral",
    ),
    "missing labels_file": ({}, ["--labels_file=none.txt"], "none.txt: No such file"),
    "label twice in labels_file": (
        {"labels.txt": b"positive\nnegative\npositive\n"},
        ["--labels_file=labels.txt"],
        "labels.txt:3: 'positive' is empty or there twice",
    ),
    "number that is none": ({}, ["--problem_type=regression"], "train.tsv:2: label '"),
    "infinite number": (
        {"data/train.tsv": b"label\ttext\n1.5\tgood\ninf\tbad\n"},
        ["--problem_type=regression"],
        "train.tsv:3: label 'inf' is no number",
    ),
    "pairs in train only": (
        {
            "data/train.tsv": b"label\ttext\ttext_b\n"
            + b"positive\tgood\tfine\nnegative\tbad\tsad\n" * 9
        },
        [],
        "data/dev.tsv:2: texts: 1, but 2 in other rows; give all",
    ),
    "too few to divide": (
        {"data/dev.tsv": None, "data/train.tsv": LABELS_AND_TEXTS},
        [],
        "too few to set some aside",
    ),
    "weights without a class": (
        {"weights.tsv": b"positive\t1\n"},
        ["--class_weights=weights.tsv"],
        "weights.tsv: no weight for negative",
    ),
    "weight that is no number": (
        {"weights.tsv": b"positive\tmuch\nnegative\t1\n"},
        ["--class_weights=weights.tsv"],
        "weights.tsv:1: weight 'much'; write a number",
    ),
    "threshold above 1": (
        {},
        ["--problem_type=multi_label", "--thresholds=1.5"],
        "--thresholds=1.5: 1.5 is no probability",
    ),
    # The model.
    "missing vocabulary": ({"vocab.txt": None}, [], "vocab.txt: "),
    "empty vocabulary": ({"vocab.txt": b""}, [], "vocab.txt: "),
    "truncated vocabulary": ({"vocab.txt": b"[PAD]\n[UNK]\n[CLS]\n"}, [], "vocab.txt: "),
    "vocabulary of bytes": ({"vocab.txt": b"[PAD]\n[UNK]\n\xff\xfe\n"}, [], "vocab.txt"),
    "vocabulary that is a directory": ({"vocab.txt": DIRECTORY}, [], "vocab.txt: "),
    "vocabulary larger than the model's": (
        {"vocab.txt": lambda old: old + b"".join(b"word%d\n" % n for n in range(9))},
        [],
        "but vocab_size is",
    ),
    "cased flag for an uncased model": (
        {},
        ["--init_checkpoint=uncased_L-12_H-768_A-12/bert_model.ckpt", "--nodo_lower_case"],
        "uncased_L-12_H-768_A-12",
    ),
    "uncased flag for a cased model": (
        {},
        ["--init_checkpoint=cased_L-12_H-768_A-12/bert_model.ckpt"],
        "cased_L-12_H-768_A-12",
    ),
    "missing config": ({"bert_config.json": None}, [], "bert_config.json: no such file"),
    "config that is no JSON": ({"bert_config.json": b"{"}, [], "bert_config.json:"),
    "config that is nested too deeply": (
        {"bert_config.json": b"[" * 100000},
        [],
        "bert_config.json: nested too deeply",
    ),
    "config that is a list": ({"bert_config.json": b"[]"}, [], "bert_config.json:"),
    "config without a size": ({"bert_config.json": b'{"hidden_size": 32}'}, [], "vocab_size"),
    "config of another width": (
        {
            "bert_config.json": lambda old: json.dumps(
                dict(json.loads(old), hidden_size=64)
            ).encode()
        },
        [],
        "has shape",
    ),
    "config with more layers": (
        {
            "bert_config.json": lambda old: json.dumps(
                dict(json.loads(old), num_hidden_layers=3)
            ).encode()
        },
        [],
        "of the encoder's",
    ),
    "config with heads that do not divide": (
        {
            "bert_config.json": lambda old: json.dumps(
                dict(json.loads(old), num_attention_heads=5)
            ).encode()
        },
        [],
        "num_attention_heads",
    ),
    "checkpoint prefix that is not there": (
        {},
        ["--init_checkpoint=none.ckpt"],
        "none.ckpt: no rea",
    ),
    "checkpoint prefix that is a directory": (
        {},
        ["--init_checkpoint=data"],
        "data: no readable ch",
    ),
    "checkpoint without its index": (
        {"bert_model.ckpt.index": None},
        [],
        "bert_model.ckpt: no read",
    ),
    "checkpoint with a damaged index": (
        {"bert_model.ckpt.index": lambda old: old[: len(old) // 2]},
        [],
        "bert_model.ckpt: no readable checkpoint",
    ),
    "checkpoint without its data": (
        {"bert_model.ckpt.data-00000-of-00001": None},
        [],
        "bert_model.ckpt: no readable checkpoint",
    ),
    "truncated checkpoint": (
        {"bert_model.ckpt.data-00000-of-00001": lambda old: old[: len(old) // 2]},
        [],
        "bert_model.ckpt: no readable checkpoint",
    ),
    "index given as checkpoint": (
        {},
        ["--init_checkpoint=bert_model.ckpt.index"],
        "--init_checkpoint is a prefix",
    ),
    # Flags.
    "sequences longer than the model's": ({}, ["--max_seq_length=64"], "allows up to 32"),
    "sequences of no token": ({}, ["--max_seq_length=2"], "max_seq_length"),
    "batch of none": ({}, ["--train_batch_size=0"], "train_batch_size"),
    "negative batch": ({}, ["--eval_batch_size=-8"], "eval_batch_size"),
    "huge batch": ({}, ["--train_batch_size=1000000"], "make no single step"),
    "batch that is no number": ({}, ["--train_batch_size=many"], "train_batch_size"),
    "negative epochs": ({}, ["--num_train_epochs=-1"], "num_train_epochs"),
    "no epoch": ({}, ["--num_train_epochs=0"], "make no single step"),
    "negative learning rate": ({}, ["--learning_rate=-1"], "learning_rate"),
    "learning rate that is no number": ({}, ["--learning_rate=nan"], "learning_rate"),
    "warm-up of more than all": ({}, ["--warmup_proportion=1.5"], "warmup_proportion"),
    "no accumulation step": ({}, ["--num_accumulation_steps=0"], "num_accumulation_steps"),
    "checkpoints at no step": ({}, ["--save_checkpoints_steps=0"], "save_checkpoints_steps"),
    "no checkpoint kept": ({}, ["--keep_checkpoint_max=0"], "keep_checkpoint_max"),
    "unknown optimizer": ({}, ["--optimizer=sgd"], "optimizer"),
    "unknown metric": (
        {},
        ["--best_metric=f1"],
        "--best_metric=f1: an evaluation has eval_accuracy",
    ),
    "unknown task": ({}, ["--task_name=mprc"], "did you mean mrpc?"),
    "unknown problem type": ({}, ["--problem_type=binary"], "problem_type"),
    "unknown truncation": ({}, ["--truncation=middle"], "truncation"),
    "windows too far apart": ({}, ["--window_stride=15"], "--window_stride=15: leaves out tokens"),
    "unknown flag": ({}, ["--learing_rate=1"], "learning_rate"),
    "argument that is no flag": ({}, ["do_train"], "'do_train' is no flag"),
    "two checkpoints to begin with": ({}, ["--warm_start_from=x"], "give one of the two"),
    "nothing to do": ({}, ["--nodo_train", "--nodo_eval"], "nothing to do"),
    "evaluation of nothing": ({}, ["--nodo_train"], "no trained checkpoint; give --do_train first"),
    "seed that is no number": ({}, ["--seed=x"], "seed"),
    "output_dir that is a file": ({}, ["--output_dir=vocab.txt"], "--output_dir=vocab.txt: "),
    "output_dir below a file": ({}, ["--output_dir=vocab.txt/x"], "--output_dir=vocab.txt/x: "),
    "output_dir that cannot be written": ({}, ["--output_dir=/proc/x"], "--output_dir=/proc/x: "),
}


def change(path, content):
    if os.path.isfile(path):
        with open(path, "rb") as stream:
            old = stream.read()
        os.remove(path)
    if content is DIRECTORY:
        os.makedirs(path)
    elif content is not None:
        with open(path, "wb") as stream:
            stream.write(content(old) if callable(content) else content)


@pytest.fixture
def folder(tmp_path, tiny_bert, monkeypatch):
    """A folder to work in, with data and a model that nothing is wrong with yet."""
    write_data(tmp_path / "data")
    for name in os.listdir(os.path.dirname(tiny_bert.vocab_file)):
        shutil.copy(os.path.join(os.path.dirname(tiny_bert.vocab_file), name), str(tmp_path))
    return tmp_path


def run_in(folder, forks, arguments):
    """Runs the program in a folder; returns its exit status and what it printed."""
    printed = folder.parent / (folder.name + ".stderr")
    status = forks.run(
        [
            "--do_train",
            "--do_eval",
            "--task_name=file",
            "--data_dir=data",
            "--max_seq_length=16",
            "--bert_config_file=bert_config.json",
            "--vocab_file=vocab.txt",
            "--init_checkpoint=bert_model.ckpt",
            "--train_batch_size=8",
            "--num_train_epochs=1",
            "--output_dir=output",
            *arguments,
        ],
        printed,
        folder=str(folder),
    )
    return status, printed.read_text()


def listing(folder):
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", CASES)
def test_bad_input(folder, forks, name):
    changes, arguments, message = CASES[name]
    for path, content in changes.items():
        change(str(folder / path), content)
    before = listing(folder)
    status, printed = run_in(folder, forks, arguments)
    assert status == 2, printed
    (line,) = printed.splitlines()
    assert message in line
    assert "Traceback" not in line and len(line) < 1000
    assert listing(folder) == before


def test_nothing_was_wrong_before(folder, forks):
    """Each case fails for its own reason."""
    status, printed = run_in(folder, forks, ["--dry_run"])
    assert status == 0, printed
    assert not (folder / "output").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + LABELS_AND_TEXTS * 1,
        LABELS_AND_TEXTS.replace(b"\n", b"\r\n"),
        LABELS_AND_TEXTS.rstrip(b"\n"),
        LABELS_AND_TEXTS + b"\n\n",
    ],
    ids=["byte order mark", "CRLF", "no line feed at the end", "blank lines at the end"],
)
def test_what_is_not_wrong(folder, forks, content):
    change(str(folder / "data" / "dev.tsv"), content)
    status, printed = run_in(folder, forks, ["--dry_run"])
    assert status == 0, printed

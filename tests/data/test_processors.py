import os
from collections import Counter

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from bert_classifier.config import OwnFiles
from bert_classifier.data import labels as labels_files
from bert_classifier.data import processors, tasks
from bert_classifier.data.examples import InputExample
from bert_classifier.data.processors import get_processor
from bert_classifier.errors import BadInput

MNLI_TEXTS = ["promptID", "pairID", "genre"] + [
    f"sentence{number}{parse}" for parse in ("_binary_parse", "_parse", "") for number in (1, 2)
]
MNLI_TEST = ["index", *MNLI_TEXTS]
MNLI_TRAIN = [*MNLI_TEST, "label1", "gold_label"]
MNLI_DEV = [*MNLI_TEST, "label1", "label2", "label3", "label4", "label5", "gold_label"]
QQP_TRAIN = ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"]
MRPC_TRAIN = ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]
PAIR = ["index", "sentence1", "sentence2"]
XNLI_DEV = (
    "language gold_label sentence1_binary_parse sentence2_binary_parse sentence1_parse "
    "sentence2_parse sentence1 sentence2 promptID pairID genre label1 label2 label3 label4 label5 "
    "sentence1_tokenized sentence2_tokenized match"
).split()

STS_B = "index genre filename year old_index source1 source2 sentence1 sentence2 score".split()

# task, split, file, header, column of text_a, of text_b, of the label, two labels
LAYOUTS = [
    ("cola", "train", "train.tsv", None, 3, None, 1, ["1", "0"]),
    ("cola", "dev", "dev.tsv", None, 3, None, 1, ["0", "1"]),
    ("cola", "test", "test.tsv", ["index", "sentence"], 1, None, None, None),
    ("mnli", "train", "train.tsv", MNLI_TRAIN, 8, 9, 11, ["neutral", "entailment"]),
    ("mnli", "dev", "dev_matched.tsv", MNLI_DEV, 8, 9, 15, ["contradiction", "neutral"]),
    ("mnli", "test", "test_matched.tsv", MNLI_TEST, 8, 9, None, None),
    ("mnli-mm", "train", "train.tsv", MNLI_TRAIN, 8, 9, 11, ["neutral", "entailment"]),
    ("mnli-mm", "dev", "dev_mismatched.tsv", MNLI_DEV, 8, 9, 15, ["contradiction", "neutral"]),
    ("mnli-mm", "test", "test_mismatched.tsv", MNLI_TEST, 8, 9, None, None),
    ("mrpc", "train", "train.tsv", MRPC_TRAIN, 3, 4, 0, ["1", "0"]),
    ("mrpc", "dev", "dev.tsv", MRPC_TRAIN, 3, 4, 0, ["1", "0"]),
    ("mrpc", "test", "test.tsv", ["index", *MRPC_TRAIN[1:]], 3, 4, None, None),
    ("qnli", "train", "train.tsv", ["index", "question", "sentence", "label"], 1, 2, 3, None),
    ("qnli", "dev", "dev.tsv", ["index", "question", "sentence", "label"], 1, 2, 3, None),
    ("qnli", "test", "test.tsv", ["index", "question", "sentence"], 1, 2, None, None),
    ("qqp", "train", "train.tsv", QQP_TRAIN, 3, 4, 5, ["0", "1"]),
    ("qqp", "dev", "dev.tsv", QQP_TRAIN, 3, 4, 5, ["0", "1"]),
    ("qqp", "test", "test.tsv", ["id", "question1", "question2"], 1, 2, None, None),
    ("rte", "train", "train.tsv", [*PAIR, "label"], 1, 2, 3, None),
    ("rte", "dev", "dev.tsv", [*PAIR, "label"], 1, 2, 3, None),
    ("rte", "test", "test.tsv", PAIR, 1, 2, None, None),
    ("sst-2", "train", "train.tsv", ["sentence", "label"], 0, None, 1, ["0", "1"]),
    ("sst-2", "dev", "dev.tsv", ["sentence", "label"], 0, None, 1, ["0", "1"]),
    ("sst-2", "test", "test.tsv", ["index", "sentence"], 1, None, None, None),
    ("sts-b", "train", "train.tsv", STS_B, 7, 8, 9, [5.0, 0.0]),
    ("sts-b", "dev", "dev.tsv", STS_B, 7, 8, 9, [2.75, 1.0]),
    ("sts-b", "test", "test.tsv", STS_B[:-1], 7, 8, None, None),
    ("wnli", "train", "train.tsv", [*PAIR, "label"], 1, 2, 3, ["0", "1"]),
    ("wnli", "dev", "dev.tsv", [*PAIR, "label"], 1, 2, 3, ["0", "1"]),
    ("wnli", "test", "test.tsv", PAIR, 1, 2, None, None),
    ("phone_reviews_zh", "train", "train.tsv", ["label", "txt"], 1, None, 0, ["-1", "0"]),
    ("phone_reviews_zh", "dev", "dev.tsv", ["label", "txt"], 1, None, 0, ["1", "0"]),
    ("phone_reviews_zh", "test", "test.tsv", ["label", "txt"], 1, None, 0, ["1", "0"]),
    ("phone_reviews_zh", "test", "test.tsv", ["txt"], 0, None, None, None),
    ("file", "train", "train.tsv", ["label", "text"], 1, None, 0, ["a", "b"]),
    ("file", "train", "train.tsv", ["text_b", "id", "text", "label"], 2, 0, 3, ["a", "b"]),
    ("file", "dev", "dev.tsv", ["text", "label"], 0, None, 1, ["entailment", "not_entailment"]),
    ("file", "test", "test.tsv", ["text"], 0, None, None, None),
    ("file", "test", "test.tsv", ["text_b", "text"], 1, 0, None, None),
    ("file", "test", "test.tsv", ["text", "label"], 0, None, 1, ["entailment", "not_entailment"]),
]


def write_rows(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(task, split, data_dir, own_file=None, labels=None):
    processor = get_processor(task, labels)
    return list(getattr(processor, f"get_{split}_examples")(data_dir, own_file))


@pytest.mark.parametrize("task, split, file_name, header, text_a, text_b, label, labels", LAYOUTS)
def test_layout(tmp_path, task, split, file_name, header, text_a, text_b, label, labels):
    labels = labels or ["entailment", "not_entailment"]
    expected, rows = [], []
    for number in range(2):
        row = [f"row {number} column {column}" for column in range(len(header or "1234"))]
        if label is not None:
            row[label] = str(labels[number])
        rows.append(row)
        expected.append(
            InputExample(
                guid=f"{split}-{number + (header is not None)}",
                text_a=row[text_a],
                text_b=None if text_b is None else row[text_b],
                label=None if label is None else labels[number],
            )
        )
    write_rows(tmp_path / file_name, *([header] if header else []), *rows)
    known = ["entailment", "not_entailment"] if task == "file" and split != "train" else None
    assert read(task, split, str(tmp_path), labels=known) == expected


def test_every_split_of_every_task_has_a_layout_here():
    with_layouts = {(task, split) for task, split, *_ in LAYOUTS} | {
        ("xnli", split) for split in ("train", "dev", "test")
    }
    assert with_layouts == {
        (task, split) for task in tasks.TASKS for split in ("train", "dev", "test")
    }


def test_xnli(tmp_path):
    write_rows(
        tmp_path / "multinli" / "multinli.train.zh.tsv",
        ["premise", "hypo", "label"],
        ["\u4f60 \u597d", "\u518d \u89c1", "contradictory"],
        ["\u4f60 \u597d", "\u4f60 \u597d", "entailment"],
    )

    def row(language, label, text):
        cells = dict.fromkeys(XNLI_DEV, "x")
        cells.update(language=language, gold_label=label, sentence1=text, sentence2=text[::-1])
        return list(cells.values())

    for split in ("dev", "test"):
        write_rows(
            tmp_path / f"xnli.{split}.tsv",
            XNLI_DEV,
            row("ar", "neutral", "ab"),
            row("zh", "neutral", "cd"),
            row("en", "a label that is not read", "ef"),
            row("zh", "contradiction", "gh"),
        )
    assert read("xnli", "train", str(tmp_path)) == [
        InputExample("train-1", "\u4f60 \u597d", "\u518d \u89c1", "contradiction"),
        InputExample("train-2", "\u4f60 \u597d", "\u4f60 \u597d", "entailment"),
    ]
    for split in ("dev", "test"):
        assert read("xnli", split, str(tmp_path)) == [
            InputExample(f"{split}-2", "cd", "dc", "neutral"),
            InputExample(f"{split}-4", "gh", "hg", "contradiction"),
        ]
    write_rows(tmp_path / "xnli.test.tsv", ["language", *PAIR[1:]], ["zh", "a", "b"])
    assert read("xnli", "test", str(tmp_path)) == [InputExample("test-1", "a", "b", None)]
    write_rows(tmp_path / "xnli.dev.tsv", XNLI_DEV, row("en", "neutral", "ab"))
    with pytest.raises(BadInput, match=r"xnli\.dev\.tsv: holds no examples"):
        read("xnli", "dev", str(tmp_path))


@pytest.mark.parametrize(
    "task, labels",
    [
        ("cola", ["0", "1"]),
        ("mnli", ["contradiction", "entailment", "neutral"]),
        ("mnli-mm", ["contradiction", "entailment", "neutral"]),
        ("mrpc", ["0", "1"]),
        ("qnli", ["entailment", "not_entailment"]),
        ("qqp", ["0", "1"]),
        ("rte", ["entailment", "not_entailment"]),
        ("sst-2", ["0", "1"]),
        ("wnli", ["0", "1"]),
        ("xnli", ["contradiction", "entailment", "neutral"]),
        ("phone_reviews_zh", ["-1", "0", "1"]),
    ],
)
def test_labels_of_the_task(task, labels):
    assert get_processor(task).get_labels() == labels


def test_glue_judges_cola_by_its_matthews_correlation():
    metrics = {name: task.metrics for name, task in tasks.TASKS.items() if task.metrics}
    assert metrics == {"cola": ("matthews_correlation",)}


class TestLabelsOfTheUsersOwnFile:
    def test_are_those_of_the_training_file(self, tmp_path):
        write_rows(
            tmp_path / "train.tsv",
            ["text", "label"],
            *[[f"text {label}", label] for label in ("sport", "art ", "sport", "news", "art")],
        )
        write_rows(tmp_path / "dev.tsv", ["label", "text"], ["art", "good"], ["arts", "bad"])
        processor = get_processor("file")
        examples = processor.get_train_examples(str(tmp_path))
        assert Counter(example.label for example in examples) == {"sport": 2, "art": 2, "news": 1}
        assert processor.get_labels() == ["art", "news", "sport"]
        with pytest.raises(BadInput) as error:
            processor.get_dev_examples(str(tmp_path))
        assert str(error.value) == (
            f"{tmp_path}/dev.tsv:3: unknown label 'arts'; known are art, news, sport"
        )

    def test_of_an_earlier_run_are_kept(self, tmp_path):
        labels = ["b", "unused", "a"]
        processor = get_processor("file", labels)
        assert processor.get_labels() == labels
        write_rows(tmp_path / "train.tsv", ["text", "label"], ["x", "a"], ["y", "b"])
        processor.get_train_examples(str(tmp_path))
        assert processor.get_labels() == labels
        write_rows(tmp_path / "train.tsv", ["text", "label"], ["x", "a"], ["y", "c"])
        with pytest.raises(
            BadInput, match="train.tsv:3: unknown label 'c'; known are b, unused, a"
        ):
            processor.get_train_examples(str(tmp_path))

    def test_must_be_known_before_another_file_is_read(self, tmp_path):
        write_rows(tmp_path / "dev.tsv", ["text", "label"], ["x", "a"])
        processor = get_processor("file")
        for use in (processor.get_labels, lambda: processor.get_dev_examples(str(tmp_path))):
            with pytest.raises(BadInput, match="--train_file"):
                use()

    def test_must_be_two_or_more(self, tmp_path):
        write_rows(tmp_path / "train.tsv", ["text", "label"], ["x", "a"], ["y", "a"])
        with pytest.raises(BadInput, match=r"train\.tsv: 'a' is the only label"):
            get_processor("file").get_train_examples(str(tmp_path))

    def test_caller_cannot_change_them(self):
        processor = get_processor("mrpc")
        processor.get_labels().append("2")
        assert processor.get_labels() == ["0", "1"]


class TestWhichFile:
    @pytest.fixture
    def folders(self, tmp_path, monkeypatch):
        """`data/train.tsv`, `data/both.tsv`, and in the current folder `both.tsv`, `here.tsv`."""
        for name in ("data/train.tsv", "data/both.tsv", "both.tsv", "here.tsv"):
            write_rows(tmp_path / name, ["sentence", "label"], [f"from {name}", "1"])
        monkeypatch.chdir(tmp_path)
        return tmp_path

    @pytest.mark.parametrize(
        "data_dir, train_file, expected",
        [
            ("data", None, "data/train.tsv"),
            ("data", "", "data/train.tsv"),
            ("data", "both.tsv", "data/both.tsv"),
            ("data", "here.tsv", "here.tsv"),
            ("data", "{root}/both.tsv", "both.tsv"),
            (None, "both.tsv", "both.tsv"),
            ("", "data/both.tsv", "data/both.tsv"),
        ],
    )
    def test_found(self, folders, data_dir, train_file, expected):
        train_file = train_file and train_file.format(root=folders)
        examples = read("sst-2", "train", data_dir, train_file)
        assert [example.text_a for example in examples] == [f"from {expected}"]

    @pytest.mark.parametrize("split", ["train", "dev", "test"])
    @pytest.mark.parametrize("data_dir", [None, ""])
    def test_not_named(self, split, data_dir):
        with pytest.raises(BadInput) as error:
            read("sst-2", split, data_dir)
        assert str(error.value) == f"no {split} file: set --data_dir or --{split}_file"

    @pytest.mark.parametrize(
        "split, own_file, path, reason",
        [
            ("train", None, "other/train.tsv", "No such file or directory"),
            ("dev", None, "other/dev.tsv", "No such file or directory"),
            ("test", "mine.tsv", "mine.tsv", "No such file or directory"),
            ("dev", "data", "data", "Is a directory"),
        ],
    )
    def test_cannot_be_read(self, folders, split, own_file, path, reason):
        with pytest.raises(BadInput) as error:
            read("sst-2", split, "other", own_file)
        assert str(error.value) == f"{path}: {reason}; check --data_dir and --{split}_file"


@pytest.mark.parametrize(
    "content",
    [
        b"sentence\tlabel\ngood\t1\nbad\t0\n",
        b"sentence\tlabel\ngood\t1\nbad\t0",
        b"sentence\tlabel\r\ngood\t1\r\nbad\t0\r\n",
        b"\xef\xbb\xbfsentence\tlabel\ngood\t1\nbad\t0\n",
        b"label\tsentence\n1\tgood\n0\tbad\n",
        b"sentence\tlabel\ngood\t1 \nbad\t 0\n",
        b"sentence\tlabel\ngood\t1\nbad\t0\n\n\r\n\n",
    ],
)
def test_same_examples_however_the_file_was_saved(tmp_path, content):
    (tmp_path / "train.tsv").write_bytes(content)
    assert read("sst-2", "train", str(tmp_path)) == [
        InputExample("train-1", "good", None, "1"),
        InputExample("train-2", "bad", None, "0"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        '" an open quote',
        'a "quoted" word, a closing one"',
        "it's",
        '""',
        " spaces around ",
        "line\u2028separator",
        "next\x85line and \x0b\x0c\x1c\x1d\x1e",
        "carriage\rreturn",
        "a \ufeff in the text",
        "\u5f88\u597d\uff0c\U0001f44d",
        "back\\slash\\t",
    ],
)
@pytest.mark.parametrize("task", ["sst-2", "cola"])
def test_text_stays_as_it_is(tmp_path, task, text):
    if task == "cola":
        lines = [f"x\t1\t\t{text}", "x\t0\t*\tnext"]
    else:
        lines = ["sentence\tlabel", f"{text}\t1", "next\t0"]
    (tmp_path / "train.tsv").write_bytes("\n".join([*lines, ""]).encode("utf-8"))
    examples = read(task, "train", str(tmp_path))
    assert [(example.text_a, example.label) for example in examples] == [(text, "1"), ("next", "0")]


def test_byte_order_mark_before_a_file_without_header(tmp_path):
    (tmp_path / "train.tsv").write_bytes(b"\xef\xbb\xbf1\t1\t\ta\n")
    mark_in_label = tasks.Task(
        ("0", "1"), *[tasks.Split("train.tsv", text_a=3, label=0, has_header=False)] * 3
    )
    examples = processors.DataProcessor(mark_in_label).get_train_examples(str(tmp_path))
    assert list(examples) == [InputExample("train-0", "a", None, "1")]


HEADER = b"sentence\tlabel\n"


@pytest.mark.parametrize(
    "task, content, message",
    [
        ("sst-2", b"", ": is empty; check --data_dir and --train_file"),
        ("sst-2", b"\n\r\n", ": is empty; check --data_dir and --train_file"),
        ("sst-2", HEADER, ": holds no examples; check --data_dir and --train_file"),
        (
            "sst-2",
            b"text,label\na,1\n",
            ":1: no column 'sentence'; the columns, separated by tabs, ",
        ),
        (
            "sst-2",
            b"sentence\tlabels\na\t1\n",
            ":1: no column 'label'; did you mean 'labels'? the ",
        ),
        (
            "cola",
            b"a\t1\tb\n",
            ":1: no column 3; the columns, separated by tabs, are ['a', '1', 'b']",
        ),
        (
            "mrpc",
            b"Quality\t#1 String\n",
            ":1: no column '#2 String'; did you mean '#1 String'? the ",
        ),
        ("sst-2", HEADER + b"a\t1\nb\n", ":3: columns: 1, but 2 in line 1"),
        ("sst-2", HEADER + b"a\t1\n\nb\t1\n", ":3: is blank; remove it"),
        ("sst-2", HEADER + b"a\tb\t1\n", ":2: columns: 3, but 2 in line 1"),
        ("cola", b"x\t1\t\ta\nx\t1\ta\n", ":2: columns: 3, but 4 in line 1"),
        ("sst-2", HEADER + b"a\t1\nb\t2\n", ":3: unknown label '2'; known are 0, 1"),
        (
            "mnli",
            b"sentence1\tsentence2\tgold_label\na\tb\t-\n",
            ":2: unknown label '-'; known are ",
        ),
        ("cola", b"source\tlabel\tstar\tsentence\n", ":1: unknown label 'label'; known are 0, 1"),
        ("sst-2", HEADER + b"\t1\n", ":2: column 'sentence' is empty"),
        ("sst-2", HEADER + b"a\t1\n \t1\n", ":3: column 'sentence' is empty"),
        ("sst-2", HEADER + b"a\t\n", ":2: column 'label' is empty"),
        ("rte", b"sentence1\tsentence2\tlabel\na\t\tx\n", ":2: column 'sentence2' is empty"),
        ("cola", b"x\t1\t\ta\nx\t1\t\t\n", ":2: column 3 is empty"),
        ("file", b"text\ttext_b\tlabel\na\t\tx\n", ":2: column 'text_b' is empty"),
        ("sst-2", HEADER + b"a\t1\nb\xff\t1\n", ":3: is not UTF-8"),
        ("sst-2", b"\xef\xbb\xbf" + HEADER + b"\xca\xd6\xbb\xfa\t1\n", ":2: is not UTF-8"),
        ("sst-2", "sentence\tlabel\n".encode("utf-16"), ":1: is UTF-16; save the file as UTF-8"),
        ("sst-2", b"\xfe\xff\x00s", ":1: is UTF-16; save the file as UTF-8"),
        ("sst-2", HEADER + b"a\t1\nb\x00\t1\n", ":3: has a NUL byte"),
    ],
)
def test_bad_file(tmp_path, task, content, message):
    (tmp_path / "train.tsv").write_bytes(content)
    with pytest.raises(BadInput) as error:
        read(task, "train", str(tmp_path))
    assert str(error.value).startswith(f"{tmp_path}{os.sep}train.tsv{message}")
    assert str(error.value).isprintable()  # which also says that it is one line


def test_missing_column_is_told_in_one_short_line(tmp_path):
    (tmp_path / "train.tsv").write_bytes(
        b"a text instead of a header\r" * 1000
    )  # old Mac line ends
    with pytest.raises(
        BadInput, match=r"no column 'sentence'.*a text instead of a header\\ra"
    ) as error:
        read("sst-2", "train", str(tmp_path))
    assert len(str(error.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize("name", ["mrpc", "MRPC", "Sst-2", "MNLI-mm", "phone_reviews_zh", "FILE"])
def test_task_is_found_in_any_case(name):
    assert get_processor(name).task is tasks.TASKS[name.lower()]


@pytest.mark.parametrize(
    "name, hint",
    [
        ("mprc", "did you mean mrpc? "),
        ("SST2", "did you mean sst-2? "),
        ("files", "did you mean file? "),
        ("sentiment", ""),
    ],
)
def test_unknown_task(name, hint):
    with pytest.raises(BadInput) as error:
        get_processor(name)
    assert str(error.value) == (
        f"--task_name={name}: {hint}known tasks are cola, mnli, mnli-mm, mrpc, qnli, qqp, rte, "
        "sst-2, sts-b, wnli, xnli, phone_reviews_zh, file"
    )


def labelled(*labels):
    return [InputExample(str(index), "text", None, label) for index, label in enumerate(labels)]


class TestClassWeights:
    LABELS = ["a", "b", "c"]

    @pytest.mark.parametrize(
        "examples",
        [labelled(*"abc"), labelled(*"aabbcc"), labelled(*"aaaabbc"), labelled(*"cbbbbbbbbba")],
        ids=lambda examples: "".join(example.label for example in examples),
    )
    def test_balanced_weights_equal_scikit_learns(self, examples):
        weights = labels_files.load_class_weights(
            "balanced", self.LABELS, Counter(e.label for e in examples)
        )
        expected = compute_class_weight(
            "balanced", classes=np.array(self.LABELS), y=[example.label for example in examples]
        )
        assert weights == pytest.approx(list(expected))
        # Each class counts the same, and together they count what they did.
        counts = Counter(example.label for example in examples)
        totals = [weight * counts[label] for weight, label in zip(weights, self.LABELS)]
        assert totals == pytest.approx([len(examples) / 3] * 3)

    def test_a_class_without_an_example_has_no_balanced_weight(self):
        with pytest.raises(BadInput, match="balanced: no training example of b; give a file"):
            labels_files.load_class_weights("balanced", self.LABELS, {"a": 1, "c": 1})

    @pytest.mark.parametrize(
        "content",
        ["a\t1\nb\t2.5\nc\t0\n", "c\t0\nb\t2.5\na\t1", "a\t1e0\r\nb\t 2.5 \r\nc\t0.0\r\n"],
    )
    def test_a_file_has_them_in_any_order(self, tmp_path, content):
        path = tmp_path / "weights.tsv"
        path.write_bytes(content.encode())
        weights = labels_files.load_class_weights(str(path), self.LABELS, {"a": 1})
        assert weights == [1.0, 2.5, 0.0]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("a\t1\nd\t2\n", ":2: 'd' is no label or there twice; write one line for each of a, b"),
            ("a\t1\na\t2\n", ":2: 'a' is no label or there twice"),
            ("a\t1\n\nb\t1\nc\t1\n", ":2: is blank; remove it"),
            ("a\t1\nb\t-0.5\nc\t1\n", ":2: weight '-0.5'; write a number of 0 or more"),
            ("a\tmuch\n", ":1: weight 'much'"),
            ("a\n", ":1: weight ''"),
            ("a\tnan\n", ":1: weight 'nan'"),
            ("a\tinf\n", ":1: weight 'inf'"),
            ("a\t1\t2\n", ":1: weight '1 2'"),
            ("a\t1\n", ": no weight for b, c; add a line for each"),
            ("", ": is empty; check --class_weights"),
        ],
    )
    def test_a_bad_file_is_told(self, tmp_path, content, message):
        path = tmp_path / "weights.tsv"
        path.write_text(content)
        with pytest.raises(BadInput) as error:
            labels_files.load_class_weights(str(path), self.LABELS, {"a": 1})
        assert str(error.value).startswith(str(path) + message)
        assert "\n" not in str(error.value)

    def test_a_missing_file_is_told(self):
        with pytest.raises(BadInput, match="missing.tsv: No such file.*check --class_weights"):
            labels_files.load_class_weights("missing.tsv", self.LABELS, {"a": 1})


IDS = {
    "GLUE, index": ("cola", {}, "index\tsentence\n7\tgood\n3\tbad\n", "index", ["7", "3"]),
    "GLUE, id": ("qqp", {}, "id\tquestion1\tquestion2\n4\ta\tb\n", "id", ["4"]),
    "GLUE, none": ("sst-2", {}, "sentence\ngood\n", None, []),
    "own, by name": ("file", {"id_column": "nr"}, "nr\tid\ttext\nx\ty\tgood\n", "nr", ["x"]),
    "own, by number": (
        "file",
        {"id_column": "2", "text_column": "1", "has_header": False},
        "good\tx\nbad\ty\n",
        "id",
        ["x", "y"],
    ),
    "own, id before index": ("file", {}, "index\tid\ttext\n1\tx\tgood\n", "id", ["x"]),
    "own, guid": ("file", {}, "text\tguid\ngood\tx\nbad\t\n", "guid", ["x", ""]),
    "own, none": ("file", {}, "text\ngood\n", None, []),
    "own, twice": ("file", {}, "id\tid\ttext\n1\t2\tgood\n", None, []),
    "own, is the text": ("file", {"text_column": "id"}, "id\ngood\n", None, []),
}


@pytest.mark.parametrize("name", IDS)
def test_ids_are_the_cells_of_their_column(name, tmp_path):
    task_name, options, text, id_name, ids = IDS[name]
    (tmp_path / "test.tsv").write_text(text)
    task = tasks.file_task(OwnFiles(**options)) if task_name == "file" else None
    processor = get_processor(task_name, ["0", "1"], task)
    examples = processor.get_test_examples(str(tmp_path))
    assert examples.id_name == id_name
    assert list(examples.ids()) == ids


def test_ids_of_a_divided_file_are_those_of_its_parts(tmp_path):
    rows = [[f"row{number}", "ab"[number % 2], f"text {number}"] for number in range(20)]
    write_rows(tmp_path / "train.tsv", ["id", "label", "text"], *rows)
    for part in get_processor("file").get_train_examples(str(tmp_path)).divide(0.2):
        assert [name[3:] for name in part.ids()] == [e.text_a.split()[1] for e in part]


def test_only_the_test_file_needs_the_id_column_that_was_asked_for(tmp_path):
    for name in ("train", "dev", "test"):
        write_rows(tmp_path / f"{name}.tsv", ["label", "text"], ["a", "good"], ["b", "bad"])
    processor = get_processor("file", None, tasks.file_task(OwnFiles(id_column="nr")))
    assert processor.get_train_examples(str(tmp_path)).id_name is None
    assert processor.get_dev_examples(str(tmp_path)).id_name is None
    with pytest.raises(BadInput, match="test.tsv:1: no column 'nr'"):
        processor.get_test_examples(str(tmp_path))

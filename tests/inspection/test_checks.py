from __future__ import annotations

import dataclasses
import gzip
import re
import shutil
import tracemalloc
import types

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import modeling
from bert_classifier.config import Training
from bert_classifier.data import features, processors
from bert_classifier.data.examples import InputExample
from bert_classifier.inspection import checks
from bert_classifier.model import weights
from bert_classifier.training import hooks
from bert_classifier.training.history import EvalHistory, Watched
from bert_classifier.training.schedule import Schedule
from tokenization import FullTokenizer

WORDS = "good great nice bad poor sad the film phone was is really . ##s".split()
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *map(str, range(100))]
CONFIG = modeling.BertConfig(
    vocab_size=len(VOCAB),
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=32,
    type_vocab_size=2,
)
CHECKPOINT = "bert_model.ckpt"
SCHEDULE = Schedule(
    examples_per_step=2,
    learning_rate=5e-5,
    num_train_steps=100,
    num_warmup_steps=10,
    steps_per_epoch=20.5,
    save_checkpoints_steps=30,
    max_steps_without_improvement=60,
)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The folder of a pretrained model."""
    folder = tmp_path_factory.mktemp("pretrained")
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    with tf.Graph().as_default(), tf.Session() as session:
        modeling.BertModel(CONFIG, False, tf.zeros([1, 4], tf.int32))
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(folder / CHECKPOINT), write_meta_graph=False)
    return folder


@pytest.fixture(scope="module")
def tokenizer(pretrained):
    return FullTokenizer(str(pretrained / "vocab.txt"))


@pytest.fixture
def run(pretrained, tokenizer, tmp_path, monkeypatch):
    """A run whose files have short names, which do not depend on where the tests run."""
    monkeypatch.chdir(tmp_path)
    for path in weights.files_of(str(pretrained / CHECKPOINT)):
        shutil.copy(path, ".")
    return Run(tokenizer)


class Run:
    """What flags would say about a run."""

    def __init__(self, tokenizer):
        self.options = {
            "tokenizer": tokenizer,
            "bert_config": CONFIG,
            "init_checkpoint": CHECKPOINT,
            "schedule": SCHEDULE,
            "max_seq_length": 16,
            "train_batch_size": 2,
        }

    def inspect(self, train, dev, test=None, content=b"a\nb\n", header=1, **options):
        """Inspect rows of one or two texts and a label, and the bytes of each of the files."""
        rows = {"train": train, "dev": dev, **({"test": test} if test else {})}
        paths = {name: name + ".tsv" for name in rows}
        for path in paths.values():
            with open(path, "wb") as stream:
                stream.write(content)
        options.setdefault("labels", sorted({row[-1] for row in [*train, *dev]}, key=str))
        examples = {name: as_examples(name, of_split, header) for name, of_split in rows.items()}
        return inspect(examples, paths, **{**self.options, **options})


def inspect(examples, paths, labels, **options):
    """Group the arguments and call `checks.inspect`."""

    def pick(*names):
        return {name: options.pop(name) for name in names if name in options}

    data = pick("tokenizer", "max_seq_length", "problem_type")
    model = pick("bert_config", "init_checkpoint")
    schedule = options.pop("schedule")
    return checks.inspect(
        checks.Data(examples, paths, labels, **data),
        checks.Model(**model),
        schedule,
        Training(**options),
    )


def as_examples(split, rows, header=1):
    """Make examples like those of a file with `header` lines above its first row."""
    return [
        InputExample("%s-%d" % (split, number), row[0], row[1] if len(row) == 3 else None, row[-1])
        for number, row in enumerate(rows, start=header)
    ]


def row_of(report, name):
    """Return the text of a row, its lines joined."""
    joined = re.sub(r"\n {18}(?=\S)", " ", "\n".join(report.lines))
    return re.search(r"(?m)^  %s +(.*)" % re.escape(name), joined).group(1)


GOLDEN = """\
Data
  train           train.tsv, 23 bytes, UTF-8 with BOM, CRLF
                  6 pairs of texts; '1' 4 (66.7 %), '0' 2 (33.3 %)
  dev             dev.tsv, 23 bytes, UTF-8 with BOM, CRLF
                  3 pairs of texts; '1' 2 (66.7 %), '2' 1 (33.3 %)
  test            test.tsv, 23 bytes, UTF-8 with BOM, CRLF
                  2 pairs of texts
  baseline        always '1' has an accuracy of 0.6667 on dev
  duplicates      2 (33.3 %) rows of train repeat an earlier text, 1 of them with another label; train.tsv:2
                  and train.tsv:6
  also in train   1 (33.3 %) rows of dev; dev.tsv:3 and train.tsv:4
  also in train   none of test
Tokens per example of train, with [CLS] and [SEP]
     1 - 8         83.3 % ##################################################
     9 - 16         0.0 %
    17 - 24        16.7 % ##########
    25 - 32         0.0 %
    33 - 40         0.0 %
    41 - 48         0.0 %
    49 - 56         0.0 %
    57 or more      0.0 %
  length          50 % have up to 6, 95 % up to 20, 99 % up to 20; the longest has 20
  cut             1 (16.7 %) examples at --max_seq_length=16; 24 would do for 95 %, 24 for 99 %
  [UNK]           1 (3.33 %) tokens
                  the vocabulary lacks 'o' U+006F 2 x, '\u2603' U+2603 1 x
Model
  encoder         BERT: 2 layers, 16 wide with 2 heads, gelu
  checkpoint      covers 39 of the encoder's 39 variables: bert_model.ckpt
Plan
  steps           100 of 2 examples, 10 of them warm up; 20.5 are an epoch
  evaluations     4, at steps 30, 60, 90, 100
  early stopping  possible from step 90 on
  advice          100 steps are few for a model to learn something: --num_train_epochs=15 makes 307
  memory          about 0.000359 GB for 7,200 weights, batches of 2 x 16 tokens in float32
  time            0.0 TFLOP: 0:00:01 at 0.1 TFLOP/s (a CPU), 0:00:01 at 10 TFLOP/s (a GPU)
Warnings
  1               dev.tsv:4: no example of '2' in train.tsv: such rows count as errors
  2               2 (33.3 %) rows of train repeat an earlier text, 1 of them with another label; train.tsv:2
                  and train.tsv:6
  3               also in train: 1 (33.3 %) rows of dev; dev.tsv:3 and train.tsv:4; a score on these is too
                  high"""  # noqa: E501


def test_one_screen(run):
    report = run.inspect(
        [
            ("good", "great film", "1"),
            ("bad", "film.", "0"),
            ("nice", "phone", "1"),
            ("nice", " Phone\t", "1"),
            ("Good", "great film", "0"),
            ("the film was good " * 4, "7s\u2603oo", "1"),
        ],
        [("sad", "phone", "1"), ("NICE", "phone", "1"), ("sad", "film", "2")],
        [("really", "sad", None), ("nice", "phone was", None)],
        content="\ufefflabel\ttext\r\n1\tnice\r\n".encode(),
        labels=["0", "1"],
    )
    assert report.lines == GOLDEN.splitlines()
    rows = "baseline", "cut", "[UNK]", "encoder", "checkpoint", "steps", "evaluations"
    rows += ("early stopping", "advice")
    assert [re.split("  +", row)[0] for row in report.summary] == list(rows)
    assert {"  " + row for row in report.summary} < set(report.lines)


# What is wrong with a run, and what is said about it.
MANY = [("good phone %d" % number, "1") for number in range(50)]
FEW = [("bad phone %d" % number, "0") for number in range(50)]
DEV = [("nice film", "1"), ("sad film", "0")]

FINDINGS = {
    "nothing": (MANY + FEW, DEV, {}, [], []),
    "no train": ([], DEV, {}, [], ["train.tsv: holds no examples; check --train_file"]),
    "no dev": (MANY + FEW, [], {}, [], ["dev.tsv: holds no examples; check --dev_file"]),
    "one label": (
        MANY,
        DEV[:1],
        {},
        [],
        ["train.tsv:2: '1' in all rows; give other labels too"],
    ),
    "a label of dev only": (
        MANY + FEW,
        [*DEV, ("poor film", "b"), ("poor phone", "a"), ("was poor", "b")],
        {},
        [
            "dev.tsv:5: no example of 'a' in train.tsv: such rows count as errors",
            "dev.tsv:4: no example of 'b' in train.tsv: such rows count as errors",
            "no training example of 'a', 'b': never to be predicted",
        ],
        [],
    ),
    "a label without examples": (
        MANY + FEW,
        DEV,
        {"labels": ["0", "1", "2"]},
        ["no training example of '2': never to be predicted"],
        [],
    ),
    "a large majority": (
        [*MANY, *[("nice %d" % number, "1") for number in range(46)], *FEW[:4]],
        DEV,
        {},
        ["96 (96 %) rows of train are '1': accuracy tells little"],
        [],
    ),
    "not so large a majority": (
        [*MANY, *[("nice %d" % number, "1") for number in range(45)], *FEW[:5]],
        DEV,
        {},
        [],
        [],
    ),
    "no texts": (
        [("\u200b", "0"), (" ", "1")],
        DEV,
        {},
        [],
        ["train.tsv:2: no row has all its texts; check the columns"],
    ),
    "an empty text": (
        [*MANY, *FEW, ("\u200b", "0")],
        [*DEV, (" ", "0")],
        {},
        [
            "1 (0.99 %) rows of train have a text without any token",
            "1 (33.3 %) rows of dev have a text without any token",
        ],
        [],
    ),
    "pairs in train": (
        [("nice", "phone", "1"), ("sad", "phone", "0")],
        DEV,
        {},
        [],
        ["dev.tsv:2: texts: 1, but 2 in other rows; give all rows of all files the same columns"],
    ),
    "pairs in dev": (
        MANY + FEW,
        [*DEV, ("nice", "phone", "1")],
        {},
        [],
        ["dev.tsv:4: texts: 2, but 1 in other rows; give all rows of all files the same columns"],
    ),
    "duplicates": (MANY + FEW + MANY[:3], DEV, {}, [], []),
    "contradictions": (
        [*MANY, *FEW, ("Good  phone 7", "0"), MANY[3]],
        DEV,
        {},
        [
            "2 (1.96 %) rows of train repeat an earlier text, 1 of them with another label; "
            "train.tsv:9 and train.tsv:102"
        ],
        [],
    ),
    "leakage": (
        MANY + FEW,
        [*DEV, *[("nice film %d" % number, "1") for number in range(96)], FEW[9], MANY[9]],
        {},
        [
            "also in train: 2 (2 %) rows of dev; dev.tsv:100 and train.tsv:61; "
            "a score on these is too high"
        ],
        [],
    ),
    "hardly any leakage": (
        MANY + FEW,
        [*DEV, *[("nice film %d" % number, "1") for number in range(97)], MANY[9]],
        {},
        [],
        [],
    ),
    "cut": (
        [*MANY, *FEW[:29], *[("bad phone . . %d" % number, "0") for number in range(21)]],
        DEV,
        {"max_seq_length": 5},
        ["cut are 21 (21 %) examples at --max_seq_length=5; 8 would do for 95 %, 8 for 99 %"],
        [],
    ),
    "hardly cut": (
        [*MANY, *FEW[:30], *[("bad phone . . %d" % number, "0") for number in range(20)]],
        DEV,
        {"max_seq_length": 5},
        [],
        [],
    ),
    "too long for the model": (
        MANY + FEW,
        DEV,
        {"max_seq_length": 33},
        [],
        ["--max_seq_length=33: the model reads 32; lower it"],
    ),
    "unknown words": (
        [*MANY, *FEW, ("\u2603" + 15 * " \u2603", "1")],
        DEV,
        {"max_seq_length": 32},
        ["16 (5.06 %) tokens are [UNK]: is the vocabulary of this language?"],
        [],
    ),
    "hardly any unknown word": (
        [*MANY, *FEW, ("\u2603" + 14 * " \u2603", "1")],
        DEV,
        {"max_seq_length": 32},
        [],
        [],
    ),
    "no checkpoint": (
        MANY + FEW,
        DEV,
        {"init_checkpoint": None},
        ["no --init_checkpoint: the encoder begins with random values"],
        [],
    ),
    "an empty checkpoint": (
        MANY + FEW,
        DEV,
        {"init_checkpoint": ""},
        ["no --init_checkpoint: the encoder begins with random values"],
        [],
    ),
    "several labels": (
        [("nice film", ("a", "b")), ("good film", ("b",)), ("bad film", ())],
        [("sad film", ("c", "a"))],
        {"problem_type": "multi_label", "labels": ["a", "b", "c"]},
        [
            "dev.tsv:2: no example of 'c' in train.tsv: such rows count as errors",
            "no training example of 'c': never to be predicted",
        ],
        [],
    ),
    "one value": (
        [("nice film", 2.5), ("good film", 2.5)],
        [("sad film", 1.0)],
        {"problem_type": "regression"},
        [],
        ["train.tsv:2: 2.5 in all rows; give values that differ"],
    ),
}


@pytest.mark.parametrize("case", FINDINGS)
def test_findings(run, case):
    train, dev, options, warnings, fatal = FINDINGS[case]
    report = run.inspect(train, dev, **options)
    assert report.warnings == warnings
    assert report.fatal == fatal
    assert ("Warnings" in report.lines, "Errors" in report.lines) == (bool(warnings), bool(fatal))


@pytest.mark.parametrize(
    "words, text, do_lower_case, warning",
    [
        (["good", "film"], "Good film", True, None),
        (["good", "film"], "good film", False, None),
        (["good", "film"], "Good film", False, "no upper-case letters: give --do_lower_case"),
        (["Good", "film"], "Good film", False, None),
        (["Good", "film"], "Good film", True, "upper-case letters: give --do_lower_case=False"),
        (["\u5f88", "\u597d"], "\u5f88\u597d", False, None),
        # As google's Chinese vocabulary has, and as users replace [unused1].
        (["<S>", "<T>", "\u597d"], "\u597d", True, None),
        (["COVID", "good", *map(str, range(100))], "good", True, None),
    ],
)
def test_case_of_vocabulary_and_text(run, tmp_path, words, text, do_lower_case, warning):
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join([*VOCAB[:5], *words]), encoding="utf-8")
    tokenizer = FullTokenizer(str(vocab), do_lower_case)
    rows = [(text, "0"), (text + " film", "1")]
    report = run.inspect(rows, [("phone", "0")], tokenizer=tokenizer)
    found = [w for w in report.warnings if "case" in w]
    assert found == ([] if warning is None else ["the vocabulary has " + warning])


@pytest.mark.parametrize(
    "changes, warning, fatal",
    [
        ({}, None, None),
        ({"vocab_size": 118}, None, "--vocab_file: 119 tokens for 118 of the model; give its own"),
        ({"vocab_size": 119 + 128}, None, None),
        ({"vocab_size": 119 + 129}, "--vocab_file: 119 tokens for 248 of the model: is", None),
        ({"model_type": "bert"}, "--bert_config_file is Hugging Face's, whose gelu is", None),
        ({"model_type": "bert", "hidden_act": "gelu_erf"}, None, None),
        ({"directionality": "bidi"}, None, None),
        # google's ELECTRA computes the exact gelu, as Hugging Face does.
        ({"model_type": "electra", "architectures": []}, None, None),
        ({"model_type": "albert", "embedding_size": 16}, None, None),
        (
            {"model_type": "albert", "embedding_size": 16, "architectures": []},
            "--bert_config_file is Hugging Face's, whose gelu is",
            None,
        ),
    ],
)
def test_configuration(run, changes, warning, fatal):
    config = modeling.BertConfig.from_dict({**CONFIG.to_dict(), **changes})
    report = run.inspect(MANY + FEW, DEV, bert_config=config, init_checkpoint=None)
    for expected, found in ((warning, report.warnings[:-1]), (fatal, report.fatal)):
        assert len(found) == (expected is not None)
        assert not found or found[0].startswith(expected)


def test_checkpoint_that_fits(run):
    report = run.inspect(MANY + FEW, DEV)
    assert row_of(report, "checkpoint") == "covers 39 of the encoder's 39 variables: " + CHECKPOINT


@pytest.mark.parametrize(
    "changes, row, warning, fatal",
    [
        (
            {"hidden_size": 8},
            "covers 39 of the encoder's 39",
            None,
            "bert/embeddings/word_embeddings has shape [119, 16], but [119, 8] in the model; give",
        ),
        (
            {"vocab_size": 120},
            "covers 39 of the encoder's 39",
            None,
            "bert/embeddings/word_embeddings has shape [119, 16], but [120, 16] in the model; give",
        ),
        (
            {"num_hidden_layers": 3},
            "covers 39 of the encoder's 55",
            None,
            "covers 39 of the encoder's 55 variables; give the --bert_config_file",
        ),
        ({"num_hidden_layers": 1}, "covers 23 of the encoder's 23", "has layers that", None),
    ],
)
def test_checkpoint_of_another_model(run, changes, row, warning, fatal):
    config = dataclasses.replace(CONFIG, **changes)
    report = run.inspect(MANY + FEW, DEV, bert_config=config)
    assert row_of(report, "checkpoint").startswith(row)
    for expected, found in ((warning, report.warnings), (fatal, report.fatal)):
        assert len(found) == (expected is not None)
        assert not found or found[0].replace(":", "").startswith(CHECKPOINT + " " + expected)


def test_checkpoint_without_pooler_or_layer(run):
    reader = tf.train.NewCheckpointReader(CHECKPOINT)
    values = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    encoder = {name: value for name, value in values.items() if "/pooler/" not in name}
    weights.write_checkpoint(encoder, "mlm.ckpt")
    report = run.inspect(MANY + FEW, DEV, init_checkpoint="mlm.ckpt")
    assert report.warnings == ["mlm.ckpt has no pooler: it begins with random values"]
    assert report.fatal == []
    # Slots of an optimizer are no variables of an encoder.
    del encoder["bert/encoder/layer_1/output/dense/bias"]
    encoder["bert/encoder/layer_1/output/dense/bias/adam_m"] = np.zeros(16)
    weights.write_checkpoint(encoder, "damaged.ckpt")
    report = run.inspect(MANY + FEW, DEV, init_checkpoint="damaged.ckpt")
    assert report.warnings == []
    assert len(report.fatal) == 1
    assert "covers 36 of the encoder's 39" in report.fatal[0]
    assert "missing: bert/encoder/layer_1/output/dense/bias" in report.fatal[0]


@pytest.mark.parametrize(
    "content, form",
    [
        (b"a\nb\n", "4 bytes, UTF-8, LF"),
        (b"a\r\nb\r\n", "6 bytes, UTF-8, CRLF"),
        (b"\xef\xbb\xbfa\n", "5 bytes, UTF-8 with BOM, LF"),
        # Named, because the time is in the bytes: all processes of the tests must know one name.
        pytest.param(gzip.compress(b"a\r\n"), "23 bytes, gzip", id="gzip"),
        (b"a" * 2000, "2,000 bytes, UTF-8, LF"),
    ],
)
def test_form_of_files(run, content, form):
    assert row_of(run.inspect(MANY, DEV, content=content), "train").startswith("train.tsv, " + form)


def test_many_labels(run):
    train = [("film %d" % number, "label %02d" % (number % 33)) for number in range(99)]
    report = run.inspect([*train, ("phone", "label 07")], train[:5])
    labels = row_of(report, "train").split("; ")[1].split(", ")
    assert labels[0] == "'label 07' 4 (4 %)"
    assert labels[1:10] == ["'label %02d' 3 (3 %%)" % n for n in range(10) if n != 7]
    assert labels[10:] == ["and 23 more"]
    assert len(report.lines) <= 45


def test_regression(run):
    random = np.random.RandomState(1)
    values = {name: random.uniform(0, 5, size) for name, size in (("train", 40), ("dev", 10))}
    rows = {
        name: [("%s film %d" % (name, n), value) for n, value in enumerate(of_split)]
        for name, of_split in values.items()
    }
    rows["test"] = [("phone", None)]
    report = run.inspect(**rows, labels=[], problem_type="regression")
    train, dev = values["train"], values["dev"]
    numbers = [train.min(), train.max(), train.mean(), train.std()]
    found = re.findall(r"\d\.\d+", row_of(report, "train"))
    np.testing.assert_allclose([float(number) for number in found], numbers, rtol=1e-3)
    found = re.findall(r"\d\.\d+", row_of(report, "baseline"))
    numbers = [train.mean(), np.sqrt(np.mean((dev - train.mean()) ** 2))]
    np.testing.assert_allclose([float(number) for number in found], numbers, rtol=1e-3)
    assert row_of(report, "test").endswith("LF 1 texts")


def test_several_labels(run):
    train = [("good film", ("b", "a")), ("bad film", ("a", "b")), ("film", ("c",)), ("phone", ())]
    dev = [("nice film", ("b", "a")), ("sad", ("a",)), ("sad film", ("a", "b"))]
    report = run.inspect(train, dev, problem_type="multi_label", labels=["a", "b", "c"])
    assert row_of(report, "train").endswith("4 texts; 'a' 2 (50 %), 'b' 2 (50 %), 'c' 1 (25 %)")
    assert row_of(report, "baseline") == "always ('a', 'b') has an accuracy of 0.6667 on dev"
    assert (report.warnings, report.fatal) == ([], [])


def test_places_are_lines_of_the_files(run):
    """Through a processor: an error names the line that a text editor would show."""
    rows = {
        "train": ["label\ttext", "1\tgood film", "0\tbad film", "0\tgood film"],
        "dev": ["label\ttext", "1\tgreat film", "0\tsad film", "1\tgood film"],
    }
    for name, lines in rows.items():
        with open(name + ".tsv", "w", encoding="utf-8") as stream:
            stream.write("\n".join(lines))
    processor = processors.get_processor("file")
    examples = {
        "train": processor.get_train_examples("."),
        "dev": processor.get_dev_examples("."),
    }
    paths = {name: name + ".tsv" for name in examples}
    report = inspect(examples, paths, ["0", "1"], **run.options)
    for row in (row_of(report, "duplicates"), row_of(report, "also in train")):
        places = re.findall(r"(train|dev)\.tsv:(\d+)", row)
        assert len(places) == 2
        assert {rows[name][int(line) - 1].split("\t")[1] for name, line in places} == {"good film"}


TEXTS = st.text(st.sampled_from("ab "), max_size=3)
ROWS = st.lists(st.tuples(TEXTS, st.sampled_from("xy")), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(train=ROWS, dev=ROWS)
def test_duplicates_and_leakage_by_brute_force(run, train, dev):
    def key(row):
        return row[0].split()

    earlier = [[row for row in train[:n] if key(row) == key(train[n])] for n in range(len(train))]
    repeats = sum(map(bool, earlier))
    conflicts = sum(bool(rows) and rows[0][1] != row[1] for rows, row in zip(earlier, train))
    leaked = sum(any(key(row) == key(other) for other in train) for row in dev)
    report = run.inspect(train, dev, init_checkpoint=None)
    row = row_of(report, "duplicates")
    assert [int(n) for n in re.findall(r"(\d+) (?:\(|of them)", row)] == (
        [repeats, conflicts] if repeats else []
    )
    row = row_of(report, "also in train")
    assert row == "none of dev" if not leaked else row.startswith("%d (" % leaked)


@pytest.mark.parametrize("text_b", [None, "", "phone was . s films", " "])
def test_tokens_are_those_of_the_conversion(tokenizer, text_b):
    texts = ["good film", "", "unheard of", "films filmsx s 7 \u2603" * 3, "."]
    examples = [InputExample("x-1", text, text_b) for text in texts]
    converted = list(map(features.Converter([], 512, tokenizer).convert_padded, examples))
    ids = [i for c in converted for i in c.input_ids]
    lengths, num_tokens, unknown = checks.count_tokens(examples, tokenizer)
    assert lengths.tolist() == sorted(sum(c.input_mask) for c in converted)
    special = [tokenizer.vocab[token] for token in ("[PAD]", "[CLS]", "[SEP]")]
    assert num_tokens == sum(i not in special for i in ids)
    assert sum(unknown.values()) == ids.count(tokenizer.vocab["[UNK]"])


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.text(max_size=5))
def test_a_text_has_tokens_when_the_tokenizer_finds_some(tokenizer, text):
    assert checks.has_tokens(text, tokenizer) == bool(tokenizer.tokenize(text))


def test_lengths(run):
    random = np.random.RandomState(1)
    lengths = random.geometric(0.04, 101) + 2
    train = [(" ".join(["film"] * (n - 2)), str(k % 2)) for k, n in enumerate(lengths)]
    report = run.inspect(train, DEV, max_seq_length=32)

    def covering(share):
        return min(n for n in lengths if (lengths <= n).mean() >= share)

    assert row_of(report, "length") == (
        "50 %% have up to %d, 95 %% up to %d, 99 %% up to %d; the longest has %d"
        % (covering(0.5), covering(0.95), covering(0.99), max(lengths))
    )
    assert row_of(report, "cut").startswith("%d (" % sum(n > 32 for n in lengths))
    enough = [int(n) for n in re.findall(r"(\d+) (?:would do )?for", row_of(report, "cut"))]
    assert [n % 8 for n in enough] == [0, 0]
    assert [covering(0.95) <= enough[0] < covering(0.95) + 8, enough[1] >= covering(0.99)]

    drawn = [re.match(r" +(\d+) (?:- (\d+)|or more) +([\d.]+) %( #*)?$", x) for x in report.lines]
    drawn = [match for match in drawn if match]
    assert len(drawn) == 8
    for match in drawn:
        low, high = int(match.group(1)), int(match.group(2) or 10**6)
        share = np.mean((lengths >= low) & (lengths <= high))
        assert float(match.group(3)) == pytest.approx(100 * share, abs=0.051)
        assert len((match.group(4) or "").strip()) == int(np.ceil(60 * share))


class Rows:
    """Examples that are made when they are iterated, and then released."""

    def __init__(self, number, words):
        self._number, self._words = number, words

    def __len__(self):
        return self._number

    def __iter__(self):
        for n in range(self._number):
            yield InputExample("x-%d" % n, "film %d " % n + "good " * self._words, None, str(n % 2))

    def __contains__(self, example):
        raise NotImplementedError


def test_large_data_is_sampled_and_not_held(run, monkeypatch):
    monkeypatch.setattr(checks, "_SAMPLE_SIZE", 10)
    for name in ("train", "dev"):
        with open(name + ".tsv", "w") as stream:
            stream.write("label\ttext\n")
    examples = {"train": Rows(1000, 2000), "dev": Rows(1, 1)}
    paths = {name: name + ".tsv" for name in examples}
    arguments = (examples, paths, ["0", "1"])
    inspect(*arguments, **run.options)
    tracemalloc.start()
    report = inspect(*arguments, **run.options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The texts are 10 MB.
    assert peak < 2e6
    assert "Tokens per example, of a sample of 10 of train, with [CLS] and [SEP]" in report.lines
    assert row_of(report, "cut").startswith("10 (100 %) examples")
    assert report.lines == inspect(*arguments, **run.options).lines


@pytest.mark.parametrize("last", [1, 9, 10, 30, 31, 95])
@pytest.mark.parametrize("every", [1, 10, 100])
@pytest.mark.parametrize("patience", [0, 5, 20, 30])
@pytest.mark.parametrize("min_steps", [0, 25])
def test_early_stopping_as_the_hook_decides(run, tmp_path, last, every, patience, min_steps):
    """A run whose metric gets worse and worse is stopped as early as any run can be."""
    schedule = SCHEDULE._replace(
        num_train_steps=last, save_checkpoints_steps=every, max_steps_without_improvement=patience
    )
    record = EvalHistory(hooks.eval_history_path(str(tmp_path)), Watched("loss", False))
    hook = hooks.stop_if_no_decrease_hook(
        types.SimpleNamespace(model_dir=str(tmp_path)),
        "loss",
        patience or 10**9,
        min_steps=min_steps,
        run_every_secs=None,
        run_every_steps=every,
    )
    due, stopped_at = [], None
    for step in range(1, last + 1):
        if step % every == 0 or step == last:
            due.append(step)
            record.add(step, {"loss": step})
            if stopped_at is None and step % every == 0 and hook.should_stop(step):
                stopped_at = step
    report = run.inspect(MANY, DEV, schedule=schedule, early_stopping_min_steps=min_steps)
    shown = ["%d" % step for step in due[:10]]
    shown += ["and %d more" % (len(due) - 10)] if len(due) > 10 else []
    assert row_of(report, "evaluations") == "%d, at steps %s" % (len(due), ", ".join(shown))
    text = row_of(report, "early stopping")
    if not patience:
        assert text == "off"
    elif stopped_at in (None, last):
        assert text.startswith("can never act")
    else:
        assert text == "possible from step %d on" % stopped_at


def training_graph(config, batch_size, seq_length):
    """Build the encoder and its gradients; return the graph, its forward and its other ops."""
    with tf.Graph().as_default() as graph:
        ids = tf.zeros([batch_size, seq_length], tf.int32)
        model = modeling.BertModel(config, True, ids, tf.ones_like(ids), tf.zeros_like(ids))
        loss = tf.reduce_sum(model.get_pooled_output() ** 2)
        forward = set(graph.get_operations())
        gradients = tf.gradients(loss, tf.trainable_variables())
        reached, open_ops = set(), [getattr(g, "values", g).op for g in gradients]
        while open_ops:
            op = open_ops.pop()
            if op not in reached:
                reached.add(op)
                open_ops += [tensor.op for tensor in op.inputs]
    return forward & reached, reached - forward


LARGER = dataclasses.replace(CONFIG, hidden_size=24, num_hidden_layers=3, intermediate_size=72)


# Each with a projection, of the kinds whose layers are applied more often than they exist.
ALBERT = dataclasses.replace(
    CONFIG,
    model_type="albert",
    embedding_size=8,
    num_hidden_layers=4,
    num_hidden_groups=2,
    inner_group_num=2,
)
ALBERT_ZH = dataclasses.replace(
    CONFIG, model_type="albert_zh", embedding_size=8, num_hidden_layers=3
)
ELECTRA = dataclasses.replace(CONFIG, model_type="electra", embedding_size=8)


@pytest.mark.parametrize(
    "config, batch_size, seq_length",
    [(CONFIG, 1, 8), (LARGER, 3, 20), (ALBERT, 2, 8), (ALBERT_ZH, 2, 8), (ELECTRA, 2, 8)],
)
def test_computation_is_that_of_the_graph(config, batch_size, seq_length):
    """Of a product: 2 for each element of the result and each summand of it."""
    forward, backward = training_graph(config, batch_size, seq_length)
    flops = 0
    for op in forward | backward:
        if op.type in ("MatMul", "BatchMatMul", "BatchMatMulV2"):
            if op.inputs[0].op.type in ("Fill", "OneHot"):
                continue  # By ones: the sum that is the gradient of a bias. Or a row of a table.
            transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
            summands = op.inputs[0].shape.as_list()[-2 if transposed else -1]
            flops += 2 * op.outputs[0].shape.num_elements() * summands
    assert checks.flops_per_example(config, seq_length) * batch_size == flops


@pytest.mark.parametrize("hidden_act", ["gelu", "gelu_erf", "relu"])
@pytest.mark.parametrize(
    "config, seq_length",
    [
        (CONFIG, 32),
        (LARGER, 16),
        (ALBERT, 32),
        (dataclasses.replace(ALBERT_ZH, num_hidden_layers=6), 32),
        (dataclasses.replace(ELECTRA, num_hidden_layers=4), 32),
    ],
)
def test_memory_is_about_what_gradients_read(config, seq_length, hidden_act):
    """What the forward pass of the layers makes and an op of the backward pass reads again."""
    config = dataclasses.replace(config, hidden_act=hidden_act)
    batch_size = 4
    forward, backward = training_graph(config, batch_size, seq_length)
    kept = {}
    for op in backward:
        if op.type in ("Shape", "BroadcastGradientArgs"):
            continue
        for tensor in op.inputs:
            while tensor.op.type in ("Reshape", "Identity", "ExpandDims"):
                tensor = tensor.op.inputs[0]
            if (
                tensor.op in forward
                and "/encoder/" in tensor.name
                and "Variable" not in tensor.op.type
            ):
                kept[tensor.name] = tensor.shape.num_elements() * tensor.dtype.size
    # The gradients of shared layers are not among what the forward pass makes.
    own_layers = dataclasses.replace(
        config,
        model_type="electra",
        hidden_act=config.activation,
        num_hidden_layers=len(config.layer_scopes()),
        num_hidden_groups=None,
        inner_group_num=None,
    )
    without_weights = checks.memory(own_layers, 0, seq_length, batch_size)
    assert without_weights == pytest.approx(sum(kept.values()), rel=0.2)


@pytest.mark.parametrize("config, num_applications", [(ALBERT, 8), (ALBERT_ZH, 3)])
def test_memory_of_shared_layers_has_a_gradient_for_each_application(config, num_applications):
    """As measured: 16 kernels at 12 applications of one, none of them with checkpointing."""
    separate = dataclasses.replace(
        config, model_type="bert", embedding_size=None, num_hidden_layers=num_applications
    )
    separate = dataclasses.replace(separate, num_hidden_groups=None, inner_group_num=None)
    size = 16 * (4 * 16 + 2 * 32) + 4 * 16 + 32 + 16 + 4 * 16  # kernels, biases, normalizations
    more = checks.memory(config, 1000, 16, 4) - checks.memory(separate, 1000, 16, 4)
    assert more == 4 * size * num_applications
    assert checks.memory(config, 1000, 16, 4, True) == checks.memory(separate, 1000, 16, 4, True)


def test_encoder_shapes(pretrained):
    shapes = CONFIG.variable_shapes()
    assert shapes == dict(tf.train.list_variables(str(pretrained / CHECKPOINT)))


ANY_TEXT = st.text(max_size=20)
ANY_LABEL = st.one_of(st.none(), st.text(max_size=60))
ANY_ROW = st.one_of(st.tuples(ANY_TEXT, ANY_LABEL), st.tuples(ANY_TEXT, ANY_TEXT, ANY_LABEL))
ANY_ROWS = st.lists(ANY_ROW, max_size=6)
SURROGATE = ("\ud800\U0001f600", "\ud800", "\udfff")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(train=ANY_ROWS, dev=ANY_ROWS, test=ANY_ROWS, do_lower_case=st.booleans())
def test_any_text_makes_a_screen_that_can_be_printed(
    run, pretrained, train, dev, test, do_lower_case
):
    tokenizer = FullTokenizer(str(pretrained / "vocab.txt"), do_lower_case)
    report = run.inspect([SURROGATE, *train], dev, test, tokenizer=tokenizer, init_checkpoint=None)
    assert max(map(len, report.lines)) <= 110
    for line in [*report.lines, *report.summary, *report.warnings, *report.fatal]:
        assert line.isprintable()
        line.encode("utf-8")
    assert all(line for line in report.lines)


@pytest.mark.parametrize(
    "train, dev, says",
    [
        ([("sentence", "cat")], DEV, "no other row has 'cat'"),
        ([("sentence", "cat")], [("sentence", "cat")], "dev too begins with 'cat'"),
        ([("nice film", "1")], DEV, "dev too begins with '1'"),
        ([("nice", "1")], DEV, None),
    ],
)
def test_a_header_that_was_taken_for_a_row(run, train, dev, says):
    report = run.inspect(train + MANY + FEW, dev + DEV, header=0)
    found = [warning for warning in report.warnings if "header" in warning]
    line = f"train.tsv:1: {says}: if this is a header, give --has_header"
    assert found == ([line] if says else [])


def test_a_first_row_below_a_header_is_a_row(run):
    report = run.inspect([("sentence", "cat"), *MANY, *FEW], DEV)
    assert not any("header" in warning for warning in report.warnings)


def test_labels_of_one_example_each_are_those_of_another_column(run):
    rows = [("good phone %d" % number, str(number)) for number in range(50)]
    said = "50 of 50 labels have one example only: is this the right --label_column?"
    assert said in run.inspect(rows, DEV).warnings
    assert said not in run.inspect(rows + rows, DEV).warnings
    assert not any("label_column" in warning for warning in run.inspect(MANY, rows[:5]).warnings)

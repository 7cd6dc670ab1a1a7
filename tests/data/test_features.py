from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from google_bert import run_classifier as google
from program import ROOT

import tokenization
from bert_classifier.data import features, processes, records, serialization
from bert_classifier.data.batches import (
    Batching,
    examples_input_fn,
    file_based_input_fn_builder,
    records_input_fn,
)
from bert_classifier.data.examples import InputExample
from bert_classifier.data.features import Converter
from bert_classifier.errors import BadInput

LABELS = ["negative", "positive"]
# Single texts and pairs, shorter and longer than every length that is tried below.
TEXTS = [
    ("the film was good .", None),
    ("the film", "was not good ."),
    ("the film was really really not good and the phone was sad .", None),
    ("the film was really really not good", "the phone was sad . the film is nice ."),
    ("bad", "the phone was sad . the film is nice . the phone was sad ."),
    ("the phone was sad . the film is nice . the phone was sad .", "bad"),
    ("unknownword \u00e9 !", "\u4e2d\u6587"),
]


@pytest.fixture
def tokenizer(tiny_bert):
    return tokenization.FullTokenizer(tiny_bert.vocab_file)


def examples_of(texts, label="positive"):
    return [InputExample("test-%d" % i, a, b, label) for i, (a, b) in enumerate(texts)]


class LazyExamples:
    """Reads examples as they are needed, and counts how many were read."""

    def __init__(self, count, error_at=None):
        self._count = count
        self._error_at = error_at
        self.num_read = 0

    def __len__(self):
        return self._count

    def __iter__(self):
        for number in range(self._count):
            if number == self._error_at:
                raise BadInput("train.tsv:%d: is not as it should be" % number)
            self.num_read += 1
            text_a, text_b = TEXTS[number % len(TEXTS)]
            yield InputExample("train-%d" % number, text_a, text_b, LABELS[number % 2])


def write_records(folder, split, examples, *arguments, **options):
    converter = Converter(*arguments, **options)
    path = str(folder / ("%s.%s.tf_record" % (split, features.fingerprint(examples, converter))))
    serialization.write_records_once(examples, converter, path)
    return path


def read_all(dataset):
    batch = tf.data.make_one_shot_iterator(dataset).get_next()
    batches = []
    with tf.Session() as session:
        try:
            while True:
                batches.append(session.run(batch))
        except tf.errors.OutOfRangeError:
            return batches


@pytest.mark.parametrize("max_seq_length", [4, 5, 8, 13, 32])
@pytest.mark.parametrize("text_a,text_b", TEXTS)
def test_conversion_equals_googles(tokenizer, text_a, text_b, max_seq_length):
    ours = serialization.convert_single_example(
        9, InputExample("x", text_a, text_b, "positive"), LABELS, max_seq_length, tokenizer
    )
    theirs = google.convert_single_example(
        9, google.InputExample("x", text_a, text_b, "positive"), LABELS, max_seq_length, tokenizer
    )
    assert ours[:4] == (theirs.input_ids, theirs.input_mask, theirs.segment_ids, theirs.label_id)
    texts = [text_a, text_b] if text_b else [text_a]
    assert ours.num_tokens == 1 + sum(len(tokenizer.tokenize(text)) + 1 for text in texts)


def test_both_texts_keep_what_google_leaves_of_them():
    for length_a, length_b, room in itertools.product(range(9), range(9), range(12)):
        tokens_a, tokens_b = ["a"] * length_a, ["b"] * length_b
        google._truncate_seq_pair(tokens_a, tokens_b, room)
        kept = features._shares(length_a, length_b, room)
        assert kept == (len(tokens_a), len(tokens_b)), (length_a, length_b, room)


@pytest.fixture
def alphabet(tmp_path):
    """Knows each letter as a word of its own."""
    path = tmp_path / "alphabet.txt"
    letters = "abcdefghijklmnopqrstuvwxyz"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters]))
    return tokenization.FullTokenizer(str(path))


def spell(tokenizer, features, length):
    """Writes the letters of each window, | for [CLS] and [SEP], - for padding; then segments."""
    tokens = tokenizer.convert_ids_to_tokens(features.input_ids)
    assert [int(token != "[PAD]") for token in tokens] == features.input_mask
    symbols = {"[CLS]": "|", "[SEP]": "|", "[PAD]": "-"}
    text = "".join(symbols.get(token, token) for token in tokens)
    segments = "".join(map(str, features.segment_ids))
    starts = range(0, len(text), length)
    return [(text[i : i + length], segments[i : i + length]) for i in starts]


@pytest.mark.parametrize(
    "truncation,text_a,text_b,expected",
    [
        ("head", "a b c d e f g h i j k l", None, ("|abcdefgh|", "0000000000")),
        ("tail", "a b c d e f g h i j k l", None, ("|efghijkl|", "0000000000")),
        ("head+tail", "a b c d e f g h i j k l", None, ("|abghijkl|", "0000000000")),
        ("head+tail", "a b c d e f g h", None, ("|abcdefgh|", "0000000000")),
        ("head+tail", "a b c", None, ("|abc|-----", "0000000000")),
        # Room for seven: the first text keeps four, of which one is a quarter, the second three.
        ("head", "a b c d e f", "g h i j k l", ("|abcd|ghi|", "0000001111")),
        ("tail", "a b c d e f", "g h i j k l", ("|cdef|jkl|", "0000001111")),
        ("head+tail", "a b c d e f", "g h i j k l", ("|adef|gkl|", "0000001111")),
        # The shorter text is kept as it is.
        ("tail", "a b", "g h i j k l", ("|ab|hijkl|", "0000111111")),
        ("head+tail", "a b c d e f", "g h", ("|abdef|gh|", "0000000111")),
    ],
)
def test_what_is_kept_of_a_long_text(alphabet, truncation, text_a, text_b, expected):
    converter = Converter([], 10, alphabet, truncation=truncation)
    row = converter.convert_padded(InputExample("", text_a, text_b))
    assert spell(alphabet, row, 10) == [expected]


def test_head_and_tail_are_those_of_the_paper(alphabet):
    """Sun et al. 2019 (https://arxiv.org/abs/1905.05583) keep the first 128 and the last 382."""
    text = " ".join(["a"] * 128 + ["x"] * 100 + ["b"] * 382)
    example = InputExample("", text)
    row = Converter([], 512, alphabet, truncation="head+tail").convert_padded(example)
    assert spell(alphabet, row, 512) == [("|" + "a" * 128 + "b" * 382 + "|", "0" * 512)]


@pytest.mark.parametrize(
    "stride,text_a,text_b,expected",
    [
        (3, "a b c", None, [("|abc|---", "00000000")]),
        (3, "a b c d e f", None, [("|abcdef|", "00000000")]),
        (4, "a b c d e f g", None, [("|abcdef|", "00000000"), ("|efg|---", "00000000")]),
        (
            3,
            "a b c d e f g h i j",
            None,
            [("|abcdef|", "00000000"), ("|defghi|", "00000000"), ("|ghij|--", "00000000")],
        ),
        (6, "a b c d e f g h", None, [("|abcdef|", "00000000"), ("|gh|----", "00000000")]),
        # The longer one of a pair slides, the other one is repeated.
        (2, "a b", "x y z u", [("|ab|xyz|", "00001111"), ("|ab|zu|-", "00001110")]),
        (2, "x y z u", "a b", [("|xyz|ab|", "00000111"), ("|zu|ab|-", "00001110")]),
        # Five tokens apart would leave out some where there is room for three.
        (5, "a b", "x y z u", [("|ab|xyz|", "00001111"), ("|ab|u|--", "00001100")]),
        # Both are too long: the shorter one is cut to its share.
        (
            2,
            "a b c d",
            "s t u v w",
            [("|abc|st|", "00000111"), ("|abc|uv|", "00000111"), ("|abc|w|-", "00000110")],
        ),
    ],
)
def test_windows_over_a_long_text(alphabet, stride, text_a, text_b, expected):
    example = InputExample("", text_a, text_b)
    row = Converter([], 8, alphabet, window_stride=stride).convert_padded(example)
    assert spell(alphabet, row, 8) == expected
    assert row.num_tokens == len((text_a + " " + (text_b or "")).split()) + (3 if text_b else 2)


def test_windows_leave_out_no_token(alphabet):
    for stride, length_a, length_b in itertools.product(range(1, 7), range(1, 12), range(12)):
        texts = " ".join("abcdefghijkl"[:length_a]), " ".join("mnopqrstuvwx"[:length_b])
        example = InputExample("", texts[0], texts[1] or None)
        row = Converter([], 8, alphabet, window_stride=stride).convert_padded(example)
        read = set("".join(window for window, _ in spell(alphabet, row, 8)))
        # Of two equal ones it is the second that slides.
        assert set(max(reversed(texts), key=len)) - {" "} <= read


def test_windows_that_leave_out_tokens_are_refused(alphabet):
    with pytest.raises(BadInput, match="--window_stride=7: .* give up to 6"):
        Converter([], 8, alphabet, window_stride=7)


def test_records_come_back_as_they_were_converted(tokenizer, tmp_path):
    examples = examples_of(TEXTS)
    path = write_records(tmp_path, "dev", examples, LABELS, 16, tokenizer)
    input_fn = file_based_input_fn_builder(
        path, 16, is_training=False, drop_remainder=False, batch_size=3
    )
    batches = read_all(input_fn())
    assert [len(batch["label_ids"]) for batch in batches] == [3, 3, 1]
    assert all(column.dtype == np.int32 for column in batches[0].values())
    expected = list(map(Converter(LABELS, 16, tokenizer).convert_padded, examples))
    for name in ("input_ids", "input_mask", "segment_ids"):
        rows = [row.tolist() for batch in batches for row in batch[name]]
        assert [row + [0] * (16 - len(row)) for row in rows] == [
            getattr(row, name) for row in expected
        ]


def test_records_that_google_wrote_are_read_as_well(tokenizer, tmp_path):
    def read(path):
        input_fn = file_based_input_fn_builder(
            path, 16, is_training=False, drop_remainder=False, batch_size=len(TEXTS)
        )
        return read_all(input_fn())[0]

    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
    arguments = (examples_of(TEXTS), LABELS, 16, tokenizer)
    serialization.file_based_convert_examples_to_features(*arguments, ours)
    google.file_based_convert_examples_to_features(*arguments, theirs)
    for name, column in read(theirs).items():
        np.testing.assert_array_equal(column, read(ours)[name])
    assert os.path.getsize(ours) < os.path.getsize(theirs)


def test_the_size_of_a_batch_is_static_in_training(tokenizer, tmp_path):
    path = write_records(tmp_path, "train", examples_of(TEXTS), LABELS, 16, tokenizer)
    input_fn = file_based_input_fn_builder(
        path, 16, is_training=True, drop_remainder=True, batch_size=4
    )
    shapes = {k: v.as_list() for k, v in tf.data.get_output_shapes(input_fn()).items()}
    tokens = dict.fromkeys(["input_ids", "input_mask", "segment_ids"], [4, None])
    assert shapes == dict(tokens, label_ids=[4])


@pytest.mark.parametrize(
    "max_seq_length,multiple,lengths",
    [
        (16, 8, {1: 8, 7: 8, 8: 8, 9: 16, 16: 16}),
        (20, 8, {8: 8, 15: 16, 17: 20, 20: 20}),
        (20, 16, {1: 16, 16: 16, 17: 20}),
        (5, 8, {1: 5, 5: 5}),
        (20, 1, {1: 1, 7: 7, 20: 20}),
    ],
)
def test_a_batch_is_padded_to_its_longest(max_seq_length, multiple, lengths):
    def record(length):
        row = features.InputFeatures([3] * length, [1] * length, [0] * length)
        return serialization._serialize(row)

    serialized = tf.placeholder(tf.string, [None])
    parsed = serialization.parse(
        serialized, serialization.feature_spec(False), max_seq_length, pad_to_multiple_of=multiple
    )
    with tf.Session() as session:
        for longest, padded in lengths.items():
            batch = session.run(parsed, {serialized: [record(1), record(longest)]})
            for name, number in (("input_ids", 3), ("input_mask", 1), ("segment_ids", 0)):
                rows = [[number] * length + [0] * (padded - length) for length in (1, longest)]
                assert batch[name].tolist() == rows


@pytest.mark.parametrize(
    "missing,length,error",
    [
        ("input_ids", 4, "[Ss]hapes"),
        ("input_mask", 4, "[Ss]hapes"),
        ("segment_ids", 4, "[Ss]hapes"),
        (None, 9, "more tokens than the 8 that the model reads"),
    ],
)
def test_a_record_that_does_not_fit_is_an_error(missing, length, error):
    record = tf.train.Example()
    for name in ("input_ids", "input_mask", "segment_ids"):
        if name != missing:
            record.features.feature[name].int64_list.value.extend([1] * length)
    serialized = tf.placeholder(tf.string, [None])
    parsed = serialization.parse(serialized, serialization.feature_spec(False), 8)
    with tf.Session() as session, pytest.raises(tf.errors.InvalidArgumentError, match=error):
        session.run(parsed, {serialized: [record.SerializeToString()]})


def both_inputs(tokenizer, tmp_path, examples, labels, length, **options):
    """The only batch of the records, and that of the examples themselves."""
    path = write_records(tmp_path, "dev", examples, labels, length, tokenizer, **options)
    converter = Converter(labels, length, tokenizer, **options)
    batching = Batching(len(examples))
    from_file = records_input_fn(path, converter, batching)
    from_memory = examples_input_fn(examples, converter, batching, 1, 0)
    ((first,), (second,)) = read_all(from_file()), read_all(from_memory())
    assert sorted(first) == sorted(second)
    for name, column in first.items():
        assert column.dtype == second[name].dtype
        np.testing.assert_array_equal(column, second[name])
    return first


@pytest.mark.parametrize(
    "problem_type,given,expected",
    [
        ("classification", ["b", "a", "c"], np.array([1, 0, 2], np.int32)),
        ("regression", [2.5, "-1e-3", "4"], np.array([2.5, -1e-3, 4], np.float32)),
        (
            "multi_label",
            [("c", "a"), (), ("b",)],
            np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], np.int32),
        ),
    ],
)
def test_labels_of_each_problem_type(tokenizer, tmp_path, problem_type, given, expected):
    examples = [InputExample("", "good", None, label) for label in given]
    labels = [] if problem_type == "regression" else ["a", "b", "c"]
    batch = both_inputs(tokenizer, tmp_path, examples, labels, 8, problem_type=problem_type)
    assert batch["label_ids"].dtype == expected.dtype
    np.testing.assert_array_equal(batch["label_ids"], expected)


@pytest.mark.parametrize("truncation", ["head", "tail", "head+tail"])
def test_both_inputs_cut_alike(tokenizer, tmp_path, truncation):
    examples = examples_of(TEXTS)
    batch = both_inputs(tokenizer, tmp_path, examples, LABELS, 8, truncation=truncation)
    converter = Converter(LABELS, 8, tokenizer, truncation=truncation)
    expected = list(map(converter.convert_padded, examples))
    assert batch["input_ids"].tolist() == [row.input_ids for row in expected]


def test_a_batch_has_as_many_windows_as_its_longest_example(alphabet, tmp_path):
    texts = [("a b c", None), ("a b c d e f g h i j", None), ("a b", "x y z u")]
    batch = both_inputs(alphabet, tmp_path, examples_of(texts), LABELS, 8, window_stride=3)
    assert batch["input_ids"].shape == (3, 3, 8)
    windows = [
        ["|abc|---", "--------", "--------"],
        ["|abcdef|", "|defghi|", "|ghij|--"],
        ["|ab|xyz|", "|ab|u|--", "--------"],
    ]
    symbols = np.array(list("-?||abcdefghijklmnopqrstuvwxyz"))
    for rows, expected in zip(batch["input_ids"], windows):
        assert ["".join(symbols[row]) for row in rows] == expected
    np.testing.assert_array_equal(batch["input_mask"], batch["input_ids"] != 0)
    assert batch["segment_ids"].sum(axis=2).tolist() == [[0, 0, 0], [0, 0, 0], [4, 2, 0]]


def test_windows_of_short_texts_are_one(alphabet, tmp_path):
    batch = both_inputs(
        alphabet, tmp_path, examples_of([("a b", None)]), LABELS, 8, window_stride=3
    )
    assert batch["input_ids"].tolist() == [[[2, 4, 5, 3, 0, 0, 0, 0]]]


def test_windows_of_short_texts_are_no_longer_than_these(alphabet, tmp_path):
    texts = [("a b", None), ("a b c d e f g h i", None)]
    batch = both_inputs(alphabet, tmp_path, examples_of(texts), LABELS, 28, window_stride=3)
    assert batch["input_ids"].shape == (2, 1, 16)


def test_unlabelled_examples_have_no_label_in_their_records(tokenizer, tmp_path):
    examples = examples_of(TEXTS[:2], label=None)
    path = write_records(tmp_path, "test", examples, LABELS, 16, tokenizer)
    input_fn = file_based_input_fn_builder(
        path, 16, is_training=False, drop_remainder=False, batch_size=2, labelled=False
    )
    assert sorted(read_all(input_fn())[0]) == ["input_ids", "input_mask", "segment_ids"]


def test_the_file_name_changes_with_everything_that_matters(tokenizer, tiny_bert):
    examples = examples_of(TEXTS)
    cased = tokenization.FullTokenizer(tiny_bert.vocab_file, do_lower_case=False)
    larger = tokenization.FullTokenizer(tiny_bert.vocab_file)
    larger.vocab["more"] = len(larger.vocab)
    variants = [
        (examples, LABELS, 16, tokenizer),
        (examples[:-1], LABELS, 16, tokenizer),
        (examples_of(TEXTS, label="negative"), LABELS, 16, tokenizer),
        (examples, LABELS[::-1], 16, tokenizer),
        (examples, LABELS, 17, tokenizer),
        (examples, LABELS, 16, cased),
        (examples, LABELS, 16, larger),
    ]

    def fingerprint(examples, *arguments, **options):
        return features.fingerprint(examples, Converter(*arguments, **options))

    names = [fingerprint(*variant) for variant in variants]
    names += [
        fingerprint(*variants[0], **option)
        for option in (
            {"problem_type": "multi_label"},
            {"truncation": "tail"},
            {"truncation": "head+tail"},
            {"window_stride": 7},
            {"window_stride": 8},
        )
    ]
    assert len(set(names)) == len(names)
    assert fingerprint(*variants[0]) == names[0]
    assert fingerprint(*variants[0], truncation="head", window_stride=0) == names[0]


def test_the_index_tells_the_tokens_of_whole_examples(tokenizer, tmp_path):
    examples = examples_of(TEXTS)
    path = write_records(tmp_path, "train", examples, LABELS, 8, tokenizer)
    rows = map(Converter(LABELS, 64, tokenizer).convert_padded, examples)
    expected = [np.count_nonzero(row.input_ids) for row in rows]
    assert min(expected) < 8 < max(expected)
    assert records.RecordFile(path).num_tokens.tolist() == expected
    converter = Converter(LABELS, 8, tokenizer)
    assert converter.count_tokens(examples).tolist() == expected


def test_converted_examples_are_not_converted_again(tokenizer, tmp_path):
    arguments = (tmp_path, "train", examples_of(TEXTS), LABELS, 16, tokenizer)
    path = write_records(*arguments)
    os.utime(path, (1, 1))
    assert write_records(*arguments) == path
    assert os.path.getmtime(path) == 1


@pytest.mark.parametrize(
    "length,options,expected",
    [
        (32, {}, "All 7 examples fit into 32 tokens; the longest has 20"),
        (
            16,
            {},
            "3 of 7 examples (42.9 %) are longer than 16 tokens and were cut to their beginning; "
            "the longest has 20",
        ),
        (
            10,
            {"truncation": "tail"},
            "4 of 7 examples (57.1 %) are longer than 10 tokens and were cut to their end; "
            "the longest has 20",
        ),
        (
            10,
            {"truncation": "head+tail"},
            "4 of 7 examples (57.1 %) are longer than 10 tokens and were cut to their beginning "
            "and end; the longest has 20",
        ),
        (
            10,
            {"window_stride": 4},
            "4 of 7 examples (57.1 %) are longer than 10 tokens and are read in windows; "
            "the longest has 20",
        ),
    ],
)
def test_the_log_says_how_many_are_too_long(tokenizer, tmp_path, caplog, length, options, expected):
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            write_records(
                tmp_path, "train", examples_of(TEXTS), LABELS, length, tokenizer, **options
            )
        assert caplog.messages[-1].strip() == expected
    assert caplog.messages[0].startswith("Using the 7 converted examples of ")


@pytest.mark.parametrize("damage", ["no index", "empty index", "short file"])
def test_records_that_are_not_complete_are_made_again(tokenizer, tmp_path, damage):
    arguments = (tmp_path, "train", examples_of(TEXTS), LABELS, 16, tokenizer)
    path = write_records(*arguments)
    expected = {name: (tmp_path / name).read_bytes() for name in os.listdir(str(tmp_path))}
    assert sorted(expected) == [os.path.basename(path), os.path.basename(path) + ".index"]
    if damage == "no index":
        os.remove(path + ".index")
    else:
        name, size = (path, 100) if damage == "short file" else (path + ".index", 0)
        with open(name, "r+b") as stream:
            stream.truncate(size)
    write_records(*arguments)
    for name, content in expected.items():
        assert (tmp_path / name).read_bytes() == content


def test_a_conversion_that_fails_leaves_nothing(tokenizer, tmp_path):
    examples = examples_of(TEXTS) + examples_of([("good", None)], label="not a label")
    with pytest.raises(KeyError):
        write_records(tmp_path, "train", examples, LABELS, 16, tokenizer)
    assert os.listdir(str(tmp_path)) == []


# Several processes


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(serialization, "_EXAMPLES_PER_CHUNK", 3)


def convert_in_processes(examples, tokenizer, path, num_processes, **options):
    converter = Converter(LABELS, 10, tokenizer)
    serialization.write_records(examples, converter, str(path), num_processes, **options)


@pytest.mark.parametrize("count", [1, 3, 6, 40])
def test_the_file_is_the_same_however_many_processes_make_it(
    tokenizer, tmp_path, small_chunks, count
):
    def content(name, examples, num_processes):
        convert_in_processes(examples, tokenizer, tmp_path / name, num_processes)
        return [(tmp_path / (name + ending)).read_bytes() for ending in ("", ".index")]

    expected = content("1", LazyExamples(count), 1)
    assert len(list(tf.python_io.tf_record_iterator(str(tmp_path / "1")))) == count
    for num_processes in (2, 3):
        assert content(str(num_processes), LazyExamples(count), num_processes) == expected
    assert content("list", list(LazyExamples(count)), 2) == expected
    assert multiprocessing.active_children() == []


def test_few_examples_start_no_process(tokenizer, tmp_path, monkeypatch):
    started = []

    class Recorded(processes.WorkerProcess):
        def __init__(self, function):
            started.append(self)
            super().__init__(function)

    monkeypatch.setattr(processes, "WorkerProcess", Recorded)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 5})
    monkeypatch.setattr(serialization, "_EXAMPLES_WORTH_PROCESSES", 20)
    convert_in_processes(LazyExamples(19), tokenizer, tmp_path / "few", None)
    assert started == []
    convert_in_processes(LazyExamples(20), tokenizer, tmp_path / "many", None)
    assert len(started) == 3


@pytest.mark.parametrize("num_processes", [1, 2])
def test_bad_input_amid_the_examples_comes_out_as_it_is(
    tokenizer, tmp_path, small_chunks, num_processes
):
    with pytest.raises(BadInput, match="^train.tsv:30: is not as it should be$"):
        convert_in_processes(LazyExamples(40, 30), tokenizer, tmp_path / "a", num_processes)
    assert os.listdir(str(tmp_path)) == []
    assert multiprocessing.active_children() == []


def test_an_error_in_another_process_comes_out_with_its_place(tokenizer, tmp_path, small_chunks):
    examples = [*LazyExamples(40), InputExample("", "good", None, "not a label")]
    with pytest.raises(KeyError, match="not a label") as caught:
        convert_in_processes(examples, tokenizer, tmp_path / "a", 2)
    assert "in label_id" in str(caught.value.__cause__)
    assert os.listdir(str(tmp_path)) == []
    assert multiprocessing.active_children() == []


def test_a_process_that_is_killed_ends_the_conversion(tokenizer, tmp_path, small_chunks):
    class Killing(LazyExamples):
        def __iter__(self):
            for number, example in enumerate(super().__iter__()):
                if number == 30:
                    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
                yield example

    with pytest.raises(RuntimeError, match="died with exit code -9"):
        convert_in_processes(Killing(1000), tokenizer, tmp_path / "a", 2)
    assert os.listdir(str(tmp_path)) == []
    assert multiprocessing.active_children() == []


def test_two_conversions_at_once_make_the_one_file(tokenizer, tmp_path):
    arguments = (LazyExamples(3000), tokenizer, tmp_path / "a", 1)
    convert_in_processes(*arguments)
    expected = (tmp_path / "a").read_bytes()
    os.remove(str(tmp_path / "a"))
    processes = [
        multiprocessing.get_context("fork").Process(target=convert_in_processes, args=arguments)
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(os.listdir(str(tmp_path))) == ["a", "a.index"]
    assert (tmp_path / "a").read_bytes() == expected


# Converts without end in three processes; says which ones when all of them are at work.
ENDLESS = """
import itertools, multiprocessing, sys
import tokenization
from bert_classifier.data import features, serialization
from bert_classifier.data.examples import InputExample
from bert_classifier.training import interruption

class Endless:
    def __len__(self):
        return 10 ** 9

    def __iter__(self):
        for number in itertools.count():
            if number == 5000:
                print(*(child.pid for child in multiprocessing.active_children()), flush=True)
            yield InputExample(str(number), "the film was good .", None, "positive")

watcher = interruption.Interruption()
watcher.watch()
tokenizer = tokenization.FullTokenizer(sys.argv[1])
try:
    converter = features.Converter(["positive"], 128, tokenizer)
    serialization.write_records(Endless(), converter, sys.argv[2], num_processes=3)
except interruption.Interrupted as interrupted:
    watcher.acknowledge()
    sys.exit(interrupted.exit_status)
"""


def is_running(pid):
    try:
        with open("/proc/%d/stat" % pid) as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    "number,to_all,status",
    [
        (signal.SIGKILL, False, -signal.SIGKILL),
        (signal.SIGTERM, False, 143),
        (signal.SIGINT, True, 130),  # as a terminal does it
    ],
)
def test_a_signal_ends_all_processes(tiny_bert, tmp_path, number, to_all, status):
    path = tmp_path / "a.tf_record"
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS, tiny_bert.vocab_file, str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as parent:
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 3
        (os.killpg if to_all else os.kill)(parent.pid, number)
        try:
            stderr = parent.communicate(timeout=60)[1]
        finally:
            parent.kill()
    assert parent.returncode == status, stderr
    assert "Traceback" not in stderr
    deadline = time.monotonic() + 60
    while any(map(is_running, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, children))
    left = sorted(os.listdir(str(tmp_path)))
    endings = [".index", ""] if number == signal.SIGKILL else []
    assert left == ["a.tf_record%s.tmp-%d" % (ending, parent.pid) for ending in endings]


def test_memory_does_not_grow_with_the_examples(tokenizer, tmp_path):
    def peak(count, num_processes):
        tracemalloc.start()
        try:
            convert_in_processes(LazyExamples(count), tokenizer, tmp_path / "a", num_processes)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    for num_processes in (1, 2):
        few, many = peak(3000, num_processes), peak(9000, num_processes)
        assert many < 1.2 * few


@pytest.mark.parametrize("show_bar", [False, True])
def test_progress_is_shown_in_a_bar_or_in_the_log(
    tokenizer, tmp_path, monkeypatch, caplog, capsys, show_bar
):
    monkeypatch.setattr(serialization, "_EXAMPLES_PER_LOG_LINE", 20)
    with caplog.at_level(logging.INFO):
        convert_in_processes(LazyExamples(50), tokenizer, tmp_path / "a", 1, show_bar=show_bar)
    lines = [message.strip() for message in caplog.messages if "converted" in message]
    bar = capsys.readouterr().err
    if show_bar:
        assert lines == []
        assert "50/50" in bar
    else:
        assert lines == ["converted %d of 50 examples" % number for number in (20, 40)]
        assert bar == ""

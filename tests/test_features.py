from __future__ import annotations

import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from bert import run_classifier as google

import features
import tokenization
from processors import InputExample

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


def write_records(folder, split, examples, labels, length, tokenizer):
    arguments = (examples, labels, length, tokenizer)
    name = "%s.%s.tf_record" % (split, features.fingerprint(*arguments))
    path = str(folder / name)
    features.write_records_once(*arguments, path)
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
    ours = features.convert_single_example(
        9, InputExample("x", text_a, text_b, "positive"), LABELS, max_seq_length, tokenizer
    )
    theirs = google.convert_single_example(
        9, google.InputExample("x", text_a, text_b, "positive"), LABELS, max_seq_length, tokenizer
    )
    assert ours == (theirs.input_ids, theirs.input_mask, theirs.segment_ids, theirs.label_id)


def test_records_come_back_as_they_were_converted(tokenizer, tmp_path):
    examples = examples_of(TEXTS)
    path = write_records(tmp_path, "dev", examples, LABELS, 16, tokenizer)
    input_fn = features.file_based_input_fn_builder(
        path, 16, is_training=False, drop_remainder=False, batch_size=3
    )
    batches = read_all(input_fn())
    assert [len(batch["label_ids"]) for batch in batches] == [3, 3, 1]
    assert all(column.dtype == np.int32 for column in batches[0].values())
    expected = [features.convert_example(e, LABELS, 16, tokenizer) for e in examples]
    for name in ("input_ids", "input_mask", "segment_ids"):
        rows = np.concatenate([batch[name] for batch in batches]).tolist()
        assert rows == [getattr(row, name) for row in expected]


def test_unlabelled_examples_have_no_label_in_their_records(tokenizer, tmp_path):
    examples = examples_of(TEXTS[:2], label=None)
    path = write_records(tmp_path, "test", examples, LABELS, 16, tokenizer)
    input_fn = features.file_based_input_fn_builder(
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
    names = [features.fingerprint(*variant) for variant in variants]
    assert len(set(names)) == len(variants)
    assert features.fingerprint(*variants[0]) == names[0]


def test_converted_examples_are_not_converted_again(tokenizer, tmp_path):
    arguments = (tmp_path, "train", examples_of(TEXTS), LABELS, 16, tokenizer)
    path = write_records(*arguments)
    os.utime(path, (1, 1))
    assert write_records(*arguments) == path
    assert os.path.getmtime(path) == 1


def test_a_conversion_that_fails_leaves_nothing(tokenizer, tmp_path):
    examples = examples_of(TEXTS) + examples_of([("good", None)], label="not a label")
    with pytest.raises(ValueError):
        write_records(tmp_path, "train", examples, LABELS, 16, tokenizer)
    assert os.listdir(str(tmp_path)) == []


def training_order(path, count, batch_size, seed, start_step, num_steps):
    input_fn = features.file_based_input_fn_builder(
        path,
        8,
        is_training=True,
        drop_remainder=True,
        batch_size=batch_size,
        num_examples=count,
        seed=seed,
        start_step=start_step,
    )
    tf.reset_default_graph()
    batches = read_all(input_fn().take(num_steps))
    return [batch["label_ids"].tolist() for batch in batches]


@pytest.fixture
def numbered_records(tokenizer, tmp_path):
    """Ten records whose label tells which one it is."""
    labels = [str(number) for number in range(10)]
    examples = [InputExample(label, "good", None, label) for label in labels]
    return write_records(tmp_path, "train", examples, labels, 8, tokenizer)


def test_each_epoch_has_every_example_once_in_another_order(numbered_records):
    batches = training_order(numbered_records, 10, 5, seed=1, start_step=0, num_steps=8)
    epochs = [batches[i] + batches[i + 1] for i in range(0, 8, 2)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert list(range(10)) not in epochs


def test_a_batch_size_that_does_not_divide_the_examples_loses_none(numbered_records):
    batches = training_order(numbered_records, 10, 4, seed=1, start_step=0, num_steps=5)
    seen = sum(batches, [])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))


@pytest.mark.parametrize("start_step", [1, 2, 3, 7])
def test_a_resumed_run_goes_on_with_the_next_batch(numbered_records, start_step):
    whole = training_order(numbered_records, 10, 4, seed=3, start_step=0, num_steps=10)
    rest = training_order(numbered_records, 10, 4, seed=3, start_step=start_step, num_steps=3)
    assert rest == whole[start_step : start_step + 3]


def test_the_seed_decides_the_order(numbered_records):
    first, second, other = (
        training_order(numbered_records, 10, 5, seed=seed, start_step=0, num_steps=4)
        for seed in (1, 1, 2)
    )
    assert first == second
    assert first != other


def dealt_batches(tokenizer, is_training, num_shards, num_steps=-1, start_step=0):
    """The batches of each of several workers, three of ten numbered examples in each."""
    labels = [str(number) for number in range(10)]
    examples = [InputExample(label, "good", None, label) for label in labels]
    workers = []
    for shard_index in range(num_shards):
        input_fn = features.input_fn_builder(
            examples,
            labels,
            8,
            tokenizer,
            is_training=is_training,
            drop_remainder=is_training,
            batch_size=3,
            seed=1,
            start_step=start_step,
            num_shards=num_shards,
            shard_index=shard_index,
        )
        tf.reset_default_graph()
        batches = read_all(input_fn().take(num_steps))
        workers.append([batch["label_ids"].tolist() for batch in batches])
    return workers


@pytest.mark.parametrize("num_shards,start_step", [(1, 0), (2, 0), (2, 3), (3, 1)])
def test_workers_together_read_what_one_reads(numbered_records, tokenizer, num_shards, start_step):
    """Uneven slices give all of them the same number of steps, and lose no example."""
    workers = dealt_batches(tokenizer, True, num_shards, num_steps=20, start_step=start_step)
    together = [sum(batches, []) for batches in zip(*workers)]
    whole = training_order(
        numbered_records, 10, 3 * num_shards, seed=1, start_step=start_step, num_steps=20
    )
    assert together == whole
    epoch_pair = sum(training_order(numbered_records, 10, 3 * num_shards, 1, 0, 20), [])[:20]
    assert sorted(epoch_pair) == sorted(2 * list(range(10)))


@pytest.mark.parametrize("num_shards", [1, 2, 3, 5])
def test_an_evaluation_is_dealt_out(tokenizer, num_shards):
    workers = dealt_batches(tokenizer, False, num_shards)
    batches = [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    assert workers == [batches[shard_index::num_shards] for shard_index in range(num_shards)]


def test_a_worker_converts_what_it_reads_and_no_more(tokenizer, monkeypatch):
    converted = []

    def convert(example, *arguments):
        converted.append(example.guid)
        return convert_example(example, *arguments)

    convert_example = features.convert_example
    monkeypatch.setattr(features, "convert_example", convert)
    workers = dealt_batches(tokenizer, False, 2)
    assert converted == [str(number) for number in sum(sum(workers, []), [])]

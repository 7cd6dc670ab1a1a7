from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenization
from bert_classifier.data import batches, features, records, serialization
from bert_classifier.data.batches import Batching
from bert_classifier.data.examples import InputExample

COUNT = 10


def padding_share(lengths, steps):
    """The part of all positions that is padding when each step is padded to its longest."""
    steps = np.array(steps)
    return 1 - lengths[steps].sum() / (lengths[steps].max(axis=1).sum() * steps.shape[1])


def steps_of(plan, num_steps, examples_per_step):
    """The examples of each step, whatever the order of those inside."""
    size = num_steps * examples_per_step // plan.batch_size
    stream = np.concatenate([plan.examples(number) for number in plan.numbers[:size]])
    return np.sort(stream.reshape(num_steps, examples_per_step)).tolist()


# The order of training


@st.composite
def trainings(draw):
    lengths = draw(st.lists(st.integers(2, 30), min_size=1, max_size=60))
    seed = draw(st.integers(-3, 2**40))
    return np.array(lengths), draw(st.integers(1, 25)), seed, draw(st.integers(0, 5))


@settings(max_examples=200, deadline=None)
@given(trainings())
def test_each_epoch_has_each_example_once_in_steps_of_similar_length(training):
    lengths, step, _, epoch = training
    order = batches.epoch_order(*training)
    assert sorted(order) == list(range(len(lengths)))
    # Brute force: which positions of this epoch does each step of the endless stream begin at?
    starts = [i for i in range(len(lengths) - step + 1) if (epoch * len(lengths) + i) % step == 0]
    of_steps = sorted(sorted(lengths[order[start : start + step]]) for start in starts)
    # So few steps are sorted as a whole: laid end to end they ascend.
    flat = list(itertools.chain.from_iterable(of_steps))
    assert flat == sorted(flat)


@settings(max_examples=100, deadline=None)
@given(trainings(), st.integers(1, 4))
def test_batches_and_workers_divide_the_steps_and_change_nothing_else(training, num_batches):
    lengths, batch_size, seed, first = training
    step = num_batches * batch_size
    num_epochs = -(-(first + 6) * step // len(lengths))
    epochs = [batches.epoch_order(lengths, step, seed, epoch) for epoch in range(num_epochs)]
    expected = np.concatenate(epochs)[first * step : (first + 6) * step].reshape(6, step)
    whole = batches.training_plan(lengths, step, step, seed, first)
    parts = batches.training_plan(lengths, batch_size, step, seed, first * num_batches)
    assert steps_of(whole, 6, step) == np.sort(expected).tolist()
    assert steps_of(parts, 6, step) == np.sort(expected).tolist()


def test_steps_run_on_over_the_ends_of_epochs():
    """Each example comes as often as the epochs that are over, and once more at most."""
    lengths = np.arange(2, 25)
    plan = batches.training_plan(lengths, 10, 10, seed=1)
    seen = np.zeros(23, int)
    for number in range(40):
        np.add.at(seen, plan.examples(number), 1)
        num_whole = (number + 1) * 10 // 23
        assert set(seen) <= {num_whole, num_whole + 1}


@pytest.mark.parametrize("first", [1, 7, 36, 1000])
def test_training_goes_on_anywhere_as_if_it_had_not_stopped(first):
    lengths = np.random.RandomState(0).randint(2, 50, 115)
    whole = batches.training_plan(lengths, 8, 32, seed=3)
    rest = batches.training_plan(lengths, 8, 32, seed=3, first=first)
    assert rest.numbers[0] == first
    for number in rest.numbers[:20]:
        np.testing.assert_array_equal(rest.examples(number), whole.examples(number))


def test_the_order_is_another_in_each_epoch_and_with_each_seed():
    lengths = np.repeat([5, 6, 7, 8], 20)
    orders = [
        tuple(batches.epoch_order(lengths, 10, seed, epoch))
        for seed, epoch in itertools.product([1, 2, -1], range(3))
    ]
    assert len(set(orders)) == len(orders)
    assert tuple(batches.epoch_order(lengths, 10, 1, 0)) == orders[0]


def test_chance_decides_about_steps_their_examples_and_the_order_inside():
    lengths = np.arange(2000)
    plan = batches.training_plan(lengths, 20, 20, seed=1)
    first, second = (
        [plan.examples(number) for number in range(start, start + 100)] for start in (0, 100)
    )
    of_first, of_second = ({frozenset(batch) for batch in epoch} for epoch in (first, second))
    assert not of_first & of_second
    # Neither do short steps come first, nor short examples inside a step.
    assert abs(np.corrcoef(np.arange(100), [batch.mean() for batch in first])[0, 1]) < 0.3
    places = [np.corrcoef(np.arange(20), batch)[0, 1] for batch in first]
    assert abs(np.mean(places)) < 0.1


def test_padding_is_far_below_that_of_random_batches():
    lengths = np.random.RandomState(0).gamma(4, 12, 10000).astype(int) + 2
    grouped, plain = (
        steps_of(batches.training_plan(of, 32, 32, seed=1), 312, 32)
        for of in (lengths, np.zeros_like(lengths))
    )
    assert padding_share(lengths, plain) > 0.5
    assert padding_share(lengths, grouped) < 0.1


def test_the_batches_of_a_large_step_are_similar_in_themselves():
    lengths = np.random.RandomState(0).gamma(4, 12, 2560).astype(int) + 2
    plan = batches.training_plan(lengths[:2400], 16, 256, seed=1)
    # More than two epochs: two of the twenty steps belong to both sides of a border.
    of_batches = [plan.examples(number) for number in range(320)]
    assert padding_share(lengths, of_batches) < 0.1
    assert padding_share(lengths, np.reshape(of_batches, [20, 256])) > 0.15


def test_examples_of_equal_length_are_shuffled_as_a_whole():
    order = batches.epoch_order(np.zeros(3000), 10, seed=1, epoch=0)
    # No step has neighbours in the file only.
    assert np.ptp(order.reshape(-1, 10), axis=1).min() > 500


# The order of an evaluation


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(2, 9), min_size=1, max_size=400), st.integers(1, 3))
def test_evaluation_sorts_blocks_and_restores_their_order(lengths, batch_size):
    order = batches.evaluation_order(np.array(lengths), batch_size).tolist()
    expected = []
    for start in range(0, len(lengths), 64 * batch_size):
        block = range(len(lengths))[start : start + 64 * batch_size]
        expected += sorted(block, key=lambda number: (-lengths[number], number))
    assert order == expected
    restored = batches.restore_order(("row %d" % number for number in order), order)
    assert list(restored) == ["row %d" % number for number in range(len(lengths))]


def test_restoring_the_order_waits_for_no_more_than_a_block():
    order = batches.evaluation_order(np.random.RandomState(0).randint(2, 50, 1000), 2)
    read = []

    def rows():
        for number in order:
            read.append(number)
            yield number

    for due, row in enumerate(batches.restore_order(rows(), order)):
        assert row == due
        assert len(read) <= (due // 128 + 1) * 128


# Batches as they come out of the files and the examples

LABELS = [str(number) for number in range(COUNT)]


@pytest.fixture
def tokenizer(tiny_bert):
    return tokenization.FullTokenizer(tiny_bert.vocab_file)


@pytest.fixture
def examples():
    """Examples of different length, whose label tells which one it is."""
    lengths = [3, 1, 12, 5, 9, 1, 7, 2, 10, 4]
    return [InputExample(a, " ".join(["good"] * n), None, a) for a, n in zip(LABELS, lengths)]


@pytest.fixture
def path(tokenizer, tmp_path, examples):
    path = str(tmp_path / "train.tf_record")
    serialization.write_records_once(examples, features.Converter(LABELS, 16, tokenizer), path)
    return path


def read_labels(input_fn, num_batches=-1):
    """The labels of each batch, after a look at its padding."""
    tf.reset_default_graph()
    batch = tf.data.make_one_shot_iterator(input_fn().take(num_batches)).get_next()
    labels = []
    with tf.Session() as session:
        try:
            while True:
                values = session.run(batch)
                longest = values["input_mask"].sum(axis=1).max()
                assert values["input_ids"].shape[1] == min(16, -(-longest // 8) * 8)
                labels.append(values["label_ids"].tolist())
        except tf.errors.OutOfRangeError:
            return labels


def records_input_fn(path, batching):
    # To read needs no tokenizer.
    return batches.records_input_fn(path, features.Converter(LABELS, 16, None), batching)


def training_order(path, batch_size, num_batches, seed=1, start_step=0, **options):
    batching = Batching(batch_size, True, True, seed, start_step, **options)
    return read_labels(records_input_fn(path, batching), num_batches)


@pytest.mark.parametrize("group_by_length", [False, True])
def test_each_epoch_has_every_example_once_in_another_order(path, group_by_length):
    of_batches = training_order(path, 5, 8, group_by_length=group_by_length)
    epochs = [of_batches[i] + of_batches[i + 1] for i in range(0, 8, 2)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert list(range(10)) not in epochs
    # The five shortest are 1, 5, 7, 0 and 9.
    are_alike = {frozenset(batch) for batch in of_batches} == {
        frozenset([1, 5, 7, 0, 9]),
        frozenset([3, 6, 4, 8, 2]),
    }
    assert are_alike == group_by_length


def test_a_batch_size_that_does_not_divide_the_examples_loses_none(path):
    seen = sum(training_order(path, 4, 5, group_by_length=True), [])
    assert sorted(seen) == sorted(2 * list(range(10)))


@pytest.mark.parametrize("start_step", [1, 2, 3, 7])
def test_a_resumed_run_goes_on_with_the_next_batch(path, start_step):
    whole = training_order(path, 4, 10, seed=3, group_by_length=True)
    rest = training_order(path, 4, 3, seed=3, start_step=start_step, group_by_length=True)
    assert rest == whole[start_step : start_step + 3]


def test_the_seed_decides_the_order(path):
    first, second, other = (training_order(path, 5, 4, seed=seed) for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_training_reads_no_more_than_it_needs_soon(path, monkeypatch):
    read = []

    def count(record_file, indices):
        read.extend(indices)
        return original(record_file, indices)

    original = records.RecordFile.read
    monkeypatch.setattr(records.RecordFile, "read", count)
    input_fn = batches.file_based_input_fn_builder(
        path, 16, is_training=True, drop_remainder=True, batch_size=2
    )
    following = tf.data.make_one_shot_iterator(input_fn()).get_next()
    with tf.Session() as session:
        for _ in range(50):
            session.run(following)
    # What is used, what is ready, and what is being read.
    assert 100 <= len(read) <= 100 + 2 * (8 + 2 + 2)


@pytest.mark.parametrize("group_by_length", [False, True])
@pytest.mark.parametrize("drop_remainder", [False, True])
def test_an_evaluation_has_every_example_once(path, group_by_length, drop_remainder):
    batching = Batching(4, drop_remainder=drop_remainder, group_by_length=group_by_length)
    of_batches = read_labels(records_input_fn(path, batching))
    expected = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    if group_by_length:
        expected = [[2, 8, 4, 6], [3, 9, 0, 7], [1, 5]]
    assert of_batches == expected[: 2 if drop_remainder else 3]


# Several workers


def dealt_batches(
    examples, tokenizer, is_training, num_shards, num_batches=-1, num_tokens=None, start_step=0
):
    """The batches of each of several workers, three examples in each."""
    converter = features.Converter(LABELS, 16, tokenizer)
    batching = Batching(
        3, is_training, is_training, 1, start_step, group_by_length=num_tokens is not None
    )
    return [
        read_labels(
            batches.examples_input_fn(
                examples, converter, batching, num_shards, shard_index, num_tokens
            ),
            num_batches,
        )
        for shard_index in range(num_shards)
    ]


@pytest.mark.parametrize("group_by_length", [False, True])
@pytest.mark.parametrize("num_shards,start_step", [(1, 0), (2, 0), (2, 3), (3, 1)])
def test_workers_together_read_what_one_reads(
    path, examples, tokenizer, num_shards, start_step, group_by_length
):
    """Uneven slices give all of them the same number of steps, and lose no example."""
    num_tokens = records.RecordFile(path).num_tokens if group_by_length else None
    options = {"start_step": start_step, "num_tokens": num_tokens}
    workers = dealt_batches(examples, tokenizer, True, num_shards, 10, **options)
    together = [sorted(sum(of_step, [])) for of_step in zip(*workers)]
    whole = training_order(
        path, 3 * num_shards, 10, start_step=start_step, group_by_length=group_by_length
    )
    assert together == list(map(sorted, whole))


@pytest.mark.parametrize("num_shards", [1, 2, 3, 5])
def test_an_evaluation_is_dealt_out(examples, tokenizer, num_shards):
    for num_tokens, expected in (
        (None, [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]),
        (np.arange(10), [[9, 8, 7], [6, 5, 4], [3, 2, 1], [0]]),
    ):
        workers = dealt_batches(examples, tokenizer, False, num_shards, num_tokens=num_tokens)
        assert workers == [expected[index::num_shards] for index in range(num_shards)]


def test_a_worker_converts_what_it_reads_and_no_more(examples, tokenizer, monkeypatch):
    converted = []

    def convert(converter, example):
        converted.append(example.guid)
        return original(converter, example)

    original = features.Converter.convert
    monkeypatch.setattr(features.Converter, "convert", convert)
    workers = dealt_batches(examples, tokenizer, False, 2)
    assert sorted(converted) == sorted(str(number) for number in sum(sum(workers, []), []))

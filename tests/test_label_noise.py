"""The loss of training examples, and which of them are looked at."""

from __future__ import annotations

import numpy as np
import pytest

from bert_classifier import label_noise
from bert_classifier.data.examples import InputExample


@pytest.mark.parametrize(
    "label_id, row, expected",
    [
        (1, {"probabilities": np.array([0.75, 0.25])}, -np.log(0.25)),
        ([1, 0], {"probabilities": np.array([0.5, 0.2])}, -(np.log(0.5) + np.log(0.8)) / 2),
        (2.0, {"predictions": np.float32(3.5)}, 2.25),
        (0, {"probabilities": np.array([0.0, 1.0])}, -np.log(1e-30)),
    ],
)
def test_the_loss_of_a_training_example(label_id, row, expected):
    assert label_noise._loss(row, label_id, "probabilities" in row) == pytest.approx(expected)


@pytest.mark.parametrize("size", [1, 5, 1000, 3000])
def test_a_sample_has_each_example_once_and_is_bounded(size):
    examples = [InputExample(str(n), "text") for n in range(size)]
    found = [example.guid for example in label_noise._sample(examples)]
    assert len(found) == len(set(found)) == min(size, 1000)
    assert found == [example.guid for example in label_noise._sample(examples)]


def test_looking_for_suspects_ends_in_time(monkeypatch):
    monkeypatch.setattr(label_noise, "_MOST_SECONDS", -1.0)
    assert list(label_noise._in_time(iter(range(5)))) == [0]

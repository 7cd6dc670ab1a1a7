"""The content of one checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier.model import weights
from bert_classifier.training import runs


@pytest.mark.parametrize(
    "value",
    [
        np.float32([[1.5, -2.5]]),
        np.float64(0.1),
        np.float16([3.0]),
        np.int64(2**40),
        np.int32([1, -2]),
        np.uint8([255]),
        np.array([True, False]),
        np.zeros([0, 3], np.float32),
        np.array([b"text", b"\xff"], dtype=object),
    ],
    ids=lambda value: "%s%s" % (value.dtype, list(value.shape)),
)
def test_arrays_are_written_as_they_are(tmp_path, value):
    prefix = str(tmp_path / "model.ckpt")
    weights.write_checkpoint({"a/b": value, "other": np.float32(1)}, prefix)
    reader = tf.train.load_checkpoint(prefix)
    written = reader.get_tensor("a/b")
    assert sorted(reader.get_variable_to_shape_map()) == ["a/b", "other"]
    assert np.shape(written) == value.shape
    assert reader.get_variable_to_dtype_map()["a/b"] == tf.as_dtype(value.dtype)
    np.testing.assert_array_equal(written, value)


def test_the_index_tells_one_checkpoint_from_another(tmp_path):
    """It is what a run remembers of its --init_checkpoint."""
    value = np.zeros([100, 100], np.float32)
    other = value.copy()
    other[50, 50] = 1e-30
    hashes = []
    for number, array in enumerate((value, value, other)):
        prefix = str(tmp_path / str(number) / "model.ckpt")
        weights.write_checkpoint({"weight": array}, prefix)
        hashes.append(runs.content_hash(weights.index_file(prefix)))
    assert hashes[0] == hashes[1] != hashes[2]
    first_format = tmp_path / "model.ckpt"
    first_format.touch()
    assert weights.index_file(str(first_format)) == str(first_format)


@pytest.fixture
def prefix(tmp_path):
    """A checkpoint with one variable that is finite, and one that is not."""
    path = str(tmp_path / "model.ckpt")
    weights.write_checkpoint({"fine": np.ones(3, np.float32), "bad": np.float32([1, np.inf])}, path)
    return path


def test_a_checkpoint_is_read_once_while_its_files_stay_as_they_are(prefix, monkeypatch):
    opened = []
    reader = tf.train.NewCheckpointReader
    monkeypatch.setattr(
        weights.tf.train, "NewCheckpointReader", lambda path: opened.append(path) or reader(path)
    )
    assert weights.unreadable(prefix) is None
    assert weights.find_not_finite(prefix, ["fine", "bad"]) == "bad"
    assert weights.find_not_finite(prefix, ["fine"]) is None
    assert len(opened) == 1
    with open(weights.index_file(prefix), "wb") as stream:
        stream.write(b"no index")
    assert weights.unreadable(prefix)
    assert len(opened) == 2


def test_what_is_not_there_is_unreadable_until_it_is_there(tmp_path):
    prefix = str(tmp_path / "model.ckpt")
    assert "model.ckpt" in weights.unreadable(prefix)
    weights.write_checkpoint({"weight": np.float32(1)}, prefix)
    assert weights.unreadable(prefix) is None


def test_float64_that_float32_cannot_hold_is_not_finite(tmp_path):
    prefix = str(tmp_path / "model.ckpt")
    weights.write_checkpoint(
        {"large": np.float64(1e300), "text": np.array(b"text", object)}, prefix
    )
    assert weights.unreadable(prefix) is None
    assert weights.find_not_finite(prefix, ["text", "large"]) == "large"

from __future__ import annotations

import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bert_classifier.data import records
from bert_classifier.errors import BadInput

SOME = [b"one", b"", b"\x00" * 300, b"four"]


def write(path, contents):
    with records.writer(path) as write_record:
        for number, record in enumerate(contents):
            write_record(record, 10 * number)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=12), st.data())
def test_records_are_read_in_any_order(tmp_path, contents, data):
    path = str(tmp_path / "a")
    write(path, contents)
    assert list(tf.python_io.tf_record_iterator(path)) == contents
    indices = data.draw(st.lists(st.integers(0, len(contents) - 1)))
    record_file = records.RecordFile(path)
    assert record_file.read(indices) == [contents[index] for index in indices]
    assert record_file.num_tokens.tolist() == [10 * number for number in range(len(contents))]
    # As another program would have written it.
    os.remove(path + ".index")
    record_file = records.RecordFile(path)
    assert record_file.read(indices) == [contents[index] for index in indices]
    assert record_file.num_tokens.tolist() == [0] * len(contents)


def test_a_file_is_there_with_its_index_or_not_at_all(tmp_path):
    path = str(tmp_path / "a")
    assert not records.is_complete(path)
    with pytest.raises(ZeroDivisionError), records.writer(path) as write_record:
        write_record(b"one", 1)
        write_record(b"two", 1 // 0)
    assert os.listdir(str(tmp_path)) == []
    write(path, SOME)
    assert records.is_complete(path)
    for name in ("a", "a.index"):
        os.rename(str(tmp_path / name), str(tmp_path / "away"))
        assert not records.is_complete(path)
        os.rename(str(tmp_path / "away"), str(tmp_path / name))


def test_a_file_that_shrinks_while_it_is_used_is_an_error(tmp_path):
    path = str(tmp_path / "a")
    write(path, SOME)
    record_file = records.RecordFile(path)
    os.truncate(path, os.path.getsize(path) - 1)
    assert not records.is_complete(path)
    assert record_file.read([0, 2]) == [SOME[0], SOME[2]]
    with pytest.raises(BadInput, match="record 4 is damaged; remove the file"):
        record_file.read([3])


def flip(path, at):
    with open(path, "r+b") as stream:
        stream.seek(at)
        (byte,) = stream.read(1)
        stream.seek(at)
        stream.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("has_index", [True, False])
def test_a_flipped_byte_of_a_record_is_told(tmp_path, has_index):
    path = str(tmp_path / "a")
    write(path, SOME)
    if not has_index:
        os.remove(path + ".index")
    record_file = records.RecordFile(path)
    record_at = len(b"one") + 16 + 16 + 12  # Behind the first two records, and its own length.
    for at in (record_at, record_at + 299):
        flip(path, at)
        assert record_file.read([0, 1, 3]) == [SOME[0], SOME[1], SOME[3]]
        with pytest.raises(BadInput) as error:
            record_file.read([1, 2])
        assert str(error.value).startswith(path + ": record 3 is damaged; remove the file")
        flip(path, at)
    assert record_file.read([2]) == [SOME[2]]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:40],
        lambda content: content[:-1],
        lambda content: bytes(len(content)),
        lambda content: content[:21] + b"\x07" + content[22:],
        lambda content: content + content,
    ],
)
def test_a_damaged_index_is_none(tmp_path, damage):
    path = tmp_path / "a.index"
    write(str(tmp_path / "a"), SOME)
    path.write_bytes(damage(path.read_bytes()))
    assert not records.is_complete(str(tmp_path / "a"))
    assert records.RecordFile(str(tmp_path / "a")).read([3, 0]) == [SOME[3], SOME[0]]


def test_an_index_without_checksums_is_made_anew(tmp_path):
    """Runs that were begun with an earlier version have one."""
    path = str(tmp_path / "a")
    write(path, SOME)
    ends = np.cumsum([len(record) + 16 for record in SOME])
    old = np.stack([ends, np.arange(4) * 10], axis=1).astype("<i8")
    (tmp_path / "a.index").write_bytes(old.tobytes())
    assert not records.is_complete(path)
    write(path, SOME)
    assert records.is_complete(path)

from __future__ import annotations

import os

import pytest
import tensorflow.compat.v1 as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import records

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
    with pytest.raises(OSError, match="has become shorter"):
        record_file.read([3])

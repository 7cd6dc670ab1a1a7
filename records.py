"""TFRecord files that can be read in any order.

Beside a file is its index, `<file>.index`: for each record two little-endian int64, where the
record ends in the file, and how many tokens its example has. So training reads what the next batch
needs, and holds nothing else in memory.
"""

from __future__ import annotations

import contextlib
import os
from typing import Callable, Iterable, Iterator

import numpy as np
import tensorflow.compat.v1 as tf

import files

_INDEX = np.dtype([("end", "<i8"), ("num_tokens", "<i8")])
# What TFRecord puts around a record: before it its length (8 bytes) and the checksum of that (4),
# behind it its own checksum.
_BYTES_BEFORE, _BYTES_BEHIND = 12, 4


@contextlib.contextmanager
def writer(path: str) -> Iterator[Callable[[bytes, int], None]]:
    """Gives a function that writes a record and its number of tokens.

    The file and its index have their names when the block has succeeded.
    """
    with contextlib.ExitStack() as until_done:
        temporary = until_done.enter_context(files.atomic(path))
        temporary_index = until_done.enter_context(files.atomic(_index_path(path)))
        stream = until_done.enter_context(tf.python_io.TFRecordWriter(temporary))
        index = until_done.enter_context(open(temporary_index, "wb"))
        end = 0

        def write(record: bytes, num_tokens: int) -> None:
            nonlocal end
            stream.write(record)
            end += _size_in_file(record)
            index.write(np.array((end, num_tokens), _INDEX).tobytes())

        yield write


def is_complete(path: str) -> bool:
    """Tells whether there is a file, and an index that fits it."""
    if not os.path.exists(path) or not os.path.exists(_index_path(path)):
        return False
    ends = np.fromfile(_index_path(path), _INDEX)["end"]
    return ends.size > 0 and ends[-1] == os.path.getsize(path)


class RecordFile:
    """A TFRecord file; where another program wrote it, and no index, it is read through once.

    Attributes:
        num_tokens: how many tokens each example has, before it was cut, int64 `[num_examples]`; 0
            where there is no index.
    """

    def __init__(self, path: str):
        self._path = path
        if os.path.exists(_index_path(path)):
            index = np.fromfile(_index_path(path), _INDEX)
            self._ends, self.num_tokens = index["end"], index["num_tokens"]
        else:
            sizes = [_size_in_file(record) for record in tf.python_io.tf_record_iterator(path)]
            self._ends, self.num_tokens = np.cumsum(sizes), np.zeros(len(sizes), np.int64)

    def read(self, indices: Iterable[int]) -> list[bytes]:
        """Reads the records of these numbers, in this order."""
        with open(self._path, "rb", buffering=0) as stream:
            return [self._read(stream.fileno(), index) for index in indices]

    def _read(self, descriptor: int, index: int) -> bytes:
        start = int(self._ends[index - 1]) if index else 0
        size = int(self._ends[index]) - start
        content = os.pread(descriptor, size, start)
        if len(content) != size:
            raise OSError("%s: has become shorter while it was read" % self._path)
        return content[_BYTES_BEFORE:-_BYTES_BEHIND]


def _index_path(path: str) -> str:
    return path + ".index"


def _size_in_file(record: bytes) -> int:
    return _BYTES_BEFORE + len(record) + _BYTES_BEHIND

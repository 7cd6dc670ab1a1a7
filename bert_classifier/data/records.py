"""TFRecord files that can be read in any order.

Beside a file is its index, `<file>.index`: for each record, little-endian, where it ends in the
file (int64), how many tokens its example has (int64) and its CRC-32 (uint32); at the end the CRC-32
of all that. So training reads the records of the next batch, and holds no others in memory.

TFRecord's own checksum is CRC-32C, which Python's standard library does not compute.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from typing import Callable, Iterable, Iterator

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import files
from bert_classifier.errors import BadInput

_INDEX = np.dtype([("end", "<i8"), ("num_tokens", "<i8"), ("crc", "<u4")])
_BYTES_OF_CRC = 4
# A TFRecord file has before each record its length (8 bytes) and the checksum of the length (4),
# and behind it the checksum of the record (4).
_BYTES_BEFORE, _BYTES_BEHIND = 12, 4


@contextlib.contextmanager
def writer(path: str) -> Iterator[Callable[[bytes, int], None]]:
    """Return a context whose value is a function that writes a record and its number of tokens.

    The file and its index get their names when the block succeeds.
    """
    with contextlib.ExitStack() as until_done:
        temporary = until_done.enter_context(files.atomic(path))
        temporary_index = until_done.enter_context(files.atomic(_index_path(path)))
        stream = until_done.enter_context(tf.python_io.TFRecordWriter(temporary))
        index = until_done.enter_context(open(temporary_index, "wb"))
        end = crc = 0

        def write(record: bytes, num_tokens: int) -> None:
            nonlocal end, crc
            stream.write(record)
            end += _size_in_file(record)
            entry = np.array((end, num_tokens, zlib.crc32(record)), _INDEX).tobytes()
            index.write(entry)
            crc = zlib.crc32(entry, crc)

        yield write
        index.write(_as_bytes(crc))


def is_complete(path: str) -> bool:
    """Return whether there is a file, and an undamaged index that fits it."""
    index = _read_index(path)
    if index is None or not index.size or not os.path.exists(path):
        return False
    return index["end"][-1] == os.path.getsize(path)


def _read_index(path: str) -> np.ndarray | None:
    """Return the entries of an index; None if there is none, or a damaged one.

    An earlier version wrote indices without CRC-32s; they count as damaged and are made again.
    """
    if not os.path.exists(_index_path(path)):
        return None
    with open(_index_path(path), "rb") as stream:
        content = stream.read()
    entries, crc = content[:-_BYTES_OF_CRC], content[-_BYTES_OF_CRC:]
    if len(entries) % _INDEX.itemsize or _as_bytes(zlib.crc32(entries)) != crc:
        return None
    return np.frombuffer(entries, _INDEX)


def _as_bytes(crc: int) -> bytes:
    return crc.to_bytes(_BYTES_OF_CRC, "little")


class RecordFile:
    """A TFRecord file; without an index, as another program writes it, it is read through once.

    Attributes:
        num_tokens: how many tokens each example has, before it was cut, int64 `[num_examples]`; 0
            where there is no index.
    """

    def __init__(self, path: str):
        self._path = path
        index = _read_index(path)
        if index is None:
            index = np.array(
                [
                    (_size_in_file(record), 0, zlib.crc32(record))
                    for record in tf.python_io.tf_record_iterator(path)
                ],
                _INDEX,
            )
            index["end"] = np.cumsum(index["end"])
        self._ends, self.num_tokens, self._crcs = (index[name] for name in _INDEX.names)

    def read(self, indices: Iterable[int]) -> list[bytes]:
        """Return the records of these numbers, in this order.

        Raises:
            BadInput: one of them has changed since it was written.
        """
        with open(self._path, "rb", buffering=0) as stream:
            return [self._read(stream.fileno(), index) for index in indices]

    def _read(self, descriptor: int, index: int) -> bytes:
        start = int(self._ends[index - 1]) if index else 0
        size = int(self._ends[index]) - start
        record = os.pread(descriptor, size, start)[_BYTES_BEFORE:-_BYTES_BEHIND]
        if zlib.crc32(record) != self._crcs[index]:
            raise BadInput(
                "%s: record %d is damaged; remove the file, and the same command makes it anew"
                % (self._path, index + 1)
            )
        return record


def _index_path(path: str) -> str:
    return path + ".index"


def _size_in_file(record: bytes) -> int:
    return _BYTES_BEFORE + len(record) + _BYTES_BEHIND

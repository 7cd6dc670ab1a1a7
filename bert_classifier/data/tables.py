"""Files -> rows: TSV, CSV and JSON lines, plain or gzipped, read as a stream.

All errors that do not depend on the meaning of the columns are found here; they name the line.
"""

from __future__ import annotations

import codecs
import collections
import contextlib
import difflib
import functools
import gzip
import itertools
import json
import os
import re
import zlib
from typing import Any, Iterator, Mapping, NamedTuple, Sequence

from bert_classifier import files
from bert_classifier.errors import BadInput

FORMATS = ("tsv", "csv", "jsonl")

SEPARATORS = {"comma": ",", "semicolon": ";"}

_FORMAT_OF_EXTENSION = {
    ".tsv": "tsv",
    ".txt": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
_SEPARATED_BY = {
    "\t": ", separated by tabs,",
    ",": ", separated by commas,",
    ";": ", separated by semicolons,",
}
_RAGGED_CURES = {
    "tsv": "a tab must stand between two columns and nowhere else",
    "csv": "put a text that contains the separator between quotation marks, or give --separator",
}

# Several times the length of the longest books. A file with a longer line is damaged or no table,
# and to read on would only fill the memory.
_MAX_LINE_BYTES = 1 << 24
_MAX_RECORD_CHARACTERS = 1 << 24

# So many rows are read to find the separator of a CSV file.
_FIRST_ROWS = 100

# A first line of CSV files that Excel writes and reads.
_SEPARATOR_LINE = re.compile(r'"?sep=([^"\r\n])"?\r?\n?', re.IGNORECASE)

_GZIP_MAGIC = b"\x1f\x8b"

_HALF_A_PAIR = re.compile(r"[\ud800-\udfff]")


class Row(NamedTuple):
    """A row of a table; `line` is the line of the file in which it begins, counted from 1."""

    line: int
    cells: list[str]


class ListCell(str):
    """A JSON list of texts, joined with commas; `elements` has each of them."""

    elements: tuple[str, ...] = ()


class Table:
    """The rows of a UTF-8 file, read anew and one at a time by each iteration.

    A line ends with LF or CRLF and nothing else: U+2028 or a lone CR is part of a text. Blank lines
    before the first row and after the last one are dropped; in between, a blank line is a row of
    one empty cell.

    - `tsv`: a tab between two columns; a quotation mark is part of the text.
    - `csv`: RFC 4180, so a cell in quotation marks may span lines. The separator is the comma or
      the semicolon: the one with which a name in `wanted` is a cell of the first row, or else the
      first rows have equally many cells, two or more. A first line such as `sep=;` defines it too.
      (Python's `csv` refuses a lone CR in a text, and its errors do not name the opening line.)
    - `jsonl`: one object per line; blank lines are ignored. The columns are the keys of the first
      object. null, and a key that a later object lacks, is an empty cell; a number stays as it is
      written; a list of strings, such as the labels of a text that has several, is a `ListCell`.
      Another value is an error in columns that are wanted or were asked for by `position`, and an
      empty cell in others. A key that only later objects have is an error if it is wanted.

    A file that begins with the magic number of gzip is unpacked while it is read.

    Args:
        path: the file.
        file_format: one of `FORMATS`; by default that of the extension, with or without `.gz`.
        has_header: whether the first row names the columns. By default it does if one of its cells
            is a name in `wanted`. Ignored for `jsonl`, which always names them.
        wanted: the columns that the caller will ask for, by name or by number.
        skip_ragged: whether a row with a wrong number of columns is left out and not an error.
        cure: end of the message if the file is missing or empty: what to do.
        separator: of `csv`, one of `SEPARATORS`; by default it is found in the content.

    Attributes:
        path: the file.
        file_format: one of `FORMATS`.
        has_header: whether the columns have names.
        columns: the names, stripped; "1", "2", ... if they have none.
        skipped: number of ragged rows that the latest iteration has left out so far.

    Raises:
        BadInput: the first row cannot be read. Iteration raises it for the rows below.
    """

    def __init__(
        self,
        path: str,
        file_format: str | None = None,
        has_header: bool | None = None,
        wanted: Sequence[str | int] = (),
        skip_ragged: bool = False,
        cure: str = "check --train_file",
        separator: str | None = None,
    ):
        files.check_rereadable(path)
        self.path = path
        self.skipped = 0
        self._wanted = frozenset(name for name in wanted if not str(name).isdigit())
        self._asked: set[int] = set()
        self._skip_ragged = skip_ragged
        self._cure = cure
        self._separator_line = 0
        first_line = next(((n, text) for n, text in self._lines() if text.strip()), None)
        if first_line is None:
            raise BadInput(f"{path}: is empty; {cure}")
        self.file_format = file_format or _format_of(path)
        self._separator = "\t"
        if self.file_format == "csv":
            declared = self._declared_separator(*first_line)
            if separator or declared:
                self._separator = SEPARATORS[separator] if separator else declared
            else:
                self._separator = self._find_separator(first_line[1], has_header is not False)
        first = next(self._rows(), None)
        if first is None:
            raise BadInput(f"{path}: is empty; {cure}")
        self._first = first
        names = [cell.strip() for cell in first.cells]
        if has_header is None:
            has_header = not self._wanted.isdisjoint(names)
        self.has_header = has_header or self.file_format == "jsonl"
        self._numbers = [str(number) for number in range(1, len(names) + 1)]
        self.columns = names if self.has_header else self._numbers
        self._asked = self._find_wanted()

    def position(self, column: str | int, flag: str | None = None) -> int:
        """Return the position of a column in `Row.cells`.

        Args:
            column: its name or its number. An int counts from 0, as Python does; digits in a str,
                if no column has this name, count from 1, as `cut -f` does.
            flag: the flag that names the column, for the message if there is no such column.

        Raises:
            BadInput: there is no such column, or there are two of this name.
        """
        position = self._find_column(column, flag)
        self._asked.add(position)
        return position

    def forget(self, column: str | int) -> None:
        """Allow any value in a column, as in those that are not asked for."""
        self._wanted -= {column}
        self._asked = self._find_wanted()

    def _find_wanted(self) -> set[int]:
        return {at for at, name in enumerate(self.columns) if name in self._wanted}

    def _find_column(self, column: str | int, flag: str | None) -> int:
        if isinstance(column, int) and column in range(len(self.columns)):
            return column
        for names in (self.columns, self._numbers):
            positions = [position for position, name in enumerate(names) if name == column]
            if len(positions) > 1:
                raise self._error(
                    self._first.line,
                    f"column {column!r} is there more than once; rename it or give a number",
                )
            if positions:
                return positions[0]
        cure = f"; give {flag}" if flag else ""
        raise self._error(self._first.line, self._no_such_column(column) + cure)

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows below the header.

        Raises:
            BadInput: a row cannot be read.
        """
        self.skipped = 0
        width = len(self._first.cells)
        rows = self._rows()
        if self.has_header:
            next(rows, None)
        for row in rows:
            if len(row.cells) == width:
                yield row
            elif self._skip_ragged:
                self.skipped += 1
            elif row.cells == [""]:
                raise self._error(row.line, "is blank; remove it")
            else:
                raise self._error(
                    row.line,
                    f"columns: {len(row.cells)}, but {width} in line {self._first.line}; "
                    f"{_RAGGED_CURES[self.file_format]}",
                )

    def _error(self, line: int, message: str) -> BadInput:
        return BadInput(f"{self.path}:{line}: {message}")

    def _no_such_column(self, column: str | int) -> str:
        names = {cell.strip().lower(): cell.strip() for cell in self._first.cells}
        similar = difflib.get_close_matches(str(column).lower(), names, n=1)
        hint = f"; did you mean {names[similar[0]]!r}?" if similar else ";"
        is_json = self.file_format == "jsonl"
        separated = "" if is_json else _SEPARATED_BY.get(self._separator, "")
        cells = str(self._first.cells)[:300]
        headless = "" if self.has_header else ", taken for a row and not for a header"
        return f"no column {column!r}{hint} the columns{separated} are {cells}{headless}"

    def _declared_separator(self, line: int, text: str) -> str:
        """Return the separator of a `sep=` line above the rows, and remember that it is no row."""
        match = _SEPARATOR_LINE.fullmatch(text)
        self._separator_line = line if match else 0
        return match.group(1) if match else ""

    def _find_separator(self, first_line: str, may_have_header: bool) -> str:
        """Return the separator of a CSV file that does not declare it."""
        named, even = [], []
        for separator in SEPARATORS.values():
            self._separator = separator
            rows = self._first_rows()
            if rows and not self._wanted.isdisjoint(cell.strip() for cell in rows[0]):
                named.append(separator)
            if rows and len(rows[0]) > 1 and len(set(map(len, rows))) == 1:
                even.append(separator)
        if may_have_header and len(named) == 1:
            return named[0]
        if len(even) > 1:
            raise BadInput(
                f"{self.path}: commas as well as semicolons may separate its columns; give "
                "--separator=comma or --separator=semicolon"
            )
        unquoted = re.sub(r'"[^"]*"', "", first_line)
        return even[0] if even else max(SEPARATORS.values(), key=unquoted.count)

    def _first_rows(self) -> list[list[str]]:
        """Return up to 100 rows of a CSV file, fewer if one of them cannot be read."""
        rows: list[list[str]] = []
        with contextlib.suppress(BadInput):
            for row in itertools.islice(self._rows(), _FIRST_ROWS):
                if row.cells != [""]:
                    rows.append(row.cells)
        return rows

    def _rows(self) -> Iterator[Row]:
        """Yield the rows and the header, with as many cells as each of them has.

        The readers yield a blank line as a row without cells. It is dropped unless a row follows.
        """
        rows_of = {"tsv": self._tsv_rows, "csv": self._csv_rows, "jsonl": self._json_rows}
        lines = self._lines()
        below = itertools.dropwhile(lambda line: line[0] <= self._separator_line, lines)
        rows = rows_of[self.file_format](below)
        first_blank = 0
        for row in itertools.dropwhile(lambda row: not row.cells, rows):
            if not row.cells:
                first_blank = first_blank or row.line
                continue
            if first_blank:
                yield from (Row(line, [""]) for line in range(first_blank, row.line))
                first_blank = 0
            yield row

    def _tsv_rows(self, lines: Iterator[tuple[int, str]]) -> Iterator[Row]:
        for line, text in lines:
            text = _without_end(text)
            yield Row(line, text.split("\t") if text else [])

    def _csv_rows(self, lines: Iterator[tuple[int, str]]) -> Iterator[Row]:
        for line, text in lines:
            if '"' in text:
                yield Row(line, self._quoted_cells(line, text, lines))
            else:
                text = _without_end(text)
                yield Row(line, text.split(self._separator) if text else [])

    def _quoted_cells(self, line: int, text: str, lines: Iterator[tuple[int, str]]) -> list[str]:
        """Split a CSV record, and take its further lines from `lines`."""
        cells = []
        start = 0
        while True:
            if text.startswith('"', start):
                line, text, closing = self._find_closing_quote(line, text, start + 1, lines)
                cells.append(text[start + 1 : closing].replace('""', '"'))
                end = closing + 1
            else:
                end = text.find(self._separator, start)
                if end < 0:
                    end = len(_without_end(text))
                cells.append(text[start:end])
            if not text.startswith(self._separator, end):
                break
            start = end + 1
        if _without_end(text[end:]):
            raise self._error(
                line,
                f"text after the closing quotation mark of column {len(cells)}; double a quotation "
                "mark that is part of the text",
            )
        return cells

    def _find_closing_quote(
        self, line: int, text: str, start: int, lines: Iterator[tuple[int, str]]
    ) -> tuple[int, str, int]:
        """Return the line in which a cell ends, the text up to there, and the position in it."""
        opening_line = line
        closing = _next_quote(text, start)
        while closing < 0:
            start = len(text)
            line, more = next(lines, (line, ""))
            text += more
            too_long = len(text) > _MAX_RECORD_CHARACTERS
            if too_long or not more:
                what = f"is longer than {_MAX_RECORD_CHARACTERS} characters"
                raise self._error(
                    opening_line,
                    f"a quotation mark opens a cell that {what if too_long else 'does not end'}; "
                    "close it or, if it is part of the text, double it and quote the whole cell",
                )
            closing = _next_quote(text, start)
        return line, text, closing

    def _json_rows(self, lines: Iterator[tuple[int, str]]) -> Iterator[Row]:
        keys: list[str] = []
        for line, text in lines:
            text = text.strip()
            if not text:
                continue
            try:
                record = _json_object(text)
                if not keys:
                    keys = [_without_half_pairs(key) for key in record]
                    yield Row(line, keys)
                cells = [
                    _json_cell(key, record.get(key), at in self._asked)
                    for at, key in enumerate(keys)
                ]
            except (ValueError, RecursionError) as error:
                raise self._error(line, str(error)) from error
            self._check_keys(line, record, keys)
            yield Row(line, cells)

    def _check_keys(self, line: int, record: Mapping[str, Any], keys: Sequence[str]) -> None:
        """Check that no wanted value is under a key that the first object does not have."""
        lacks_asked = any(keys[at] not in record for at in self._asked)
        for key in record:
            if key not in keys and (lacks_asked or key.strip() in self._wanted):
                raise self._error(
                    line,
                    f"key {key!r:.100} is not in the first object; add it there, as null, or "
                    "correct it",
                )

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Yield each line with its number, from 1, and with its line end."""
        line = 0
        try:
            with open(self.path, "rb") as file:
                reader = gzip.open(file) if file.peek(2).startswith(_GZIP_MAGIC) else file
                read_line = functools.partial(reader.readline, _MAX_LINE_BYTES + 1)
                for line, data in enumerate(iter(read_line, b""), start=1):
                    yield line, self._decode(line, data)
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None)
            if reason is not None:
                raise BadInput(f"{self.path}: {reason}; {self._cure}") from error
            raise self._error(
                line + 1, f"damaged gzip data ({error}); make or copy the file again"
            ) from error

    def _decode(self, line: int, data: bytes) -> str:
        if len(data) > _MAX_LINE_BYTES:
            raise self._error(
                line, f"is longer than {_MAX_LINE_BYTES} bytes; end each row with a line feed"
            )
        if line == 1 and _is_utf16(data):
            raise self._error(line, "is UTF-16; save the file as UTF-8")
        if line == 1 and b"\0" in data:
            raise self._error(line, "is no text file; save the table as UTF-8 text")
        if b"\0" in data:
            raise self._error(line, "has a NUL byte; save the file as UTF-8 text")
        try:
            return str(data, "utf-8-sig" if line == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise self._error(
                line,
                "is not UTF-8; convert the file, for example with `iconv -f GB18030 -t UTF-8` if "
                "it is Chinese",
            ) from error


def _format_of(path: str) -> str:
    stem, extension = os.path.splitext(path.lower())
    if extension == ".gz":
        extension = os.path.splitext(stem)[1]
    if extension not in _FORMAT_OF_EXTENSION:
        raise BadInput(
            f"{path}: its name does not tell its format; set --file_format to one of "
            f"{', '.join(FORMATS)}"
        )
    return _FORMAT_OF_EXTENSION[extension]


def _is_utf16(data: bytes) -> bool:
    """Return whether a first line has the byte order mark or the NUL bytes of UTF-16."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return True
    fewer, more = sorted(half.count(b"\0") for half in (data[::2], data[1::2]))
    # In a file that is no text, the bytes of both halves are 0.
    return more * 4 > len(data) and fewer * 10 < more


def _without_end(text: str) -> str:
    if text.endswith("\n"):
        text = text[:-1]
    return text[:-1] if text.endswith("\r") else text


def _next_quote(text: str, start: int) -> int:
    """Return the position of the first quotation mark that is not doubled; -1 for none."""
    position = text.find('"', start)
    while text.startswith('""', position):
        position = text.find('"', position + 2)
    return position


def _json_object(text: str) -> dict[str, Any]:
    """Return a JSON object; raise ValueError, with the cure, if the text is none."""
    try:
        record = _JSON.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"is no JSON ({error.msg}, character {error.colno}); write one object per line"
        ) from error
    if not isinstance(record, dict) or not record:
        raise ValueError("is no JSON object with keys; write one per line")
    return record


def _json_cell(key: str, value: Any, is_asked: bool) -> str:
    """Return a value as a cell; an empty one if it cannot be one and is not asked for."""
    try:
        return _without_half_pairs(_as_cell(key, value))
    except ValueError:
        if is_asked:
            raise
        return ""


def _as_cell(key: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(element, str) for element in value):
        raise ValueError(
            f"the value of {key!r:.100} cannot be used; write a text, a number, true, false, null "
            "or a list of texts"
        )
    cell = ListCell(",".join(value))
    cell.elements = tuple(value)
    return cell


def _without_half_pairs(text: str) -> str:
    half = _HALF_A_PAIR.search(text)
    if half:
        raise ValueError(f"has {half.group()!r}, which is half a character; remove it")
    return text


def _object_without_twins(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        (key, _), *_ = collections.Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"has the key {key!r:.100} twice; keep one")
    return record


_JSON = json.JSONDecoder(object_pairs_hook=_object_without_twins, parse_int=str, parse_float=str)

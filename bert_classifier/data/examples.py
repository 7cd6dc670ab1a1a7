"""Table -> InputExample: one loop reads the files of all tasks."""

from __future__ import annotations

import collections
import copy
import itertools
import sys
from typing import Any, Collection, Counter, Iterable, Iterator, Mapping, NamedTuple, Sequence

from bert_classifier import problem_types
from bert_classifier.data.division import choose_dev
from bert_classifier.data.labels import check_characters
from bert_classifier.data.tables import ListCell, Row, Table
from bert_classifier.data.tasks import Split, Task
from bert_classifier.errors import BadInput
from bert_classifier.problem_types import Label

# Columns that name a row, if a split does not name one: the first of them in the header.
ID_COLUMNS = ("id", "index", "guid")

# Some 300,000 sentences. To read a file several times takes longer than to read it once, but the
# memory that a run needs must not grow with its data without a limit.
_KEPT_BYTES = 1 << 26


class InputExample(NamedTuple):
    """A text, or a pair of texts, to classify; `label` is None where it is to be predicted."""

    guid: str
    text_a: str
    text_b: str | None = None
    label: Label | None = None


class Examples(Collection[InputExample]):
    """The examples of a split, in the order of the file.

    Where they take up to `_KEPT_BYTES` they are kept in memory, and the file is read once. A larger
    file is read again by each iteration: it need not fit into memory.

    Attributes:
        set_type: train, dev or test.
        path: the file.
        is_part: whether other rows of the file belong to another split.
        is_labelled: whether the examples have labels.
        unusable_label: why the labels of a test file are not used; None where they are used, or
            where the file has none. The labels of other files must be usable.
        is_pair: whether the texts come in pairs.
        label_counts: label -> number of examples that have it; empty for regression.
        skipped: number of malformed rows that are left out.
        id_name: name of the column that names each row; None if the file has none.
    """

    def __init__(
        self, set_type: str, split: Split, path: str, task: Task, labels: Sequence[str] | None
    ):
        """Read the file once, and check all of it.

        Args:
            set_type: train, dev or test.
            split: the columns.
            path: the file.
            task: defines the labels.
            labels: the classes; None accepts any.

        Raises:
            BadInput: the file is malformed.
        """
        self.set_type = set_type
        self.path = path
        self.is_part = False
        self._split = split
        self._task = task
        self._problem = problem_types.get(task.problem_type)
        self._labels = labels
        # A 1 for each example of the file that belongs to this split, and a 0 for each other.
        self._rows: bytes | None = None
        self._kept: list[InputExample] | None = None
        self.unusable_label: str | None = None
        self._table = self._open_table()
        try:
            self._read()
        except BadInput as error:
            if split.label is None or "label" not in split.optional:
                raise
            # Predictions need no labels. An error in something else comes again without them.
            self._split = split._replace(label=None)
            self._table.forget(split.label)
            self._read()
            self.unusable_label = str(error)

    def _open_table(self) -> Table:
        split = self._split
        columns = (split.text_a, split.text_b, split.label, split.id)
        return Table(
            self.path,
            split.file_format,
            split.has_header,
            [column for column in columns if column is not None],
            split.skip_malformed,
            self._cure(),
            split.separator,
        )

    def _cure(self) -> str:
        return f"check --data_dir and --{self.set_type}_file"

    def _read(self) -> None:
        """Find the columns, read all examples, and count and keep them."""
        self._positions = self._find_columns()
        self._filter_position = self._positions.pop("filter_column", None)
        self._id_position = self._positions.pop("id", None)
        if self._split.id is None:
            self._id_position = find_ids(self._table, self._positions.values())
        self.id_name = self._name_of_ids()
        self.is_pair = "text_b" in self._positions
        self.is_labelled = "label" in self._positions
        self._size = 0
        self.label_counts: Counter[str] = collections.Counter()
        kept: list[InputExample] | None = []
        num_bytes = 0
        for example in self._from_file():
            self._size += 1
            count_label(example, self.label_counts)
            num_bytes += sum(map(sys.getsizeof, example))
            if kept is not None and num_bytes <= _KEPT_BYTES:
                kept.append(example)
            else:
                kept = None
        self._kept = kept
        self.skipped = self._table.skipped + self._num_without_text
        if not self._size:
            raise BadInput(f"{self.path}: holds no examples; {self._cure()}")
        if "label" in self._split.optional and self._problem.may_be_empty:
            if self.is_labelled and not self.label_counts:
                raise BadInput(f"{self.path}: column {self._split.label!r} is empty in all rows")

    def __len__(self) -> int:
        return self._size

    def __contains__(self, example: object) -> bool:
        return any(example == other for other in self)

    def __iter__(self) -> Iterator[InputExample]:
        return self._from_file() if self._kept is None else iter(self._kept)

    def _from_file(self) -> Iterator[InputExample]:
        for row in self._chosen_rows():
            values = {field: row.cells[at] for field, at in self._positions.items()}
            yield self._create_example(row.line, values)

    def ids(self) -> Iterator[str]:
        """Yield the name of each example in the file, in the order of the examples."""
        if self._id_position is not None:
            for row in self._chosen_rows():
                yield row.cells[self._id_position]

    def _chosen_rows(self) -> Iterator[Row]:
        """Yield the rows that are examples."""
        self._num_without_text = 0
        number = -1
        for row in self._table:
            if self._filter_position is not None:
                if row.cells[self._filter_position] != self._split.filter_value:
                    continue
            if self._split.skip_malformed and not all(map(str.strip, self._texts(row))):
                self._num_without_text += 1
                continue
            number += 1
            if self._rows is None or self._rows[number]:
                yield row

    def _texts(self, row: Row) -> list[str]:
        fields = ("text_a", "text_b")
        return [row.cells[at] for field, at in self._positions.items() if field in fields]

    def divide(self, dev_fraction: float) -> tuple[Examples, Examples]:
        """Divide the examples into training and dev examples, each class by itself.

        An example of several labels counts as one of the rarest of them that another example has
        too.

        Args:
            dev_fraction: see `choose_dev`.

        Raises:
            BadInput: there are too few examples to divide.
        """
        is_dev = choose_dev(map(self._group, self), dev_fraction)
        if not 0 < sum(is_dev) < self._size:
            raise BadInput(self._too_few())
        is_train = bytes(1 - chosen for chosen in is_dev)
        return self._part("train", is_train), self._part("dev", is_dev)

    def _part(self, set_type: str, rows: bytes) -> Examples:
        """Return the examples of some rows, as another split."""
        part = copy.copy(self)
        part.set_type, part.is_part, part._rows = set_type, True, rows
        if self._kept is not None:
            part._kept = [
                example._replace(guid=set_type + example.guid[len(self.set_type) :])
                for example in itertools.compress(self._kept, rows)
            ]
        part._size = sum(rows)
        part.label_counts = collections.Counter()
        for example in part:
            count_label(example, part.label_counts)
        return part

    def _group(self, example: InputExample) -> Any:
        """Return the class with which an example is divided; a regression has only one group."""
        if not isinstance(example.label, tuple):
            return example.label if self.label_counts else None
        others = [label for label in example.label if self.label_counts[label] > 1]
        return min(others, key=lambda label: (self.label_counts[label], label), default=None)

    def _too_few(self) -> str:
        too_few = (
            f"{self.path}: {self._size} examples are too few to set some aside for the evaluation"
        )
        if max(self.label_counts.values(), default=2) > 1:
            return f"{too_few}; give a --dev_file"
        return (
            f"{too_few}: there are {len(self.label_counts)} labels of one example each; give a "
            f"--dev_file, or another --label_column if {self._split.label!r} is not that of the "
            "labels"
        )

    def _find_columns(self) -> dict[str, int]:
        """Return field -> position in a row, also of the id and of the filter."""
        positions = {}
        for field in ("text_a", "text_b", "label", "filter_column", "id"):
            column = getattr(self._split, field)
            if column is None:
                continue
            if field not in self._split.optional or column in self._table.columns:
                flag = self._task.column_flags.get(field)
                positions[field] = self._table.position(column, flag)
        return positions

    def _name_of_ids(self) -> str | None:
        if self._id_position is None:
            return None
        return self._table.columns[self._id_position] if self._table.has_header else "id"

    def _create_example(self, line: int, values: Mapping[str, str]) -> InputExample:
        may_be_empty = {"label"} if self._problem.may_be_empty else set()
        if self._split.may_lack_text:
            may_be_empty.update(("text_a", "text_b"))
        for field, value in values.items():
            if not value.strip() and field not in may_be_empty:
                column = getattr(self._split, field)
                raise self._error(
                    line, f"column {column!r} is empty; complete the row or remove it"
                )
        label = None
        if "label" in values:
            label = self._label(line, values["label"])
        return InputExample(
            f"{self.set_type}-{line - 1}", values["text_a"], values.get("text_b"), label
        )

    def _label(self, line: int, cell: str) -> Label:
        elements = cell.elements if isinstance(cell, ListCell) else None
        try:
            label = self._problem.read_label(cell, elements, self._task.label_separator)
        except ValueError as error:
            raise self._label_error(line, str(error)) from error
        if isinstance(label, tuple):
            return tuple(self._class(line, name) for name in label)
        return self._class(line, label) if isinstance(label, str) else label

    def _class(self, line: int, text: str) -> str:
        label = self._split.label_names.get(text, text)
        check_characters(label, f"{self.path}:{line}")
        if self._labels is not None and label not in self._labels:
            known = ", ".join(self._labels)
            raise self._label_error(line, f"unknown label {label!r}; known are {known:.500}")
        return label

    def _label_error(self, line: int, message: str) -> BadInput:
        is_first_row = line == 1 and not self._table.has_header and self._task.column_flags
        hint = "; if this is a header, give --has_header" if is_first_row else ""
        return self._error(line, message + hint)

    def _error(self, line: int, message: str) -> BadInput:
        return BadInput(f"{self.path}:{line}: {message}")


def pick(examples: Iterable[InputExample], numbers: Iterable[int]) -> dict[int, InputExample]:
    """Return some examples by their number, from 0; the others are not kept in memory."""
    wanted = set(numbers)
    return {number: example for number, example in enumerate(examples) if number in wanted}


def find_ids(table: Table, taken: Collection[int]) -> int | None:
    """Find the column that names the rows of a table, if the user does not name it.

    Args:
        table: the table.
        taken: positions of columns that have another meaning.

    Returns:
        Its position: that of the first of `ID_COLUMNS` that the header has once, if any.
    """
    if not table.has_header:
        return None
    found = (table.columns.index(n) for n in ID_COLUMNS if table.columns.count(n) == 1)
    return next((position for position in found if position not in taken), None)


def count_label(example: InputExample, counts: Counter[str]) -> None:
    """Count the class, or the classes, of an example; a number is not counted."""
    if isinstance(example.label, str):
        counts[example.label] += 1
    elif isinstance(example.label, tuple):
        counts.update(example.label)

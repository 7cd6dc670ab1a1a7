"""Files -> InputExample: the table of tasks, and the one loop that reads all of them.

To add a task, add a row to `TASKS`: its labels and, for each split, the file and its columns.
"""

from __future__ import annotations

import collections
import difflib
import math
import os
import random
import re
from typing import Any, Collection, Iterable, Iterator, Mapping, NamedTuple, Sequence, Tuple, Union

from bert_classifier.data.tables import ListCell, Row, Table
from bert_classifier.errors import BadInput

# A column has a name where the file has a header, and a number, from 0, where it has none.
Column = Union[str, int]

# What a label is: one of the classes; a number; or any of the classes, several or none of them.
PROBLEM_TYPES = ("classification", "regression", "multi_label")
Label = Union[str, float, Tuple[str, ...]]

# Columns that name a row, unless a split says which one does: the first that a header has.
ID_COLUMNS = ("id", "index", "guid")

# A dev set is not to be more than so many times what was asked for, from so many examples on.
_MOST_OF_DEV, _SMALL_DEV = 2, 10

# What ends a line or a cell for some program that reads it, or moves a terminal's cursor.
CONTROL_CHARACTER = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")


class InputExample(NamedTuple):
    """A text, or a pair of texts, to classify; `label` is None where it is to be predicted."""

    guid: str
    text_a: str
    text_b: str | None = None
    label: Label | None = None


class Split(NamedTuple):
    """Where the examples of one split are: a file and its columns.

    Attributes:
        file_name: path in the data directory.
        text_a: column of the text, or of the first text of a pair.
        text_b: column of the second text of a pair.
        label: column of the label.
        id: column that names a row; None for the first of `ID_COLUMNS` that a header has, if any.
        optional: which of these fields are None when the file has no such column.
        label_names: label in the file -> label of the task, where the two differ.
        filter_column: column that chooses the rows to read; None reads all.
        filter_value: what that column says in those rows.
        file_format: one of `tables.FORMATS`; None where the file's name tells it.
        has_header: whether the first row names the columns; None where that is to be seen.
        separator: of CSV files, one of `tables.SEPARATORS`; None where the content tells it.
        skip_malformed: whether rows with a wrong number of columns or an empty text are left out
            and not an error.
        may_lack_text: whether a text may be empty.
    """

    file_name: str
    text_a: Column
    text_b: Column | None = None
    label: Column | None = None
    id: Column | None = None
    optional: Sequence[str] = ()
    label_names: Mapping[str, str] = {}
    filter_column: Column | None = None
    filter_value: str | None = None
    file_format: str | None = "tsv"
    has_header: bool | None = True
    separator: str | None = None
    skip_malformed: bool = False
    may_lack_text: bool = False


class Task(NamedTuple):
    """What is to be learned.

    Attributes:
        labels: in the order of the model's outputs; None where the training file tells them.
        train: the examples to learn from.
        dev: the examples to evaluate.
        test: the examples to predict.
        metrics: what an evaluation reports beyond the usual, see `classifier.metric_fn`.
        best_metric: the metric that says which checkpoint is best, unless a flag says otherwise:
            for a GLUE task the one that GLUE ranks by.
        problem_type: one of `PROBLEM_TYPES`.
        label_separator: what stands between the labels of a cell that has several.
        is_dev_optional: whether a part of the training examples may take the place of a dev file.
        submission: name of the file in which GLUE wants the predictions of the test set.
        column_flags: field of a split -> flag by which the user names its column.
    """

    labels: Sequence[str] | None
    train: Split
    dev: Split
    test: Split
    metrics: Sequence[str] = ()
    best_metric: str = "eval_accuracy"
    problem_type: str = "classification"
    label_separator: str = ","
    is_dev_optional: bool = False
    submission: str | None = None
    column_flags: Mapping[str, str] = {}


def _tsv_task(
    labels: Sequence[str] | None,
    text_a: str,
    text_b: str | None = None,
    label: str = "label",
    optional: Sequence[str] = (),
    dev_file: str = "dev.tsv",
    test_file: str = "test.tsv",
    **options: Any,
) -> Task:
    """Declares a task whose files all have a header with the same names; tests need no label."""
    train = Split("train.tsv", text_a, text_b, label, optional=optional)
    dev = train._replace(file_name=dev_file)
    test = train._replace(file_name=test_file, optional=(*optional, "label"))
    return Task(labels, train, dev, test, **options)


def _malformed(task: Task) -> Task:
    """Leaves out the malformed rows of a task's training and dev files, which then are counted.

    In the test file each row has to have a prediction.
    """
    return task._replace(
        train=task.train._replace(skip_malformed=True),
        dev=task.dev._replace(skip_malformed=True),
        test=task.test._replace(may_lack_text=True),
    )


_NO_YES = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")
_INFERENCE = ("contradiction", "entailment", "neutral")

_COLA_TRAIN = Split("train.tsv", text_a=3, label=1, has_header=False)

_XNLI_DEV = Split(
    "xnli.dev.tsv",
    text_a="sentence1",
    text_b="sentence2",
    label="gold_label",
    filter_column="language",
    filter_value="zh",
)

TASKS: dict[str, Task] = {
    # GLUE, in the files of its own download.
    "cola": Task(
        _NO_YES,
        train=_COLA_TRAIN,
        dev=_COLA_TRAIN._replace(file_name="dev.tsv"),
        test=Split("test.tsv", text_a="sentence"),
        metrics=("matthews_correlation",),
        best_metric="eval_matthews_correlation",
        submission="CoLA.tsv",
    ),
    "mnli": _tsv_task(
        _INFERENCE,
        "sentence1",
        "sentence2",
        label="gold_label",
        dev_file="dev_matched.tsv",
        test_file="test_matched.tsv",
        submission="MNLI-m.tsv",
    ),
    "mnli-mm": _tsv_task(
        _INFERENCE,
        "sentence1",
        "sentence2",
        label="gold_label",
        dev_file="dev_mismatched.tsv",
        test_file="test_mismatched.tsv",
        submission="MNLI-mm.tsv",
    ),
    "mrpc": _tsv_task(
        _NO_YES,
        "#1 String",
        "#2 String",
        label="Quality",
        best_metric="eval_f1",
        submission="MRPC.tsv",
    ),
    "qnli": _tsv_task(_ENTAILMENT, "question", "sentence", submission="QNLI.tsv"),
    # A few rows of its training file have tabs and line feeds too many or too few, or no question2.
    "qqp": _malformed(
        _tsv_task(
            _NO_YES,
            "question1",
            "question2",
            label="is_duplicate",
            best_metric="eval_f1",
            submission="QQP.tsv",
        )
    ),
    "rte": _tsv_task(_ENTAILMENT, "sentence1", "sentence2", submission="RTE.tsv"),
    "sst-2": _tsv_task(_NO_YES, "sentence", submission="SST-2.tsv"),
    "sts-b": _tsv_task(
        ("score",),
        "sentence1",
        "sentence2",
        label="score",
        best_metric="eval_pearson",
        problem_type="regression",
        submission="STS-B.tsv",
    ),
    "wnli": _tsv_task(_NO_YES, "sentence1", "sentence2", submission="WNLI.tsv"),
    # Chinese.
    "xnli": Task(
        _INFERENCE,
        train=Split(
            os.path.join("multinli", "multinli.train.zh.tsv"),
            text_a="premise",
            text_b="hypo",
            label="label",
            label_names={"contradictory": "contradiction"},
        ),
        dev=_XNLI_DEV,
        test=_XNLI_DEV._replace(file_name="xnli.test.tsv", optional=("label",)),
    ),
    "phone_reviews_zh": _tsv_task(("-1", "0", "1"), "txt"),
}


def file_task(
    text_column: Column = "text",
    text_b_column: Column | None = None,
    label_column: Column = "label",
    problem_type: str = "classification",
    labels: Sequence[str] | None = None,
    file_format: str | None = None,
    has_header: bool | None = None,
    label_separator: str = ",",
    id_column: Column | None = None,
    separator: str | None = None,
) -> Task:
    """Declares the task of a user's own files.

    Args:
        text_column: the text, or the first text of a pair: a name, or digits, which count from 1.
        text_b_column: the second text of a pair; by default `text_b`, if there is such a column.
        label_column: the label; test files may lack it.
        problem_type: one of `PROBLEM_TYPES`.
        labels: the classes in the order of the model's outputs; by default those that the training
            file is found to have, sorted. Regression has none.
        file_format: one of `tables.FORMATS`; by default each file's name tells it.
        has_header: whether the first row names the columns; by default it does if it has one of
            the names above.
        label_separator: what stands between the labels of a cell that has several.
        id_column: what names a row of a test file; other files may lack it. By default the first of
            `ID_COLUMNS`, if there is one.
        separator: of CSV files, one of `tables.SEPARATORS`; by default their content tells it.

    Raises:
        BadInput: this cannot stand between labels.
    """
    if not label_separator or CONTROL_CHARACTER.search(label_separator):
        raise BadInput(
            f"--label_separator={label_separator!r}: cannot stand between labels; give a character "
            "such as ,"
        )
    optional = () if text_b_column else ("text_b",)
    train = Split(
        "train.tsv",
        text_column,
        text_b_column or "text_b",
        label_column,
        id_column,
        optional=(*optional, "id"),
        file_format=file_format,
        has_header=has_header,
        separator=separator,
    )
    test = train._replace(file_name="test.tsv", optional=(*optional, "label"))
    if problem_type == "regression":
        labels = ("score",)
    return Task(
        labels,
        train,
        train._replace(file_name="dev.tsv"),
        test,
        best_metric="eval_loss",
        problem_type=problem_type,
        label_separator=label_separator,
        is_dev_optional=True,
        column_flags={
            "text_a": "--text_column",
            "text_b": "--text_b_column",
            "label": "--label_column",
            "id": "--id_column",
        },
    )


TASKS["file"] = file_task()


def get_processor(
    task_name: str, labels: Sequence[str] | None = None, own_files: Task | None = None
) -> DataProcessor:
    """Returns the processor of a task, whose name may be written in any case.

    Args:
        task_name: a name in `TASKS`, or `file`.
        labels: as for `DataProcessor`.
        own_files: what `file` stands for, see `file_task`.

    Raises:
        BadInput: there is no such task.
    """
    task = TASKS.get(task_name.lower())
    if task is None:
        similar = difflib.get_close_matches(task_name.lower(), TASKS, n=1)
        hint = f"did you mean {similar[0]}? " if similar else ""
        raise BadInput(f"--task_name={task_name}: {hint}known tasks are {', '.join(TASKS)}")
    return DataProcessor(own_files or task if task is TASKS["file"] else task, labels)


class Examples(Collection[InputExample]):
    """The examples of a split, read from its file anew by each iteration: it need not fit memory.

    Attributes:
        set_type: train, dev or test.
        path: the file.
        is_part: whether other rows of the file belong to another split.
        is_labelled: whether the examples have labels.
        unusable_label: why those of a test file are not used; None where they are, or where the
            file has none. Other files must have labels that can be used.
        is_pair: whether the texts come in pairs.
        label_counts: label -> number of examples that have it; empty for regression.
        skipped: number of malformed rows that are left out.
        id_name: name of the column that names each row; None if the file has none.
    """

    def __init__(
        self,
        set_type: str,
        split: Split,
        path: str,
        task: Task,
        labels: Sequence[str] | None,
        rows: bytes | None = None,
    ):
        """Reads the file once, to find what is wrong with it.

        Args:
            set_type: train, dev or test.
            split: the columns.
            path: the file.
            task: what its labels mean.
            labels: the classes; None accepts any.
            rows: a 1 for each example to give and a 0 for each to leave out; by default all.

        Raises:
            BadInput: something in the file is not as it should be.
        """
        self.set_type = set_type
        self.path = path
        self.is_part = rows is not None
        self._split = split
        self._task = task
        self._labels = labels
        self._rows = rows
        self.unusable_label: str | None = None
        self._table = self._open_table()
        try:
            self._read()
        except BadInput as error:
            if split.label is None or "label" not in split.optional:
                raise
            # To predict needs no labels. If they are not what is wrong, it is wrong without them.
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
        """Finds the columns, counts the examples, and sees that each of them can be read."""
        self._positions = self._find_columns()
        self._filter_position = self._positions.pop("filter_column", None)
        self._id_position = self._positions.pop("id", None)
        if self._split.id is None:
            self._id_position = find_ids(self._table, self._positions.values())
        self.id_name = self._name_of_ids()
        self.is_pair = "text_b" in self._positions
        self.is_labelled = "label" in self._positions
        self._size = 0
        self.label_counts = count_labels(self._counted())
        self.skipped = self._table.skipped + self._num_without_text
        if not self._size:
            raise BadInput(f"{self.path}: holds no examples; {self._cure()}")
        if "label" in self._split.optional and self._task.problem_type == "multi_label":
            if self.is_labelled and not self.label_counts:
                raise BadInput(f"{self.path}: column {self._split.label!r} is empty in all rows")

    def __len__(self) -> int:
        return self._size

    def __contains__(self, example: object) -> bool:
        return any(example == other for other in self)

    def __iter__(self) -> Iterator[InputExample]:
        for row in self._chosen_rows():
            values = {field: row.cells[at] for field, at in self._positions.items()}
            yield self._create_example(row.line, values)

    def ids(self) -> Iterator[str]:
        """Yields what names each example in the file, in the order of the examples."""
        if self._id_position is not None:
            for row in self._chosen_rows():
                yield row.cells[self._id_position]

    def _chosen_rows(self) -> Iterator[Row]:
        """Yields the rows of which each is an example."""
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

    def _counted(self) -> Iterator[InputExample]:
        for example in self:
            self._size += 1
            yield example

    def divide(self, dev_fraction: float) -> tuple[Examples, Examples]:
        """Divides the examples in two, each class by itself, always in the same way.

        An example of several labels belongs to the rarest of them that another one has too.

        Args:
            dev_fraction: part of each class that goes to the second, at least one example of a
                class that has two, unless so many classes are small that it would be more than
                twice the part.

        Returns:
            What is left to learn from, and what was taken to evaluate, both in the file's order.
        """
        numbers: dict[Any, list[int]] = collections.defaultdict(list)
        for number, example in enumerate(self):
            numbers[self._group(example)].append(number)
        dev = bytearray(self._size)
        shuffle = random.Random(12345).shuffle
        groups = [numbers[label] for label in sorted(numbers, key=str)]
        for group, count in zip(
            groups, _dev_counts([len(group) for group in groups], dev_fraction)
        ):
            shuffle(group)
            for number in group[:count]:
                dev[number] = 1
        train = bytes(1 - chosen for chosen in dev)
        if not any(dev) or not any(train):
            raise BadInput(self._too_few())
        arguments = (self._split, self.path, self._task, self._labels)
        return Examples("train", *arguments, train), Examples("dev", *arguments, bytes(dev))

    def _group(self, example: InputExample) -> Any:
        """Gives the class with which an example is divided; a regression has only one group."""
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
        """Maps each field of an example, its id and the filter to their positions in a row."""
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
        may_be_empty = {"label"} if self._task.problem_type == "multi_label" else set()
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
        if self._task.problem_type == "regression":
            return self._number(line, cell.strip())
        if self._task.problem_type == "multi_label":
            parts: Sequence[str] = cell.split(self._task.label_separator)
            if isinstance(cell, ListCell):
                parts = cell.elements
            return tuple(self._class(line, part.strip()) for part in parts if part.strip())
        if isinstance(cell, ListCell) and len(cell.elements) > 1:
            raise self._error(
                line,
                f"{len(cell.elements)} labels; give --problem_type=multi_label, or one label",
            )
        return self._class(line, cell.strip())

    def _class(self, line: int, text: str) -> str:
        label = self._split.label_names.get(text, text)
        _check_characters(label, f"{self.path}:{line}")
        if self._labels is not None and label not in self._labels:
            known = ", ".join(self._labels)
            raise self._label_error(line, f"unknown label {label!r}; known are {known:.500}")
        return label

    def _number(self, line: int, text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise self._label_error(line, f"label {text!r} is no number; write one, such as 2.5")
        return number

    def _label_error(self, line: int, message: str) -> BadInput:
        is_first_row = line == 1 and not self._table.has_header and self._task.column_flags
        hint = "; if this is a header, give --has_header" if is_first_row else ""
        return self._error(line, message + hint)

    def _error(self, line: int, message: str) -> BadInput:
        return BadInput(f"{self.path}:{line}: {message}")


def find_ids(table: Table, taken: Collection[int]) -> int | None:
    """Find the column that names the rows of a table, where nobody says which one it is.

    Args:
        table: the table.
        taken: positions of columns that are something else.

    Returns:
        Its position: that of the first of `ID_COLUMNS` that the header has once, if any.
    """
    if not table.has_header:
        return None
    found = (table.columns.index(n) for n in ID_COLUMNS if table.columns.count(n) == 1)
    return next((position for position in found if position not in taken), None)


class DataProcessor:
    """Reads the examples of a task.

    The files are UTF-8. A row that cannot be read is an error; only where a task says so is it
    left out, and counted.

    Each of the `get_*_examples` methods reads the split's own file in `data_dir`, or the file that
    its second argument names, which is looked for in `data_dir` first and then as it is written.

    Args:
        task: the task.
        labels: the labels of an earlier run, which the model's outputs stand for. By default those
            of the task or, if it has none, those that the training file is found to have, sorted.
    """

    def __init__(self, task: Task, labels: Sequence[str] | None = None):
        self.task = task
        self._labels = labels or task.labels

    def get_train_examples(self, data_dir: str | None, train_file: str | None = None) -> Examples:
        """Reads the examples to learn from, and from them the labels if they are not known yet.

        Raises:
            BadInput: there is no such file, or something in it is not as it should be.
        """
        path = _find_file("train", self.task.train, data_dir, train_file)
        examples = Examples("train", self.task.train, path, self.task, self._class_labels())
        if self._labels is None:
            self._labels = _discover_labels(examples, self.task.problem_type)
        return examples

    def has_dev_file(self, data_dir: str | None, dev_file: str | None = None) -> bool:
        """Tells whether there is a file of examples to evaluate, or at least should be one."""
        if dev_file or not self.task.is_dev_optional:
            return True
        return os.path.exists(os.path.join(data_dir or os.devnull, self.task.dev.file_name))

    def get_dev_examples(self, data_dir: str | None, dev_file: str | None = None) -> Examples:
        """Reads the examples to evaluate.

        Raises:
            BadInput: as `get_train_examples` and `get_labels`.
        """
        self.get_labels()
        path = _find_file("dev", self.task.dev, data_dir, dev_file)
        return Examples("dev", self.task.dev, path, self.task, self._class_labels())

    def get_test_examples(self, data_dir: str | None, test_file: str | None = None) -> Examples:
        """Reads the examples to predict; their label is None if the file has none for all of them.

        Raises:
            BadInput: as `get_train_examples` and `get_labels`.
        """
        self.get_labels()
        path = _find_file("test", self.task.test, data_dir, test_file)
        return Examples("test", self.task.test, path, self.task, self._class_labels())

    def get_labels(self) -> list[str]:
        """Returns the labels, in the order of the model's outputs; for regression, their one name.

        Raises:
            BadInput: the training file would tell them but has not been read.
        """
        if self._labels is None:
            raise BadInput(
                "the labels are not known: this task has those of its training file, which "
                "--data_dir or --train_file must name"
            )
        return list(self._labels)

    def _class_labels(self) -> Sequence[str] | None:
        return None if self.task.problem_type == "regression" else self._labels


def load_labels(path: str) -> list[str]:
    """Reads the classes, one per line, in the order of the model's outputs.

    Raises:
        BadInput: there is no such file, a line is empty or a label is there twice.
    """
    labels: list[str] = []
    for row in Table(path, "tsv", has_header=False, cure="check --labels_file"):
        label = row.cells[0].strip()
        if not label or label in labels:
            raise BadInput(f"{path}:{row.line}: {label!r} is empty or there twice; one per line")
        _check_characters(label, f"{path}:{row.line}")
        labels.append(label)
    return labels


def count_labels(examples: Iterable[InputExample]) -> collections.Counter[str]:
    """Counts the examples of each class; those of a regression have none."""
    counts: collections.Counter[str] = collections.Counter()
    for example in examples:
        if isinstance(example.label, str):
            counts[example.label] += 1
        elif isinstance(example.label, tuple):
            counts.update(example.label)
    return counts


def load_class_weights(
    source: str, labels: Sequence[str], examples: Iterable[InputExample]
) -> list[float]:
    """Gives the factor of the loss of each class, in the order of `labels`.

    Args:
        source: `balanced`, for number of examples / (number of classes * examples of the class), or
            a file with one `label<TAB>weight` per line.
        labels: the classes.
        examples: the training examples.

    Raises:
        BadInput: a class has no example to weigh, or the file is not as it should be.
    """
    if source == "balanced":
        counts = count_labels(examples)
        missing = [label for label in labels if not counts[label]]
        if missing:
            raise BadInput(
                f"--class_weights=balanced: no training example of {', '.join(missing)}; give a "
                "file of `label<TAB>weight` lines"
            )
        return [sum(counts.values()) / (len(labels) * counts[label]) for label in labels]
    return _numbers_of_labels(source, labels, "weight", "--class_weights")


def load_thresholds(source: str, labels: Sequence[str]) -> list[float]:
    """Gives the probability above which each label is predicted, in the order of `labels`.

    Args:
        source: one number for all, or a file with one `label<TAB>threshold` per line.
        labels: the labels.

    Raises:
        BadInput: a threshold is not between 0 and 1, or the file is not as it should be.
    """
    try:
        thresholds = [float(source)] * len(labels)
    except ValueError:
        thresholds = _numbers_of_labels(source, labels, "threshold", "--thresholds")
    for threshold in thresholds:
        if not 0 <= threshold <= 1:
            raise BadInput(f"--thresholds={source}: {threshold} is no probability; give 0 to 1")
    return thresholds


def _numbers_of_labels(path: str, labels: Sequence[str], what: str, flag: str) -> list[float]:
    """Reads a file with one `label<TAB>number` per line, a line for each label."""
    numbers: dict[str, float] = {}
    for row in Table(path, "tsv", has_header=False, cure=f"check {flag}"):
        label, number = row.cells[0], " ".join(row.cells[1:])
        if label not in labels or label in numbers:
            raise BadInput(
                f"{path}:{row.line}: {label!r} is no label or there twice; write one line for each "
                f"of {', '.join(labels)}"
            )
        try:
            numbers[label] = float(number)
        except ValueError:
            numbers[label] = -1.0
        if not 0 <= numbers[label] < math.inf:
            raise BadInput(f"{path}:{row.line}: {what} {number!r}; write a number of 0 or more")
    missing = [label for label in labels if label not in numbers]
    if missing:
        raise BadInput(f"{path}: no {what} for {', '.join(missing)}; add a line for each")
    return [numbers[label] for label in labels]


def _check_characters(label: str, place: str) -> None:
    control = CONTROL_CHARACTER.search(label)
    if control:
        raise BadInput(
            f"{place}: label {label!r:.100} has the character {control.group()!r}; remove it"
        )


def _find_file(set_type: str, split: Split, data_dir: str | None, own_file: str | None) -> str:
    if not (data_dir or own_file):
        raise BadInput(f"no {set_type} file: set --data_dir or --{set_type}_file")
    path = os.path.join(data_dir or "", own_file or split.file_name)
    return own_file if own_file and not os.path.exists(path) else path


def _discover_labels(examples: Examples, problem_type: str) -> list[str]:
    labels = sorted(examples.label_counts)
    if not labels:
        raise BadInput(f"{examples.path}: there are no labels; write one in each row")
    if len(labels) < 2 and problem_type == "classification":
        raise BadInput(
            f"{examples.path}: {labels[0]!r} is the only label; a classifier needs two or more"
        )
    return labels


def _dev_counts(sizes: Sequence[int], dev_fraction: float) -> list[int]:
    """Says how many examples of each group to take for the dev set; see `Examples.divide`."""
    counts = [round(dev_fraction * size) if size > 1 else 0 for size in sizes]
    one_at_least = [max(count, int(size > 1)) for count, size in zip(counts, sizes)]
    if sum(one_at_least) <= max(_SMALL_DEV, _MOST_OF_DEV * dev_fraction * sum(sizes)):
        return one_at_least
    # So many groups are small that one example of each would be too much: some of them give one.
    due = 0.0
    for number, size in enumerate(sizes):
        if size > 1 and not counts[number]:
            due += dev_fraction * size
            if due >= 0.5:
                counts[number] = 1
                due -= 1
    return counts

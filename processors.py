"""Files -> InputExample: the table of tasks, and the one loop that reads all of them.

To add a task, add a row to `TASKS`: its labels and, for each split, the file and its columns.
"""

from __future__ import annotations

import codecs
import collections
import difflib
import os
from typing import Iterable, Mapping, NamedTuple, Sequence, Union

from errors import BadInput

# A column has a name where the file has a header, and a number, from 0, where it has none.
Column = Union[str, int]


class InputExample(NamedTuple):
    """A text, or a pair of texts, to classify; `label` is None where it is to be predicted."""

    guid: str
    text_a: str
    text_b: str | None = None
    label: str | None = None


class Split(NamedTuple):
    """Where the examples of one split are: a TSV file and its columns.

    Attributes:
        file_name: path in the data directory.
        text_a: column of the text, or of the first text of a pair.
        text_b: column of the second text of a pair.
        label: column of the label.
        optional: which of these fields are None when the file has no such column.
        label_names: label in the file -> label of the task, where the two differ.
        filter_column: column that chooses the rows to read; None reads all.
        filter_value: what that column says in those rows.
    """

    file_name: str
    text_a: Column
    text_b: Column | None = None
    label: Column | None = None
    optional: Sequence[str] = ()
    label_names: Mapping[str, str] = {}
    filter_column: Column | None = None
    filter_value: str | None = None

    @property
    def has_header(self) -> bool:
        """Whether the first line of the file names the columns."""
        return isinstance(self.text_a, str)


class Task(NamedTuple):
    """A classification task.

    Attributes:
        labels: in the order of the model's outputs; None where the training file tells them.
        train: the examples to learn from.
        dev: the examples to evaluate.
        test: the examples to predict.
        metrics: what an evaluation reports beyond the usual, see `classifier.metric_fn`.
    """

    labels: Sequence[str] | None
    train: Split
    dev: Split
    test: Split
    metrics: Sequence[str] = ()


def _tsv_task(
    labels: Sequence[str] | None,
    text_a: str,
    text_b: str | None = None,
    label: str = "label",
    optional: Sequence[str] = (),
    dev_file: str = "dev.tsv",
    test_file: str = "test.tsv",
) -> Task:
    """Declares a task whose files all have a header with the same names; tests need no label."""
    train = Split("train.tsv", text_a, text_b, label, optional)
    dev = train._replace(file_name=dev_file)
    test = train._replace(file_name=test_file, optional=(*optional, "label"))
    return Task(labels, train, dev, test)


_NO_YES = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")
_INFERENCE = ("contradiction", "entailment", "neutral")

_COLA_TRAIN = Split("train.tsv", text_a=3, label=1)

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
    ),
    "mnli": _tsv_task(
        _INFERENCE,
        "sentence1",
        "sentence2",
        label="gold_label",
        dev_file="dev_matched.tsv",
        test_file="test_matched.tsv",
    ),
    "mnli-mm": _tsv_task(
        _INFERENCE,
        "sentence1",
        "sentence2",
        label="gold_label",
        dev_file="dev_mismatched.tsv",
        test_file="test_mismatched.tsv",
    ),
    "mrpc": _tsv_task(_NO_YES, "#1 String", "#2 String", label="Quality"),
    "qnli": _tsv_task(_ENTAILMENT, "question", "sentence"),
    "qqp": _tsv_task(_NO_YES, "question1", "question2", label="is_duplicate"),
    "rte": _tsv_task(_ENTAILMENT, "sentence1", "sentence2"),
    "sst-2": _tsv_task(_NO_YES, "sentence"),
    "wnli": _tsv_task(_NO_YES, "sentence1", "sentence2"),
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
    # The user's own data.
    "file": _tsv_task(None, "text", "text_b", optional=("text_b",)),
}


def get_processor(task_name: str, labels: Sequence[str] | None = None) -> DataProcessor:
    """Returns the processor of a task in `TASKS`, whose name may be written in any case.

    Args:
        task_name: name of the task.
        labels: as for `DataProcessor`.

    Raises:
        BadInput: there is no such task.
    """
    task = TASKS.get(task_name.lower())
    if task is None:
        similar = difflib.get_close_matches(task_name.lower(), TASKS, n=1)
        hint = f"did you mean {similar[0]}? " if similar else ""
        raise BadInput(f"--task_name={task_name}: {hint}known tasks are {', '.join(TASKS)}")
    return DataProcessor(task, labels)


class DataProcessor:
    """Reads the examples of a task.

    The files are UTF-8 with a tab between columns and nothing else: a quotation mark is part of the
    text. A row that cannot be read is an error, never left out.

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

    def get_train_examples(
        self, data_dir: str | None, train_file: str | None = None
    ) -> list[InputExample]:
        """Reads the examples to learn from, and from them the labels if they are not known yet.

        Raises:
            BadInput: there is no such file, or something in it is not as it should be.
        """
        path = _find_file("train", self.task.train, data_dir, train_file)
        examples = _create_examples("train", self.task.train, path, self._labels)
        if self._labels is None:
            self._labels = _discover_labels(examples, path)
        return examples

    def get_dev_examples(
        self, data_dir: str | None, dev_file: str | None = None
    ) -> list[InputExample]:
        """Reads the examples to evaluate.

        Raises:
            BadInput: as `get_train_examples` and `get_labels`.
        """
        path = _find_file("dev", self.task.dev, data_dir, dev_file)
        return _create_examples("dev", self.task.dev, path, self.get_labels())

    def get_test_examples(
        self, data_dir: str | None, test_file: str | None = None
    ) -> list[InputExample]:
        """Reads the examples to predict; their label is None if the file has no such column.

        Raises:
            BadInput: as `get_train_examples` and `get_labels`.
        """
        path = _find_file("test", self.task.test, data_dir, test_file)
        return _create_examples("test", self.task.test, path, self.get_labels())

    def get_labels(self) -> list[str]:
        """Returns the labels, in the order of the model's outputs.

        Raises:
            BadInput: the training file would tell them but has not been read.
        """
        if self._labels is None:
            raise BadInput(
                "the labels are not known: this task has those of its training file, which "
                "--data_dir or --train_file must name"
            )
        return list(self._labels)


def load_class_weights(
    source: str, labels: Sequence[str], examples: Sequence[InputExample]
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
        counts = collections.Counter(example.label for example in examples)
        missing = [label for label in labels if not counts[label]]
        if missing:
            raise BadInput(
                f"--class_weights=balanced: no training example of {', '.join(missing)}; give a "
                "file of `label<TAB>weight` lines"
            )
        return [len(examples) / (len(labels) * counts[label]) for label in labels]
    weights = {}
    for number, line in enumerate(_read_lines(source, "check --class_weights"), start=1):
        label, _, weight = line.partition("\t")
        if label not in labels or label in weights:
            raise BadInput(
                f"{source}:{number}: {label!r} is no label or there twice; write one line for each "
                f"of {', '.join(labels)}"
            )
        try:
            weights[label] = float(weight)
        except ValueError:
            weights[label] = -1.0
        if not 0 <= weights[label] < float("inf"):
            raise BadInput(f"{source}:{number}: weight {weight!r}; write a number of 0 or more")
    missing = [label for label in labels if label not in weights]
    if missing:
        raise BadInput(f"{source}: no weight for {', '.join(missing)}; add a line for each")
    return [weights[label] for label in labels]


def _find_file(set_type: str, split: Split, data_dir: str | None, own_file: str | None) -> str:
    if not (data_dir or own_file):
        raise BadInput(f"no {set_type} file: set --data_dir or --{set_type}_file")
    path = os.path.join(data_dir or "", own_file or split.file_name)
    return own_file if own_file and not os.path.exists(path) else path


def _create_examples(
    set_type: str, split: Split, path: str, labels: Sequence[str] | None
) -> list[InputExample]:
    """Reads one file; without `labels` any label is accepted."""
    cure = f"check --data_dir and --{set_type}_file"
    lines = _read_lines(path, cure)
    first_row = lines[0].split("\t")
    positions = _find_columns(split, first_row, path)
    examples = []
    for index, line in enumerate(lines):
        if index == 0 and split.has_header:
            continue
        where = f"{path}:{index + 1}"
        row = line.split("\t")
        if len(row) != len(first_row):
            raise BadInput(
                f"{where}: columns: {len(row)}, but {len(first_row)} in line 1; a tab must stand "
                "between two columns and nowhere else"
            )
        values = {field: row[position] for field, position in positions.items()}
        if values.get("filter_column") == split.filter_value:
            guid = f"{set_type}-{index}"
            examples.append(_create_example(guid, values, split, labels, where))
    if not examples:
        raise BadInput(f"{path}: holds no examples; {cure}")
    return examples


def _find_columns(split: Split, first_row: Sequence[str], path: str) -> dict[str, int]:
    """Maps each field of an example, and the filter, to its position in a row."""
    positions = {}
    for field in ("text_a", "text_b", "label", "filter_column"):
        column = getattr(split, field)
        if column in first_row:
            positions[field] = first_row.index(column)
        elif isinstance(column, int) and column < len(first_row):
            positions[field] = column
        elif column is not None and field not in split.optional:
            raise BadInput(
                f"{path}:1: no column {column!r}; the columns, separated by tabs, are "
                f"{str(first_row)[:300]}"
            )
    return positions


def _create_example(
    guid: str,
    values: Mapping[str, str],
    split: Split,
    labels: Sequence[str] | None,
    where: str,
) -> InputExample:
    for field, value in values.items():
        if not value.strip():
            column = getattr(split, field)
            raise BadInput(f"{where}: column {column!r} is empty; complete the row or remove it")
    label = values.get("label")
    if label is not None:
        label = split.label_names.get(label.strip(), label.strip())
        if labels is not None and label not in labels:
            raise BadInput(f"{where}: unknown label {label!r}; known are {', '.join(labels)}")
    return InputExample(guid, values["text_a"], values.get("text_b"), label)


def _discover_labels(examples: Iterable[InputExample], path: str) -> list[str]:
    labels = sorted({example.label for example in examples if example.label is not None})
    if len(labels) < 2:
        raise BadInput(f"{path}: {labels[0]!r} is the only label; a classifier needs two or more")
    return labels


def _read_lines(path: str, cure: str) -> list[str]:
    try:
        with open(path, "rb") as reader:
            data = reader.read()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; {cure}") from error
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise BadInput(f"{path}:1: is UTF-16; save the file as UTF-8")
    if b"\0" in data:
        line_number = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise BadInput(f"{path}:{line_number}: has a NUL byte; save the file as UTF-8 text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line_number = error.object.count(b"\n", 0, error.start) + 1
        raise BadInput(
            f"{path}:{line_number}: is not UTF-8; convert the file, for example with "
            "`iconv -f GB18030 -t UTF-8` if it is Chinese"
        ) from error
    if not text.strip():
        raise BadInput(f"{path}: is empty; {cure}")
    # `str.splitlines` would also split at characters that are part of a text, such as U+2028.
    lines = text.rstrip("\r\n").split("\n")
    return [line[:-1] if line.endswith("\r") else line for line in lines]

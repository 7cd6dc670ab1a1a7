"""Tasks: their labels and, for each split, the file and its columns.

To add a task, add a row to `TASKS`.
"""

from __future__ import annotations

import os
from typing import Any, Mapping, NamedTuple, Sequence, Union

from bert_classifier import problem_types
from bert_classifier.config import OwnFiles
from bert_classifier.data.labels import CONTROL_CHARACTER
from bert_classifier.errors import BadInput

# The name of a column in a file with a header; its number, from 0, in one without.
Column = Union[str, int]


class Split(NamedTuple):
    """Where the examples of one split are: a file and its columns.

    Attributes:
        file_name: path in the data directory.
        text_a: column of the text, or of the first text of a pair.
        text_b: column of the second text of a pair.
        label: column of the label.
        id: column that names a row; None for the first of `ID_COLUMNS` that a header has, if any.
        optional: which of these fields are None when the file has no such column.
        label_names: label in the file -> label of the task, if the two differ.
        filter_column: column that chooses the rows to read; None reads all.
        filter_value: content of that column in these rows.
        file_format: one of `tables.FORMATS`; None for that of the extension.
        has_header: whether the first row names the columns; None to find out, see `tables.Table`.
        separator: of CSV files, one of `tables.SEPARATORS`; None to find out.
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
    """The labels, files and metrics of a task.

    Attributes:
        labels: in the order of the model's outputs; None for those of the training file.
        train: the training examples.
        dev: the examples to evaluate.
        test: the examples to predict.
        metrics: extra metrics of an evaluation, see `classifier.metric_fn`.
        best_metric: default of `--best_metric`; for a GLUE task the one that GLUE ranks by.
        problem_type: one of `PROBLEM_TYPES`.
        label_separator: separates the labels of a cell that has several.
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
    """Declare a task whose files have headers with the same names; test files need no label."""
    train = Split("train.tsv", text_a, text_b, label, optional=optional)
    dev = train._replace(file_name=dev_file)
    test = train._replace(file_name=test_file, optional=(*optional, "label"))
    return Task(labels, train, dev, test, **options)


def _malformed(task: Task) -> Task:
    """Return a task that leaves out, and counts, malformed rows of its training and dev files.

    In the test file each row must have a prediction.
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


def file_task(own_files: OwnFiles | None = None, labels: Sequence[str] | None = None) -> Task:
    """Declare the task of a user's own files.

    Args:
        own_files: how the files are read; None for the defaults. Columns are names, or digits that
            count from 1. `text_b_column`: None for `text_b`, if there is such a column.
            `label_column`: test files may lack it. `id_column`: names the rows of a test file,
            other files may lack it; None for the first of `ID_COLUMNS`, if there is one.
            `has_header`: None for yes if the first row has one of these names. `file_format` and
            `separator`: see `tables.Table`.
        labels: the classes in the order of the model's outputs; None for those of the training
            file, sorted. Not used for a regression.

    Raises:
        BadInput: the label separator is empty or a control character.
    """
    own_files = own_files or OwnFiles()
    separator = own_files.label_separator
    if not separator or CONTROL_CHARACTER.search(separator):
        raise BadInput(
            f"--label_separator={separator!r}: cannot stand between labels; give a character "
            "such as ,"
        )
    optional = () if own_files.text_b_column else ("text_b",)
    train = Split(
        "train.tsv",
        own_files.text_column,
        own_files.text_b_column or "text_b",
        own_files.label_column,
        own_files.id_column,
        optional=(*optional, "id"),
        file_format=own_files.file_format,
        has_header=own_files.has_header,
        separator=own_files.separator,
    )
    return Task(
        problem_types.get(own_files.problem_type).fixed_labels or labels,
        train,
        dev=train._replace(file_name="dev.tsv"),
        test=train._replace(file_name="test.tsv", optional=(*optional, "label")),
        best_metric="eval_loss",
        problem_type=own_files.problem_type,
        label_separator=separator,
        is_dev_optional=True,
        column_flags={
            "text_a": "--text_column",
            "text_b": "--text_b_column",
            "label": "--label_column",
            "id": "--id_column",
        },
    )


TASKS["file"] = file_task()

"""Processors: read the splits of a task."""

from __future__ import annotations

import difflib
import os
from typing import Sequence

from bert_classifier import problem_types
from bert_classifier.data.examples import Examples
from bert_classifier.data.tasks import TASKS, Split, Task
from bert_classifier.errors import BadInput
from bert_classifier.problem_types import ProblemType


def get_processor(
    task_name: str, labels: Sequence[str] | None = None, own_files: Task | None = None
) -> DataProcessor:
    """Return the processor of a task, whose name may be written in any case.

    Args:
        task_name: a name in `TASKS`, or `file`.
        labels: as for `DataProcessor`.
        own_files: the task that `file` means, see `file_task`.

    Raises:
        BadInput: there is no such task.
    """
    task = TASKS.get(task_name.lower())
    if task is None:
        similar = difflib.get_close_matches(task_name.lower(), TASKS, n=1)
        hint = f"did you mean {similar[0]}? " if similar else ""
        raise BadInput(f"--task_name={task_name}: {hint}known tasks are {', '.join(TASKS)}")
    return DataProcessor(own_files or task if task is TASKS["file"] else task, labels)


class DataProcessor:
    """Reader of the examples of a task.

    The files are UTF-8. A row that cannot be read is an error, unless the task says that malformed
    rows are left out and counted.

    Each of the `get_*_examples` methods reads the split's own file in `data_dir`, or the file of
    its second argument, which is looked for in `data_dir` first and then in the current folder.

    Args:
        task: the task.
        labels: the labels of an earlier run, in the order of the model's outputs. By default those
            of the task or, if it has none, those of the training file, sorted.
    """

    def __init__(self, task: Task, labels: Sequence[str] | None = None):
        self.task = task
        self._problem = problem_types.get(task.problem_type)
        self._labels = labels or task.labels

    def get_train_examples(self, data_dir: str | None, train_file: str | None = None) -> Examples:
        """Read the training examples, and from them the labels if these are not known yet.

        Raises:
            BadInput: there is no such file, or it is malformed.
        """
        path = _find_file("train", self.task.train, data_dir, train_file)
        examples = Examples("train", self.task.train, path, self.task, self._class_labels())
        if self._labels is None:
            self._labels = _discover_labels(examples, self._problem)
        return examples

    def has_dev_file(self, data_dir: str | None, dev_file: str | None = None) -> bool:
        """Return whether the dev examples have a file of their own, present or not."""
        if dev_file or not self.task.is_dev_optional:
            return True
        return os.path.exists(os.path.join(data_dir or os.devnull, self.task.dev.file_name))

    def get_dev_examples(self, data_dir: str | None, dev_file: str | None = None) -> Examples:
        """Read the examples to evaluate.

        Raises:
            BadInput: as `get_train_examples` and `get_labels`.
        """
        self.get_labels()
        path = _find_file("dev", self.task.dev, data_dir, dev_file)
        return Examples("dev", self.task.dev, path, self.task, self._class_labels())

    def get_test_examples(self, data_dir: str | None, test_file: str | None = None) -> Examples:
        """Read the examples to predict; all their labels are None if the file has no usable ones.

        Raises:
            BadInput: as `get_train_examples` and `get_labels`.
        """
        self.get_labels()
        path = _find_file("test", self.task.test, data_dir, test_file)
        return Examples("test", self.task.test, path, self.task, self._class_labels())

    def has_test_file(self, data_dir: str | None, test_file: str | None = None) -> bool:
        """Return whether there is a file with examples to predict."""
        if not (data_dir or test_file):
            return False
        return os.path.exists(_find_file("test", self.task.test, data_dir, test_file))

    def get_labels(self) -> list[str]:
        """Return the labels, in the order of the model's outputs; for regression, their one name.

        Raises:
            BadInput: they are those of the training file, which has not been read.
        """
        if self._labels is None:
            raise BadInput(
                "the labels are not known: this task has those of its training file, which "
                "--data_dir or --train_file must name"
            )
        return list(self._labels)

    def _class_labels(self) -> Sequence[str] | None:
        return self._labels if self._problem.has_classes else None


def _find_file(set_type: str, split: Split, data_dir: str | None, own_file: str | None) -> str:
    if not (data_dir or own_file):
        raise BadInput(f"no {set_type} file: set --data_dir or --{set_type}_file")
    path = os.path.join(data_dir or "", own_file or split.file_name)
    return own_file if own_file and not os.path.exists(path) else path


def _discover_labels(examples: Examples, problem: ProblemType) -> list[str]:
    labels = sorted(examples.label_counts)
    if not labels:
        raise BadInput(f"{examples.path}: there are no labels; write one in each row")
    if len(labels) < problem.min_classes:
        raise BadInput(
            f"{examples.path}: {labels[0]!r} is the only label; a classifier needs two or more"
        )
    return labels

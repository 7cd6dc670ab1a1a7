"""test_results.tsv, in the form of `answers`, and the file that GLUE wants."""

from __future__ import annotations

import contextlib
import itertools
import os
from typing import Any, Callable, Iterable, Mapping

import numpy as np

from bert_classifier import files, problem_types
from bert_classifier.data.examples import Examples
from bert_classifier.data.tasks import Task
from bert_classifier.export.bundle import Settings
from bert_classifier.serving import answers


def write(
    output_dir: str,
    settings: Settings,
    task: Task,
    examples: Examples,
    outputs: Iterable[Mapping[str, Any]],
) -> str:
    """Write what a model says about the test set; return the path.

    The files appear when they are complete.

    Args:
        output_dir: folder of the run.
        settings: of the model.
        task: its task, which may name a file of its own for the answers.
        examples: the test set.
        outputs: of the model for each example, in the order of the file.
    """
    path = os.path.join(output_dir, "test_results.tsv")
    problem = problem_types.get(settings.problem_type)
    form = answers.Form(settings, examples.id_name or "index", examples.is_labelled)
    ids = examples.ids() if examples.id_name else map(str, itertools.count())
    with contextlib.ExitStack() as until_done:
        write_row = _open_rows(path, until_done)
        submit = None
        if task.submission:
            submit = _open_rows(os.path.join(output_dir, task.submission), until_done)
            submit("index", "prediction")
        write_row(*form.header)
        for index, (example, of_model, name) in enumerate(zip(examples, outputs, ids)):
            (prediction,) = answers.decide(settings, of_model[problem.output][np.newaxis])
            texts = [example.text_a, example.text_b or ""]
            write_row(*form.cells(prediction, texts, name, example.label))
            if submit:
                named = problem.name_prediction(
                    of_model["predictions"], settings.labels, task.label_separator
                )
                submit(str(index), named)
    return path


def _open_rows(path: str, until_done: contextlib.ExitStack) -> Callable[..., None]:
    """Open a TSV file that has its name when all is done; return what writes a row to it."""
    temporary = until_done.enter_context(files.atomic(path))
    stream = until_done.enter_context(open(temporary, "w", encoding="utf-8"))

    def write_row(*cells: str) -> None:
        stream.write("\t".join(cells) + "\n")

    return write_row

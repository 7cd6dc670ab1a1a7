"""The files with the results of an evaluation, for programs and for people."""

from __future__ import annotations

import os
from typing import Iterator, Mapping, Sequence

from bert_classifier import files
from bert_classifier.report.bootstrap import Interval
from bert_classifier.report.scores import Average, Scores

_LONGEST_LABEL = 40


def write(output_dir: str, metrics: Mapping[str, float], scores: Scores | None) -> None:
    """Write eval_results.txt, eval_results.json and report_results.txt.

    Args:
        output_dir: the folder of the run.
        metrics: those of the evaluation, by name.
        scores: what follows from its outputs; None if there are none.
    """
    lines = "".join("%s = %s\n" % item for item in metrics.items())
    files.write_text(os.path.join(output_dir, "eval_results.txt"), lines)
    further = scores.to_json() if scores else {}
    files.write_json(os.path.join(output_dir, "eval_results.json"), {**metrics, **further})
    if scores:
        path = os.path.join(output_dir, "report_results.txt")
        files.write_text(path, "\n".join(table(metrics, scores)) + "\n")


def table(metrics: Mapping[str, float], scores: Scores) -> Iterator[str]:
    """Yield the lines of report_results.txt: classes, averages, metrics, 95 % intervals."""
    if scores.classes:
        yield from _table_of_classes(scores)
        yield ""
    values = {**scores.values, **metrics}
    names = [name for name in values if name.startswith("eval_")]
    names += [name for name in scores.values if not name.startswith("eval_")]
    width = max(len(name) for name in names)
    yield "%*s%10s%20s%14s" % (width, "", "value", "95 % interval", "constant")
    for name in names:
        interval, constant = _interval(scores.intervals.get(name)), scores.baseline.get(name)
        row = "%*s%10.4f%20s" % (width, name, values[name], interval)
        if constant is not None:
            row += "%14.4f  %s" % (constant.score, _shorten(constant.text))
        yield row
    yield ""
    yield "constant: what the same answer to every row scores at best, and that answer"


def _table_of_classes(scores: Scores) -> Iterator[str]:
    assert scores.classes is not None
    of = scores.classes
    averages = {"%s avg" % name: average for name, average in scores.averages.items()}
    labels = [_shorten(label) for label in scores.labels]
    width = max(len(name) for name in (*labels, *averages))
    yield "%*s  precision    recall  f1-score   support          95 %% of f1" % (width, "")
    yield ""
    columns_of_classes = (of.precision, of.recall, of.f1, of.support, of.f1_intervals.tolist())
    for label, precision, recall, f1, support, ends in zip(labels, *columns_of_classes):
        numbers = (precision, recall, f1, support)
        yield _row(width, label, numbers, (ends[0], ends[1]))
    yield ""
    for name, average in averages.items():
        yield _row(width, name, _numbers(average, int(of.support.sum())), average.f1_interval)


def _numbers(average: Average, support: int) -> Sequence[float]:
    return (average.precision, average.recall, average.f1, support)


def _row(width: int, name: str, numbers: Sequence[float], interval: Interval | None) -> str:
    of_row = "%11.4f%10.4f%10.4f%10d" % tuple(numbers)
    return "%*s%s%20s" % (width, name, of_row, _interval(interval))


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else "%.4f to %.4f" % interval


def _shorten(label: str) -> str:
    # A label may have any characters but these of a new line.
    label = " ".join(label.split())
    return label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 3] + "..."

"""Runs beside each other: metric with interval, time, settings that differ, McNemar's test.

All numbers are read from the folders of the runs; nothing is evaluated again.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from typing import Any, Iterator, Mapping, NamedTuple, Sequence

import numpy as np

from bert_classifier import files
from bert_classifier.config import Actions, Export, Output
from bert_classifier.errors import BadInput
from bert_classifier.report.bootstrap import Interval
from bert_classifier.report.mcnemar import McNemar, is_right, mcnemar
from bert_classifier.report.scores import score
from bert_classifier.training import outputs as outputs_files
from bert_classifier.training import runs
from bert_classifier.training.history import EvalHistory, Watched, eval_history_path
from bert_classifier.training.identity import MODEL_FILES
from bert_classifier.training.outputs import Outputs, outputs_path

# Less is usual to be called a difference that is not chance.
SIGNIFICANT = 0.05

# What a call does and writes: no setting of a model.
_NO_SETTINGS = frozenset(
    field.name for part in (Actions, Output, Export) for field in dataclasses.fields(part)
).union(("eval_checkpoint", "predict_batch_size", "test_file", "num_trials"))
# The digest of what a run has read, in its identity.
_CONTENTS = ("train data", "dev data", "init_checkpoint", *MODEL_FILES)
_DATA = ("task_name", "data_dir", "dev_file", "dev_fraction")


class Finished(NamedTuple):
    """What is known of a run.

    Attributes:
        name: its folder, as it was given.
        result: how it ended.
        settings: what was set, by name: flags, number of workers, versions.
        watched: the metric that chose its best checkpoint.
        labels: those that it tells apart.
        dev_data: the fingerprint of its dev set.
        dev_source: where its dev examples come from; paths are absolute.
        value: of the metric, at the best checkpoint; None if no evaluation had a finite one.
        outputs: what its best checkpoint says about the dev set; None if there is no such file.
        interval: of the metric, 95 %; None if it is unknown.
    """

    name: str
    result: Mapping[str, Any]
    settings: Mapping[str, Any]
    watched: Watched
    labels: Sequence[str]
    dev_data: Any
    dev_source: Sequence[Any]
    value: float | None = None
    outputs: Outputs | None = None
    interval: Interval | None = None


class Comparison(NamedTuple):
    """Runs beside each other.

    Attributes:
        rows: the runs, in the order in which they were given.
        settings: name -> the value in each run, where not all are equal.
        remarks: sentences about what can and cannot be compared, and McNemar's test.
    """

    rows: Sequence[Finished]
    settings: Mapping[str, Sequence[Any]]
    remarks: Sequence[str]


def read(folder: str, name: str | None = None) -> Finished:
    """Read the folder of a run.

    Raises:
        BadInput: it is none, or a file in it is damaged.
    """
    name = name or folder
    record = runs.read_record(folder) if os.path.isdir(folder) else None
    if record is None:
        raise BadInput("%s: has no run.json; give the --output_dir of a training" % name)
    with files.damage_told(runs.record_path(folder), "give a run of this version"):
        run = _from_record(name, record)
    history_path = eval_history_path(folder)
    history = EvalHistory(history_path, run.watched)
    with files.damage_told(history_path, "restore it"):
        best = history.best()
        value = None if best is None else history.value(best)
    outputs = outputs_files.read(outputs_path(folder))
    # They may be of another checkpoint than the best one, or of data that was evaluated later.
    expected = (best.step if best else None, run.dev_data)
    if outputs is None or (outputs.step, outputs.fingerprint) != expected:
        return run._replace(value=value)
    with files.damage_told(outputs_path(folder), outputs_files.CURE):
        interval = _interval(outputs, run.labels, run.watched.metric)
    return run._replace(value=value, outputs=outputs, interval=interval)


def _from_record(name: str, record: Mapping[str, Any]) -> Finished:
    """Take what is compared out of run.json."""
    result, identity = dict(record["result"]), record["identity"]
    result["status"] = str(result["status"])
    flags = {n: v for n, v in record["flags"].items() if n not in _NO_SETTINGS}
    contents = {"content of " + name: identity.get(name) for name in _CONTENTS}
    settings = {**flags, **contents, "workers": result.get("workers"), **record["versions"]}
    watched, labels = Watched(*identity["best_metric"]), list(identity["labels"])
    return Finished(
        name, result, settings, watched, labels, identity["dev data"], _dev_source(record)
    )


def _dev_source(record: Mapping[str, Any]) -> list[Any]:
    folder = record["folder"] or ""
    values = [record["flags"].get(name) for name in _DATA]
    return [
        os.path.realpath(os.path.join(folder, value)) if name.endswith(("_dir", "_file")) else value
        for name, value in zip(_DATA, values)
        if value is not None
    ]


def _interval(outputs: Outputs, labels: Sequence[str], metric: str) -> Interval | None:
    losses = outputs.losses if metric == "eval_loss" else None
    probabilities = outputs.probabilities if "recall_at" in metric else None
    predictions = outputs.predictions
    scores = score(
        _problem_type(outputs), labels, outputs.label_ids, predictions, probabilities, losses
    )
    return scores.intervals.get(metric)


def _problem_type(outputs: Outputs) -> str:
    if outputs.probabilities is None:
        return "regression"
    return "multi_label" if np.ndim(outputs.label_ids) == 2 else "classification"


def compare(rows: Sequence[Finished]) -> Comparison:
    """Compare runs."""
    all_settings = [row.settings for row in rows]
    names = sorted({name for settings in all_settings for name in settings})
    settings = {name: [of_run.get(name) for of_run in all_settings] for name in names}
    different = {
        name: values for name, values in settings.items() if any(v != values[0] for v in values)
    }
    return Comparison(rows, different, list(_remarks(rows)))


def _remarks(rows: Sequence[Finished]) -> Iterator[str]:
    first = rows[0]
    comparable = []
    for row in rows:
        if row.watched != first.watched:
            yield "%s: another metric than in %s, so it has no rank" % (row.name, first.name)
        elif not _same_dev_set(row, first):
            yield "%s: another dev set than in %s, so it has no rank" % (row.name, first.name)
        elif row.value is None:
            yield "%s: has no evaluation with a finite %s" % (row.name, row.watched.metric)
        else:
            comparable.append(row)
        if row.result["status"] not in ("finished", "stopped early"):
            yield "%s: is not at its end (%s)" % (row.name, row.result["status"])
    if len(comparable) < 2:
        yield "fewer than two runs can be ranked"
        return
    sign = -1 if first.watched.higher_is_better else 1
    ranked = sorted(comparable, key=lambda row: sign * (row.value or 0.0))
    best, second = ranked[:2]
    if best.value == second.value:
        yield "best: %s and %s, which are equal" % (best.name, second.name)
    else:
        yield "best: %s, then %s" % (best.name, second.name)
    yield about_pair(best, second)


def _same_dev_set(first: Finished, second: Finished) -> bool:
    """Tell whether two runs have the same dev examples, though maybe other word pieces of them."""
    if first.dev_data == second.dev_data:
        return True
    if (first.labels, first.dev_source) != (second.labels, second.dev_source):
        return False
    return _same_truth(first.outputs, second.outputs)


def _same_truth(first: Outputs | None, second: Outputs | None) -> bool:
    return (
        first is not None
        and second is not None
        and np.array_equal(first.label_ids, second.label_ids)
    )


def mcnemar_of_pair(first: Finished, second: Finished) -> McNemar | str:
    """Return McNemar's test of two runs, or why there is none."""
    for run in (first, second):
        if run.outputs is None:
            return (
                "%s has no dev_outputs.npz of its best checkpoint; --do_eval writes it" % run.name
            )
    if not (_same_dev_set(first, second) and _same_truth(first.outputs, second.outputs)):
        return "the runs have other dev examples"
    assert first.outputs is not None and second.outputs is not None
    if first.outputs.probabilities is None:
        return "a regression has no right and wrong answers"
    return mcnemar(*(is_right(o.label_ids, o.predictions) for o in (first.outputs, second.outputs)))


def about_pair(first: Finished, second: Finished) -> str:
    """Return what McNemar's test says about two runs, as a sentence."""
    test = mcnemar_of_pair(first, second)
    if isinstance(test, str):
        return "no McNemar's test: %s" % test
    verdict = "differ" if test.p_value < SIGNIFICANT else "may differ by chance only"
    return (
        "McNemar's test (%s): %d dev examples are right only in %s, %d only in %s, %s: the "
        "two %s"
        % (
            "exact" if test.is_exact else "chi-squared, with continuity correction",
            test.only_first,
            first.name,
            test.only_second,
            second.name,
            "p < 0.0001" if test.p_value < 0.0001 else "p = %.4f" % test.p_value,
            verdict,
        )
    )


def all_pairs(rows: Sequence[Finished]) -> list[dict[str, Any]]:
    """Return McNemar's test of each pair of runs, by their numbers from 1, as JSON has it."""
    found = []
    for (number, first), (other, second) in itertools.combinations(enumerate(rows, start=1), 2):
        test = mcnemar_of_pair(first, second)
        if not isinstance(test, str):
            is_different = test.p_value < SIGNIFICANT
            found.append({"pair": [number, other], **test._asdict(), "differ": is_different})
    return found


HEADER = (
    "run",
    "metric",
    "value",
    "95 % interval",
    "best step",
    "last step",
    "seconds",
    "examples/s",
    "ended",
)


def cells(row: Finished) -> list[str]:
    """Return a run as texts, one for each column of the table."""
    result = row.result
    return [
        row.name,
        row.watched.metric,
        "-" if row.value is None else "%.4f" % row.value,
        "-" if row.interval is None else "%.4f to %.4f" % row.interval,
        *(_cell(result.get(name)) for name in ("best_step", "last_step", "seconds")),
        _cell(result.get("examples_per_second")),
        _cell(result["status"]),
    ]


def _cell(value: Any) -> str:
    return "-" if value is None else str(value)


def setting_rows(comparison: Comparison) -> list[list[str]]:
    """Return the settings that differ as texts: the name, then the value in each run."""
    return [[name, *map(_cell, values)] for name, values in comparison.settings.items()]


def as_text(comparison: Comparison) -> str:
    """Return the comparison as lines of text."""
    names = [row.name for row in comparison.rows]
    tables = [[list(HEADER), *map(cells, comparison.rows)]]
    if comparison.settings:
        tables.append([["setting", *names], *setting_rows(comparison)])
    return "\n\n".join([*map(_align, tables), "\n".join(comparison.remarks)])


def _align(table: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in table)
    return "\n".join(line.rstrip() for line in lines)

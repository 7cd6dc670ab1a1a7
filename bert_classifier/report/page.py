"""report.html: one page about a run, in one file that needs no other.

The page is the template `template.html`; jinja2 escapes all that is put into it but the plots.
"""

from __future__ import annotations

import os
import re
from typing import Any, Iterable, Mapping, NamedTuple, Sequence

import jinja2
import markupsafe
import numpy as np

from bert_classifier import files, problem_types
from bert_classifier.data.examples import InputExample
from bert_classifier.export import calibration
from bert_classifier.report import figures
from bert_classifier.report.scores import Scores
from bert_classifier.training.history import Evaluation, Watched
from bert_classifier.training.outputs import Outputs

_NUM_MISTAKES, _NUM_PAIRS = 30, 20
_MOST_CHARACTERS = 1000  # Of a text.
_MOST_CLASSES_OF_TABLE = 25  # A larger confusion matrix is drawn, not written.
# A temperature is fitted on so many probabilities at most, which takes a second.
_MOST_PROBABILITIES = 10**6

# A page cannot show them, and a lone surrogate cannot be written.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class Suspects(NamedTuple):
    """Examples of the training set whose labels the model finds the least likely.

    Attributes:
        num_examples: how many examples were looked at.
        num_train: how many there are.
        rows: example, answer of the model, loss; the largest loss first.
    """

    num_examples: int
    num_train: int
    rows: Sequence[tuple[InputExample, str, float]]


class Run(NamedTuple):
    """How the run went.

    Attributes:
        name: of its folder.
        watched: the metric that says what is best.
        evaluations: all of them, in the order of their steps.
        trained: step and loss in training.
        result: how it ended, as in run.json; empty if that is unknown.
        settings: the flags by name.
        given: the names of those that differ from their defaults.
        data_summary: what a dry run prints.
        files: name and purpose of each file.
        commands: what to do next: title and command.
    """

    name: str
    watched: Watched
    evaluations: Sequence[Evaluation]
    trained: Sequence[tuple[int, float]]
    result: Mapping[str, Any]
    settings: Mapping[str, Any]
    given: Sequence[str]
    data_summary: Sequence[str]
    files: Sequence[tuple[str, str]]
    commands: Sequence[tuple[str, str]]


class Evaluated(NamedTuple):
    """What was evaluated, and what came out.

    Attributes:
        problem_type: one of `PROBLEM_TYPES`.
        examples: the dev set.
        separator: between several labels.
        metrics: those of the evaluation, by name.
        outputs: what the model said.
        scores: what follows from that.
        is_of_training: whether it is the dev set of the training.
    """

    problem_type: str
    examples: Iterable[InputExample]
    separator: str
    metrics: Mapping[str, float]
    outputs: Outputs
    scores: Scores
    is_of_training: bool = True


def write(path: str, run: Run, evaluated: Evaluated, suspects: Suspects | None = None) -> None:
    """Write the page, atomically.

    Args:
        path: the file.
        run: how the run went.
        evaluated: what the page is about.
        suspects: of the training set; None if it was not looked at.
    """
    files.write_text(path, render(run, evaluated, suspects))


def render(run: Run, evaluated: Evaluated, suspects: Suspects | None = None) -> str:
    """Return the page as HTML; the arguments are those of `write`."""
    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FileSystemLoader(os.path.dirname(os.path.abspath(__file__))),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
    )
    environment.filters["number"] = _number
    template = environment.get_template("template.html")
    outputs, problem = evaluated.outputs, problem_types.get(evaluated.problem_type)
    examples = list(evaluated.examples)
    content = {
        "run": run,
        "evaluated": evaluated,
        "scores": evaluated.scores,
        "headline": _headline(run, evaluated),
        "curves": _curves(run),
        "length": _errors_by_length(evaluated, examples),
        "mistakes": _mistakes(evaluated, examples),
        "suspects": suspects,
        "suspected": [_suspect(row) for row in suspects.rows] if suspects else [],
        "matrix": None,
        "pairs": [],
        "calibration": None,
        "confidences": None,
        "scatter": None,
        "residuals": None,
    }
    if problem.has_classes:
        content.update(_of_classes(evaluated))
    else:
        truth, numbers = outputs.label_ids.astype(float), outputs.predictions.astype(float)
        if np.isfinite(numbers).all():
            content["scatter"] = _drawn(figures.scatter(truth, numbers))
            content["residuals"] = _drawn(figures.residuals(numbers - truth))
    return template.render(content)


def _headline(run: Run, evaluated: Evaluated) -> dict[str, Any]:
    """Return what stands at the top of the page."""
    scores, metric = evaluated.scores, run.watched.metric
    # An evaluation-only run may watch a metric that the training did not have.
    value = evaluated.metrics.get(metric, scores.values.get(metric))
    warnings = [run.result["warning"]] if run.result.get("warning") else []
    answered = np.unique(evaluated.outputs.predictions.reshape(scores.num_examples, -1), axis=0)
    if len(answered) == 1 and scores.classes and scores.num_examples > 1:
        problem = problem_types.get(evaluated.problem_type)
        only = answered[0] if problem.has_thresholds else answered[0][0]
        name = problem.name_prediction(only, scores.labels, evaluated.separator)
        warnings.append("The model gives the same answer to every row: %s" % (name or "no label"))
    baseline = scores.baseline.get(metric)
    interval = scores.intervals.get(metric)
    if baseline is not None and interval and not warnings:
        low, high = interval
        of_it = baseline.score
        reaches = low <= of_it if run.watched.higher_is_better else high >= of_it
        if reaches:
            warnings.append("The interval reaches the baseline: the model may be no better")
    return {
        "metric": metric,
        "value": value,
        "interval": interval,
        "baseline": baseline,
        "warnings": warnings,
    }


def _curves(run: Run) -> list[markupsafe.Markup]:
    """Draw the watched metric and the loss over the steps."""
    best = run.result.get("best_step")
    stopped = run.result.get("last_step") if run.result.get("status") == "stopped early" else None
    drawn = []
    for name in dict.fromkeys((run.watched.metric, "eval_loss")):
        points = [
            (evaluation.step, evaluation.metrics[name])
            for evaluation in run.evaluations
            if np.isfinite(evaluation.metrics.get(name, np.nan))
        ]
        trained = run.trained if name == "eval_loss" else ()
        if points:
            drawn.append(_drawn(figures.curves(name, points, best, stopped, trained)))
    return drawn


def _of_classes(evaluated: Evaluated) -> dict[str, Any]:
    """Return the parts of the page that are about classes and confidence."""
    scores, outputs = evaluated.scores, evaluated.outputs
    probabilities = outputs.probabilities
    found: dict[str, Any] = {"pairs": _confused_pairs(evaluated)}
    is_matrix = scores.confusion is not None and scores.confusion.ndim == 2
    if is_matrix and len(scores.labels) > _MOST_CLASSES_OF_TABLE:
        found["matrix"] = _drawn(figures.matrix(scores.confusion))
    if probabilities is None or not np.isfinite(probabilities).all():
        return found
    most = max(1, _MOST_PROBABILITIES // probabilities.shape[1])
    some = slice(None)
    if len(probabilities) > most:
        some = np.random.RandomState(0).choice(len(probabilities), most, replace=False)
    of_some, truth = probabilities[some], outputs.label_ids[some]
    kind = evaluated.problem_type
    fitted = calibration.calibrate(of_some, truth, kind)
    scaled = calibration.apply_temperature(of_some, fitted.temperature, kind)
    decisions = problem_types.get(kind).decisions
    before, after = decisions(of_some, truth)[:2], decisions(scaled, truth)[:2]
    plot = figures.reliability(before, after, fitted.temperature)
    found["calibration"] = {
        "fitted": fitted,
        "plot": _drawn(plot),
        "num_bins": calibration.NUM_BINS,
        "num_rows": len(of_some),
        "of_labels": problem_types.get(kind).has_thresholds,
    }
    found["confidences"] = _drawn(figures.confidences(*before))
    return found


def _confused_pairs(evaluated: Evaluated) -> list[tuple[str, str, int, int]]:
    """Return label, wrong answer, number of such rows, of rows with the label; the most first."""
    outputs, scores = evaluated.outputs, evaluated.scores
    if outputs.label_ids.ndim > 1 or scores.classes is None:
        return []
    size = len(scores.labels)
    is_wrong = outputs.label_ids != outputs.predictions
    cells = outputs.label_ids[is_wrong].astype(np.int64) * size + outputs.predictions[is_wrong]
    pairs, numbers = np.unique(cells, return_counts=True)
    order = np.argsort(-numbers, kind="stable")[:_NUM_PAIRS]
    support = scores.classes.support
    return [
        (
            scores.labels[pairs[n] // size],
            scores.labels[pairs[n] % size],
            int(numbers[n]),
            int(support[pairs[n] // size]),
        )
        for n in order
    ]


def _errors(evaluated: Evaluated) -> np.ndarray:
    """Return the error of each example: absolute, or 1 where an answer is not entirely right."""
    outputs = evaluated.outputs
    if not problem_types.get(evaluated.problem_type).has_classes:
        return np.abs(outputs.predictions - outputs.label_ids)
    is_wrong = outputs.predictions != outputs.label_ids
    return is_wrong.reshape(len(is_wrong), -1).any(axis=1).astype(float)


def _errors_by_length(evaluated: Evaluated, examples: Sequence[InputExample]) -> markupsafe.Markup:
    lengths = np.array([len(e.text_a) + len(e.text_b or "") for e in examples])
    has_classes = problem_types.get(evaluated.problem_type).has_classes
    name = "share that is wrong" if has_classes else "mean absolute error"
    return _drawn(figures.by_length(lengths, _errors(evaluated), name))


def _mistakes(evaluated: Evaluated, examples: Sequence[InputExample]) -> list[dict[str, Any]]:
    """Return the examples with the largest errors; of wrong classes the most confident ones."""
    outputs, problem = evaluated.outputs, problem_types.get(evaluated.problem_type)
    errors = _errors(evaluated)
    confidence = None
    worst = errors
    if problem.has_classes and outputs.probabilities is not None:
        confidence = outputs.probabilities
        if problem.has_thresholds:
            # The label about which the model is wrong and the most certain.
            is_wrong = outputs.predictions != outputs.label_ids
            confidence = np.where(is_wrong, np.abs(outputs.label_ids - confidence), 0.0)
        confidence = confidence.max(axis=1)
        worst = np.where(errors > 0, confidence, -1.0)
    order = np.argsort(-worst, kind="stable")[:_NUM_MISTAKES]
    found = []
    for n in order:
        if errors[n] > 0:
            label, answer = (
                problem.name_prediction(of[n], evaluated.scores.labels, evaluated.separator)
                for of in (outputs.label_ids, outputs.predictions)
            )
            value = errors[n] if confidence is None else confidence[n]
            found.append(_shown(examples[n], label, answer, float(value), int(n) + 1))
    return found


def _shown(
    example: InputExample, label: str, answer: str, value: float, row: int | None = None
) -> dict[str, Any]:
    where = example.guid if row is None else "row %d" % row
    # Of rows that are numbered, the number would be there twice.
    if row is not None and not example.guid.endswith("-%d" % row):
        where += ", " + example.guid
    return {
        "where": where,
        "texts": [_shorten(t) for t in (example.text_a, example.text_b) if t is not None],
        "label": label or "no label",
        "answer": answer or "no label",
        "value": value,
    }


def _suspect(row: tuple[InputExample, str, float]) -> dict[str, Any]:
    example, answer, loss = row
    label = example.label
    name = ", ".join(label) if isinstance(label, tuple) else str(label)
    return _shown(example, name, answer, loss)


def _shorten(text: str) -> str:
    if len(text) <= _MOST_CHARACTERS:
        return text
    return "%s… (%d characters)" % (text[:_MOST_CHARACTERS], len(text))


def _drawn(svg: str) -> markupsafe.Markup:
    """Return a plot, in which there is no text of a user, as HTML."""
    return markupsafe.Markup(svg)


def _printable(value: Any) -> Any:
    """Replace what no page can show in a text that is put into the template."""
    if isinstance(value, str) and not isinstance(value, markupsafe.Markup):
        return _UNPRINTABLE.sub("\ufffd", value)
    return value


def _number(value: float | None) -> str:
    return "–" if value is None else "%.4f" % value

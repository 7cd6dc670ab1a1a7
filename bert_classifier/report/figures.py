"""The plots of report.html, as SVG that is part of the page.

Text stays text, in the font of the page, and colours are those of the page, so that they follow its
light or dark theme. Names of labels, which may be in any script, are never drawn.
"""

from __future__ import annotations

import contextlib
import io
import re
from typing import Any, Iterator, Sequence, Tuple

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from bert_classifier.export.calibration import bins_of

# What is drawn in these colours gets those of the page, which its style sheet defines.
_TEXT, _FAINT = "#010101", "#010102"
_BLUE, _ORANGE, _RED = "#010103", "#010104", "#010105"
_OF_PAGE = {
    _TEXT: "var(--text)",
    _FAINT: "var(--faint)",
    _BLUE: "var(--blue)",
    _ORANGE: "var(--orange)",
    _RED: "var(--red)",
}
_SETTINGS = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _TEXT,
    "axes.titlecolor": _TEXT,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "legend.frameon": False,
}
_WIDTH, _HEIGHT = 6.4, 2.9  # Inches of 72 units.
_MOST_POINTS = 3000


# The confidence of each decision, float, and whether it is right: two arrays `[num_decisions]`.
_Decisions = Tuple[np.ndarray, np.ndarray]


def curves(
    name: str,
    evaluated: Sequence[tuple[int, float]],
    best_step: int | None,
    stopped_at: int | None,
    trained: Sequence[tuple[int, float]] = (),
) -> str:
    """Draw a metric over the steps.

    Args:
        name: of the metric.
        evaluated: step and value of each evaluation.
        best_step: is marked.
        stopped_at: the step of the early stop, which is marked.
        trained: step and value in training, of a loss.
    """
    with _figure() as (figure, axes):
        if trained:
            axes.plot(*zip(*trained), color=_FAINT, label="training")
        axes.plot(*zip(*evaluated), color=_BLUE, marker="o", markersize=3, label="dev")
        for step, colour, what in ((best_step, _ORANGE, "best"), (stopped_at, _RED, "early stop")):
            if step is not None:
                label = "%s: step %d" % (what, step)
                axes.axvline(step, color=colour, linestyle="--", linewidth=1, label=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("step")
        axes.set_title(name)
        axes.legend()
        return _svg(figure, "curve-" + name)


def reliability(before: _Decisions, after: _Decisions, temperature: float) -> str:
    """Draw accuracy over confidence, without and with a temperature.

    Args:
        before: confidence, float `[num_decisions]`, and correctness of each decision.
        after: the same with the temperature.
        temperature: for the legend.
    """
    with _figure() as (figure, axes):
        axes.plot([0, 1], [0, 1], color=_FAINT, linestyle=":", label="perfect")
        names = ("as trained", "temperature %.3f" % temperature)
        for (confidence, is_right), colour, name in zip((before, after), (_BLUE, _ORANGE), names):
            bins = bins_of(confidence)
            sizes = np.bincount(bins)
            filled = sizes > 0
            means = [
                np.bincount(bins, of_each)[filled] / sizes[filled]
                for of_each in (confidence, is_right)
            ]
            axes.plot(*means, color=colour, marker="o", markersize=4, label=name)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.03)  # A point at 1 is whole.
        axes.set_xlabel("confidence")
        axes.set_ylabel("share that is right")
        axes.legend(loc="upper left")
        return _svg(figure, "reliability")


def confidences(confidence: np.ndarray, is_right: np.ndarray) -> str:
    """Draw how many decisions have which confidence, the right and the wrong ones."""
    with _figure() as (figure, axes):
        is_right = is_right.astype(bool)
        parts = [confidence[is_right], confidence[~is_right]]
        axes.hist(parts, 20, (0, 1), stacked=True, color=[_BLUE, _RED], label=["right", "wrong"])
        axes.set_xlabel("confidence")
        axes.set_ylabel("answers")
        axes.legend(loc="upper left")
        return _svg(figure, "confidences")


def by_length(lengths: np.ndarray, errors: np.ndarray, name: str) -> str:
    """Draw the mean error of the examples in up to eight ranges of length.

    Args:
        lengths: in characters, int `[num_examples]`.
        errors: float `[num_examples]`.
        name: of the mean error.
    """
    with _figure() as (figure, axes):
        ends = np.unique(np.sort(lengths)[np.linspace(0, len(lengths) - 1, 9).astype(int)])
        bins = np.clip(np.searchsorted(ends, lengths, side="right") - 1, 0, max(len(ends) - 2, 0))
        numbers = np.unique(bins)
        means = [errors[bins == number].mean() for number in numbers]
        axes.bar(range(len(numbers)), means, color=_BLUE, width=0.8)
        names = [_range(lengths[bins == number]) for number in numbers]
        axes.set_xticks(range(len(numbers)))
        axes.set_xticklabels(names)
        axes.set_xlabel("characters")
        axes.set_ylabel(name)
        return _svg(figure, "length")


def matrix(counts: np.ndarray) -> str:
    """Draw a confusion matrix that is too large for a table: row the truth, column the answer."""
    with _figure(_WIDTH, _WIDTH * 0.8) as (figure, axes):
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        image = axes.imshow(shares, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        figure.colorbar(image, label="share of the row")
        axes.set_xlabel("number of the answer, from 0")
        axes.set_ylabel("number of the label, from 0")
        return _svg(figure, "matrix")


def scatter(truth: np.ndarray, predictions: np.ndarray) -> str:
    """Draw the predicted numbers over the true ones; of very many a sample."""
    shown = _sample(len(truth))
    with _figure(_HEIGHT * 1.4, _HEIGHT * 1.4) as (figure, axes):
        ends = [min(truth.min(), predictions.min()), max(truth.max(), predictions.max())]
        axes.plot(ends, ends, color=_FAINT, linestyle=":")
        axes.plot(truth[shown], predictions[shown], ".", color=_BLUE, alpha=0.5, markeredgewidth=0)
        axes.set_xlabel("label")
        axes.set_ylabel("prediction")
        return _svg(figure, "scatter")


def residuals(errors: np.ndarray) -> str:
    """Draw how many predictions are by how much too high or too low."""
    with _figure() as (figure, axes):
        axes.hist(errors, 30, color=_BLUE)
        axes.axvline(0, color=_FAINT, linestyle=":")
        axes.set_xlabel("prediction - label")
        axes.set_ylabel("examples")
        return _svg(figure, "residuals")


@contextlib.contextmanager
def _figure(width: float = _WIDTH, height: float = _HEIGHT) -> Iterator[tuple[Figure, Any]]:
    """Yield a figure and its axes; nothing of this touches pyplot or the user's settings."""
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height), tight_layout=True)
        FigureCanvasSVG(figure)
        yield figure, figure.subplots()


def _svg(figure: Figure, name: str) -> str:
    """Return a figure as an `svg` element whose identifiers begin with `name`."""
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    # A page in HTML needs no namespaces.
    svg = re.sub(r' (xmlns(:\w+)?|version)="[^"]*"', "", svg).replace("xlink:href", "href")
    prefix = re.sub(r"\W", "-", name) + "-"
    svg = re.sub(r'\bid="', 'id="' + prefix, svg)
    svg = re.sub(r'href="#', 'href="#' + prefix, svg)
    svg = re.sub(r"url\(#", "url(#" + prefix, svg)
    # The font is that of the page.
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    for colour, of_page in _OF_PAGE.items():
        svg = svg.replace(colour, of_page)
    return svg.replace("<svg ", '<svg role="img" aria-label="%s" ' % name, 1)


def _range(lengths: np.ndarray) -> str:
    low, high = int(lengths.min()), int(lengths.max())
    return "%d" % low if low == high else "%d-%d" % (low, high)


def _sample(size: int) -> np.ndarray:
    """Return numbers of examples, all if they are not too many to be drawn."""
    if size <= _MOST_POINTS:
        return np.arange(size)
    return np.random.RandomState(0).choice(size, _MOST_POINTS, replace=False)

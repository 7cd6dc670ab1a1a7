"""Pictures for TensorBoard, as PNG."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any, Sequence

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_CHANNELS = 4

# Beyond, the numbers in the cells would overlap.
_MOST_CELLS_WITH_NUMBERS = 15
_MOST_LETTERS = 24
# The letters of European languages, which the font of Matplotlib has, and draws as they are read.
_LAST_LETTER = "\u052f"


def matrix(counts: np.ndarray, row_names: Sequence[str], column_names: Sequence[str]) -> bytes:
    """Draw how many examples have the class of a row and the answer of a column.

    Args:
        counts: int `[num_rows, num_columns]`; the colours are shares of the row.
        row_names: the classes, see `drawable`.
        column_names: the answers.
    """
    num_rows, num_columns = counts.shape
    figure = _new_figure(2.5 + 0.45 * num_columns, 1.8 + 0.45 * num_rows)
    axes = figure.add_subplot(1, 1, 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    axes.set_xticks(range(num_columns))
    axes.set_xticklabels(column_names, rotation=45, ha="right")
    axes.set_yticks(range(num_rows))
    axes.set_yticklabels(row_names)
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    if max(counts.shape) <= _MOST_CELLS_WITH_NUMBERS:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, "%d" % count, ha="center", va="center", color=colour)
    return _to_png(figure)


def scatter(truth: np.ndarray, predictions: np.ndarray) -> bytes:
    """Draw the predicted numbers, float `[num_examples]`, over the true ones."""
    figure = _new_figure(5.0, 5.0)
    axes = figure.add_subplot(1, 1, 1)
    axes.scatter(truth, predictions, s=8, alpha=0.4, linewidths=0)
    ends = [float(np.min([truth, predictions])), float(np.max([truth, predictions]))]
    axes.plot(ends, ends, color="gray", linewidth=1)
    axes.set_xlabel("label")
    axes.set_ylabel("prediction")
    return _to_png(figure)


def drawable(labels: Sequence[str]) -> list[str]:
    """Return the names of classes, those that cannot be drawn as `#` and their line's number."""
    return [_drawn(label) or "#%d" % number for number, label in enumerate(labels, start=1)]


def size(png: bytes) -> tuple[int, int]:
    """Return width and height in pixels, which a PNG has in its first part."""
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def _new_figure(width: float, height: float) -> Figure:
    # A second that only those who draw should wait. No pyplot, which has a state of the user's.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(width, height), dpi=80)
    FigureCanvasAgg(figure)
    return figure


def _to_png(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", bbox_inches="tight")
    return stream.getvalue()


def _drawn(name: str) -> str | None:
    if not name.isprintable() or any(letter > _LAST_LETTER for letter in name):
        return None
    if len(name) > _MOST_LETTERS:
        name = name[: _MOST_LETTERS - 1] + "."
    # Otherwise Matplotlib would set what is between two dollars as a formula.
    return name.replace("$", r"\$")

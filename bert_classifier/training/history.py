"""The one truth for "best": every evaluation of a run, in order, in one file.

Early stopping, the best checkpoint, the best export and whatever is evaluated, predicted or
exported afterwards all ask this room. It knows neither TensorFlow nor the model.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any, Mapping, NamedTuple

from bert_classifier import files

_CURE = "restore it, or remove it: then which evaluation was the best so far is forgotten"


class Watched(NamedTuple):
    """The metric that decides, and its direction."""

    metric: str
    higher_is_better: bool

    def improves(self, value: float, best: float | None) -> bool:
        """Says whether `value` is better than `best`. A tie is no improvement, NaN never is."""
        if not math.isfinite(value):
            return False
        if best is None:
            return True
        return value > best if self.higher_is_better else value < best


class Evaluation(NamedTuple):
    """One evaluation: the global step of its checkpoint and every metric of it."""

    step: int
    metrics: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Gives what `files.to_json` takes."""
        return {"step": self.step, "metrics": dict(sorted(self.metrics.items()))}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Evaluation:
        """Reads what `to_json` gave."""
        metrics = {name: float(value) for name, value in record["metrics"].items()}
        return cls(int(record["step"]), metrics)


class EvalHistory:
    """The evaluations of one run, kept in a file of one JSON object per line.

    Each line is `{"step": 20, "metrics": {"eval_loss": 0.41, ...}, "is_best": true}`. Numbers that
    JSON does not have (NaN, infinity) are written as strings. The file is rewritten as a whole at
    every evaluation: it is short, and so it is never half-written. Without evaluations there is no
    file: an empty one is damaged.
    """

    def __init__(self, path: str, watched: Watched):
        """Reads the evaluations that `path` already holds, or starts with none.

        Raises:
            BadInput: the file is damaged.
        """
        self.watched = watched
        self._path = path
        self.evaluations: list[Evaluation] = []
        self.reload()

    def reload(self) -> None:
        """Reads the file again."""
        self.evaluations = []
        if os.path.exists(self._path):
            with files.damage_told(self._path, _CURE), open(self._path, encoding="utf-8") as stream:
                self.evaluations = [Evaluation.from_json(json.loads(line)) for line in stream]
                if not self.evaluations:
                    raise ValueError("empty")

    def add(self, step: int, metrics: Mapping[str, Any]) -> bool:
        """Records the evaluation at `step` in place of later ones; says whether it is the best."""
        numbers = {name: float(value) for name, value in metrics.items() if name != "global_step"}
        self.evaluations = [e for e in self.evaluations if e.step < step]
        self.evaluations.append(Evaluation(step, numbers))
        self._write()
        best = self.best()
        return best is not None and best.step == step

    def forget_from(self, step: int) -> None:
        """Drops evaluations at or after `step`: a run that is resumed before makes them again."""
        self.evaluations = [e for e in self.evaluations if e.step < step]
        self._write()

    def at(self, step: int) -> Evaluation | None:
        """Gives the evaluation at `step`, if there was one."""
        return next((e for e in self.evaluations if e.step == step), None)

    def value(self, evaluation: Evaluation) -> float:
        """Gives the watched metric of an evaluation."""
        return evaluation.metrics[self.watched.metric]

    def best(self) -> Evaluation | None:
        """Gives the best evaluation, the earliest of equals; None when every value is NaN."""
        bests = self._successive_bests()
        return bests[-1] if bests else None

    def steps_without_improvement(self) -> int:
        """Gives the steps between the best evaluation (else the first one) and the latest one."""
        if not self.evaluations:
            return 0
        reference = self.best() or self.evaluations[0]
        return self.evaluations[-1].step - reference.step

    def evaluations_without_improvement(self) -> int:
        """Gives how many evaluations were made after the best one."""
        best = self.best()
        return sum(1 for e in self.evaluations if best is None or e.step > best.step)

    def _successive_bests(self) -> list[Evaluation]:
        bests: list[Evaluation] = []
        for evaluation in self.evaluations:
            so_far = self.value(bests[-1]) if bests else None
            if self.watched.improves(self.value(evaluation), so_far):
                bests.append(evaluation)
        return bests

    def _write(self) -> None:
        if not self.evaluations:
            if os.path.exists(self._path):
                os.remove(self._path)
            return
        best_steps = {e.step for e in self._successive_bests()}
        lines = [
            files.to_json(dict(e.to_json(), is_best=e.step in best_steps)) + "\n"
            for e in self.evaluations
        ]
        files.write_text(self._path, "".join(lines))

"""The evaluation history of a run, which decides what checkpoint is the best.

Early stopping, the best checkpoint, the best exports and every later evaluation, prediction or
export go by it. It needs neither TensorFlow nor the model.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any, Mapping, NamedTuple

from bert_classifier import files

_CURE = "restore it, or remove it: then which evaluation was the best so far is forgotten"


def eval_history_path(output_dir: str) -> str:
    """Return the file of a run's evaluation history."""
    return os.path.join(output_dir, "eval_history.jsonl")


class Watched(NamedTuple):
    """The metric that decides which evaluation is the best, and its direction."""

    metric: str
    higher_is_better: bool

    def improves(self, value: float, best: float | None) -> bool:
        """Tell whether `value` is better than `best`; an equal value and NaN are not."""
        if not math.isfinite(value):
            return False
        if best is None:
            return True
        return value > best if self.higher_is_better else value < best


class Evaluation(NamedTuple):
    """The global step of a checkpoint and all its metrics."""

    step: int
    metrics: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as a value for `files.to_json`."""
        return {"step": self.step, "metrics": dict(sorted(self.metrics.items()))}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Evaluation:
        """Return the evaluation that `to_json` has written."""
        metrics = {name: float(value) for name, value in record["metrics"].items()}
        return cls(int(record["step"]), metrics)


class EvalHistory:
    """The evaluations of one run, kept in a file of one JSON object per line.

    Each line is `{"step": 20, "metrics": {"eval_loss": 0.41, ...}, "is_best": true}`. NaN and
    infinity, which JSON does not have, are written as strings. The short file is rewritten at each
    evaluation, atomically, so it is never half-written. Before the first evaluation there is no
    file, so an empty file is damaged.
    """

    def __init__(self, path: str, watched: Watched):
        """Read the evaluations in `path`; without such a file there are none.

        Raises:
            BadInput: the file is damaged.
        """
        self.watched = watched
        self._path = path
        self.evaluations: list[Evaluation] = []
        self.reload()

    def reload(self) -> None:
        """Read the file again."""
        self.evaluations = []
        if os.path.exists(self._path):
            with files.damage_told(self._path, _CURE), open(self._path, encoding="utf-8") as stream:
                self.evaluations = [Evaluation.from_json(json.loads(line)) for line in stream]
                if not self.evaluations:
                    raise ValueError("empty")

    def add(self, step: int, metrics: Mapping[str, Any]) -> bool:
        """Record an evaluation, drop those of this and later steps; return whether it is the best.

        Args:
            step: global step of the checkpoint.
            metrics: name -> value; `global_step` is left out.
        """
        numbers = {name: float(value) for name, value in metrics.items() if name != "global_step"}
        self.evaluations = [e for e in self.evaluations if e.step < step]
        self.evaluations.append(Evaluation(step, numbers))
        self._write()
        best = self.best()
        return best is not None and best.step == step

    def forget_from(self, step: int) -> None:
        """Drop the evaluations at or after `step`, which a resumed run makes again."""
        self.evaluations = [e for e in self.evaluations if e.step < step]
        self._write()

    def at(self, step: int) -> Evaluation | None:
        """Return the evaluation at `step`, None if there is none."""
        return next((e for e in self.evaluations if e.step == step), None)

    def value(self, evaluation: Evaluation) -> float:
        """Return the watched metric of an evaluation."""
        return evaluation.metrics[self.watched.metric]

    def best(self) -> Evaluation | None:
        """Return the best evaluation, the earliest of equals; None if every value is NaN."""
        bests = self.successive_bests()
        return bests[-1] if bests else None

    def steps_without_improvement(self) -> int:
        """Return the number of steps from the best evaluation, else the first, to the latest."""
        if not self.evaluations:
            return 0
        reference = self.best() or self.evaluations[0]
        return self.evaluations[-1].step - reference.step

    def evaluations_without_improvement(self) -> int:
        """Return the number of evaluations after the best one."""
        best = self.best()
        return sum(1 for e in self.evaluations if best is None or e.step > best.step)

    def successive_bests(self) -> list[Evaluation]:
        """Return the evaluations that were the best so far when they were made."""
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
        best_steps = {e.step for e in self.successive_bests()}
        lines = [
            files.to_json(dict(e.to_json(), is_best=e.step in best_steps)) + "\n"
            for e in self.evaluations
        ]
        files.write_text(self._path, "".join(lines))

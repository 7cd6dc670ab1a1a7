"""run.json while a training goes on: how far it came, how it ended."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Any, Callable, Iterator, Mapping, NamedTuple

import tensorflow.compat.v1 as tf

from bert_classifier.config import Training
from bert_classifier.training import memory, runs
from bert_classifier.training.history import EvalHistory
from bert_classifier.training.hooks import ProgressHook
from bert_classifier.training.interruption import Interrupted
from bert_classifier.training.schedule import Schedule
from bert_classifier.training.workers import SharedFailure, Workers

_LOG = logging.getLogger(__name__)


class Run(NamedTuple):
    """What a run is.

    Attributes:
        output_dir: its folder.
        identity: everything that its weights, and its choice of the best, depend on.
        flag_values: those of its call.
    """

    output_dir: str
    identity: Mapping[str, Any]
    flag_values: Mapping[str, Any]


class RunRecord:
    """Writes run.json whenever the state of a training changes. Only worker 0 writes.

    Args:
        run: what the run is.
        schedule: its plan.
        history: its evaluations.
        progress: the hook that knows the last step and the speed.
        start_step: the step that it begins or resumes from.
        workers: those who train together.
    """

    def __init__(
        self,
        run: Run,
        schedule: Schedule,
        history: EvalHistory,
        progress: ProgressHook,
        start_step: int,
        workers: Workers,
    ):
        self._run = run
        self._schedule = schedule
        self._history = history
        self._progress = progress
        self._start_step = start_step
        self._workers = workers
        self._started = time.monotonic()
        self._trained_with = _trained_with(run.output_dir, start_step) if workers.is_chief else []

    def write(self, status: str, reason: str | None = None, **further: Any) -> None:
        """Write that the run has a new status, and why."""
        if not self._workers.is_chief:
            return
        best, metric = self._history.best(), self._history.watched.metric
        result = {
            "status": status,
            "reason": reason,
            "last_step": self._last_step(),
            "num_train_steps": self._schedule.num_train_steps,
            "best_step": best.step if best else None,
            "best_" + metric: self._history.value(best) if best else None,
            "seconds": round(time.monotonic() - self._started, 1),
            "examples_per_second": round(self._progress.examples_per_second, 1),
            "peak_memory_mb": round(memory.peak_megabytes()),
            "workers": self._workers.size,
            "trained_with": self._trained_with,
            **further,
        }
        runs.write_record(self._run.output_dir, self._run.identity, self._run.flag_values, result)

    def write_end(self, reason: str | None, judge: Callable[[], str | None]) -> None:
        """Write that the training has ended as it should.

        Args:
            reason: why it stopped early; None if it did not.
            judge: returns what is wrong with the best model, None if nothing is.
        """
        if not self._workers.is_chief:
            return
        # Where the last step is done there was nothing left to stop.
        if reason and self._last_step() < self._schedule.num_train_steps:
            self.write("stopped early", reason, warning=judge())
        else:
            self.write("finished", warning=judge())

    @contextlib.contextmanager
    def failures_written(self, training: Training) -> Iterator[None]:
        """Write how a training failed in this block, or was interrupted, and close its bar."""
        try:
            yield
        except Interrupted as signal:
            self.write("interrupted", str(signal))
            raise
        except tf.train.NanLossDuringTrainingError:
            self.write("failed", "the loss is NaN")
            raise SharedFailure(
                "the loss of step %d is NaN; lower --learning_rate=%s or raise "
                "--warmup_proportion, then begin anew with --overwrite_output_dir"
                % (self._progress.step_of_batch, training.learning_rate)
            ) from None
        finally:
            self._progress.close_bar()

    def check_is_complete(self, stop_reason: str | None) -> None:
        """Raise RuntimeError if the training ended before its last step, and nothing says why."""
        step, num_train_steps = self._progress.step, self._schedule.num_train_steps
        if step < num_train_steps and not stop_reason:
            self.write("failed", "training ended before its last step")
            raise RuntimeError(
                "training ended at step %d of %d, and nothing says why" % (step, num_train_steps)
            )

    def _last_step(self) -> int:
        return max(self._progress.step, self._start_step)


def _trained_with(output_dir: str, start_step: int) -> list[dict[str, Any]]:
    """Return the parts of a run that other versions of Python, TensorFlow or NumPy have trained.

    Other versions may round differently: the same weights are promised only within a version.

    Args:
        output_dir: folder of the run.
        start_step: the step that its last part begins at, which is this one.

    Returns:
        For each part the step that it begins at, as `from_step`, and the versions by name.
    """
    now = runs.versions()
    record = runs.read_record(output_dir) if start_step else None
    if record is None:
        return [{"from_step": 0, **now}]
    # Records of earlier versions of this program do not tell of parts.
    parts = record["result"].get("trained_with", [{"from_step": 0, **record["versions"]}])
    # What was trained beyond the checkpoint that this process resumes from is lost.
    parts = [part for part in parts if part["from_step"] < start_step]
    before = parts[-1]
    changed = [
        "%s %s was %s" % (name, version, before[name])
        for name, version in now.items()
        if version != before[name]
    ]
    if not changed:
        return parts
    _LOG.info("Resuming with other versions, which may round differently: %s", ", ".join(changed))
    return [*parts, {"from_step": start_step, **now}]

"""What a model says about each example of an evaluation, collected while it is evaluated."""

from __future__ import annotations

import os
import zipfile
from typing import Any, Callable, Mapping, NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import files
from bert_classifier.training.history import EvalHistory

CURE = "remove it, and write it again with --do_eval"  # Of a damaged file.


class Outputs(NamedTuple):
    """What a model says about the dev set, in the order of its file.

    Attributes:
        step: of the checkpoint.
        fingerprint: of the dev set, see `features.fingerprint`.
        label_ids: the truth, see `ProblemType.label_id`.
        predictions: see `ProblemType.outputs`.
        losses: float32 `[num_examples]`.
        probabilities: float32 `[num_examples, num_labels]`; None for a regression.
    """

    step: int
    fingerprint: str
    label_ids: np.ndarray
    predictions: np.ndarray
    losses: np.ndarray
    probabilities: np.ndarray | None


def outputs_path(output_dir: str) -> str:
    """Return the file with the outputs of a run's best checkpoint."""
    return os.path.join(output_dir, "dev_outputs.npz")


def write(path: str, outputs: Outputs) -> None:
    """Write outputs, atomically, as arrays that `numpy.load` reads."""
    arrays = {name: value for name, value in outputs._asdict().items() if value is not None}
    with files.atomic(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)


def read(path: str) -> Outputs | None:
    """Return the outputs in a file, None if there is no such file.

    Raises:
        BadInput: it is damaged.
    """
    if not os.path.exists(path):
        return None
    with files.damage_told(path, CURE):
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            raise ValueError(error) from error
        return Outputs(
            int(arrays["step"]),
            str(arrays["fingerprint"]),
            arrays["label_ids"],
            arrays["predictions"],
            arrays["losses"],
            arrays.get("probabilities"),
        )


class OutputsHook(tf.train.SessionRunHook):
    """Collect the outputs of an evaluation, of all workers, without computing them again.

    It reads the tensors `evaluated/...:0` of the model, which are those that the metrics are
    computed from.

    Attributes:
        outputs: of the latest evaluation that has ended; None before.
    """

    def __init__(
        self,
        rows: np.ndarray,
        fingerprint: str,
        from_all: Callable[[Any], list[Any]] = lambda value: [value],
    ):
        """Take what is evaluated.

        Args:
            rows: the numbers, in the file, of the examples that this worker evaluates, in its
                order.
            fingerprint: of the dev set.
            from_all: returns the values of all workers, see `Workers`.
        """
        self.outputs: Outputs | None = None
        self._rows = rows
        self._fingerprint = fingerprint
        self._from_all = from_all

    def begin(self) -> None:
        """Look up the tensors."""
        self._batches: list[Mapping[str, np.ndarray]] = []
        self._global_step = tf.train.get_global_step()
        prefix, suffix = "evaluated/", ":0"
        operations = tf.get_default_graph().get_operations()
        names = [op.name for op in operations if op.name.startswith(prefix)]
        graph = tf.get_default_graph()
        self._tensors = {
            name[len(prefix) :]: graph.get_tensor_by_name(name + suffix) for name in names
        }

    def before_run(self, run_context: Any) -> tf.train.SessionRunArgs:
        """Ask for the tensors."""
        del run_context
        return tf.train.SessionRunArgs(self._tensors)

    def after_run(self, run_context: Any, run_values: Any) -> None:
        """Keep the values of a batch."""
        del run_context
        self._batches.append(run_values.results)

    def end(self, session: tf.Session) -> None:
        """Put the outputs of all workers into the order of the file."""
        step = int(session.run(self._global_step))
        mine = {
            name: np.concatenate([batch[name] for batch in self._batches])
            for name in (self._batches[0] if self._batches else {})
        }
        # A worker may have no batch, where there are fewer batches than workers.
        parts = [part for part in self._from_all((self._rows, mine)) if part[1]]
        rows = np.concatenate([rows for rows, _ in parts])
        of_all = {name: np.concatenate([of[name] for _, of in parts]) for name in parts[0][1]}
        order = np.argsort(rows, kind="stable")
        is_real = of_all["weights"][order] > 0
        found = {name: of_all[name][order][is_real] for name in of_all}
        self.outputs = Outputs(
            step,
            self._fingerprint,
            found["labels"],
            found["predictions"],
            found["losses"],
            found.get("probabilities"),
        )


class OutputsRecorder(tf.estimator.Exporter):
    """Keep the outputs of the best evaluation so far.

    It must stand before the `EvaluationRecorder`: an evaluation whose outputs were not written is
    then not in the history either, and is made again when the run is resumed.
    """

    # Estimator needs one. Nothing is written to the folder of this name.
    name = "outputs_recorder"

    def __init__(self, output_dir: str, hook: OutputsHook, history: EvalHistory):
        """Take where to write, what collects the outputs, and the history that tells the best."""
        self._output_dir = output_dir
        self._hook = hook
        self._history = history

    def export(
        self,
        estimator: tf.estimator.Estimator,
        export_path: str,
        checkpoint_path: str,
        eval_result: Mapping[str, Any],
        is_the_final_export: bool,
    ) -> str | None:
        """Write the outputs if `eval_result` is the best so far; return the path of the file."""
        del estimator, export_path, checkpoint_path, is_the_final_export
        outputs, history = self._hook.outputs, self._history
        step, watched = int(eval_result["global_step"]), history.watched
        # An evaluation of an earlier process has written its outputs itself.
        if outputs is None or outputs.step != step:
            return None
        earlier = [history.value(e) for e in history.successive_bests() if e.step < step]
        best = earlier[-1] if earlier else None
        if not watched.improves(float(eval_result[watched.metric]), best):
            return None
        path = outputs_path(self._output_dir)
        write(path, outputs)
        return path

"""Every private name of TensorFlow that the program needs, each with its reason.

What differs between TensorFlow 1.15 and 2.15 belongs here too: today nothing does.
"""

from __future__ import annotations

import errno
import os
from typing import ContextManager, Sequence

import tensorflow.compat.v1 as tf
from tensorflow.python.grappler import tf_optimizer
from tensorflow.python.util import deprecation


def warn_of_deprecations(enabled: bool) -> None:
    """Turn TensorFlow's deprecation warnings on or off.

    Private: hiding the lines in the log is public, but TensorFlow would still inspect the arguments
    of each deprecated call, which for a large graph takes a second.
    """
    deprecation._PRINT_DEPRECATION_WARNINGS = enabled


def without_deprecation_warnings() -> ContextManager[None]:
    """Return a context manager in which TensorFlow logs no deprecation warnings.

    Private: `tf.saved_model.load` logs one for each call, and the public way, the level of
    TensorFlow's logger, would also hide the warnings of the application that opens an export.
    """
    return deprecation.silence()


def can_rewrite_to_bfloat16() -> bool:
    """Tell whether TensorFlow can rewrite a graph to bfloat16 on a CPU, which 1.15 cannot."""
    rewrite_options = tf.ConfigProto().graph_options.rewrite_options
    return hasattr(rewrite_options, "auto_mixed_precision_onednn_bfloat16")


def use_tf32(enabled: bool) -> bool:
    """Let GPUs compute products of float32 in TF32, or not; return whether they may.

    TensorFlow 1.15 never uses TF32 and has no such setting.
    """
    if not hasattr(tf.config.experimental, "enable_tensor_float_32_execution"):
        return False
    tf.config.experimental.enable_tensor_float_32_execution(enabled)
    return enabled


def compute_capabilities() -> list[tuple[int, int]]:
    """Return the compute capabilities of the GPUs, of which TensorFlow 1.15 knows nothing."""
    if not hasattr(tf.config.experimental, "get_device_details"):
        return []
    gpus = tf.config.experimental.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    return [each["compute_capability"] for each in details if "compute_capability" in each]


def optimize_graph(meta_graph: tf.MetaGraphDef, optimizers: Sequence[str]) -> tf.GraphDef:
    """Return a graph as Grappler, with these of its optimizers, rewrites it.

    Private: each session rewrites its graph in this way, and no public function returns the result.
    """
    config = tf.ConfigProto()
    config.graph_options.rewrite_options.optimizers.extend(optimizers)
    return tf_optimizer.OptimizeGraph(config, meta_graph)


class SaverHook(tf.train.CheckpointSaverHook):
    """A CheckpointSaverHook whose subclass decides when to save.

    Private: `_save`, `_timer`, which knows the step of the last save, and `_listeners`. Estimator
    appends to `_listeners` what evaluates after a save, and does so only for a hook of this class:
    a hook made of public parts would never be followed by an evaluation.
    """

    def save(self, session: tf.Session, step: int) -> bool:
        """Save the state of a step; return whether a listener asks for the end of training."""
        self._timer.update_last_triggered_step(step)
        return self._save(session, step)

    def regard_as_saved(self, session: tf.Session, step: int) -> None:
        """Tell the listeners that the state of a step is saved, without writing it."""
        self._timer.update_last_triggered_step(step)
        for listener in self._listeners:
            listener.after_save(session, step)

    def last_saved_step(self) -> int | None:
        """Return the step of the last save, None before the first."""
        return self._timer.last_triggered_step()

    def remove_listeners(self) -> None:
        """Let no evaluation follow the next save."""
        self._listeners: list[tf.train.CheckpointSaverListener] = []

    def _save(self, session: tf.Session, step: int) -> bool:
        try:
            return super()._save(session, step)
        except tf.errors.OutOfRangeError as error:
            # TensorFlow gives a file that is too large the error that also means the end of the
            # data: training would seem to have come to its end.
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG)) from error

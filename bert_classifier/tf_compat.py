"""What differs between TensorFlow 1.15 and 2.15, and every private name, each with its reason."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Any, ContextManager, Iterator, Mapping, Sequence

import tensorflow.compat.v1 as tf
from tensorflow.python.framework import meta_graph as meta_graphs
from tensorflow.python.grappler import tf_optimizer
from tensorflow.python.util import deprecation

_IS_1 = tf.__version__.startswith("1.")


def parse_example(serialized: tf.Tensor, spec: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """Parse records as `tf.io.parse_example` does, with an operation that both versions have.

    In 2.15 `tf.io.parse_example` makes a ParseExampleV2, with which 1.15 could read no export.

    Args:
        serialized: `tf.Example`, string `[batch_size]`.
        spec: name -> FixedLenFeature, or FixedLenSequenceFeature, which is padded with zeros.
    """
    if _IS_1:
        return tf.io.parse_example(serialized, spec)
    names = sorted(spec)
    sequences = [isinstance(spec[name], tf.io.FixedLenSequenceFeature) for name in names]
    parsed = tf.raw_ops.ParseExample(
        serialized=serialized,
        names=[],
        sparse_keys=[],
        sparse_types=[],
        dense_keys=names,
        # A scalar is for padding; an empty tensor means that a record must have the feature.
        dense_defaults=[
            tf.zeros([] if sequence else [0], spec[name].dtype)
            for name, sequence in zip(names, sequences)
        ],
        dense_shapes=[
            [None, *spec[name].shape] if sequence else spec[name].shape
            for name, sequence in zip(names, sequences)
        ],
    )
    return dict(zip(names, parsed.dense_values))


@contextlib.contextmanager
def variables_for_both_versions() -> Iterator[None]:
    """Make variables, in this block, that an export of 2.15 can bring into 1.15.

    By default 2.15 makes resource variables, with an attribute that 1.15 does not know.
    """
    enabled = tf.resource_variables_enabled()
    tf.disable_resource_variables()
    try:
        yield
    finally:
        if enabled:
            tf.enable_resource_variables()


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


def cuda_version() -> str:
    """Return the version of CUDA for which TensorFlow was built, as "10" or "12.2"; "" for none.

    Private in 1.15, whose public `tf.sysconfig` does not have it.
    """
    if hasattr(tf.sysconfig, "get_build_info"):
        return tf.sysconfig.get_build_info().get("cuda_version", "")
    from tensorflow.python.platform import build_info  # noqa: PLC0415

    return build_info.cuda_version_number if build_info.is_cuda_build else ""


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
    In 2.15 it has attributes that 1.15 does not know: they are left out where they have the default
    value, which is private too for a graph that is not in a file.
    """
    config = tf.ConfigProto()
    config.graph_options.rewrite_options.optimizers.extend(optimizers)
    graph_def = tf_optimizer.OptimizeGraph(config, meta_graph)
    if _IS_1:
        return graph_def
    optimized = tf.MetaGraphDef(graph_def=graph_def)
    meta_graphs.strip_graph_default_valued_attrs(optimized)
    return optimized.graph_def


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

"""What a machine computes with: GPU or threads, mixed precision, XLA."""

from __future__ import annotations

import math
import os
from typing import NamedTuple

import tensorflow.compat.v1 as tf

from bert_classifier import tf_compat, threads
from bert_classifier.config import Devices

# What TensorFlow does on a CPU to a graph before it first runs it, once each. Its default is more,
# and twice, which takes three seconds for a training graph and makes no step faster.
_CPU_OPTIMIZERS = ("pruning", "remap", "arithmetic", "dependency")

# Of a CPU that multiplies bfloat16, as the kernel names them.
_BFLOAT16_FEATURES = ("avx512_bf16", "amx_bf16")
# The rewrite of a graph to bfloat16. It has to be in the list of optimizers: beside a list, the
# option `auto_mixed_precision_onednn_bfloat16` has no effect. It comes before `remap`, which joins
# a product with what follows it.
_TO_BFLOAT16 = "auto_mixed_precision_onednn_bfloat16"
# From this compute capability on, a GPU has TF32: Ampere is the first.
_FIRST_WITH_TF32 = 8


class Precision(NamedTuple):
    """In which type the products of matrices are computed; all else is computed in float32.

    Attributes:
        dtype: "float32", "float16" or "bfloat16".
        reason: why `--amp` does not change it; empty if it does, or is not given.
    """

    dtype: str = "float32"
    reason: str = ""

    @property
    def scales_loss(self) -> bool:
        """Tell whether the loss must be scaled: bfloat16 has the range of float32."""
        return self.dtype == "float16"


FLOAT32 = Precision()


def has_gpu() -> bool:
    """Tell whether there is a GPU that TensorFlow can use."""
    # Unlike tf.test.is_gpu_available() this leaves the GPUs alone, those of other workers too.
    return bool(tf.config.experimental.list_physical_devices("GPU"))


def choose_precision(devices: Devices) -> Precision:
    """Decide how matrices are multiplied: with `--amp` in what the GPU or the CPU has for it."""
    if not devices.amp:
        return FLOAT32
    if has_gpu():
        return Precision("float16")
    no_gpu = "there is no GPU that TensorFlow can use, and "
    if not tf_compat.can_rewrite_to_bfloat16():
        return Precision(reason=no_gpu + "TensorFlow 1.15 has only float32 on a CPU")
    if not cpu_has_bfloat16():
        return Precision(reason=no_gpu + "the CPU has neither AVX512_BF16 nor AMX")
    return Precision("bfloat16")


def cpu_has_bfloat16(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Tell whether the CPU multiplies bfloat16, by the features that the kernel lists."""
    try:
        with open(cpuinfo) as stream:
            flags = next((line for line in stream if line.startswith("flags")), "")
    except OSError:
        return False
    return any(feature in flags.split() for feature in _BFLOAT16_FEATURES)


def prepare(devices: Devices) -> list[str]:
    """Set what holds for the whole process; return lines for the log about the precision.

    Call it before the first session.
    """
    precision = choose_precision(devices)
    if precision.dtype == "bfloat16":
        _keep_softmax_in_float32()
    lines = []
    if precision.reason:
        lines.append("--amp has no effect: " + precision.reason)
    elif devices.amp:
        lines.append("--amp: products of matrices are computed in " + precision.dtype)
    if tf_compat.use_tf32(devices.tf32) and gpu_has_tf32():
        lines.append(
            "Products of float32 matrices are computed in TF32, which keeps 10 bits of their "
            "mantissas; --notf32 switches it off"
        )
    return lines


def gpu_has_tf32() -> bool:
    """Tell whether a GPU has TF32, as far as TensorFlow tells its compute capability."""
    return any(major >= _FIRST_WITH_TF32 for major, _ in tf_compat.compute_capabilities())


def _keep_softmax_in_float32() -> None:
    """Exclude softmax from the rewrite to bfloat16, which would include it.

    TensorFlow reads these variables whenever it rewrites a graph. A value that the user has set
    stays.
    """
    os.environ.setdefault("TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_INFERLIST_REMOVE", "Softmax")
    os.environ.setdefault("TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_DENYLIST_ADD", "Softmax")


def count_parts(devices: Devices, hidden_size: int, num_cores: int) -> int:
    """Return in how many parts a batch is computed: one on a GPU, or where XLA compiles it."""
    if has_gpu() or devices.use_xla:
        return 1
    return threads.count_parts(hidden_size, num_cores)


def pad_to_multiple_of(devices: Devices, max_seq_length: int) -> int:
    """Return the number whose multiples the lengths of batches are padded to."""
    if devices.use_xla:
        # It compiles each length anew: there are to be four at most.
        return 8 * math.ceil(max_seq_length / 32)
    return 8 if has_gpu() else 1  # Tensor Cores work on multiples of 8.


def make_session_config(
    use_xla: bool, precision: Precision, num_parts: int, num_cores: int
) -> tf.ConfigProto:
    """Build the configuration of the sessions that train, evaluate and predict.

    Args:
        use_xla: compile the graph.
        precision: see `choose_precision`.
        num_parts: in how many parts a batch is computed, see `count_parts`.
        num_cores: of this process.
    """
    session_config = tf.ConfigProto()
    rewrite_options = session_config.graph_options.rewrite_options
    if not has_gpu():
        session_config.intra_op_parallelism_threads = threads.count_threads(num_parts, num_cores)
        rewrite_options.optimizers.extend(_CPU_OPTIMIZERS)
        rewrite_options.meta_optimizer_iterations = type(rewrite_options).ONE
    if use_xla:
        session_config.graph_options.optimizer_options.global_jit_level = tf.OptimizerOptions.ON_1
    # In all three modes: weights that were trained in mixed precision are evaluated in it too.
    if precision.dtype == "float16":
        rewrite_options.auto_mixed_precision = type(rewrite_options).ON
    elif precision.dtype == "bfloat16":
        rewrite_options.optimizers.insert(0, _TO_BFLOAT16)
    return session_config


def in_float32(session_config: tf.ConfigProto) -> tf.ConfigProto:
    """Return a copy of a configuration from `make_session_config` without mixed precision."""
    copy = tf.ConfigProto()
    copy.CopyFrom(session_config)
    rewrite_options = copy.graph_options.rewrite_options
    if rewrite_options.auto_mixed_precision:
        rewrite_options.ClearField("auto_mixed_precision")
    if _TO_BFLOAT16 in rewrite_options.optimizers:
        rewrite_options.optimizers.remove(_TO_BFLOAT16)
    return copy

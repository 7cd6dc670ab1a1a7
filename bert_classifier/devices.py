"""What a machine computes with: GPU or threads, mixed precision, XLA."""

from __future__ import annotations

import math

import tensorflow.compat.v1 as tf

from bert_classifier import threads
from bert_classifier.config import Devices

# What TensorFlow does on a CPU to a graph before it first runs it, once each. Its default is more,
# and twice, which takes three seconds for a training graph and makes no step faster.
_CPU_OPTIMIZERS = ("pruning", "remap", "arithmetic", "dependency")


def has_gpu() -> bool:
    """Tell whether there is a GPU that TensorFlow can use."""
    # Unlike tf.test.is_gpu_available() this leaves the GPUs alone, those of other workers too.
    return bool(tf.config.experimental.list_physical_devices("GPU"))


def use_amp(devices: Devices) -> bool:
    """Tell whether to compute in mixed precision, for which TensorFlow 1.15 needs a GPU."""
    return devices.amp and has_gpu()


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


def make_session_config(use_xla: bool, amp: bool, num_parts: int, num_cores: int) -> tf.ConfigProto:
    """Build the configuration of the sessions that train, evaluate and predict.

    Args:
        use_xla: compile the graph.
        amp: compute in mixed precision.
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
    if amp:
        # In all three modes: weights that were trained in mixed precision are evaluated in it too.
        rewrite_options.auto_mixed_precision = type(rewrite_options).ON
    return session_config

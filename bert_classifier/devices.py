"""What a machine computes with: GPU or threads, mixed precision, XLA."""

from __future__ import annotations

import math

import tensorflow.compat.v1 as tf

from bert_classifier import threads
from bert_classifier.config import Devices


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

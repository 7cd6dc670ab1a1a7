"""What the program computes on: the GPUs of this machine, or the CPU and why."""

from __future__ import annotations

import os
import subprocess
from typing import Iterable, NamedTuple

from bert_classifier import devices, tf_compat
from bert_classifier.errors import BadInput

# CUDA 10, for which TensorFlow 1.15 is built, has no code for GPUs of this compute capability (the
# A100 was the first) or above.
_NEEDS_CUDA_11 = 8.0

_QUERY = ["nvidia-smi", "--query-gpu=compute_cap,name", "--format=csv,noheader"]
_SECONDS_FOR_QUERY = 60  # A driver that no other process uses is loaded first.


class Gpu(NamedTuple):
    """A GPU of this machine."""

    name: str
    compute_capability: float


def describe() -> str:
    """Say in one line what the program computes on.

    Raises:
        BadInput: there is a GPU that this TensorFlow cannot use and another version can.
    """
    gpus = find()
    too_new = first_too_new(gpus)
    if too_new:
        raise BadInput(
            "the %s (compute capability %s) needs TensorFlow 2.15; type `make venv TF=2.15`, then "
            "run the same command with .venv-tf2.15/bin/python, or with CUDA_VISIBLE_DEVICES= in "
            "front to compute on the CPU" % too_new
        )
    if devices.has_gpu():
        return ", ".join(gpu.name for gpu in gpus) or "a GPU of unknown name"
    return "the CPU: " + _why_no_gpu(bool(gpus))


def first_too_new(gpus: Iterable[Gpu]) -> Gpu | None:
    """Return the first GPU that this TensorFlow cannot use, None if it can use all."""
    if not tf_compat.cuda_version().startswith("10"):
        return None
    return next((gpu for gpu in gpus if gpu.compute_capability >= _NEEDS_CUDA_11), None)


def find() -> list[Gpu]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES leaves, as NVIDIA's driver names them.

    An old driver does not know the compute capability of its GPUs; then the list is empty.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if _hides_all(visible):
        return []
    query = _QUERY if visible is None else [*_QUERY, "--id=" + visible]
    try:
        answer = subprocess.check_output(
            query, stderr=subprocess.DEVNULL, text=True, timeout=_SECONDS_FOR_QUERY
        )
        rows = [line.split(", ", 1) for line in answer.splitlines()]
        return [Gpu(name, float(compute_capability)) for compute_capability, name in rows]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


def _hides_all(visible_devices: str | None) -> bool:
    """Tell whether CUDA_VISIBLE_DEVICES has a value that names no GPU."""
    return visible_devices is not None and visible_devices.strip() in ("", "-1", "NoDevFiles")


def _why_no_gpu(has_driver: bool) -> str:
    if _hides_all(os.environ.get("CUDA_VISIBLE_DEVICES")):
        return "CUDA_VISIBLE_DEVICES names no GPU"
    if not has_driver and not os.path.exists("/proc/driver/nvidia/version"):
        return "there is no NVIDIA driver"
    if not tf_compat.cuda_version():
        return "there is an NVIDIA driver, but this TensorFlow is built without CUDA"
    return (
        "there is an NVIDIA driver, but TensorFlow sees no GPU; with TF_CPP_MIN_LOG_LEVEL=0 it "
        "says which library is missing"
    )

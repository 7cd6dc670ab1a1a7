"""`benchmarks/gpu.py` without a GPU, and what its table says of a process that fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from program import ROOT

from bert_classifier import devices

BENCHMARKS = os.path.join(ROOT, "benchmarks")


@pytest.fixture(scope="module")
def gpu():
    """Return the module, which is a script and not in a package."""
    sys.path.insert(0, BENCHMARKS)
    try:
        import gpu as module  # noqa: PLC0415

        yield module
    finally:
        sys.path.remove(BENCHMARKS)


@pytest.mark.skipif(devices.has_gpu(), reason="for a machine without a GPU")
def test_without_a_gpu_a_tiny_model_is_measured_and_the_table_says_so():
    command = [sys.executable, os.path.join(BENCHMARKS, "gpu.py"), "--modes=amp; nonsense"]
    command += ["--seq_lengths=8", "--batch_sizes=2", "--steps=2"]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert "the numbers below mean nothing" in output
    (amp,) = re.findall(r"\| 8 \| 2 \| amp \| ([\d.]+) \| (\d+) \|", output)
    assert float(amp[0]) > 0 and int(amp[1]) > 0
    # What one process fails with is in its own row.
    assert "| 8 | 2 | nonsense | ended with status 1 | - |" in output


def test_a_lack_of_memory_is_a_row(gpu, monkeypatch):
    def allocate(*arguments):
        raise gpu.tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(gpu.runner, "time_calls", allocate)
    answer = gpu.measure("fp32", 8, 2, 1)
    assert gpu.cells(answer, 2) == ["out of memory", "-"]


def test_peak_memory_is_that_of_the_gpu(gpu):
    class Session:
        def run(self, fetch, feeds, options, run_metadata):
            device = run_metadata.step_stats.dev_stats.add(device="/gpu:0")
            for name, in_use in [("GPU_0_bfc", 7e9), ("GPU_0_bfc", 9e9), ("gpu_host_bfc", 99e9)]:
                memory = device.node_stats.add().memory.add()
                memory.allocator_name, memory.allocator_bytes_in_use = name, int(in_use)

    assert gpu._peak_megabytes(Session(), None, {}) == 9000


def test_every_row_has_flags_of_the_program(gpu):
    for flags in gpu.MODES.values():
        gpu.Devices(**flags)
    assert gpu.MODES["fp32"] == {"tf32": False}

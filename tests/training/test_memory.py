"""What the C library does with memory that was freed, seen by page faults."""

import subprocess
import sys

import pytest

USE = """
import resource, sys
import numpy as np
from bert_classifier.training import memory

def use_again_and_again():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(20_000_000, np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep":
    memory.keep_freed_memory()
use_again_and_again()
print(use_again_and_again(), memory.peak_megabytes())
"""


def faults_and_peak(what):
    output = subprocess.run(
        [sys.executable, "-c", USE, what], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    return [float(number) for number in output.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it does nothing")
def test_freed_memory_is_used_again_without_being_fetched_anew():
    without, _ = faults_and_peak("leave")
    faults, peak = faults_and_peak("keep")
    assert faults < without / 10, (faults, without)
    # One array of 80 MB at a time, beside NumPy.
    assert 80 < peak < 250, peak


SEEN_AT_EXIT = """
import atexit, gc
from bert_classifier.training import memory

class Seen:
    def __init__(self):
        self.itself = self

    def __del__(self):
        print("collected")

Seen()
atexit.register(lambda: print("frozen" if gc.get_freeze_count() else "not frozen"))
if {skips}:
    memory.skip_last_collection()
"""


@pytest.mark.parametrize("skips, said", [(True, ["frozen"]), (False, ["not frozen", "collected"])])
def test_garbage_is_not_collected_at_the_end(skips, said):
    script = SEEN_AT_EXIT.format(skips=skips)
    output = subprocess.run(
        [sys.executable, "-c", script], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    assert output.splitlines() == said

"""The memory of this process: keep what is freed for reuse, measure the peak."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import resource

# Numbers of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_NEVER = -1


def keep_freed_memory() -> None:
    """Keep freed memory for the next allocation, if the C library is glibc.

    A training step allocates what the step before has freed. By default glibc returns tensors of
    more than 32 MB to the system, which fills the memory with zeros for the next step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, _NEVER)
    # One arena for all threads: each further one would reserve 64 MB.
    if "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_ARENA_MAX, 1)


def skip_last_collection() -> None:
    """Skip Python's garbage collection at exit, which takes a second for a large graph.

    The system frees the memory anyway.
    """
    atexit.register(gc.freeze)


def peak_megabytes() -> float:
    """Return the peak memory of this process in MB of 1e6 bytes, without that of a GPU."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as stream:
            status = dict(line.split(":", 1) for line in stream)
        return 1.024e-3 * int(status["VmHWM"].split()[0])
    except OSError:
        # Not Linux. On Linux this number would include the peak of the parent process.
        return 1e-6 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

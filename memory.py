"""The memory of this process: how it is used again, and how much there was."""

from __future__ import annotations

import ctypes
import resource
import sys

# Numbers of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_NEVER = -1


def keep_freed_memory() -> None:
    """Keeps memory that is freed for what is allocated next, as far as the C library can (glibc).

    A training step allocates what the step before has freed. By default glibc gives tensors of more
    than 32 MB back to the system each time, which then fills them with zeros for the next step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, _NEVER)
    # All threads take from one stock; those of several would be of 64 MB each.
    mallopt(_ARENA_MAX, 1)


def peak_megabytes() -> float:
    """Gives the memory that this process has had at most at a time, in MB of 1e6 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return 1e-6 * unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

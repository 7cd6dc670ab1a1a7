"""The memory of this process: how it is used again, and how much there was."""

from __future__ import annotations

import atexit
import ctypes
import gc
import resource

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


def skip_last_collection() -> None:
    """Lets Python end without looking for garbage first, which in large graphs takes a second.

    The system takes all memory back then anyway.
    """
    atexit.register(gc.freeze)


def peak_megabytes() -> float:
    """Gives the memory that this process has had at most at a time, in MB of 1e6 bytes."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as stream:
            status = dict(line.split(":", 1) for line in stream)
        return 1.024e-3 * int(status["VmHWM"].split()[0])
    except OSError:
        # Not Linux. On Linux this number would begin with the peak of the process that started us.
        return 1e-6 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

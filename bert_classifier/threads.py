"""How the cores of a machine without a GPU share the work of a model.

Threads that share an operation wait for each other at its end. The operations of a narrow model are
so short that this takes a good part of the time: it is faster if each thread has a part of the
batch, or a batch, of its own. The measurements are in docs/levers.md.
"""

from __future__ import annotations

import os

# The largest hidden size of a narrow model. In parts, a step of BERT-base (768) is slower, one of
# MiniLM (384) faster; one of 512 takes the same time.
_NARROW = 512

# The graph, and the time until the first step is done, grow with the number of parts.
_MOST_PARTS = 2

_XLA_ON_CPUS = "--tf_xla_cpu_global_jit"


def give_each_session_its_own() -> None:
    """Give each session the number of threads in its own configuration.

    By default all sessions of a process share the threads of the first, which may be one that only
    exchanges values between workers.
    """
    os.environ.setdefault("TF_OVERRIDE_GLOBAL_THREADPOOL", "1")


def compile_on_cpus() -> None:
    """Let a session's `global_jit_level`, which is for GPUs, make XLA compile for CPUs too.

    TensorFlow reads the environment variable once, when it first looks at its devices. To call this
    again changes nothing, and a value that the user has set stays.
    """
    set_by_user = os.environ.get("TF_XLA_FLAGS", "")
    if _XLA_ON_CPUS not in set_by_user:
        os.environ["TF_XLA_FLAGS"] = ("%s %s" % (set_by_user, _XLA_ON_CPUS)).strip()


def count_parts(hidden_size: int, num_cores: int) -> int:
    """Return the number of parts in which a step computes its batch, at the same time."""
    return min(_MOST_PARTS, num_cores) if hidden_size <= _NARROW else 1


def count_threads(num_parts: int, num_cores: int) -> int:
    """Return the number of threads that share an operation.

    Each part has a thread that computes too, and needs a core.
    """
    return num_cores if num_parts == 1 else max(1, num_cores - num_parts)


def count_threads_of_callers(hidden_size: int) -> int:
    """Return the threads that share an operation where several threads call, each for a batch.

    The calling thread runs those of a narrow model alone. 0 stands for one per core.
    """
    return 1 if hidden_size <= _NARROW else 0

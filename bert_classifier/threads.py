"""How the cores of a machine without a GPU share the work of a model.

Threads that share an operation wait for each other at its end. Operations of a narrow model are so
short that the waiting is a good part of the time: there each thread does better with a part of the
batch, or a batch, of its own. What was measured is in docs/performance.md.
"""

from __future__ import annotations

import os

import tensorflow.compat.v1 as tf

# The largest hidden size of a narrow model: a step of BERT-base is slower in parts, one of MiniLM
# (384) faster, and of 512 as fast.
_NARROW = 512

# More would make the graph, and the time until the first step is done, as many times as large.
_MOST_PARTS = 2

_XLA_ON_CPUS = "--tf_xla_cpu_global_jit"


def give_each_session_its_own() -> None:
    """Lets each session have the threads that it is configured for.

    By default all have those of the first one, which may be one that only asks other workers.
    """
    os.environ.setdefault("TF_OVERRIDE_GLOBAL_THREADPOOL", "1")


def compile_on_cpus() -> None:
    """Lets XLA compile without a GPU too, where a session's `global_jit_level` alone does nothing.

    TensorFlow reads this once, when it makes its first session.
    """
    set_by_user = os.environ.get("TF_XLA_FLAGS", "")
    if _XLA_ON_CPUS not in set_by_user:
        os.environ["TF_XLA_FLAGS"] = ("%s %s" % (set_by_user, _XLA_ON_CPUS)).strip()


def count_parts(hidden_size: int, num_cores: int) -> int:
    """Says in how many parts a step computes its batch, side by side."""
    return min(_MOST_PARTS, num_cores) if hidden_size <= _NARROW else 1


def count_threads(num_parts: int, num_cores: int) -> int:
    """Says how many threads share an operation.

    With parts, those that run the parts compute as well: so many cores need no other thread.
    """
    return num_cores if num_parts == 1 else max(1, num_cores - num_parts)


def config_for_callers(hidden_size: int) -> tf.ConfigProto:
    """Configures a session whose callers bring the threads: each runs the whole model for a batch.

    It is helped by others where the operations are long enough.
    """
    return tf.ConfigProto(
        inter_op_parallelism_threads=-1,
        intra_op_parallelism_threads=1 if hidden_size <= _NARROW else 0,
    )

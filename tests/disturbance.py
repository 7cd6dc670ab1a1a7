"""Something that happens inside the program at a certain moment: a signal, a full disk, a pause."""

from __future__ import annotations

# What `path` and `action` below may speak of.
import contextlib  # noqa: F401
import itertools
import os  # noqa: F401
import resource  # noqa: F401
import signal  # noqa: F401
import sys  # noqa: F401
import time  # noqa: F401

import tensorflow.compat.v1 as tf  # noqa: F401

import run_classifier_gpu as program  # noqa: F401
from bert_classifier.data import features  # noqa: F401
from bert_classifier.training import (
    hooks,  # noqa: F401
    workers,  # noqa: F401
)


def disturb(path, number, action):
    """Has something done before a call of a function.

    Args:
        path: the function, e.g. `tf.train.Saver.save`.
        number: which of the calls of it, from 1; 0 for none.
        action: what to do before that call, in Python.
    """
    owner, name = path.rsplit(".", 1)
    owner = eval(owner)
    function = getattr(owner, name)
    calls = itertools.count(1)

    def disturbed(*arguments, **options):
        if next(calls) == number:
            exec(action)
        return function(*arguments, **options)

    setattr(owner, name, disturbed)

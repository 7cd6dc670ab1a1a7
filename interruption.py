"""SIGTERM and Ctrl-C: training finishes its step and saves, everything else ends at once."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any, Iterator

import tensorflow.compat.v1 as tf


class Interrupted(BaseException):
    """The process was asked to end; `exit_status` is 143 for SIGTERM and 130 for Ctrl-C.

    Like KeyboardInterrupt it is no Exception, which many a library catches and goes on: a signal
    that comes while a line is logged would be lost in `logging`.
    """

    def __init__(self, signal_number: int):
        super().__init__(signal.Signals(signal_number).name)
        self.exit_status = 128 + signal_number


class Interruption:
    """Watches for SIGTERM and SIGINT.

    A signal raises Interrupted wherever the program is, which is safe because files are written
    atomically. Only inside `deferred()` it is merely noted, for `StopWhenInterrupted` and
    `LeaveWhenInterrupted` to act on. A second signal ends the process without further ado.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._is_deferred = False

    def watch(self) -> None:
        """Takes over the signals. Only the main thread may."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        del frame
        if self._signal is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._signal = number
        if not self._is_deferred:
            self.check()

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._signal is not None

    def check(self) -> None:
        """Raises Interrupted if a signal has come."""
        if self._signal is not None:
            raise Interrupted(self._signal)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Lets the block come to its own end; what came meanwhile is raised after it."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False
        self.check()


class StopWhenInterrupted(tf.train.SessionRunHook):
    """Ends training after the step in which a signal came. The saver saves at the end."""

    def __init__(self, interruption: Interruption):
        """Takes the watcher to ask."""
        self._interruption = interruption

    def after_run(self, run_context: Any, run_values: Any) -> None:
        """Asks for the stop."""
        del run_values
        if self._interruption.requested:
            run_context.request_stop()


class LeaveWhenInterrupted(tf.train.SessionRunHook):
    """Leaves an evaluation at once: its checkpoint is saved, and half a result is none."""

    def __init__(self, interruption: Interruption):
        """Takes the watcher to ask."""
        self._interruption = interruption

    def after_run(self, run_context: Any, run_values: Any) -> None:
        """Raises Interrupted."""
        del run_context, run_values
        self._interruption.check()

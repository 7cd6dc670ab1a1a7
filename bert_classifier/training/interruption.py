"""SIGTERM and Ctrl-C: training finishes its step and saves, anything else ends at once."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any, Callable, Iterator

import tensorflow.compat.v1 as tf

# A process may get one SIGTERM twice: from a scheduler and, passed on, from the launcher.
_ECHO_SECONDS = 10
# Python ignores exceptions in destructors; TensorFlow has a destructor for each record it writes.
_REMIND_SECONDS = 3


class Interrupted(BaseException):
    """The process was asked to end; `exit_status` is 143 for SIGTERM and 130 for Ctrl-C.

    Like KeyboardInterrupt it is no Exception: libraries catch those and continue. `logging`, for
    example, would lose a signal that comes while it writes a line.
    """

    def __init__(self, signal_number: int):
        super().__init__(signal.Signals(signal_number).name)
        self.exit_status = 128 + signal_number


class Interruption:
    """Watch for SIGTERM and SIGINT.

    A signal raises Interrupted wherever the program is, which is safe because files are written
    atomically. Inside `deferred()` it is only noted, and `StopWhenInterrupted` and
    `LeaveWhenInterrupted` act on it. A second signal ends the process at once, unless it is a
    SIGTERM soon after the first, which is probably the same one.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._requested_at = 0.0
        self._is_deferred = False

    def watch(self) -> None:
        """Install the signal handlers, but not for signals that the process was started to ignore.

        A shell makes a command that a script runs in the background ignore Ctrl-C. Only the main
        thread may call this. SIGALRM is used to raise an Interrupted that was lost once more.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)
        signal.signal(signal.SIGALRM, self._remind)

    def _note(self, number: int, frame: Any) -> None:
        del frame
        if self._signal is None:
            self.request(number)
            self._remind()
        elif number != signal.SIGTERM or time.monotonic() - self._requested_at > _ECHO_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _remind(self, *_: Any) -> None:
        if self.requested and not self._is_deferred:
            signal.alarm(_REMIND_SECONDS)
            self.check()

    def acknowledge(self) -> None:
        """Note that Interrupted was caught where the program ends: raise it no more."""
        signal.alarm(0)

    @property
    def requested(self) -> bool:
        """Tell whether a signal has come."""
        return self._signal is not None

    def request(self, number: int = signal.SIGTERM) -> None:
        """Note a signal, which another worker may have received, unless there is one already."""
        if self._signal is None:
            self._signal = number
            self._requested_at = time.monotonic()

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self._signal is not None:
            raise Interrupted(self._signal)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Let the block finish, and raise Interrupted after it if a signal has come.

        After an error in the block signals are still only noted: the program is ending, and must
        report the error.
        """
        self._is_deferred = True
        yield
        self._is_deferred = False
        self.check()


class StopWhenInterrupted(tf.train.SessionRunHook):
    """End training after the step in which a signal came; the saver saves at the end.

    All workers must end at the same step, whichever of them got the signal, so each step also adds
    up how many workers want to stop.

    Attributes:
        stops: whether training ends for this reason. With several workers this becomes true one
            step later if the signal comes after the worker's vote.
    """

    def __init__(
        self,
        interruption: Interruption,
        add_up: Callable[[tf.Tensor, str], tf.Tensor] | None = None,
    ):
        """Take the watcher of this worker.

        Args:
            interruption: the watcher.
            add_up: tensor, name -> its sum over all workers; None for a single worker.
        """
        self.stops = False
        self._interruption = interruption
        self._add_up = add_up

    def begin(self) -> None:
        """Add the number of workers that want to stop to the graph."""
        if self._add_up:
            self._vote = tf.placeholder(tf.float32, [])
            self._votes = self._add_up(self._vote, "votes_to_stop")

    def before_run(self, run_context: Any) -> tf.train.SessionRunArgs | None:
        """Vote."""
        del run_context
        if not self._add_up:
            return None
        return tf.train.SessionRunArgs(self._votes, {self._vote: self._interruption.requested})

    def after_run(self, run_context: Any, run_values: Any) -> None:
        """Request the stop."""
        self.stops = run_values.results > 0 if self._add_up else self._interruption.requested
        if self.stops:
            self._interruption.request()
            run_context.request_stop()


class LeaveWhenInterrupted(tf.train.SessionRunHook):
    """Leave an evaluation at once: its checkpoint is saved, and a part of a result is of no use."""

    def __init__(self, interruption: Interruption):
        """Take the watcher of this worker."""
        self._interruption = interruption

    def after_run(self, run_context: Any, run_values: Any) -> None:
        """Raise Interrupted if a signal has come."""
        del run_context, run_values
        self._interruption.check()

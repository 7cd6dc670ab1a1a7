"""SIGTERM and Ctrl-C: training finishes its step and saves, everything else ends at once."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any, Callable, Iterator

import tensorflow.compat.v1 as tf

# A scheduler sends SIGTERM to every process of a job, and a launcher passes on what comes to it.
_ECHO_SECONDS = 10
# Python drops what is raised in a destructor, and TensorFlow has one for each record it writes.
_REMIND_SECONDS = 3


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
    `LeaveWhenInterrupted` to act on. A second signal ends the process without further ado, unless
    it is a SIGTERM that is likely to be the first one over again.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._requested_at = 0.0
        self._is_deferred = False

    def watch(self) -> None:
        """Takes over the signals, but for those that were ignored when the process was started.

        A shell has Ctrl-C ignored by what a script runs in the background. Only the main thread may
        call this.
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
        """Says that Interrupted has come to where the program ends."""
        signal.alarm(0)

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._signal is not None

    def request(self, number: int = signal.SIGTERM) -> None:
        """Notes a signal, perhaps one that has come to another worker, unless one has come here."""
        if self._signal is None:
            self._signal = number
            self._requested_at = time.monotonic()

    def check(self) -> None:
        """Raises Interrupted if a signal has come."""
        if self._signal is not None:
            raise Interrupted(self._signal)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Lets the block come to its own end; what came meanwhile is raised after it.

        After an error of the block signals are still merely noted: the program ends already, and is
        to say why.
        """
        self._is_deferred = True
        yield
        self._is_deferred = False
        self.check()


class StopWhenInterrupted(tf.train.SessionRunHook):
    """Ends training after the step in which a signal came. The saver saves at the end.

    Several workers must end at the same step, to whichever of them the signal came, so each step
    also adds up who wants to.

    Attributes:
        stops: whether training ends for this reason. With several workers a signal may have come
            that all will act on only after the next step.
    """

    def __init__(
        self,
        interruption: Interruption,
        add_up: Callable[[tf.Tensor, str], tf.Tensor] | None = None,
    ):
        """Takes the watcher to ask.

        Args:
            interruption: the watcher of this worker.
            add_up: builds the sum over all workers of a tensor, under a name; None when there is
                one worker.
        """
        self.stops = False
        self._interruption = interruption
        self._add_up = add_up

    def begin(self) -> None:
        """Adds the count of the workers that want to stop to the graph."""
        if self._add_up:
            self._vote = tf.placeholder(tf.float32, [])
            self._votes = self._add_up(self._vote, "votes_to_stop")

    def before_run(self, run_context: Any) -> tf.train.SessionRunArgs | None:
        """Votes."""
        del run_context
        if not self._add_up:
            return None
        return tf.train.SessionRunArgs(self._votes, {self._vote: self._interruption.requested})

    def after_run(self, run_context: Any, run_values: Any) -> None:
        """Asks for the stop."""
        self.stops = run_values.results > 0 if self._add_up else self._interruption.requested
        if self.stops:
            self._interruption.request()
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

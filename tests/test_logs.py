"""Who reads what: a person at a terminal, a pipe, and the file that stays."""

from __future__ import annotations

import collections
import contextlib
import fcntl
import io
import logging
import os
import re
import struct
import sys
import termios
import threading

import pytest
import tensorflow.compat.v1 as tf
from tensorflow.python.util import deprecation

from bert_classifier import logs
from bert_classifier.report.next_commands import python

TENSORFLOW = logging.getLogger("tensorflow")


@pytest.fixture(autouse=True)
def logging_as_before():
    loggers = (logging.root, TENSORFLOW)
    before = [(logger, logger.handlers, logger.level) for logger in loggers]
    raise_exceptions = logging.raiseExceptions
    looks_for_deprecations = deprecation._PRINT_DEPRECATION_WARNINGS
    yield
    deprecation._PRINT_DEPRECATION_WARNINGS = looks_for_deprecations
    logging.raiseExceptions = raise_exceptions
    for logger, handlers, level in before:
        logger.handlers = handlers
        logger.setLevel(level)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "shown"),
    [(io.StringIO, ["first", "in the bar too", "last"]), (Terminal, ["first", "last"])],
)
def test_a_person_who_has_a_bar_is_spared_its_lines(monkeypatch, tmp_path, stream, shown):
    monkeypatch.setattr(sys, "stderr", stream())
    logs.log_to_stderr(debug=False)
    log = logging.getLogger("any")
    with logs.also_to(str(tmp_path / "run.log")):
        log.info("first")
        log.info("in the %s too", "bar", extra={"in_bar": logs.is_terminal()})
        log.warning("last")
    lines = sys.stderr.getvalue().split("\n")
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines[:-1])
    assert [line[9:] for line in lines[:-1]] == shown
    written = (tmp_path / "run.log").read_text().splitlines()
    assert [line[9:] for line in written] == ["first", "in the bar too", "last"]


def test_the_file_goes_on_after_what_earlier_runs_wrote(tmp_path):
    path = tmp_path / "run.log"
    logging.root.setLevel(logging.INFO)
    for number in (1, 2):
        with contextlib.suppress(ZeroDivisionError), logs.also_to(str(path)):
            logging.info("run %d: é", number)
            1 / 0  # noqa: B018
        logging.info("between")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line[9:] for line in lines] == ["run 1: é", "run 2: é"]


@pytest.mark.parametrize(
    ("debug", "shown"), [(False, ["error"]), (True, ["info", "warning", "error"])]
)
def test_of_tensorflows_own_log_only_errors_are_shown(monkeypatch, debug, shown):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    logs.log_to_stderr(debug)
    for name in ("debug", "info", "warning", "error"):
        getattr(TENSORFLOW, name)(name)
    assert [line[9:] for line in sys.stderr.getvalue().splitlines()] == shown


def test_a_full_disk_is_not_told_by_every_line(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    logs.log_to_stderr(debug=False)
    with contextlib.suppress(OSError), logs.also_to("/dev/full"):
        logging.info("one line")
    assert [line[9:] for line in sys.stderr.getvalue().splitlines()] == ["one line"]


def test_a_terminal_without_a_size_has_plain_lines(monkeypatch):
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        assert not logs.is_terminal()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
        assert logs.is_terminal()
    os.close(master)


FIVE_STEPS = ("--num_train_epochs=1", "--log_every_n_iter=1")
STEP = "hooks.ProgressHook.before_run"


def test_in_a_pipe_there_are_plain_lines_and_each_once(small_run, forks, tmp_path):
    command = small_run.command(tmp_path / "output", *FIVE_STEPS)
    assert forks.run(command, tmp_path / "stderr") == 0
    text = (tmp_path / "stderr").read_text()
    assert "\r" not in text and "\x1b" not in text
    # The same as in the file, in its order; the lists of variables only the file has.
    written = (tmp_path / "output" / "run.log").read_text().splitlines()
    rest = iter(written)
    assert all(line in rest for line in text.splitlines())
    assert len(written) > len(text.splitlines()) + 20
    assert "  name = bert/" in "".join(written) and "  name = bert/" not in text
    lines = [line[9:] for line in text.splitlines()]
    steps = [line.split(" | ")[0] for line in lines if line.startswith("step ")]
    assert steps == ["step %d/5" % step for step in range(1, 6)]
    # Three examples of each split are shown, and they may be alike.
    end = lines.index("***** Running training *****")
    repeated = [line for line, count in collections.Counter(lines[end:]).items() if count > 1]
    assert repeated == []


class Screen:
    """A terminal of 120 columns, and what can be read on it in the end."""

    def __enter__(self):
        self._master, self._slave = os.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
        self.path = os.ttyname(self._slave)
        self._written = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def _read(self):
        # When the last writer has closed it, reading a terminal is an error.
        with contextlib.suppress(OSError):
            while True:
                self._written += os.read(self._master, 1024)

    def __exit__(self, *error):
        os.close(self._slave)
        self._reader.join()
        os.close(self._master)
        self.text = self._written.decode("utf-8")

    def lines(self):
        return [self._seen(line) for line in self.text.split("\n")]

    def _seen(self, line):
        """After a carriage return, what follows is written over what was there."""
        seen = ""
        for part in line.split("\r"):
            seen = part + seen[len(part) :]
        return seen.rstrip()


def test_in_a_terminal_there_is_a_bar_below_the_lines(small_run, forks, tmp_path):
    with Screen() as screen:
        command = small_run.command(tmp_path / "output", *FIVE_STEPS)
        assert forks.run(command, screen.path) == 0
    lines = screen.lines()
    assert not [line for line in lines if re.search(r"step \d/5", line)]
    (bar,) = [line for line in lines if "5/5 [" in line]
    assert bar.startswith("100%|") and "loss=" in bar and "lr=" in bar
    (evaluation,) = [line for line in lines if "evaluation at step 5" in line]
    assert re.match(
        r"\d\d:\d\d:\d\d evaluation at step 5: eval_accuracy .* best so far$", evaluation
    )
    assert lines.index(evaluation) < lines.index(bar)
    assert any(line.endswith("***** Training finished *****") for line in lines)

    written = (tmp_path / "output" / "run.log").read_text()
    assert "\r" not in written and "5/5 [" not in written
    assert re.findall(r"step (\d)/5 \| ", written) == list("12345")
    assert "evaluation at step 5" in written


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "number"), [(STEP, 3), ("tf.estimator.Estimator.evaluate", 1)]
)
def test_in_a_terminal_an_interruption_has_the_last_line(
    small_run, forks, tmp_path, function, number
):
    with Screen() as screen:
        command = small_run.command(tmp_path / "output", *FIVE_STEPS)
        strike = "os.kill(os.getpid(), signal.SIGINT)"
        assert forks.run(command, screen.path, function, number, strike) == 130
    *above, last, empty = screen.lines()
    assert empty == ""
    assert last.startswith("run_classifier_gpu.py: SIGINT: go on with: %s " % python())
    assert "%d/5 [" % (5 if number == 1 else 3) in above[-1]


@pytest.mark.parametrize("debug", [True, False])
def test_deprecations_are_looked_for_where_somebody_is_told(debug, monkeypatch):
    looked_at = []
    getcallargs = deprecation.tf_inspect.getcallargs
    monkeypatch.setattr(
        deprecation.tf_inspect,
        "getcallargs",
        lambda *args, **kwargs: looked_at.append(args) or getcallargs(*args, **kwargs),
    )
    logs.log_to_stderr(debug)
    with tf.Graph().as_default():
        tf.reduce_sum([1.0])
    assert bool(looked_at) == debug

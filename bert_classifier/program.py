"""The program around a call: signals, workers, and errors that end it in one line."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from typing import Any, Callable

import tensorflow.compat.v1 as tf

from bert_classifier import files, logs, streams, threads
from bert_classifier.config import Config
from bert_classifier.errors import BadInput
from bert_classifier.export.writer import SelfTestFailed
from bert_classifier.failures import fail, message_for_user
from bert_classifier.report import next_commands
from bert_classifier.training import memory
from bert_classifier.training.interruption import Interrupted, Interruption
from bert_classifier.training.workers import SharedFailure, Workers, start


def run(config: Config, action: Callable[[Config, Interruption, Workers], Any]) -> int:
    """Do what a config says; return the exit status.

    What the user can cure ends the program with one line instead of a traceback.

    Args:
        config: of the call.
        action: what the program is for.
    """
    memory.keep_freed_memory()
    memory.skip_last_collection()
    threads.give_each_session_its_own()
    logs.log_to_stderr(config.output.debug)
    interruption = Interruption()
    interruption.watch()
    workers = Workers()
    try:
        # TensorFlow makes the paths of its checkpoints absolute.
        files.user_path(os.getcwd())
        workers = start(config.devices.horovod, config.devices.fp16_allreduce)
        if not workers.is_chief:
            logs.log_warnings_only()
        action(config, interruption, workers)
    except SharedFailure as error:
        _speak_first(workers, str(error))
        if config.output.debug:
            raise
        return 2
    except SelfTestFailed as error:
        return fail(str(error), 1)
    except Interrupted as signal:
        interruption.acknowledge()
        if workers.is_chief:
            fail("%s: go on with: %s" % (signal, _command(config, workers)), signal.exit_status)
        return signal.exit_status
    except BrokenPipeError:
        streams.leave_stdout()
    except (BadInput, OSError, MemoryError, tf.errors.OpError) as error:
        lost = workers.loss_of_worker(error)
        if lost:
            return fail(lost, 1)
        message = message_for_user(error)
        if config.output.debug or message is None:
            raise
        return fail(message, 2)
    return 0


def _speak_first(workers: Workers, message: str) -> None:
    """Say on the chief what is wrong: the launcher ends all workers when the first one ends."""
    if workers.is_chief:
        fail(message, 2)
    with contextlib.suppress(tf.errors.OpError):
        workers.wait_for_all()


def _command(config: Config, workers: Workers) -> str:
    """Return the command that goes on where this one was interrupted."""
    launcher = ["horovodrun", "-np", str(workers.size)] if workers.size > 1 else []
    words = [*launcher, next_commands.python(), *sys.argv]
    if config.output.overwrite_output_dir:
        words.append("--nooverwrite_output_dir")
    return " ".join(shlex.quote(word) for word in words)

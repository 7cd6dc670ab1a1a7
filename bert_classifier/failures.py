"""What went wrong, in one line on stderr."""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback

import tensorflow.compat.v1 as tf

from bert_classifier.errors import BadInput

# What there is to do about a full memory, by the function that was at work. To evaluate is part of
# training, too.
_CURES_OF_MEMORY = {
    "train": "give --gradient_checkpointing, lower --train_batch_size, for the same result raise "
    "--num_accumulation_steps by as much, or lower --max_seq_length",
    "evaluate": "lower --eval_batch_size",
    "predict": "lower --predict_batch_size",
    "export": "end other programs that take some",
}


def fail(message: str, exit_status: int) -> int:
    """Print in one line on stderr why the program ends; return the exit status."""
    print("run_classifier_gpu.py: " + " ".join(message.splitlines()), file=sys.stderr)
    return exit_status


def message_for_user(error: Exception) -> str | None:
    """Return the one line that an error is worth; None if it is a fault of the program."""
    message = str(error) if isinstance(error, BadInput) else None
    return message or _bad_input_in(error) or _trouble_of_system(error)


def _bad_input_in(error: Exception) -> str | None:
    """Return the message of a BadInput that was raised where TensorFlow reads examples."""
    found = re.search(r"BadInput: (.*)", str(error))
    return found.group(1) if found else None


def _trouble_of_system(error: Exception) -> str | None:
    """Return in one line what the system has refused, if an error is about that."""
    if _tells_of_full_disk(error):
        return "the disk is full; free some space, then the same command goes on"
    if isinstance(error, (MemoryError, tf.errors.ResourceExhaustedError)):
        # What was at work is the innermost of these functions.
        names = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
        at_work = next((name for name in reversed(names) if name in _CURES_OF_MEMORY), "export")
        return "the memory is full; " + _CURES_OF_MEMORY[at_work]
    if isinstance(error, OSError) and error.filename:
        return "%s: %s" % (error.filename, error.strerror)
    return None


def _tells_of_full_disk(error: Exception) -> bool:
    numbers = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
    if isinstance(error, tf.errors.OpError):
        # TensorFlow's text is that of the system, behind a path.
        return any("; " + os.strerror(number) in error.message for number in numbers)
    return isinstance(error, OSError) and error.errno in numbers

"""Settings of a later call (evaluate, predict, export), which must be those of the training.

The flags of the training are in `run.json`. Those that are not given again are taken from there.
"""

from __future__ import annotations

import logging
import os
from typing import Any, Collection, Mapping

from bert_classifier.data.inputs import MAY_DIFFER
from bert_classifier.data.tasks import TASKS
from bert_classifier.errors import BadInput
from bert_classifier.training import runs
from bert_classifier.training.identity import MODEL_FILES

_LOG = logging.getLogger(__name__)

# What a call does, on which workers, and where it writes: never taken from the training.
_OF_EACH_CALL = frozenset(
    "do_train do_eval do_predict do_export do_frozen do_onnx dry_run output_dir "
    "overwrite_output_dir export_dir onnx_int8 eval_checkpoint export_checkpoint calibrate "
    "init_checkpoint warm_start_from "
    "labels_file thresholds num_trials horovod fp16_allreduce debug".split()
)
_DATA_FILES = frozenset("train_file dev_file test_file".split())
# How the files of `--task_name=file` are read.
_OWN_FILES = _DATA_FILES | frozenset(
    "data_dir problem_type text_column text_b_column label_column id_column label_separator "
    "file_format separator has_header dev_fraction".split()
)
_PATHS = _DATA_FILES | {"data_dir", "class_weights", *MODEL_FILES}


def take_up(record: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags that a later call takes from the training.

    Args:
        record: of the training, see `runs.read_record`.
        given: flag -> value, those that the later call was given.

    Returns:
        flag -> value; none of those that were given.
    """
    recorded = record["flags"]
    own = _OF_EACH_CALL | given.keys()
    if "data_dir" in given:  # The files are in there, under their usual names.
        own |= _DATA_FILES
    if "task_name" in given and given["task_name"].lower() != recorded["task_name"].lower():
        own |= _OWN_FILES
    taken = {name: value for name, value in recorded.items() if name not in own}
    for name in _PATHS & taken.keys():
        taken[name] = _where_it_was(taken[name], record["folder"])
    return taken


def _where_it_was(path: str | None, folder: str | None) -> str | None:
    """Return a path that is relative to the folder in which the training was started."""
    if not path or folder is None or folder == os.getcwd():
        return path
    from_there = os.path.join(folder, path)
    return from_there if os.path.exists(from_there) else path


def check(record: Mapping[str, Any], values: Mapping[str, Any], given: Collection[str]) -> None:
    """Check that a later call reads texts and labels as the training did.

    Args:
        record: of the training.
        values: all flags of the call, with those that were taken from the training.
        given: the names of those that the call was given.

    Raises:
        BadInput: one of the flags would make the answers wrong.
    """
    recorded = record["flags"]
    before, now = problem_type_of(recorded), problem_type_of(values)
    if now != before:
        raise BadInput(
            "--problem_type=%s: the model was trained for %s; leave it out, or give the "
            "--task_name of the training (%s)" % (now, before, recorded["task_name"])
        )
    if values["do_lower_case"] != recorded["do_lower_case"]:
        raise BadInput(
            "--do_lower_case=%s: the model was trained with %s; leave it out"
            % (values["do_lower_case"], recorded["do_lower_case"])
        )
    check_model_files(record, values, given)
    for name in MAY_DIFFER:
        if values[name] != recorded.get(name, values[name]):
            _LOG.warning(
                "--%s=%s, but the model was trained with %s", name, values[name], recorded[name]
            )


def problem_type_of(flag_values: Mapping[str, Any]) -> str:
    """Return the problem type that the flags of a training stand for."""
    name = flag_values["task_name"].lower()
    is_built_in = name in TASKS and name != "file"
    return TASKS[name].problem_type if is_built_in else flag_values["problem_type"]


def check_model_files(
    record: Mapping[str, Any], values: Mapping[str, Any], given: Collection[str] = ()
) -> None:
    """Check that the files of the pre-trained model are those of the training; see `check`."""
    for name in MODEL_FILES:
        if values.get(name):
            _check_model_file(record, name, values[name], name in given)


def _check_model_file(record: Mapping[str, Any], name: str, path: str, is_given: bool) -> None:
    if name not in record["identity"]:
        raise BadInput("--%s=%s: the model was trained without one; leave it out" % (name, path))
    whose = "" if is_given else ", with which the model was trained,"
    if not os.path.exists(path):
        raise BadInput("--%s=%s%s is not there; give the file again" % (name, path, whose))
    if runs.content_hash(path) != record["identity"][name]:
        raise BadInput(
            "--%s=%s%s is not what it was in the training; give the file of the training, which "
            "was %s" % (name, path, whose, record["flags"][name])
        )

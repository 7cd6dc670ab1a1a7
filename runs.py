"""A run and its folder: with what it was begun, whether it may go on, how it ended."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import logging
import os
import platform
import re
import shutil
from typing import Any, Iterator, Mapping, Sequence

import numpy as np
import tensorflow.compat.v1 as tf

import files
from errors import BadInput

_LOG = logging.getLogger(__name__)

# What a run writes into its output_dir, and nothing else is ever removed from there.
_OWN_FILES = re.compile(
    r"checkpoint|graph\.pbtxt|model\.ckpt-\d+\..*|events\.out\.tfevents\..*"
    r"|(train|dev|test)\.[0-9a-f]{12}\.tf_record(\.index)?|labels\.txt|preprocessing\.json"
    r"|dev_sample\.jsonl|eval_history\.jsonl|eval_results\.(txt|json)|test_results\.tsv"
    r"|frozen_model\.pb"
    r"|(CoLA|MNLI-m|MNLI-mm|MRPC|QNLI|QQP|RTE|SST-2|STS-B|WNLI)\.tsv|run\.(json|log)"
)
_OWN_FOLDERS = re.compile(r"eval|eval_best|best|slim|export|best_exporter|saved_model")
# TensorFlow means temp-1795409899 and writes temp-b'1795409899'.
_UNFINISHED_EXPORT = re.compile(r"temp-(b')?\d{10}'?")
# Made by one rename or by the Saver, so whatever is inside comes from there too.
_OWN_TREES = re.compile(
    r".*/model\.ckpt-\d+_temp_.*|(best_exporter|saved_model)/(\d{10}|%s)"
    % _UNFINISHED_EXPORT.pattern
)
# Endings of files that are renamed when they are complete: by `files`, and by TensorFlow when it
# writes a small file, or the tensors of a checkpoint.
_TEMPORARY = re.compile(r"\.tmp-\d+$|\.tmp[0-9a-f]{32}$|\.tempstate\d+$")


def record_path(output_dir: str) -> str:
    """Gives the file that tells about the run."""
    return os.path.join(output_dir, "run.json")


def read_record(output_dir: str) -> dict[str, Any] | None:
    """Reads run.json, None when there is none.

    Raises:
        BadInput: it is damaged.
    """
    path = record_path(output_dir)
    if not os.path.exists(path):
        return None
    try:
        with open(path, encoding="utf-8") as stream:
            record = json.load(stream)
        return {part: record[part] for part in ("result", "identity", "flags", "versions")}
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            "%s: is damaged (%s); begin anew with --overwrite_output_dir" % (path, error)
        ) from error


def has_ended(output_dir: str) -> bool:
    """Tells whether run.json says that training came to its end."""
    record = read_record(output_dir)
    return record is not None and record["result"]["status"] in ("finished", "stopped early")


def write_record(
    output_dir: str,
    identity: Mapping[str, Any],
    flag_values: Mapping[str, Any],
    result: Mapping[str, Any],
) -> None:
    """Writes run.json: what the run is, its flags, the versions of its tools, how it went."""
    content = {
        "result": result,
        "identity": identity,
        "flags": flag_values,
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "numpy": np.__version__,
        },
    }
    files.write_text(record_path(output_dir), json.dumps(content, indent=2) + "\n")


def check_identity(output_dir: str, identity: Mapping[str, Any]) -> None:
    """Checks that a training run may go on with what is in its folder.

    Args:
        output_dir: the folder.
        identity: everything that the weights depend on, by name; values as JSON has them.

    Raises:
        BadInput: the folder's run was begun with something else, or its checkpoints have no run.
    """
    record = read_record(output_dir)
    cure = "give what was given before, another --output_dir, or --overwrite_output_dir"
    if record is None:
        if _has_checkpoints(output_dir):
            raise BadInput(
                "--output_dir=%s: holds checkpoints, but no run.json that tells of what; give "
                "another --output_dir" % output_dir
            )
        return
    before = record["identity"]
    changed = [
        "%s was %s and is %s" % (name, before.get(name), value)
        for name, value in identity.items()
        if before.get(name) != value
    ]
    if changed:
        raise BadInput("--output_dir=%s: %s; %s" % (output_dir, ", ".join(changed), cure))


def content_hash(path: str) -> str:
    """Gives 12 hex digits of a file's content."""
    return files.digest_of_file(path)[:12]


def clear(output_dir: str) -> None:
    """Removes a run from its folder, and leaves alone whatever else is there.

    Raises:
        BadInput: the folder has something in it but was not written by this program.
    """
    if not os.path.isdir(output_dir):
        return
    if not _was_begun_here(output_dir):
        raise BadInput(
            "--overwrite_output_dir: %s has no run.json, so it is no folder of this program; give "
            "another --output_dir" % output_dir
        )
    # run.json goes last: without it a second attempt would not know the folder.
    _remove_own_files(output_dir, keep=("run.json",))
    if os.path.exists(record_path(output_dir)):
        os.remove(record_path(output_dir))


def _was_begun_here(folder: str) -> bool:
    """Tells whether a folder has a run.json, or nothing but what is written before that."""
    if os.path.exists(record_path(folder)):
        return True
    names = [_without_suffixes(name) for name in os.listdir(folder) if name != LOCK]
    return all(_OWN_FILES.fullmatch(name) for name in names) and not _has_checkpoints(folder)


def _has_checkpoints(folder: str) -> bool:
    return bool(glob.glob(os.path.join(glob.escape(folder), "model.ckpt-*")))


def _remove_own_files(folder: str, keep: Sequence[str] = ()) -> None:
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if not os.path.isdir(path):
            if name not in keep and _OWN_FILES.fullmatch(_without_suffixes(name)):
                os.remove(path)
        elif _OWN_TREES.fullmatch("%s/%s" % (os.path.basename(folder), name)):
            shutil.rmtree(path)
        elif _OWN_FOLDERS.fullmatch(name):
            _remove_own_files(path)
            if not os.listdir(path):
                os.rmdir(path)


def _without_suffixes(name: str) -> str:
    """Strips what a killed writer or a damaged checkpoint adds to a name."""
    return _TEMPORARY.sub("", re.sub(r"\.corrupt$", "", name))


def remove_leftovers(output_dir: str) -> None:
    """Removes temporary files, and unfinished exports, that a killed process has left."""
    for folder, folders, names in os.walk(output_dir):
        for name in names:
            if _TEMPORARY.search(name) and _OWN_FILES.fullmatch(_without_suffixes(name)):
                os.remove(os.path.join(folder, name))
        for name in folders:
            if _UNFINISHED_EXPORT.fullmatch(name):
                shutil.rmtree(os.path.join(folder, name))
        # Another run may be at work in any other folder.
        folders[:] = filter(_OWN_FOLDERS.fullmatch, folders)


LOCK = ".lock"

# What flock says when somebody else has the lock.
_IS_LOCKED = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


@contextlib.contextmanager
def locked(output_dir: str) -> Iterator[None]:
    """Makes the folder if need be and keeps other processes of this program out of it.

    Some file systems have no locks, such as Lustre and NFS as many are mounted: there it warns.

    Raises:
        BadInput: another process is at work there, or it cannot be written to.
    """
    try:
        os.makedirs(output_dir, exist_ok=True)
        stream = open(os.path.join(output_dir, LOCK), "w")  # noqa: SIM115
    except OSError as error:
        raise BadInput(
            "--output_dir=%s: %s; give a folder that can be written to"
            % (output_dir, error.strerror)
        ) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _IS_LOCKED:
                raise BadInput(
                    "--output_dir=%s: another process is at work there; wait for it or give "
                    "another --output_dir" % output_dir
                ) from error
            _LOG.warning(
                "WARNING: --output_dir=%s: its file system has no locks (%s); start no other run "
                "there before this one has ended",
                output_dir,
                error.strerror,
            )
        yield

"""The folder of a run: its record `run.json`, its lock, what may be removed from it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import logging
import os
import pathlib
import platform
import re
import shutil
from typing import Any, Collection, Iterator, Mapping, Sequence

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import files
from bert_classifier.errors import BadInput

_LOG = logging.getLogger(__name__)

# What a run writes to its output_dir; nothing else is ever removed from there.
_OWN_FILES = re.compile(
    r"checkpoint|graph\.pbtxt|model\.ckpt-\d+\..*|events\.out\.tfevents\..*"
    r"|(train|dev|test)\.[0-9a-f]{12}\.tf_record(\.index)?|labels\.txt|preprocessing\.json"
    r"|dev_sample\.jsonl|eval_history\.jsonl|eval_results\.(txt|json)|test_results\.tsv|test_metrics\.json"
    r"|frozen_model\.pb|dev_outputs\.npz|report\.html|report_results\.txt"
    r"|(CoLA|MNLI-m|MNLI-mm|MRPC|QNLI|QQP|RTE|SST-2|STS-B|WNLI)\.tsv|run\.(json|log)"
)
_OWN_FOLDERS = re.compile(
    r"eval|eval_best|eval_other|eval_test|best|slim|export|best_exporter|saved_model|onnx"
)
# TensorFlow means temp-1795409899 and writes temp-b'1795409899'. A clock that was reset makes short
# numbers; outside the folders of exports such a name may be a file of the user.
_UNFINISHED_EXPORT = re.compile(
    r"(best_exporter|saved_model|onnx)/temp-(b')?[0-9]+'?|.*/temp-(b')?[0-9]{10}'?"
)
# Made by one rename or by the Saver, so all content is of the run too.
_OWN_TREES = re.compile(
    r".*/model\.ckpt-\d+_temp_.*|(best_exporter|saved_model|onnx)/([0-9]+|temp-(b')?[0-9]+'?)"
)
# Suffixes of files that are renamed when they are complete: by `files`, and by TensorFlow for a
# small file or the tensors of a checkpoint.
_TEMPORARY = re.compile(r"\.tmp-\d+$|\.tmp[0-9a-f]{32}$|\.tempstate\d+$")


def record_path(output_dir: str) -> str:
    """Return the file of the run's record."""
    return os.path.join(output_dir, "run.json")


def read_record(output_dir: str) -> dict[str, Any] | None:
    """Return the content of run.json, None if there is no such file.

    Returns:
        Its parts `result`, `identity`, `flags`, `versions`, and `folder`, to which the paths among
        the flags are relative, or None if that is unknown.

    Raises:
        BadInput: it is damaged.
    """
    path = record_path(output_dir)
    if not os.path.exists(path):
        return None
    cure = "restore it, or begin anew with --overwrite_output_dir"
    record = files.read_json(path, cure)
    with files.damage_told(path, cure):
        parts = {part: record[part] for part in ("result", "identity", "flags", "versions")}
    # Records of earlier versions lack the folder in which the program was started.
    return dict(parts, folder=record.get("folder"))


def find_folder(checkpoint_path: str) -> str | None:
    """Return the output_dir that a checkpoint is in, None if it is in none."""
    # It may be in best/ or best/slim/.
    for folder in list(pathlib.Path(os.path.abspath(checkpoint_path)).parents)[:3]:
        if os.path.exists(record_path(str(folder))):
            return str(folder)
    return None


def has_ended(output_dir: str) -> bool:
    """Tell whether training has ended, by run.json."""
    record = read_record(output_dir)
    return record is not None and record["result"]["status"] in ("finished", "stopped early")


def write_record(
    output_dir: str,
    identity: Mapping[str, Any],
    flag_values: Mapping[str, Any],
    result: Mapping[str, Any],
) -> None:
    """Write run.json.

    Args:
        output_dir: the folder of the run.
        identity: see `check_identity`.
        flag_values: all flags, by name.
        result: how the run has gone so far; values as JSON has them.
    """
    content = {
        "result": result,
        "identity": identity,
        "flags": flag_values,
        "folder": os.getcwd(),
        "versions": versions(),
    }
    files.write_json(record_path(output_dir), content)


def versions() -> dict[str, str]:
    """Return the versions of what computes in this process, by name."""
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
    }


def check_identity(output_dir: str, identity: Mapping[str, Any]) -> None:
    """Check that training may be resumed from what is in its folder.

    Args:
        output_dir: the folder.
        identity: everything that the weights depend on, by name; values as JSON has them.

    Raises:
        BadInput: the run in the folder has another identity, or there are checkpoints without a
            record.
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
    if not _has_results(output_dir):
        return  # It failed before its first checkpoint: nothing there depends on the identity.
    before = record["identity"]
    changed = [
        "%s was %s and is %s" % (name, before.get(name), value)
        for name, value in identity.items()
        if before.get(name) != value
    ]
    if changed:
        raise BadInput("--output_dir=%s: %s; %s" % (output_dir, ", ".join(changed), cure))


def content_hash(path: str) -> str:
    """Return the first 12 hex digits of the digest of a file."""
    return files.digest_of_file(path)[:12]


def clear(output_dir: str) -> None:
    """Remove the files of a run from its folder, and no others.

    Raises:
        BadInput: the folder is not empty and was not written by this program.
    """
    if not os.path.isdir(output_dir):
        return
    if not _was_begun_here(output_dir):
        raise BadInput(
            "--overwrite_output_dir: %s has no run.json, so it is no folder of this program; give "
            "another --output_dir" % output_dir
        )
    # run.json is removed last: if this fails half-way, a second attempt still knows the folder.
    for path in sorted(_own_paths(output_dir), key=lambda path: path == record_path(output_dir)):
        _remove(path)
    _remove_empty_folders(output_dir)


def check_is_kept(output_dir: str, overwrite: bool, inputs: Mapping[str, Sequence[str]]) -> None:
    """Check that a run reads none of the files that it removes from its folder when it begins.

    Args:
        output_dir: the folder.
        overwrite: whether the whole run that is there is removed, or only its leftovers.
        inputs: flag -> the files and folders that it names.

    Raises:
        BadInput: one of them would be removed.
    """
    removed = _own_paths(output_dir) if overwrite else _leftovers(output_dir)
    removed_names = {name for path in removed for name in _names_of(path)}
    for flag, paths in inputs.items():
        for path in paths:
            if any(_is_in(name, removed_names) for name in _names_of(path)):
                raise BadInput(
                    "--%s: %s would be removed from --output_dir=%s before it is read; copy it to "
                    "another place, or give another --output_dir" % (flag, path, output_dir)
                )


def _names_of(path: str) -> set[str]:
    """Return the path of a file and, if its name is a link, the path of the link."""
    folder, name = os.path.split(os.path.abspath(path))
    return {os.path.realpath(path), os.path.join(os.path.realpath(folder), name)}


def _is_in(path: str, trees: Collection[str]) -> bool:
    """Tell whether a path is one of these files or folders, or in one of them."""
    return any(str(tree) in trees for tree in (path, *pathlib.PurePath(path).parents))


def _was_begun_here(folder: str) -> bool:
    """Tell whether a folder has a run.json, or only files that are written before it."""
    if os.path.exists(record_path(folder)):
        return True
    names = [_without_suffixes(name) for name in os.listdir(folder) if name != LOCK]
    return all(_OWN_FILES.fullmatch(name) for name in names) and not _has_checkpoints(folder)


def _has_checkpoints(output_dir: str) -> bool:
    folders = (os.path.join(output_dir, *parts) for parts in ((), ("best",), ("best", "slim")))
    return any(glob.glob(os.path.join(glob.escape(f), "model.ckpt-*")) for f in folders)


def _has_results(output_dir: str) -> bool:
    """Tell whether there is anything that depends on the identity of the run."""
    names = ("eval_history.jsonl", "export")
    return _has_checkpoints(output_dir) or any(
        os.path.exists(os.path.join(output_dir, name)) for name in names
    )


def _own_paths(folder: str) -> Iterator[str]:
    """Yield the files, and the whole folders, that runs have written to a folder."""
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        path = os.path.join(folder, name)
        if not os.path.isdir(path):
            if _OWN_FILES.fullmatch(_without_suffixes(name)):
                yield path
        elif _OWN_TREES.fullmatch("%s/%s" % (os.path.basename(folder), name)):
            yield path
        elif _OWN_FOLDERS.fullmatch(name):
            yield from _own_paths(path)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.remove(path)


def _remove_empty_folders(folder: str) -> None:
    for name in filter(_OWN_FOLDERS.fullmatch, os.listdir(folder)):
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            _remove_empty_folders(path)
            if not os.listdir(path) and not os.path.islink(path):
                os.rmdir(path)


def _without_suffixes(name: str) -> str:
    """Remove the suffixes of temporary files and damaged checkpoints from a name."""
    return _TEMPORARY.sub("", re.sub(r"\.corrupt$", "", name))


def remove_leftovers(output_dir: str) -> None:
    """Remove the temporary files and unfinished exports of a killed process."""
    for path in list(_leftovers(output_dir)):
        _remove(path)


def _leftovers(output_dir: str) -> Iterator[str]:
    for folder, folders, names in os.walk(output_dir):
        for name in names:
            if _TEMPORARY.search(name) and _OWN_FILES.fullmatch(_without_suffixes(name)):
                yield os.path.join(folder, name)
        for name in folders:
            if _UNFINISHED_EXPORT.fullmatch("%s/%s" % (os.path.basename(folder), name)):
                yield os.path.join(folder, name)
        # Any other folder may belong to another run.
        folders[:] = filter(_OWN_FOLDERS.fullmatch, folders)


LOCK = ".lock"

# The errors of flock when another process has the lock.
_IS_LOCKED = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


@contextlib.contextmanager
def locked(output_dir: str) -> Iterator[None]:
    """Make the folder if it is missing, and lock it against other processes of this program.

    On a file system without locks, which Lustre and NFS often are, log a warning instead.

    Raises:
        BadInput: another process has the lock, or the folder cannot be written to.
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

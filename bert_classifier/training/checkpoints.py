"""The checkpoints of a run: keep the best one, find the newest one that can be read."""

from __future__ import annotations

import logging
import os
import re
import shutil

import tensorflow.compat.v1 as tf

from bert_classifier import files
from bert_classifier.errors import BadInput
from bert_classifier.model import weights

_LOG = logging.getLogger(__name__)

_OPTIMIZER_SLOT = re.compile(r"/adam_[mv]$")


def best_dir(output_dir: str) -> str:
    """Return the folder of the best checkpoint of a run."""
    return os.path.join(output_dir, "best")


def keep_best(checkpoint_path: str, output_dir: str) -> str:
    """Replace the checkpoint in `best/` by another; return its new path.

    Its files are links if the file system has links, else copies. A smaller checkpoint, without the
    optimizer's moments, goes to `best/slim/`. It has a third of the size, and is enough for an
    `--init_checkpoint`.
    """
    folder = best_dir(output_dir)
    copy = os.path.join(folder, os.path.basename(checkpoint_path))
    os.makedirs(folder, exist_ok=True)
    for source in weights.files_of(checkpoint_path):
        with files.atomic(os.path.join(folder, os.path.basename(source))) as temporary:
            _link_or_copy(source, temporary)
    _make_current(copy)
    slim = os.path.join(folder, "slim", os.path.basename(checkpoint_path))
    os.makedirs(os.path.dirname(slim), exist_ok=True)
    with weights.open_checkpoint(checkpoint_path) as reader:
        names = [n for n in reader.get_variable_to_shape_map() if not _OPTIMIZER_SLOT.search(n)]
        weights.write_checkpoint({name: reader.get_tensor(name) for name in names}, slim)
    for path in weights.files_of(slim):
        files.flush_to_disk(path)
    _make_current(slim)
    return copy


def _link_or_copy(source: str, target: str) -> None:
    """Give a finished file a second name, or copy it where there are no links."""
    # A killed process with the same id may have left a link: a copy would write to its target.
    if os.path.exists(target):
        os.remove(target)
    try:
        os.link(source, target)
    except OSError:  # Not all file systems have links.
        shutil.copyfile(source, target)


def _make_current(checkpoint_path: str) -> None:
    """Make a complete checkpoint the current one of its folder, and remove the one before.

    The folder's `checkpoint` file changes atomically from one to the other, so it always names a
    complete checkpoint. Other files in the folder belong to the user.
    """
    folder, name = os.path.split(os.path.abspath(checkpoint_path))
    tf.train.update_checkpoint_state(folder, name)
    for other in _prefixes(folder):
        if os.path.basename(other) != name:
            _remove(other)


def find(output_dir: str, which: str) -> str:
    """Return the path of a checkpoint to evaluate, predict with or export.

    Args:
        output_dir: folder of the run.
        which: `best` (the latest if none was evaluated yet), `last`, or the path of a checkpoint.

    Raises:
        BadInput: there is no such checkpoint, or it cannot be read.
    """
    path: str | None = which
    if which in ("best", "last"):
        path = kept_best(output_dir) if which == "best" else None
        path = path or next(reversed(_prefixes(output_dir)), None)
    if path is None:
        raise BadInput("--output_dir=%s: no trained checkpoint; give --do_train first" % output_dir)
    fault = weights.unreadable(path)
    if fault:
        raise BadInput(
            "%s: cannot be read (%s); give best, last, or the path of another checkpoint as "
            "--eval_checkpoint or --export_checkpoint" % (path, fault)
        )
    return path


def kept_best(output_dir: str) -> str | None:
    """Return the path of the checkpoint in `best/`, None if none was kept yet.

    Raises:
        BadInput: the file that names it is damaged.
    """
    state_file = os.path.join(best_dir(output_dir), "checkpoint")
    if not os.path.exists(state_file):
        return None
    try:
        state = tf.train.get_checkpoint_state(best_dir(output_dir))
    except ValueError:  # The file is empty, or no text.
        state = None
    if state is None:
        raise BadInput("%s: is damaged; name a checkpoint with --eval_checkpoint" % state_file)
    return state.model_checkpoint_path


def find_resumable(output_dir: str, keep_checkpoint_max: int = 0) -> str | None:
    """Find the newest readable checkpoint of a run, and make it the one to resume from.

    An Estimator trusts the file `checkpoint`: if it is missing or damaged, training silently begins
    anew, and an Estimator never falls back from a damaged checkpoint to the one before. Damaged
    checkpoints get the ending `.corrupt`. Half-written files of a killed saver are removed.

    Args:
        output_dir: folder of the run.
        keep_checkpoint_max: how many recent checkpoints a saver keeps, 0 for all. A saver removes
            one for each that it saves; surplus ones of a killed saver would never be removed.

    Returns:
        The path of the checkpoint; None if the run has none.

    Raises:
        BadInput: there are checkpoints, but none can be read.
    """
    folder = os.path.abspath(output_dir)
    if not os.path.isdir(folder):
        return None
    _remove_half_written(folder)
    usable = _prefixes(folder)
    faults = {}
    while usable:
        fault = weights.unreadable(usable[-1])
        if fault is None:
            break
        faults[usable.pop()] = fault
    if not usable:
        if not faults:
            return None
        raise BadInput(
            "--output_dir=%s: none of its checkpoints can be read; begin anew with "
            "--overwrite_output_dir, or from --warm_start_from=%s in another --output_dir"
            % (output_dir, best_dir(folder))
        )
    for path, fault in faults.items():
        _LOG.warning("%s cannot be read (%s): set aside as .corrupt", path, fault)
        for damaged in weights.files_of(path):
            os.replace(damaged, damaged + ".corrupt")
    names = [os.path.basename(path) for path in usable[-keep_checkpoint_max:]]
    tf.train.update_checkpoint_state(folder, names[-1], names)
    for superseded in usable[:-keep_checkpoint_max]:
        _remove(superseded)
    return usable[-1]


def _remove_half_written(folder: str) -> None:
    """Remove the unfinished files of a saver that was killed."""
    for name in os.listdir(folder):
        # A saver removes this folder last: its checkpoint may be complete or not.
        saving = re.match(r"(model\.ckpt-\d+)_temp_", name)
        if saving:
            prefix = os.path.join(folder, saving.group(1))
            if weights.unreadable(prefix):
                _remove(prefix)
            shutil.rmtree(os.path.join(folder, name))


def _remove(checkpoint_path: str) -> None:
    """Remove a checkpoint, the index first."""
    for path in reversed(weights.files_of(checkpoint_path)):
        os.remove(path)


def _prefixes(folder: str) -> list[str]:
    """List the checkpoints of a folder, oldest first, including damaged ones."""
    if not os.path.isdir(folder):
        return []
    matches = [
        re.match(r"(model\.ckpt-(\d+))\.(index|data-[\d-]+of-\d+)$", n) for n in os.listdir(folder)
    ]
    steps = {int(match.group(2)): match.group(1) for match in matches if match}
    return [os.path.join(folder, steps[step]) for step in sorted(steps)]


def step_of(checkpoint_path: str | None) -> int:
    """Return the global step of a checkpoint, 0 for none."""
    if checkpoint_path is None:
        return 0
    with weights.open_checkpoint(checkpoint_path) as reader:
        return int(reader.get_tensor("global_step"))


def validate_init_checkpoint(path: str) -> None:
    """Raise BadInput unless `path` is the prefix of a checkpoint that can be read completely."""
    fault = weights.unreadable(path)
    if path.endswith(".index"):
        # TensorFlow reads it as an empty checkpoint of its first format.
        fault = "is a part of one"
    if fault:
        raise BadInput(
            "%s: no readable checkpoint (%s); --init_checkpoint is a prefix such as "
            "bert_model.ckpt, without .index or .data" % (path, fault)
        )

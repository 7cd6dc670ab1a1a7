"""Which checkpoint: the best one is kept apart from those that the Saver throws away."""

from __future__ import annotations

import os
import shutil

import tensorflow.compat.v1 as tf

import files
from errors import BadInput


def best_dir(output_dir: str) -> str:
    """Gives the folder of the best checkpoint of a run."""
    return os.path.join(output_dir, "best")


def keep_best(checkpoint_path: str, output_dir: str) -> str:
    """Copies a checkpoint to `best/`, in place of the one that is there; returns its new path.

    The `checkpoint` file of the folder names the one that counts. It is switched atomically between
    the copy and the clean-up, so at any moment it names a complete checkpoint.
    """
    folder = os.path.abspath(best_dir(output_dir))
    os.makedirs(folder, exist_ok=True)
    name = os.path.basename(checkpoint_path)
    for source in tf.gfile.Glob(checkpoint_path + ".*"):
        with files.atomic(os.path.join(folder, os.path.basename(source))) as temporary:
            shutil.copyfile(source, temporary)
    tf.train.update_checkpoint_state(folder, name)
    for file_name in os.listdir(folder):
        if file_name != "checkpoint" and not file_name.startswith(name + "."):
            os.remove(os.path.join(folder, file_name))
    return os.path.join(folder, name)


def best_or_latest(output_dir: str) -> str | None:
    """Gives the best checkpoint of a run, or its latest when none was evaluated, or None."""
    return tf.train.latest_checkpoint(best_dir(output_dir)) or tf.train.latest_checkpoint(
        output_dir
    )


def step_of(checkpoint_path: str | None) -> int:
    """Gives the global step of a checkpoint, 0 for none."""
    if checkpoint_path is None:
        return 0
    return int(tf.train.load_variable(checkpoint_path, "global_step"))


def validate_init_checkpoint(path: str) -> None:
    """Raises BadInput unless `path` is the prefix of a checkpoint that can be read."""
    try:
        tf.train.NewCheckpointReader(path)
    except (tf.errors.OpError, ValueError) as error:
        raise BadInput(
            "%s: no readable checkpoint (%s); --init_checkpoint is a prefix such as "
            "bert_model.ckpt, without .index or .data" % (path, str(error).splitlines()[0])
        ) from error

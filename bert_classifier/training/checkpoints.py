"""The checkpoints of a run: the best one kept apart, the newest readable one found."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import re
import shutil
from typing import Any, Iterable, Iterator, Mapping, NamedTuple, Sequence

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import files
from bert_classifier.errors import BadInput

_LOG = logging.getLogger(__name__)

_OPTIMIZER_SLOT = re.compile(r"/adam_[mv]$")


def best_dir(output_dir: str) -> str:
    """Gives the folder of the best checkpoint of a run."""
    return os.path.join(output_dir, "best")


def keep_best(checkpoint_path: str, output_dir: str) -> str:
    """Puts a checkpoint into `best/` in place of the one that is there; returns its new path.

    Its files are links where there can be links, else copies. Beside it, from which training could
    go on, a slim one without the optimizer's moments goes to `best/slim/`: a third of the size, and
    all that an `--init_checkpoint` needs.
    """
    folder = best_dir(output_dir)
    copy = os.path.join(folder, os.path.basename(checkpoint_path))
    os.makedirs(folder, exist_ok=True)
    for source in files_of(checkpoint_path):
        with files.atomic(os.path.join(folder, os.path.basename(source))) as temporary:
            _link_or_copy(source, temporary)
    _make_current(copy)
    slim = os.path.join(folder, "slim", os.path.basename(checkpoint_path))
    os.makedirs(os.path.dirname(slim), exist_ok=True)
    with _reader(checkpoint_path) as reader:
        names = [n for n in reader.get_variable_to_shape_map() if not _OPTIMIZER_SLOT.search(n)]
        write_checkpoint({name: reader.get_tensor(name) for name in names}, slim)
    for path in files_of(slim):
        files.flush_to_disk(path)
    _make_current(slim)
    return copy


def _link_or_copy(source: str, target: str) -> None:
    """Gives a file, which nobody writes to any more, a second name; copies it where that fails."""
    # A killed process of the same number may have left one: to copy there would write to what it
    # is a name of.
    if os.path.exists(target):
        os.remove(target)
    try:
        os.link(source, target)
    except OSError:  # Not all file systems have links.
        shutil.copyfile(source, target)


def _make_current(checkpoint_path: str) -> None:
    """Makes a complete checkpoint the one of its folder, and removes the one that was.

    The folder's `checkpoint` file is switched atomically between the two, so it names a complete
    checkpoint at any moment. Other files in the folder are the user's.
    """
    folder, name = os.path.split(os.path.abspath(checkpoint_path))
    tf.train.update_checkpoint_state(folder, name)
    for other in _prefixes(folder):
        if os.path.basename(other) != name:
            _remove(other)


def index_file(checkpoint_path: str) -> str:
    """Gives the file that tells a checkpoint from any other: it has the checksum of each tensor."""
    path = checkpoint_path + ".index"
    # A checkpoint of TensorFlow's first format is one file.
    return path if os.path.exists(path) else checkpoint_path


def files_of(checkpoint_path: str) -> list[str]:
    """Lists the files of a checkpoint, the index last: without it the others are no checkpoint."""
    pattern = glob.escape(checkpoint_path) + ".*"
    names = [name for name in glob.glob(pattern) if not name.endswith(".corrupt")]
    return sorted(names, key=lambda name: (name.endswith(".index"), name))


def write_checkpoint(variables: Mapping[str, np.ndarray], prefix: str) -> None:
    """Writes arrays as the checkpoint `prefix`, with nothing else in it.

    The arrays are fed: a graph may not exceed 2 GB, and variables would hold them a second time.
    """
    names = sorted(variables)
    with tf.Graph().as_default():
        tensors = [tf.placeholder(variables[n].dtype, variables[n].shape) for n in names]
        save = tf.raw_ops.SaveV2(
            prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors
        )
        no_gpu = tf.ConfigProto(device_count={"GPU": 0})
        with tf.Session(config=no_gpu) as session:
            session.run(save, {tensor: variables[name] for tensor, name in zip(tensors, names)})


@contextlib.contextmanager
def _reader(path: str) -> Iterator[Any]:
    """Opens a checkpoint, which may have the characters of patterns in its path."""
    with files.plain_path(path) as plain:
        yield tf.train.NewCheckpointReader(plain)


def find(output_dir: str, which: str) -> str:
    """Gives the path of a checkpoint to evaluate, predict with or export.

    Args:
        output_dir: folder of the run.
        which: `best` (the latest if none was evaluated yet), `last`, or the path of a checkpoint.

    Raises:
        BadInput: there is none, or it cannot be read.
    """
    path: str | None = which
    if which in ("best", "last"):
        path = kept_best(output_dir) if which == "best" else None
        path = path or next(reversed(_prefixes(output_dir)), None)
    if path is None:
        raise BadInput("--output_dir=%s: no trained checkpoint; give --do_train first" % output_dir)
    fault = unreadable(path)
    if fault:
        raise BadInput(
            "%s: cannot be read (%s); give best, last, or the path of another checkpoint as "
            "--eval_checkpoint or --export_checkpoint" % (path, fault)
        )
    return path


def kept_best(output_dir: str) -> str | None:
    """Gives the path of the checkpoint in `best/`, None if none was ever kept.

    It raises BadInput rather than give another one when it cannot tell which it is.
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


def unreadable(path: str) -> str | None:
    """Reads every tensor of a checkpoint (each has a checksum); says what is wrong, or None."""
    try:
        with _reader(path) as reader:
            for name in reader.get_variable_to_shape_map():
                reader.get_tensor(name)
    except (tf.errors.OpError, ValueError, RuntimeError, OSError) as error:
        return str(error).splitlines()[0][:200]
    return None


def find_resumable(output_dir: str, keep_checkpoint_max: int = 0) -> str | None:
    """Finds the newest checkpoint of a run that can be read, and makes it the one to resume from.

    An Estimator trusts the file `checkpoint`: when that is missing or damaged it silently begins
    anew, and it never falls back from a damaged checkpoint to the one before. Damaged ones get the
    ending `.corrupt`. What a killed saver left half-written is removed.

    Args:
        output_dir: folder of the run.
        keep_checkpoint_max: how many recent checkpoints a saver keeps, 0 for all. It removes one
            for each that it saves, so what a killed one had still to remove would stay for ever.

    Returns:
        The path of the checkpoint; None if the run has none.

    Raises:
        BadInput: there are checkpoints, but none of them can be read.
    """
    folder = os.path.abspath(output_dir)
    if not os.path.isdir(folder):
        return None
    _remove_half_written(folder)
    usable = _prefixes(folder)
    faults = {}
    while usable:
        fault = unreadable(usable[-1])
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
        for damaged in files_of(path):
            os.replace(damaged, damaged + ".corrupt")
    names = [os.path.basename(path) for path in usable[-keep_checkpoint_max:]]
    tf.train.update_checkpoint_state(folder, names[-1], names)
    for superseded in usable[:-keep_checkpoint_max]:
        _remove(superseded)
    return usable[-1]


def _remove_half_written(folder: str) -> None:
    """Removes what a saver was writing when it was killed."""
    for name in os.listdir(folder):
        # A saver removes this folder last: the checkpoint beside it may be complete or not.
        saving = re.match(r"(model\.ckpt-\d+)_temp_", name)
        if saving:
            prefix = os.path.join(folder, saving.group(1))
            if unreadable(prefix):
                _remove(prefix)
            shutil.rmtree(os.path.join(folder, name))


def _remove(checkpoint_path: str) -> None:
    """Removes a checkpoint, the index first."""
    for path in reversed(files_of(checkpoint_path)):
        os.remove(path)


def _prefixes(folder: str) -> list[str]:
    """Lists the checkpoints of a folder, oldest first, damaged ones included."""
    if not os.path.isdir(folder):
        return []
    matches = [
        re.match(r"(model\.ckpt-(\d+))\.(index|data-[\d-]+of-\d+)$", n) for n in os.listdir(folder)
    ]
    steps = {int(match.group(2)): match.group(1) for match in matches if match}
    return [os.path.join(folder, steps[step]) for step in sorted(steps)]


def step_of(checkpoint_path: str | None) -> int:
    """Gives the global step of a checkpoint, 0 for none."""
    if checkpoint_path is None:
        return 0
    with _reader(checkpoint_path) as reader:
        return int(reader.get_tensor("global_step"))


def validate_init_checkpoint(path: str) -> None:
    """Raises BadInput unless `path` is the prefix of a checkpoint that can be read completely."""
    fault = unreadable(path)
    if path.endswith(".index"):
        # TensorFlow takes it for a checkpoint of its first format, with nothing in it.
        fault = "is a part of one"
    if fault:
        raise BadInput(
            "%s: no readable checkpoint (%s); --init_checkpoint is a prefix such as "
            "bert_model.ckpt, without .index or .data" % (path, fault)
        )


class Coverage(NamedTuple):
    """What a checkpoint has for the variables of a model that is to begin from it.

    Attributes:
        dtypes: variable that begins with a value of the checkpoint -> dtype of that value.
        summary: how many variables of the encoder these are.
        warnings: what the user should know; one line each.
        faults: why training would be in vain; one line each, with the cure.
    """

    dtypes: dict[str, tf.DType]
    summary: str
    warnings: list[str]
    faults: list[str]


def contents(path: str) -> tuple[dict[str, list[int]], dict[str, tf.DType]]:
    """Gives the shape and the dtype of each variable in a checkpoint, by name."""
    with _reader(path) as reader:
        return reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()


def coverage(path: str, shapes: Mapping[str, Sequence[int]]) -> Coverage:
    """Compares a readable checkpoint with a model, without reading values.

    The encoder has to be covered, but for its pooler: checkpoints of masked language models have
    none. The classifier begins anew where the checkpoint has none, or one for other labels.

    Args:
        path: prefix of the checkpoint.
        shapes: name -> shape of each variable of the model; those of the encoder begin with bert/.
    """
    found, dtypes = contents(path)
    encoder = [name for name in shapes if name.startswith("bert/")]
    taken = {name: dtypes[name] for name in shapes if found.get(name) == list(shapes[name])}
    covered = [name for name in encoder if name in found]
    summary = f"covers {len(covered)} of the encoder's {len(encoder)} variables"
    casts = sorted({dtype.name for dtype in taken.values()} - {"float32"})
    if casts:
        summary += f", {' and '.join(casts)} cast to float32"
    if any(name in taken for name in shapes if name not in encoder):
        summary += ", and the classifier"
    return Coverage(
        taken,
        summary,
        list(_warnings(path, encoder, shapes, found)),
        list(_faults(path, encoder, shapes, found, dtypes)),
    )


def _warnings(
    path: str,
    encoder: Sequence[str],
    shapes: Mapping[str, Sequence[int]],
    found: Mapping[str, Sequence[int]],
) -> Iterator[str]:
    missing = [name for name in encoder if name not in found]
    if missing and all(name.startswith("bert/pooler/") for name in missing):
        yield f"{path} has no pooler: it begins with random values"
    for name, shape in shapes.items():
        if name not in encoder and found.get(name, shape) != list(shape):
            yield (
                f"{path} has the classifier of another task: {name} has shape {found[name]}, but "
                f"{list(shape)} in the model; the classifier begins with random values"
            )
            break
    last_of_layer = re.compile(r"bert/encoder/layer_\d+/output/dense/bias")
    if any(last_of_layer.fullmatch(name) for name in found.keys() - shapes.keys()):
        yield f"{path} has layers that the model lacks; {_CURE}"


_CURE = "give the --bert_config_file that belongs to this checkpoint"


def _faults(
    path: str,
    encoder: Sequence[str],
    shapes: Mapping[str, Sequence[int]],
    found: Mapping[str, Sequence[int]],
    dtypes: Mapping[str, tf.DType],
) -> Iterator[str]:
    for name in encoder:
        if found.get(name, shapes[name]) != list(shapes[name]):
            what = f"{name} has shape {found[name]}, but {list(shapes[name])} in the model"
            yield f"{path}: {what}; {_CURE}"
            break
    missing = [name for name in encoder if name not in found]
    if any(not name.startswith("bert/pooler/") for name in missing):
        count = f"{len(encoder) - len(missing)} of the encoder's {len(encoder)} variables"
        yield f"{path}: covers {count}; {_CURE}; missing: {missing[0]} ..."
    for name in shapes:
        if name in found and not dtypes[name].is_floating:
            yield (
                f"{path}: {name} has dtype {dtypes[name].name}; give a checkpoint of floating "
                "point numbers, such as the one that this one was quantized from"
            )
            break


def find_not_finite(path: str, names: Iterable[str]) -> str | None:
    """Gives the first of some variables that has NaN or infinity as float32, None if none has."""
    with _reader(path) as reader:
        for name in names:
            # In NumPy's bfloat16, which TensorFlow brings along, there is no isfinite.
            with np.errstate(over="ignore"):
                values = reader.get_tensor(name).astype(np.float32)
            if not np.isfinite(values).all():
                return name
    return None

"""The content of one checkpoint: read and write it, compare it with a model."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import glob
import os
from typing import Any, Iterable, Iterator, Mapping, NamedTuple, Sequence

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import files
from modeling import BertConfig

_CURE = "give the --bert_config_file that belongs to this checkpoint"


def files_of(checkpoint_path: str) -> list[str]:
    """List the files of a checkpoint, the index last: without it the others are no checkpoint."""
    pattern = glob.escape(checkpoint_path) + ".*"
    names = [name for name in glob.glob(pattern) if not name.endswith(".corrupt")]
    return sorted(names, key=lambda name: (name.endswith(".index"), name))


def index_file(checkpoint_path: str) -> str:
    """Return the file that differs between checkpoints: it has the checksum of each tensor."""
    path = checkpoint_path + ".index"
    # A checkpoint of TensorFlow's first format is one file.
    return path if os.path.exists(path) else checkpoint_path


@contextlib.contextmanager
def open_checkpoint(path: str) -> Iterator[Any]:
    """Open a `tf.train.NewCheckpointReader`, also where the path has wildcard characters."""
    with files.plain_path(path) as plain:
        yield tf.train.NewCheckpointReader(plain)


def write_checkpoint(variables: Mapping[str, np.ndarray], prefix: str) -> None:
    """Write arrays as the checkpoint `prefix`, with nothing else in it.

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


def contents(path: str) -> tuple[dict[str, list[int]], dict[str, tf.DType]]:
    """Return the shape and the dtype of each variable in a checkpoint, by name."""
    with open_checkpoint(path) as reader:
        return reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()


def unreadable(path: str) -> str | None:
    """Read every tensor of a checkpoint; return what is wrong in one line, None if nothing is."""
    return _scan(path, _state_of_files(path)).fault


def find_not_finite(path: str, names: Iterable[str]) -> str | None:
    """Return the first of some variables that has NaN or infinity as float32, None if none has."""
    not_finite = _scan(path, _state_of_files(path)).not_finite
    return next((name for name in names if name in not_finite), None)


class _Scan(NamedTuple):
    """What a pass over all tensors of a checkpoint has found.

    Attributes:
        fault: Why the checkpoint cannot be read, in one line; None if it can be.
        not_finite: The variables that have NaN or infinity as float32.
    """

    fault: str | None
    not_finite: frozenset[str] = frozenset()


def _state_of_files(path: str) -> tuple[tuple[Any, ...], ...]:
    """Return name, size, inode and time of change of each file: other content, another state."""
    state = []
    for name in [path, *files_of(path)]:
        with contextlib.suppress(OSError):
            stat = os.stat(name)
            state.append((name, stat.st_size, stat.st_ino, stat.st_mtime_ns))
    return tuple(state)


# A call asks several times about the same checkpoint, for evaluation, prediction and export. While
# its files stay as they are, reading it once is enough.
@functools.lru_cache(maxsize=32)
def _scan(path: str, state: tuple[tuple[Any, ...], ...]) -> _Scan:
    """Read every tensor, which compares each with its checksum."""
    del state  # It is for the cache alone.
    not_finite = set()
    try:
        with open_checkpoint(path) as reader:
            for name, dtype in reader.get_variable_to_dtype_map().items():
                values = reader.get_tensor(name)
                if dtype.is_floating and not _is_finite(values):
                    not_finite.add(name)
    # A file that is too short is an IndexError in TensorFlow 2.15.
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError, OSError) as error:
        return _Scan(str(error).splitlines()[0][:200])
    return _Scan(None, frozenset(not_finite))


def _is_finite(values: np.ndarray) -> bool:
    # In NumPy's bfloat16, which TensorFlow brings along, there is no isfinite.
    with np.errstate(over="ignore"):
        return bool(np.isfinite(np.asarray(values).astype(np.float32, copy=False)).all())


class Coverage(NamedTuple):
    """What a checkpoint has for the variables of a model that begins with its values.

    Attributes:
        dtypes: Variable that begins with a value of the checkpoint -> dtype of that value.
        summary: How many variables of the encoder these are.
        warnings: What the user should know; one line each.
        faults: Why training would be in vain; one line each, with the cure.
    """

    dtypes: dict[str, tf.DType]
    summary: str
    warnings: list[str]
    faults: list[str]


def coverage(
    path: str, bert_config: BertConfig, classifier: Mapping[str, Sequence[int]]
) -> Coverage:
    """Compare a readable checkpoint with a model, without reading values.

    The encoder has to be covered, but for its pooler: checkpoints of masked language models have
    none. The classifier begins with random values where the checkpoint has none, or one for other
    labels.

    Args:
        path: Prefix of the checkpoint.
        bert_config: The encoder.
        classifier: Name -> shape of each variable of the classifier; empty if it is to begin with
            random values anyway.
    """
    found, dtypes = contents(path)
    encoder = bert_config.variable_shapes()
    shapes = {**encoder, **{name: list(shape) for name, shape in classifier.items()}}
    taken = {name: dtypes[name] for name in shapes if found.get(name) == shapes[name]}
    covered = [name for name in encoder if name in found]
    summary = f"covers {len(covered)} of the encoder's {len(encoder)} variables"
    casts = sorted({dtype.name for dtype in taken.values()} - {"float32"})
    if casts:
        summary += f", {' and '.join(casts)} cast to float32"
    if any(name in taken for name in classifier):
        summary += ", and the classifier"
    return Coverage(
        taken,
        summary,
        list(_warnings(path, bert_config, classifier, found)),
        [
            *_faults_of_encoder(path, bert_config, found),
            *_faults_of_dtypes(path, shapes, dtypes),
        ],
    )


def _warnings(
    path: str,
    bert_config: BertConfig,
    classifier: Mapping[str, Sequence[int]],
    found: Mapping[str, Sequence[int]],
) -> Iterator[str]:
    encoder = bert_config.variable_shapes()
    missing = [name for name in encoder if name not in found]
    if missing and all(map(bert_config.is_pooler, missing)):
        yield f"{path} has no pooler: it begins with random values"
    for name, shape in classifier.items():
        if found.get(name, shape) != list(shape):
            yield (
                f"{path} has the classifier of another task: {name} has shape {found[name]}, but "
                f"{list(shape)} in the model; the classifier begins with random values"
            )
            break
    deeper = dataclasses.replace(bert_config, num_hidden_layers=bert_config.num_hidden_layers + 1)
    next_layer = deeper.variable_shapes().keys() - encoder.keys()
    if next_layer and next_layer <= found.keys():
        yield f"{path} has layers that the model lacks; {_CURE}"


def _faults_of_encoder(
    path: str, bert_config: BertConfig, found: Mapping[str, Sequence[int]]
) -> Iterator[str]:
    encoder = bert_config.variable_shapes()
    for name, shape in encoder.items():
        if found.get(name, shape) != shape:
            yield f"{path}: {name} has shape {found[name]}, but {shape} in the model; {_CURE}"
            break
    missing = [name for name in encoder if name not in found]
    if not all(map(bert_config.is_pooler, missing)):
        count = f"{len(encoder) - len(missing)} of the encoder's {len(encoder)} variables"
        yield f"{path}: covers {count}; {_CURE}; missing: {missing[0]} ..."


def _faults_of_dtypes(
    path: str, names: Iterable[str], dtypes: Mapping[str, tf.DType]
) -> Iterator[str]:
    for name in names:
        if name in dtypes and not dtypes[name].is_floating:
            yield (
                f"{path}: {name} has dtype {dtypes[name].name}; give a checkpoint of floating "
                "point numbers, such as the one that this one was quantized from"
            )
            break

"""The content of one checkpoint: read and write it, compare it with a model."""

from __future__ import annotations

import contextlib
import functools
import glob
import os
import re
from typing import Any, Iterable, Iterator, Mapping, NamedTuple, Sequence

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import files
from encoder_config import KINDS, BertConfig, EncoderKind, kind_of_variables

_CURE = "give the --bert_config_file that belongs to this checkpoint"

# Before each name in a module of TensorFlow Hub, whose `variables/variables` is a checkpoint.
_HUB_PREFIX = "module/"

_LAYER = re.compile(r"\w+/encoder/layer_\d+/")

# What names show that others have written a checkpoint, and what is wrong with it.
_FOREIGN_NAMES = (
    (
        re.compile(r"\.ATTRIBUTES/VARIABLE_VALUE$"),
        "was written by Keras or tf.train.Checkpoint of TensorFlow 2, which names no variables of "
        "an encoder; give the TensorFlow 1 checkpoint of the model",
    ),
    (
        re.compile(r"^bert/(.*/)?(group_\d+_\d+/|layer_normalization)"),
        "was written by ALBERT's code with the behavior of TensorFlow 2, which numbers the layers "
        "in another way; give a checkpoint of TensorFlow 1, such as google's",
    ),
)


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


class Stored(NamedTuple):
    """A variable of a checkpoint, without its values."""

    name: str  # in the checkpoint
    shape: list[int]
    dtype: tf.DType


def contents(path: str) -> dict[str, Stored]:
    """Return the variables of a checkpoint by their names in a model."""
    with open_checkpoint(path) as reader:
        shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    return {name_in_model(name): Stored(name, shapes[name], dtypes[name]) for name in shapes}


def name_in_model(stored_name: str) -> str:
    """Return how a model names a variable of a checkpoint."""
    has_prefix = stored_name.startswith(_HUB_PREFIX)
    return stored_name[len(_HUB_PREFIX) :] if has_prefix else stored_name


def unreadable(path: str) -> str | None:
    """Read every tensor of a checkpoint; return what is wrong in one line, None if nothing is."""
    return _scan(path, _state_of_files(path)).fault


def find_not_finite(path: str, names: Iterable[str]) -> str | None:
    """Return the first of some variables that has NaN or infinity as float32, None if none has.

    Args:
        path: Prefix of the checkpoint.
        names: Of the variables in a model.
    """
    not_finite = _scan(path, _state_of_files(path)).not_finite
    return next((name for name in names if name in not_finite), None)


class _Scan(NamedTuple):
    """What a pass over all tensors of a checkpoint has found.

    Attributes:
        fault: Why the checkpoint cannot be read, in one line; None if it can be.
        not_finite: The variables that have NaN or infinity as float32, by their names in a model.
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
                    not_finite.add(name_in_model(name))
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
    found = contents(path)
    encoder = bert_config.variable_shapes()
    shapes = {**encoder, **{name: list(shape) for name, shape in classifier.items()}}
    dtypes = {name: stored.dtype for name, stored in found.items()}
    taken = {n: dtypes[n] for n, shape in shapes.items() if n in found and found[n].shape == shape}
    covered = [name for name in encoder if name in found]
    summary = f"covers {len(covered)} of the encoder's {len(encoder)} variables"
    casts = sorted({dtype.name for dtype in taken.values()} - {"float32"})
    if casts:
        summary += f", {' and '.join(casts)} cast to float32"
    if any(name in taken for name in classifier):
        summary += ", and the classifier"
    found_shapes = {name: stored.shape for name, stored in found.items()}
    return Coverage(
        taken,
        summary,
        list(_warnings(path, bert_config, classifier, found_shapes)),
        [
            *_faults_of_encoder(path, bert_config, found_shapes),
            *_faults_of_dtypes(path, shapes, dtypes),
        ],
    )


def fault_of_kind(found: Mapping[str, Sequence[int]], kind: EncoderKind) -> str | None:
    """Return why variables cannot be those of an encoder of a kind, None if they can.

    Args:
        found: Name in a model -> shape of each variable of a checkpoint.
        kind: That of the configuration.
    """
    for name in found:
        for pattern, fault in _FOREIGN_NAMES:
            if pattern.search(name):
                return f"{fault}; it has {name}"
    found_kind = kind_of_variables(found)
    if found_kind is None:
        return None
    for name, shape in found.items():
        if len(shape) > 2 and name.startswith(KINDS[found_kind].scope + "/"):
            return (
                f"{name} has shape {list(shape)}, as in brightmart's albert_*_google_fast, but "
                "kernels are matrices here; give another ALBERT, such as google's"
            )
    if KINDS[found_kind] is kind:
        return None
    return (
        f"is of {KINDS[found_kind].title}, but --bert_config_file is of {kind.title}; "
        f"{cure_of_config(found)}"
    )


def cure_of_config(found: Mapping[str, Sequence[int]]) -> str:
    """Say which configuration file belongs to variables with these names in a model and shapes."""
    name = kind_of_variables(found)
    if name is None:
        return _CURE
    kind = KINDS[name]
    table = found.get(kind.scope + "/embeddings/word_embeddings", ())
    hidden_size = found.get(kind.scope + "/encoder/layer_0/output/dense/bias", ())
    layers = {match.group() for match in map(_LAYER.match, found) if match}
    ours = kind.config_files.get((*table[1:], *hidden_size, len(layers)))
    if ours is None:
        return f"{_CURE}, {kind.config_file} by its usual name"
    return f'give --bert_config_file={ours}, with "vocab_size": {table[0]}'


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
    if any(_is_of_further_layer(name, bert_config) for name in found):
        yield f"{path} has layers that the model lacks; {_CURE}"


def _is_of_further_layer(name: str, bert_config: BertConfig) -> bool:
    """Tell whether a variable belongs to a layer of this kind of encoder that this one lacks."""
    any_layer = "%s/%s" % (bert_config.scope, bert_config.kind.layer.split("{")[0])
    own_layers = tuple("%s/%s/" % (bert_config.scope, s) for s in bert_config.layer_scopes())
    return name.startswith(any_layer) and not name.startswith(own_layers)


def _faults_of_encoder(
    path: str, bert_config: BertConfig, found: Mapping[str, Sequence[int]]
) -> Iterator[str]:
    fault = fault_of_kind(found, bert_config.kind)
    if fault:
        yield f"{path}: {fault}"
        return
    encoder = bert_config.variable_shapes()
    for name, shape in encoder.items():
        if found.get(name, shape) != shape:
            cure = cure_of_config(found)
            yield f"{path}: {name} has shape {found[name]}, but {shape} in the model; {cure}"
            break
    missing = [name for name in encoder if name not in found]
    if not all(map(bert_config.is_pooler, missing)):
        count = f"{len(encoder) - len(missing)} of the encoder's {len(encoder)} variables"
        yield f"{path}: covers {count}; {cure_of_config(found)}; missing: {missing[0]} ..."


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

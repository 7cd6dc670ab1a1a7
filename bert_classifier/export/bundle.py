"""Format of an exported model, a bundle: seal, find, open and verify one.

A bundle is a SavedModel with its parts in `assets.extra/`, or one file with a frozen graph, in
which the parts are the constants `bundle/<part>`. The parts are

    vocab.txt or spiece.model                as in training: what the texts are split by
    labels.txt bert_config.json              as in training; the labels in the order of the outputs
    metrics.json                             of the evaluation of these weights, if there was one
    sample_request.json                      a request for TensorFlow Serving
    bundle.json                              `Settings`, and the digests of all else
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from typing import Any, Iterator, Mapping, NamedTuple, Sequence

import numpy as np
import tensorflow.compat.v1 as tf
from google.protobuf.message import DecodeError  # type: ignore[import]

import modeling
from bert_classifier import files, tf_compat, threads
from bert_classifier.data.features import TRUNCATIONS
from bert_classifier.errors import BadInput, bad_input
from bert_classifier.problem_types import PROBLEM_TYPES

# Increase it when a program that reads the present format would misread the new one.
FORMAT = 1

ASSETS = "assets.extra"
# A bundle has one of the first two.
VOCAB, SPM_MODEL = "vocab.txt", "spiece.model"
LABELS, CONFIG = "labels.txt", "bert_config.json"
METRICS, SAMPLE_REQUEST = "metrics.json", "sample_request.json"
_DESCRIPTION = "bundle.json"

# The names of constants, inputs and outputs in a frozen graph; users rely on them.
PART_PREFIX = "bundle/"
INPUTS = ("input_ids", "input_mask", "segment_ids")
OUTPUTS = ("probabilities", "predictions", "top_3")
SERVING_DEFAULT = tf.saved_model.signature_constants.DEFAULT_SERVING_SIGNATURE_DEF_KEY

# Where a run has its exports, the better ones first, and its frozen graph.
_OF_A_RUN = (os.path.join("export", "best_exporter"), os.path.join("export", "saved_model"))
FROZEN_GRAPH = "frozen_model.pb"
_SAVED_MODEL = "saved_model.pb"
_TIMESTAMP = re.compile("[0-9]+")

_CURE = "export the model again with --do_export or --do_frozen"


class Settings(NamedTuple):
    """The settings with which texts become inputs of the model, and its outputs answers.

    Attributes:
        labels: in the order of the outputs.
        problem_type: one of `PROBLEM_TYPES`.
        max_seq_length: tokens that the model reads at once.
        do_lower_case: as of `FullTokenizer`.
        truncation: as of `features.Converter`.
        window_stride: as of `features.Converter`.
        texts_per_example: 1, or 2 for pairs.
        thresholds: for multi_label, the probability of each label above which a text has it.
        temperature: divisor of the logits; see `calibration`.
        min_confidence: the label is None where the best one has a lower probability.
        label_separator: separates the labels in a cell that has several.
    """

    labels: Sequence[str]
    problem_type: str
    max_seq_length: int
    do_lower_case: bool
    truncation: str
    window_stride: int
    texts_per_example: int
    thresholds: Sequence[float] | None = None
    temperature: float = 1.0
    min_confidence: float = 0.0
    label_separator: str = ","


class Model:
    """A graph with its weights in a session, which threads may share."""

    def __init__(self, session: tf.Session, signatures: Mapping[str, Any]):
        """Take a session and signature -> (input -> tensor, output -> tensor), all by name."""
        self._session = session
        self.signatures = signatures

    def run(
        self, inputs: Mapping[str, Any], signature: str = SERVING_DEFAULT
    ) -> dict[str, np.ndarray]:
        """Return the outputs of a signature for a batch of inputs, both by name."""
        tensors, outputs = self.signatures[signature]
        return self._session.run(outputs, {tensors[name]: inputs[name] for name in tensors})

    def num_outputs(self) -> int | None:
        """Return the number of probabilities per example, None for a regression."""
        _, outputs = self.signatures[SERVING_DEFAULT]
        if "probabilities" not in outputs:
            return None
        tensor = self._session.graph.get_tensor_by_name(outputs["probabilities"])
        return tensor.shape.as_list()[1]

    def graph_def(self) -> tf.GraphDef:
        """Return the part of the graph that `serving_default` needs, with weights as constants."""
        _, outputs = self.signatures[SERVING_DEFAULT]
        return tf.graph_util.convert_variables_to_constants(
            self._session,
            self._session.graph.as_graph_def(),
            [tensor.split(":")[0] for tensor in outputs.values()],
        )

    def close(self) -> None:
        """Free the session."""
        self._session.close()


class Bundle(NamedTuple):
    """An open bundle; `parts` is name -> content, without `bundle.json`."""

    model: Model
    settings: Settings
    parts: Mapping[str, bytes]


def seal(
    settings: Settings, parts: Mapping[str, bytes], digests: Mapping[str, str]
) -> dict[str, bytes]:
    """Return the parts of a bundle with `bundle.json` added.

    Args:
        settings: of the model.
        parts: name -> content.
        digests: name -> `files.digest` of everything else in the bundle: of each file of a
            SavedModel, or, as `graph`, of a frozen graph. `open_bundle` checks them.
    """
    own = {name: files.digest(content) for name, content in parts.items()}
    values = settings._asdict()
    del values["labels"]  # They are in labels.txt.
    description = {
        "format": FORMAT,
        "made_with": {"tensorflow": tf.__version__},
        "settings": values,
        "digests": {**own, **digests},
    }
    return {**parts, _DESCRIPTION: (files.to_json(description, indent=2) + "\n").encode()}


def find(path: str) -> str:
    """Return the path of the export, or frozen graph, that a path stands for.

    A folder of exports stands for its newest; an output_dir for its best export, else for its
    newest of `--do_export`, else for its frozen graph.

    Raises:
        BadInput: there is none.
    """
    if os.path.isfile(path) or os.path.exists(os.path.join(path, _SAVED_MODEL)):
        return path
    if not os.path.isdir(path):
        raise BadInput("%s: no such file or folder; give an export or a frozen graph" % path)
    for folder in ("", "best_exporter", "saved_model", *_OF_A_RUN):
        exports = list_exports(os.path.join(path, folder))
        if exports:
            return exports[-1]
    frozen = os.path.join(path, FROZEN_GRAPH)
    if os.path.isfile(frozen):
        return frozen
    raise BadInput(
        "%s: no %s, and no export below it; give the folder of an export, of several exports, or "
        "an output_dir that has one" % (path, _SAVED_MODEL)
    )


def is_export(text: str) -> bool:
    """Tell whether a text is the path of an export, of several, or of a frozen graph."""
    try:
        find(text)
    except (BadInput, OSError, ValueError):  # Some texts cannot be a path.
        return False
    if os.path.isfile(text):
        return text.endswith(".pb")
    # A text of one word may also be the name of an output_dir.
    return os.path.exists(os.path.join(text, _SAVED_MODEL)) or os.sep in text


def list_exports(export_path: str) -> list[str]:
    """List the exports in a folder, oldest first: their names are timestamps."""
    if not os.path.isdir(export_path):
        return []
    names = sorted(filter(_TIMESTAMP.fullmatch, os.listdir(export_path)), key=int)
    paths = [os.path.join(export_path, name) for name in names]
    return list(filter(os.path.isdir, paths))


def open_bundle(path: str, session_config: tf.ConfigProto | None = None) -> Bundle:
    """Load a bundle and check all of it.

    Args:
        path: see `find`.
        session_config: of the session; by default `threads.config_for_callers`.

    Raises:
        BadInput: something is missing, damaged, of another version, or does not fit the rest.
    """
    path = find(path)
    with tf_compat.without_deprecation_warnings():
        if os.path.isdir(path):
            return _open_saved_model(path, session_config)
        return _open_frozen_graph(path, session_config)


def _open_saved_model(folder: str, session_config: tf.ConfigProto | None) -> Bundle:

    def read(part: str) -> bytes:
        with open(os.path.join(folder, ASSETS, part), "rb") as stream:
            return stream.read()

    def digest(name: str) -> str:
        in_assets = os.path.join(folder, ASSETS, name)
        path = in_assets if os.path.exists(in_assets) else os.path.join(folder, name)
        return files.digest_of_file(path)

    description = _read_description(folder, read)
    _check_digests(folder, description, digest)
    parts = {name: read(name) for name in description["digests"] if _is_part(name)}
    session = tf.Session(graph=tf.Graph(), config=session_config or _session_config(parts))
    with _failures_are_bad_input(folder, session), files.plain_path(folder) as plain:
        loaded = tf.saved_model.load(session, [tf.saved_model.tag_constants.SERVING], plain)
        signatures = {
            name: (
                {key: info.name for key, info in signature.inputs.items()},
                {key: info.name for key, info in signature.outputs.items()},
            )
            for name, signature in loaded.signature_def.items()
        }
        return _fitting(folder, Model(session, signatures), description, parts)


def _open_frozen_graph(path: str, session_config: tf.ConfigProto | None) -> Bundle:
    graph_def = tf.GraphDef()
    try:
        with open(path, "rb") as stream:
            data = stream.read()
        graph_def.ParseFromString(data)
        parts_alone = tf.GraphDef(node=filter(_has_part, graph_def.node))
        content = take_parts(graph_def)
    except (DecodeError, IndexError) as error:
        raise BadInput("%s: no frozen graph, or a damaged one; %s" % (path, _CURE)) from error

    def digest(name: str) -> str:
        return files.digest(content[name] if _is_part(name) else _without(parts_alone, data))

    description = _read_description(path, content.__getitem__)
    _check_digests(path, description, digest)
    parts = {name: content[name] for name in description["digests"] if _is_part(name)}
    session = tf.Session(graph=tf.Graph(), config=session_config or _session_config(parts))
    with _failures_are_bad_input(path, session):
        with session.graph.as_default():
            tf.import_graph_def(graph_def, name="")
        names = {node.name for node in graph_def.node}
        signature = tuple(
            {name: name + ":0" for name in of_one_side if name in names}
            for of_one_side in (INPUTS, OUTPUTS)
        )
        return _fitting(path, Model(session, {SERVING_DEFAULT: signature}), description, parts)


def _session_config(parts: Mapping[str, bytes]) -> tf.ConfigProto:
    with bad_input():
        config = modeling.BertConfig.from_dict(json.loads(parts[CONFIG].decode("utf-8-sig")))
    return threads.config_for_callers(config.hidden_size)


def take_parts(graph_def: tf.GraphDef) -> dict[str, bytes]:
    """Remove the parts of a bundle from a frozen graph; return name -> content."""
    parts = {
        node.name[len(PART_PREFIX) :]: node.attr["value"].tensor.string_val[0]
        for node in graph_def.node
        if _has_part(node)
    }
    others = [node for node in graph_def.node if not _has_part(node)]
    del graph_def.node[len(others) :]
    for node, other in zip(graph_def.node, others):
        if node is not other:
            node.CopyFrom(other)
    return parts


def put_parts(graph_def: tf.GraphDef, parts: Mapping[str, bytes]) -> None:
    """Add the parts of a bundle to a frozen graph, as constants that no operation reads."""
    with tf.Graph().as_default() as graph:
        for name, content in parts.items():
            tf.constant(content, name=PART_PREFIX + name)
    graph_def.node.extend(graph.as_graph_def().node)


def digest_of_graph(graph_def: tf.GraphDef) -> str:
    """Return the digest of a graph that has no parts of a bundle."""
    return files.digest(graph_def.SerializeToString(deterministic=True))


def _has_part(node: tf.NodeDef) -> bool:
    return node.name.startswith(PART_PREFIX)


def _without(parts_alone: tf.GraphDef, data: bytes) -> bytes:
    """Return the bytes of a frozen graph without those of its parts, which follow one another.

    A digest of the graph is one of these bytes: the same graph, serialized by another version of
    protobuf, has the attributes of its operations in another order.
    """
    before, _, after = data.rpartition(parts_alone.SerializeToString(deterministic=True))
    return before + after


def _is_part(name: str) -> bool:
    return name in (VOCAB, SPM_MODEL, LABELS, CONFIG, METRICS, SAMPLE_REQUEST)


def _read_description(path: str, read: Any) -> dict[str, Any]:
    try:
        description = json.loads(read(_DESCRIPTION).decode("utf-8"))
        version = description["format"]
    except (OSError, KeyError) as error:
        raise BadInput(
            "%s: no %s, so it is no export of this program; %s" % (path, _DESCRIPTION, _CURE)
        ) from error
    except (ValueError, TypeError) as error:
        raise BadInput("%s: %s is damaged; %s" % (path, _DESCRIPTION, _CURE)) from error
    if version != FORMAT:
        raise BadInput(
            "%s: %s has format %r, and this program reads %d; use the program that made it, or %s"
            % (path, _DESCRIPTION, version, FORMAT, _CURE)
        )
    digests, settings = description.get("digests"), description.get("settings")
    are_objects = isinstance(digests, dict) and isinstance(settings, dict)
    if not (
        are_objects
        and {LABELS, CONFIG} <= set(digests)
        and len({VOCAB, SPM_MODEL} & set(digests)) == 1
    ):
        raise BadInput("%s: %s is damaged; %s" % (path, _DESCRIPTION, _CURE))
    return description


def _check_digests(path: str, description: Mapping[str, Any], digest: Any) -> None:
    for name, expected in description["digests"].items():
        try:
            found = digest(name)
        except (OSError, KeyError) as error:
            raise BadInput("%s: %s is missing; %s" % (path, name, _CURE)) from error
        if found != expected:
            raise BadInput("%s: %s is not what was exported; %s" % (path, name, _CURE))


def _fitting(
    path: str, model: Model, description: Mapping[str, Any], parts: Mapping[str, bytes]
) -> Bundle:
    labels = parts[LABELS].decode("utf-8").split("\n")[:-1]
    settings = Settings(labels=labels, **description["settings"])
    wrong = _wrong_setting(settings)
    if wrong is not None:
        raise BadInput(
            "%s: %s has %s %r; %s" % (path, _DESCRIPTION, wrong, getattr(settings, wrong), _CURE)
        )
    num_outputs = model.num_outputs()
    if num_outputs is not None and num_outputs != len(labels):
        raise BadInput(
            "%s: %s has %d labels, and the model %d outputs; %s"
            % (path, LABELS, len(labels), num_outputs, _CURE)
        )
    return Bundle(model, settings, parts)


def _wrong_setting(settings: Settings) -> str | None:
    """Name the first setting that has an impossible value; None if all are possible."""
    thresholds = [] if settings.thresholds is None else settings.thresholds
    are_possible = {
        "problem_type": settings.problem_type in PROBLEM_TYPES,
        "max_seq_length": _is_number(settings.max_seq_length, int, 1),
        "do_lower_case": isinstance(settings.do_lower_case, bool),
        "truncation": settings.truncation in TRUNCATIONS,
        "window_stride": _is_number(settings.window_stride, int, 0),
        "texts_per_example": settings.texts_per_example in (1, 2),
        "thresholds": isinstance(thresholds, list)
        and len(thresholds) in (0, len(settings.labels))
        and all(_is_number(threshold, (int, float), 0, 1) for threshold in thresholds),
        "temperature": _is_number(settings.temperature, (int, float), 1e-300),
        "min_confidence": _is_number(settings.min_confidence, (int, float), 0, 1),
        "label_separator": isinstance(settings.label_separator, str),
    }
    return next((name for name, is_possible in are_possible.items() if not is_possible), None)


def _is_number(value: Any, kind: Any, low: float, high: float = sys.float_info.max) -> bool:
    # In Python True is the number 1; in bundle.json it is a mistake.
    return isinstance(value, kind) and not isinstance(value, bool) and low <= value <= high


@contextlib.contextmanager
def _failures_are_bad_input(path: str, session: tf.Session) -> Iterator[None]:
    """Turn errors of TensorFlow in loading a model into BadInput, and free the session."""
    try:
        yield
    except BadInput:
        session.close()
        raise
    except (tf.errors.OpError, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        session.close()
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput("%s: cannot be loaded (%s); %s" % (path, reason, _CURE)) from error

"""Models of TensorFlow in bundles: SavedModels and frozen graphs.

The format of bundles is in `bundle`.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, Iterator, Mapping

import numpy as np
import tensorflow.compat.v1 as tf
from google.protobuf.message import DecodeError  # type: ignore[import]

from bert_classifier import files, tf_compat
from bert_classifier.errors import BadInput
from bert_classifier.export import bundle
from bert_classifier.export.bundle import INPUTS, OUTPUTS, SERVING_DEFAULT, Bundle, Contents

# The names of the constants that are the parts of a frozen graph; users rely on them.
PART_PREFIX = "bundle/"


class GraphModel(bundle.Model):
    """A graph with its weights in a session."""

    def __init__(self, session: tf.Session, signatures: Mapping[str, Any]):
        """Take a session and signature -> (input -> tensor, output -> tensor), all by name."""
        self._session = session
        self.signatures: Mapping[str, Any] = signatures

    def run(
        self, inputs: Mapping[str, Any], signature: str = SERVING_DEFAULT
    ) -> dict[str, np.ndarray]:
        """Return the outputs of a signature; see `bundle.Model`."""
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


def open_bundle(path: str, session_config: tf.ConfigProto | None) -> Bundle:
    """Load the bundle at a path that `bundle.find` has returned; see `bundle.open_bundle`."""
    with tf_compat.without_deprecation_warnings():
        if os.path.isdir(path):
            return _open_saved_model(path, session_config)
        return _open_frozen_graph(path, session_config)


def _open_saved_model(folder: str, session_config: tf.ConfigProto | None) -> Bundle:
    contents = bundle.contents_of_folder(folder)
    session = tf.Session(graph=tf.Graph(), config=session_config or _session_config(contents))
    with _closed_by_failures(folder, session), files.plain_path(folder) as plain:
        loaded = tf.saved_model.load(session, [tf.saved_model.tag_constants.SERVING], plain)
        signatures = {
            name: (
                {key: info.name for key, info in signature.inputs.items()},
                {key: info.name for key, info in signature.outputs.items()},
            )
            for name, signature in loaded.signature_def.items()
        }
        return bundle.join(folder, GraphModel(session, signatures), contents)


def _open_frozen_graph(path: str, session_config: tf.ConfigProto | None) -> Bundle:
    graph_def, contents = _read_frozen_graph(path)
    session = tf.Session(graph=tf.Graph(), config=session_config or _session_config(contents))
    with _closed_by_failures(path, session):
        with session.graph.as_default():
            tf.import_graph_def(graph_def, name="")
        names = {node.name for node in graph_def.node}
        signature = tuple(
            {name: name + ":0" for name in of_one_side if name in names}
            for of_one_side in (INPUTS, OUTPUTS)
        )
        return bundle.join(path, GraphModel(session, {SERVING_DEFAULT: signature}), contents)


def contents_of_frozen_graph(path: str) -> Contents:
    """Read what a frozen graph has beside the graph; see `bundle.read_contents`."""
    return _read_frozen_graph(path)[1]


def _read_frozen_graph(path: str) -> tuple[tf.GraphDef, Contents]:
    graph_def = tf.GraphDef()
    try:
        with open(path, "rb") as stream:
            data = stream.read()
        graph_def.ParseFromString(data)
        parts_alone = tf.GraphDef(node=filter(_has_part, graph_def.node))
        content = take_parts(graph_def)
    except (DecodeError, IndexError) as error:
        raise BadInput("%s: no frozen graph, or a damaged one; %s" % (path, bundle.CURE)) from error

    def digest(name: str) -> str:
        is_part = bundle.is_part(name)
        return files.digest(content[name] if is_part else _without(parts_alone, data))

    return graph_def, bundle.contents_of_one_file(path, content, digest)


def _session_config(contents: Contents) -> tf.ConfigProto:
    # The thread that calls runs the operations.
    return tf.ConfigProto(
        inter_op_parallelism_threads=-1, intra_op_parallelism_threads=contents.num_threads()
    )


@contextlib.contextmanager
def _closed_by_failures(path: str, session: tf.Session) -> Iterator[None]:
    """Turn errors of TensorFlow in loading a model into BadInput, and free the session."""
    try:
        with bundle.failures_are_bad_input(path, tf.errors.OpError):
            yield
    except BadInput:
        session.close()
        raise


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


def versions() -> dict[str, str]:
    """Return package -> version of what makes these models."""
    return {"tensorflow": tf.__version__}


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

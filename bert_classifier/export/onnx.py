"""Make an ONNX model of a frozen graph, and quantize one.

tf2onnx makes it, and ONNX Runtime quantizes it. Both are imported only here, and when they are
needed: the rest of the program works without them.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from typing import Iterator

import tensorflow.compat.v1 as tf

from bert_classifier import tf_compat
from bert_classifier.errors import BadInput, one_line
from bert_classifier.export.bundle import INPUTS, OUTPUTS
from bert_classifier.export.onnx_models import import_onnxruntime

OPSET = 17
_AXES = ("batch_size", "seq_length")


def check_packages() -> None:
    """Check that what makes an ONNX model can be imported.

    Raises:
        BadInput: a package is missing, or broken.
    """
    try:
        import onnx  # noqa: F401, PLC0415

        import_onnxruntime()
        import tf2onnx  # noqa: F401, PLC0415
    except Exception as error:  # One that is broken may raise anything.
        raise BadInput(
            "--do_onnx: needs onnx, onnxruntime and tf2onnx, and there is an error in importing "
            "them (%.200s); install the versions that were tested with `make venv`"
            % one_line(error)
        ) from error


def write(graph_def: tf.GraphDef, path: str) -> None:
    """Write a frozen graph as an ONNX model of opset 17.

    Its inputs and outputs have the names that they have in the frozen graph, without `:0`. The
    first two dimensions are `batch_size` and `seq_length`, of any size.

    Args:
        graph_def: without the parts of a bundle.
        path: the file.
    """
    import tf2onnx  # noqa: PLC0415

    from bert_classifier.export.onnx_fusions import fuse  # noqa: PLC0415

    names = {node.name for node in graph_def.node}
    inputs, outputs = (
        {name + ":0": name for name in of_one_side if name in names}
        for of_one_side in (INPUTS, OUTPUTS)
    )
    with tf_compat.without_deprecation_warnings(), _quiet():
        model, _ = tf2onnx.convert.from_graph_def(
            graph_def,
            input_names=list(inputs),
            output_names=list(outputs),
            opset=OPSET,
            custom_rewriter=[fuse],
            tensors_to_rename={**inputs, **outputs},
        )
    for value in [*model.graph.input, *model.graph.output]:
        for axis, dimension in zip(_AXES, value.type.tensor_type.shape.dim):
            if not dimension.dim_value:
                dimension.dim_param = axis
    with open(path, "wb") as stream:
        stream.write(model.SerializeToString())


def quantize(path: str) -> None:
    """Replace the weights of an ONNX model, which are float32, by int8.

    The quantization is dynamic: activations are quantized while the model runs, each by its own
    largest number, so no data are needed.
    """
    import_onnxruntime()
    from onnxruntime import quantization  # noqa: PLC0415

    quantized = path + ".int8"
    with _quiet():
        quantization.quantize_dynamic(
            path,
            quantized,
            # One scale for each column of a matrix: one for all of them lost three points of
            # accuracy on the demo, this less than one.
            per_channel=True,
            # Weights of 7 bits: on processors without VNNI, sums of products of 8 bits overflow.
            reduce_range=True,
            weight_type=quantization.QuantType.QInt8,
        )
    os.replace(quantized, path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what the packages say about operations that they leave as they are."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def versions() -> dict[str, str]:
    """Return package -> version of what makes an ONNX model."""
    import tf2onnx  # noqa: PLC0415

    return {
        "tensorflow": tf.__version__,
        "tf2onnx": tf2onnx.__version__,
        "onnxruntime": import_onnxruntime().__version__,
    }

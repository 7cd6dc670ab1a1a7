"""Write parts of a graph as ONNX Runtime knows them, so that it computes each at once.

The graph of TensorFlow has them in the form that trains fast, which ONNX Runtime would take for
many single operations. The operations here are all of ONNX itself.
"""

from __future__ import annotations

import math
from typing import Any, Sequence

import numpy as np
from tf2onnx.graph_matcher import GraphMatcher, OpTypePattern
from tf2onnx.utils import make_name

_ADD = "Add|AddV2|BiasAdd"


def fuse(graph: Any, ops: Sequence[Any]) -> Sequence[Any]:
    """Replace layer normalizations and Gaussian error linear units.

    Args:
        graph: a `tf2onnx.graph.Graph`, with the operations of TensorFlow; is changed.
        ops: its operations.

    Returns:
        The operations that it then has.
    """
    del ops
    for pattern, replace in (
        (_layer_norm(), _replace_layer_norm),
        (_gelu(), _replace_gelu),
        (_gelu_erf(), _replace_gelu_erf),
    ):
        matcher = GraphMatcher(pattern, allow_reorder=True)
        for match in list(matcher.match_ops(graph.get_nodes())):
            output = replace(graph, match)
            if output:
                graph.replace_all_inputs(match.get_op("whole").output[0], output)
    return graph.get_nodes()


def _layer_norm() -> OpTypePattern:
    """Return the pattern of `modeling.layer_norm`, the order of whose factors Grappler changes."""
    square = OpTypePattern("Square", inputs=[OpTypePattern("Sub", name="centered")])
    variance = OpTypePattern("Mean", inputs=[square, OpTypePattern("Const")])  # The axis.
    shifted = OpTypePattern(_ADD, inputs=[variance, OpTypePattern("Const", name="epsilon")])
    scale = OpTypePattern("Rsqrt", inputs=[shifted])
    product = OpTypePattern("Mul", inputs=[scale, OpTypePattern("*", name="factor_1")])
    scaled = OpTypePattern("Mul", inputs=[product, OpTypePattern("*", name="factor_2")])
    return OpTypePattern(_ADD, name="whole", inputs=[scaled, OpTypePattern("Const", name="beta")])


def _replace_layer_norm(graph: Any, match: Any) -> str | None:
    """Add the operation of opset 17; return its output, None if the match is something else."""
    centered, whole = match.get_op("centered"), match.get_op("whole")
    factors = {match.get_tensor(name) for name in ("factor_1", "factor_2")}
    if centered.output[0] not in factors:
        return None
    (gamma,) = factors - {centered.output[0]}
    return graph.make_node(
        "LayerNormalization",
        [centered.input[0], gamma, match.get_tensor("beta")],
        attr={"axis": -1, "epsilon": float(match.get_op("epsilon").get_tensor_value())},
        shapes=[graph.get_shape(whole.output[0])],
        dtypes=[graph.get_dtype(whole.output[0])],
    ).output[0]


def _gelu() -> OpTypePattern:
    """Return the pattern of `modeling.gelu`."""
    square = OpTypePattern("Square", inputs=[OpTypePattern("*", name="x_3")])
    cubic = OpTypePattern("Mul", inputs=[OpTypePattern("Const", name="cubic"), square])
    factor = OpTypePattern(_ADD, inputs=[OpTypePattern("Const", name="linear"), cubic])
    score = OpTypePattern("Mul", inputs=[OpTypePattern("*", name="x_2"), factor])
    open_part = OpTypePattern("Sigmoid", inputs=[score])
    return OpTypePattern("Mul", name="whole", inputs=[OpTypePattern("*", name="x"), open_part])


def _replace_gelu(graph: Any, match: Any) -> str | None:
    """Add 0.5 x (1 + tanh(sqrt(2 / pi) x (1 + 0.044715 x^2))); return its output, or None."""
    x, slope = match.get_tensor("x"), math.sqrt(2 / math.pi)
    if {match.get_tensor(name) for name in ("x_2", "x_3")} != {x}:
        return None
    if not _has_constants(match, linear=2 * slope, cubic=2 * slope * 0.044715):
        return None
    write = _Writer(graph)
    factor = write("Add", write("Mul", write("Mul", x, 0.044715), x), 1.0)
    score = write("Mul", write("Mul", x, slope), factor)
    open_part = write("Add", write("Tanh", score), 1.0)
    return write("Mul", write("Mul", x, 0.5), open_part)


def _gelu_erf() -> OpTypePattern:
    """Return the pattern of `modeling.gelu_erf`."""
    x, scale = OpTypePattern("*", name="x_2"), OpTypePattern("Const", name="scale")
    erf = OpTypePattern("Erf", inputs=[OpTypePattern("Mul", inputs=[x, scale])])
    half = OpTypePattern("Mul", inputs=[OpTypePattern("Const", name="half"), erf])
    distribution = OpTypePattern(_ADD, inputs=[OpTypePattern("Const", name="shift"), half])
    return OpTypePattern("Mul", name="whole", inputs=[OpTypePattern("*", name="x"), distribution])


def _replace_gelu_erf(graph: Any, match: Any) -> str | None:
    """Add 0.5 x (1 + erf(x / sqrt(2))); return its output, or None."""
    x = match.get_tensor("x")
    if match.get_tensor("x_2") != x:
        return None
    if not _has_constants(match, scale=math.sqrt(0.5), half=0.5, shift=0.5):
        return None
    write = _Writer(graph)
    erf = write("Erf", write("Div", x, math.sqrt(2)))
    return write("Mul", write("Mul", x, write("Add", erf, 1.0)), 0.5)


def _has_constants(match: Any, **values: float) -> bool:
    return all(
        np.allclose(match.get_op(name).get_tensor_value(), value) for name, value in values.items()
    )


class _Writer:
    """Adds operations to a graph; a number among their inputs becomes a constant."""

    def __init__(self, graph: Any):
        self._graph = graph

    def __call__(self, kind: str, *inputs: str | float) -> str:
        """Add an operation; return its output."""
        return self._graph.make_node(kind, list(map(self._name, inputs))).output[0]

    def _name(self, value: str | float) -> str:
        if isinstance(value, str):
            return value
        return self._graph.make_const(make_name("constant"), np.float32(value)).output[0]

"""What ONNX Runtime is to compute at once: the numbers stay, and nothing else is replaced."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import modeling
from bert_classifier import tf_compat
from bert_classifier.export import onnx_models

tf2onnx = pytest.importorskip("tf2onnx")
onnxruntime = onnx_models.import_onnxruntime()
onnx = pytest.importorskip("onnx")
fusions = pytest.importorskip("bert_classifier.export.onnx_fusions")

X = np.random.RandomState(0).normal(0, 3, [7, 16]).astype(np.float32)


def converted(function, tmp_path):
    """Return the outputs of TensorFlow and ONNX Runtime, and what the latter computes."""
    with tf.Graph().as_default(), tf.Session() as session:
        x = tf.placeholder(tf.float32, [None, X.shape[1]], name="x")
        tf.identity(function(x), name="y")
        session.run(tf.global_variables_initializer())
        for variable in tf.trainable_variables():
            value = np.random.RandomState(1).normal(1, 0.2, variable.shape.as_list())
            session.run(tf.assign(variable, value))
        expected = session.run("y:0", {"x:0": X})
        with tf_compat.without_deprecation_warnings():
            graph_def = tf.graph_util.convert_variables_to_constants(
                session, session.graph_def, ["y"]
            )
    model, _ = tf2onnx.convert.from_graph_def(
        graph_def,
        input_names=["x:0"],
        output_names=["y:0"],
        opset=17,
        custom_rewriter=[fusions.fuse],
    )
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (answer,) = session.run(None, {"x:0": X})
    optimized = onnx.load(options.optimized_model_filepath)
    return expected, answer, collections.Counter(node.op_type for node in optimized.graph.node)


@pytest.mark.parametrize(
    "function, operation",
    [
        (modeling.layer_norm, "LayerNormalization"),
        (lambda x: modeling.layer_norm(x, epsilon=0.1), "LayerNormalization"),
        # ONNX Runtime leaves it where it is an output of the model.
        (lambda x: tf.abs(modeling.gelu(x)), "FastGelu"),
        (modeling.gelu_erf, "Gelu"),
    ],
)
def test_onnx_runtime_computes_it_at_once(function, operation, tmp_path):
    expected, answer, operations = converted(function, tmp_path)
    np.testing.assert_allclose(answer, expected, atol=2e-6)
    assert operations[operation] == 1
    assert set(operations) <= {operation, "Abs"}


def test_a_whole_layer_is_fused(tmp_path):
    def layer(x):
        return modeling.layer_norm(x + modeling.gelu(modeling.layer_norm(x, "a")), "b")

    expected, answer, operations = converted(layer, tmp_path)
    np.testing.assert_allclose(answer, expected, atol=2e-6)
    assert sum(operations.values()) <= 4
    assert operations["FastGelu"] == 1


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * tf.sigmoid(x),
        lambda x: x * tf.sigmoid(x * (1.5 + 0.07 * tf.square(x))),
        lambda x: x * tf.sigmoid((x + 1.0) * (1.5957691 + 0.0713548 * tf.square(x))),
        lambda x: x * (0.5 + 0.25 * tf.math.erf(x * 0.7071068)),
        lambda x: tf.abs(x) * (0.5 + 0.5 * tf.math.erf(x * 0.7071068)),
        lambda x: (
            x * tf.math.rsqrt(tf.reduce_mean(tf.square(x - 1.0), 1, keepdims=True) + 1e-3) * 2.0
            + np.ones([16], np.float32)
        ),
    ],
)
def test_what_only_looks_like_it_stays(function, tmp_path):
    expected, answer, operations = converted(function, tmp_path)
    np.testing.assert_allclose(answer, expected, atol=2e-5)
    assert not {"LayerNormalization", "FastGelu", "Gelu"} & set(operations)

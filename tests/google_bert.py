"""google's packages `bert-tensorflow` and `albert-tensorflow`, on TensorFlow 1.15 and 2.15.

    from google_bert import modeling
    from google_bert import albert_modeling

They are the oracle of many tests. Their modules import `tensorflow`, and mean version 1 with
tf.contrib.
"""

from __future__ import annotations

import importlib
import sys
import types

import tensorflow.compat.v1 as tf


def __getattr__(name):
    """Import a module of a package when it is first asked for (PEP 562)."""
    if name.startswith("_"):
        raise AttributeError(name)
    is_albert = name.startswith("albert_")
    name = "albert." + name[len("albert_") :] if is_albert else "bert." + name
    if tf.__version__.startswith("1."):
        return importlib.import_module(name)
    real = sys.modules["tensorflow"]
    sys.modules["tensorflow"] = fake = _tensorflow_1()
    sys.modules["tensorflow.contrib"] = fake.contrib
    try:
        return importlib.import_module(name)
    finally:  # All other modules go on with the real one.
        sys.modules["tensorflow"] = real
        del sys.modules["tensorflow.contrib"]


def _tensorflow_1():
    """TensorFlow 2's `compat.v1`, and of `contrib` what google's modules need in tests."""
    module = types.ModuleType("tensorflow")
    module.__getattr__ = lambda name: getattr(tf, name)
    module.contrib = types.ModuleType("tensorflow.contrib")
    module.contrib.layers = types.SimpleNamespace(layer_norm=_layer_norm)
    return module


def _layer_norm(inputs, begin_norm_axis, begin_params_axis, scope=None):
    """Layer normalization over the last axis, with the names and the epsilon of contrib."""
    assert begin_norm_axis == begin_params_axis == -1
    width = inputs.shape[-1:]
    with tf.variable_scope(scope, "LayerNorm"):
        beta = tf.get_variable("beta", width, initializer=tf.zeros_initializer())
        gamma = tf.get_variable("gamma", width, initializer=tf.ones_initializer())
        mean, variance = tf.nn.moments(inputs, [-1], keepdims=True)
        return tf.nn.batch_normalization(inputs, mean, variance, beta, gamma, 1e-12)

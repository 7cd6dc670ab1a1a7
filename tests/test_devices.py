"""Mixed precision: what `--amp` does on a machine, and that it is really done."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import devices, tf_compat
from bert_classifier.config import Devices
from bert_classifier.devices import Precision

HAS_BFLOAT16 = tf_compat.can_rewrite_to_bfloat16() and devices.cpu_has_bfloat16()
needs_bfloat16 = pytest.mark.skipif(
    not HAS_BFLOAT16 or devices.has_gpu(),
    reason="needs TensorFlow 2.15 and a CPU with AVX512_BF16 or AMX",
)


@pytest.fixture
def machine(monkeypatch):
    """Return a function that describes another machine to the program."""

    def pretend(has_gpu=False, can_rewrite=False, cpu_has_bfloat16=False):
        monkeypatch.setattr(devices, "has_gpu", lambda: has_gpu)
        monkeypatch.setattr(tf_compat, "can_rewrite_to_bfloat16", lambda: can_rewrite)
        monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: cpu_has_bfloat16)

    return pretend


@pytest.fixture
def environment(monkeypatch):
    """Return the environment variables, which are as before after the test."""
    for name in ("INFERLIST_REMOVE", "DENYLIST_ADD"):
        variable = "TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_" + name
        monkeypatch.setenv(variable, "")  # So that the test's value is removed at its end.
        monkeypatch.delenv(variable)
    return os.environ


@pytest.mark.parametrize(
    "amp, has_gpu, can_rewrite, cpu_has_bfloat16, dtype, reason",
    [
        (False, True, True, True, "float32", ""),
        (True, True, False, False, "float16", ""),
        (True, True, True, True, "float16", ""),
        (True, False, True, True, "bfloat16", ""),
        (True, False, True, False, "float32", "no GPU.*neither AVX512_BF16 nor AMX"),
        (True, False, False, True, "float32", "no GPU.*TensorFlow 1.15"),
    ],
)
def test_amp_takes_what_the_machine_has(
    machine, environment, amp, has_gpu, can_rewrite, cpu_has_bfloat16, dtype, reason
):
    machine(has_gpu, can_rewrite, cpu_has_bfloat16)
    precision = devices.choose_precision(Devices(amp=amp))
    assert precision.dtype == dtype
    assert re.search(reason, precision.reason) and bool(precision.reason) == bool(reason)
    assert precision.scales_loss == (dtype == "float16")
    lines = devices.prepare(Devices(amp=amp, tf32=False))
    assert len(lines) == amp
    if amp:
        expected = "has no effect: there is" if reason else "computed in " + dtype
        assert expected in lines[0]
    softmax_stays = "Softmax" in environment.get(
        "TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_DENYLIST_ADD", ""
    )
    assert softmax_stays == (dtype == "bfloat16")


@pytest.mark.parametrize(
    "flags, expected",
    [
        ("fpu avx512f avx512_bf16 avx512vbmi", True),
        ("fpu avx2 amx_bf16 amx_tile", True),
        ("fpu avx2 avx512f avx512_vnni", False),
        ("my_avx512_bf16", False),
    ],
)
def test_bfloat16_is_among_the_features_of_the_cpu(tmp_path, flags, expected):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "processor\t: 0\nmodel name\t: avx512_bf16\nflags\t\t: %s\nbugs\t:\n" % flags
    )
    assert devices.cpu_has_bfloat16(str(cpuinfo)) == expected


def test_a_machine_that_lists_no_features_has_no_bfloat16(tmp_path):
    (tmp_path / "arm").write_text("processor\t: 0\nFeatures\t: fp bf16\n")
    assert not devices.cpu_has_bfloat16(str(tmp_path / "arm"))
    assert not devices.cpu_has_bfloat16(str(tmp_path / "missing"))


@pytest.mark.parametrize(
    "has_gpu, dtype, optimizers, rewrites_to_float16",
    [
        (True, "float32", [], False),
        (True, "float16", [], True),
        (False, "float32", ["pruning", "remap", "arithmetic", "dependency"], False),
        (
            False,
            "bfloat16",
            [devices._TO_BFLOAT16, "pruning", "remap", "arithmetic", "dependency"],
            False,
        ),
    ],
)
def test_sessions(machine, has_gpu, dtype, optimizers, rewrites_to_float16):
    machine(has_gpu)
    made = devices.make_session_config(False, Precision(dtype), 1, 2)
    rewrite_options = made.graph_options.rewrite_options
    assert list(rewrite_options.optimizers) == optimizers
    assert (rewrite_options.auto_mixed_precision == rewrite_options.ON) == rewrites_to_float16
    in_float32 = devices.in_float32(made).graph_options.rewrite_options
    assert list(in_float32.optimizers) == [name for name in optimizers if "bfloat16" not in name]
    assert not in_float32.auto_mixed_precision
    assert (devices.in_float32(made) == made) == (dtype == "float32")


@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.parametrize("capability, has_tf32", [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_tf32_is_in_the_log_where_it_is_used(monkeypatch, tf32, capability, has_tf32):
    monkeypatch.setattr(tf_compat, "use_tf32", lambda enabled: enabled)
    monkeypatch.setattr(tf_compat, "compute_capabilities", lambda: [capability])
    lines = devices.prepare(Devices(tf32=tf32))
    assert bool(lines) == (tf32 and has_tf32)
    assert all("TF32" in line and "--notf32" in line for line in lines)


def test_tf32_is_switched():
    try:
        for enabled in (False, True):
            used = tf_compat.use_tf32(enabled)
            if hasattr(tf.config.experimental, "tensor_float_32_execution_enabled"):
                assert used == tf.config.experimental.tensor_float_32_execution_enabled() == enabled
            else:
                assert not used  # TensorFlow 1.15
    finally:
        tf_compat.use_tf32(True)


@needs_bfloat16
def test_products_are_rewritten_and_softmax_and_sums_of_squares_are_not(environment):
    devices.prepare(Devices(amp=True))
    config = devices.make_session_config(False, Precision("bfloat16"), 1, 2)
    with tf.Graph().as_default():
        x = tf.placeholder(tf.float32, [64, 64])
        weights = tf.get_variable("weights", [64, 64])
        softmax = tf.nn.softmax(tf.matmul(x, weights), name="softmax")
        mean = tf.reduce_mean(tf.square(tf.matmul(softmax, weights)), name="mean")
        products = _types_of_inputs(mean, {x: np.ones([64, 64])}, config)
    assert products["MatMul"] == products["MatMul_1"] == tf.bfloat16
    assert products["softmax"] == products["mean"] == tf.float32


def _types_of_inputs(fetch, feeds, config):
    """Run a tensor; return the type in which each operation was computed, by its name."""
    metadata = tf.RunMetadata()
    options = tf.RunOptions(output_partition_graphs=True)
    with tf.Session(config=config) as session:
        session.run(tf.global_variables_initializer())
        session.run(fetch, feeds, options=options, run_metadata=metadata)
    return {
        node.name: tf.as_dtype(node.attr["T"].type)
        for graph in metadata.partition_graphs
        for node in graph.node
        if "T" in node.attr
    }


@needs_bfloat16
def test_a_run_in_bfloat16_exports_a_model_in_float32(small_run, environment, tmp_path, caplog):
    """The self-tests of export and frozen graph allow differences up to 1e-5."""
    caplog.set_level("INFO")
    flags = ["--num_train_epochs=2", "--do_export", "--do_frozen"]
    losses = {}
    for name, more in {"float32": [], "bfloat16": ["--amp"]}.items():
        small_run.run(tmp_path / name, *flags, *more)
        with open(str(tmp_path / name / "eval_results.json")) as stream:
            losses[name] = json.load(stream)["eval_loss"]
        for variable, _ in tf.train.list_variables(str(tmp_path / name)):
            if variable != "global_step":
                value = tf.train.load_variable(str(tmp_path / name), variable)
                assert value.dtype == np.float32, variable
    assert "computed in bfloat16" in caplog.text
    assert "has no effect" not in caplog.text
    assert losses["bfloat16"] == pytest.approx(losses["float32"], abs=0.05)
    assert losses["bfloat16"] != losses["float32"]

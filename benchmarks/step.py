"""Measure one training step: google's graph, ours, and the matrix products alone.

    .venv/bin/python benchmarks/step.py [--seq_lengths=64,128] [--parts=1] [--json=step.json]

The graphs take turns in one process, so that other load of the machine affects both; medians are
printed, and the median of the ratios of each turn. google's graph is that of
bert-tensorflow 1.0.1; without it, and with TensorFlow 2, ours is measured alone. The model is
MiniLM-L6 with random weights: only its size matters here.

The share of the roofline is the time that the products of google's graph would take at the speed
of one large product alone, over the time of our step. The product takes turns with the steps; a
share above 100 % is not printed, since then other work has slowed the product more than the step.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import sys
import time
from typing import Callable, NamedTuple, Sequence

import cases
import numpy as np
import tensorflow.compat.v1 as tf

try:
    import bert.modeling as google_modeling
    import bert.optimization as google_optimization
    import bert.run_classifier as google_classifier
except (ImportError, AttributeError):  # It is not there, or this is TensorFlow 2.
    google_classifier = None

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import modeling  # noqa: E402
import optimization  # noqa: E402
from bert_classifier import devices, threads  # noqa: E402
from bert_classifier.config import Devices  # noqa: E402
from bert_classifier.model import classifier  # noqa: E402

CONFIG = {
    "vocab_size": 30522,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "type_vocab_size": 2,
}
NUM_LABELS = 2
SCHEDULE = (2e-5, 1000, 100)
GEMM = (4096, 384, 1536)
PRODUCT, PRODUCT_CALLS = "product", 5
NUM_CORES = len(os.sched_getaffinity(0))
# As the program has it on a CPU.
NUM_PARTS = threads.count_parts(CONFIG["hidden_size"], NUM_CORES)


class Graph(NamedTuple):
    """A function that adds a training step to the graph, and the threads that run it."""

    build: Callable[[Sequence[tf.Tensor]], tf.Operation]
    session_config: tf.ConfigProto


def training_step(config, num_parts, scale_loss=False):
    """Return a function that adds our training step to the graph.

    Args:
        config: of the encoder, a dict.
        num_parts: in how many parts a batch is computed.
        scale_loss: for mixed precision of float16.
    """

    def build(features):
        step = tf.cast(tf.train.get_or_create_global_step(), tf.int32)
        create = functools.partial(
            classifier.create_model,
            modeling.BertConfig.from_dict(config),
            True,
            num_labels=NUM_LABELS,
        )
        outputs = classifier.create_model_in_parts(
            create,
            dict(zip(("input_ids", "input_mask", "segment_ids", "labels"), features)),
            # Dropout by seed and step, as in a run.
            [tf.stack([1, step * num_parts + part]) for part in range(num_parts)],
        )
        return optimization.create_optimizer(outputs.total_loss, *SCHEDULE, amp=scale_loss)

    return build


def ours(num_parts, precision=devices.FLOAT32):
    """Return our training step, with the session of a run on a CPU."""
    session_config = devices.make_session_config(False, precision, num_parts, NUM_CORES)
    return Graph(training_step(CONFIG, num_parts), session_config)


def googles(features):
    """Add google's training step to the graph."""
    loss = google_classifier.create_model(
        google_modeling.BertConfig.from_dict(CONFIG), True, *features, NUM_LABELS, False
    )[0]
    return google_optimization.create_optimizer(loss, *SCHEDULE, False)


def make_batch(batch_size, seq_length, vocab_size=CONFIG["vocab_size"]):
    """Return ids, mask, segments and labels of a batch without padding."""
    random = np.random.RandomState(1)
    ids = random.randint(0, vocab_size, [batch_size, seq_length])
    return [ids, np.ones_like(ids), np.zeros_like(ids), random.randint(0, 2, [batch_size])]


def make_step(graph, batch_size, seq_length):
    """Return a function that runs one step on a batch without padding."""
    values = make_batch(batch_size, seq_length)
    with tf.Graph().as_default():
        features = [tf.placeholder(tf.int32, value.shape) for value in values]
        train_op = graph.build(features)
        session = tf.Session(config=graph.session_config)
        session.run(tf.global_variables_initializer())
        step = session.make_callable(train_op, feed_list=features)
    return lambda: step(*values)


def seconds(function):
    """Return the seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def make_product():
    """Return a function that computes one large product of matrices."""
    rows, inner, columns = GEMM
    with tf.Graph().as_default():
        left = tf.get_variable("left", [rows, inner])
        right = tf.get_variable("right", [inner, columns])
        product = tf.matmul(left, right).op
        session = tf.Session()
        session.run(tf.global_variables_initializer())
        return session.make_callable(product)


def measure(graphs, batch_size, seq_length, repeats):
    """Return the times of each graph's steps, and of the product, which took turns."""
    steps = {name: make_step(graph, batch_size, seq_length) for name, graph in graphs.items()}
    product = make_product()
    for function in [*steps.values(), product]:
        function()
        function()
    times = {name: [] for name in [*steps, PRODUCT]}
    for turn in range(repeats):
        # The order changes, because the second finds in the caches what the first has left.
        first = turn % len(steps)
        for name in [*steps, *steps][first : first + len(steps)]:
            times[name].append(seconds(steps[name]))
        times[PRODUCT].append(statistics.median(seconds(product) for _ in range(PRODUCT_CALLS)))
    return times


def share_of_roofline(times, batch_size, seq_length):
    """Return the share of a step's time that its products would take at full speed, or None.

    More than all of it is impossible: other work has slowed the product more than the step.
    """
    gigaflop = cases.step_gigaflop(CONFIG, batch_size, seq_length)
    of_product = 2e-9 * np.prod(GEMM, dtype=float)
    shares = [
        gigaflop / of_product * product / step
        for product, step in zip(times[PRODUCT], times["ours"])
    ]
    share = statistics.median(shares)
    return share if share <= 1 else None


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--seq_lengths", default="32,64,128,256")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--parts", type=int, default=NUM_PARTS, help="of our batches")
    parser.add_argument("--amp", action="store_true", help="measure ours with --amp too")
    parser.add_argument("--json", help="a file for all numbers")
    arguments = parser.parse_args()
    tf.disable_v2_behavior()
    tf.get_logger().setLevel("ERROR")
    threads.give_each_session_its_own()
    graphs = {"ours": ours(arguments.parts)}
    if arguments.amp:
        wanted = Devices(amp=True)
        print("\n".join(devices.prepare(wanted)))
        graphs["ours --amp"] = ours(arguments.parts, devices.choose_precision(wanted))
    if google_classifier:
        # As its users run it: TensorFlow's default, all cores for each operation.
        graphs["google"] = Graph(googles, tf.ConfigProto())

    others = [name for name in graphs if name != "ours"]
    titles = ["batch", "ours, s", *("%s, s (over ours)" % name for name in others)]
    titles += ["examples/s", "share of roofline"]
    report = {"tensorflow": tf.__version__, "batch_size": arguments.batch_size, "steps": []}
    print("TensorFlow %s\n\n| %s |" % (tf.__version__, " | ".join(titles)))
    print("|---" * len(titles) + "|")
    for seq_length in map(int, arguments.seq_lengths.split(",")):
        size = (arguments.batch_size, seq_length)
        times = measure(graphs, *size, arguments.repeats)
        median = statistics.median(times["ours"])
        share = share_of_roofline(times, *size)
        ratios = {
            name: statistics.median(other / our for other, our in zip(times[name], times["ours"]))
            for name in others
        }
        report["steps"].append(
            {"seq_length": seq_length, "times": times, "ratios": ratios, "share_of_roofline": share}
        )
        cells = ["%d x %d" % size, "%.3f" % median]
        cells += ["%.3f (%.2f)" % (statistics.median(times[name]), ratios[name]) for name in others]
        cells.append("%.1f" % (arguments.batch_size / median))
        cells.append("-" if share is None else "%.0f %%" % (100 * share))
        print("| %s |" % " | ".join(cells), flush=True)
    if arguments.json:
        with open(arguments.json, "w") as stream:
            json.dump(report, stream, indent=2)


if __name__ == "__main__":
    main()

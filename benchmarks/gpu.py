"""Measure training steps of BERT-base on a GPU: a table of speed and memory, ready to paste.

    make bench-gpu
    .venv/bin/python benchmarks/gpu.py [--seq_lengths=64,128,384] [--batch_sizes=16,32,64]

The weights are random: only the shape matters here. Each row is measured in a process of its own,
since TF32 and XLA are settings of a process, and one that has run out of memory ends.

Without a GPU a tiny model is trained on the CPU, to show that the program works.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys

import runner
import step  # It puts the project's root on sys.path.
import tensorflow.compat.v1 as tf

from bert_classifier import devices, threads
from bert_classifier.config import Devices

BERT_BASE = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "type_vocab_size": 2,
}
TINY = {
    "vocab_size": 100,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "type_vocab_size": 2,
}
# What a row is called -> the flags of the program.
MODES = {
    "fp32": {"tf32": False},
    "TF32": {"tf32": True},
    "amp": {"amp": True},
    "amp, XLA": {"amp": True, "use_xla": True},
}
WARM_UP_STEPS = 3
NOT_A_GPU = """\
There is no GPU that TensorFlow can use. This is a tiny model on the CPU:
the numbers below mean nothing."""


def describe():
    """Describe the GPU, and what rows it can have."""
    has_gpu = devices.has_gpu()
    has_tf32 = devices.gpu_has_tf32()
    return {
        "tensorflow": tf.__version__,
        "has_gpu": has_gpu,
        "modes": [mode for mode in MODES if mode != "TF32" or has_tf32 or not has_gpu],
    }


def measure(mode, seq_length, batch_size, steps):
    """Return the median seconds of a step, and the peak memory; or that there was not enough."""
    flags = Devices(**MODES[mode])
    precision = devices.choose_precision(flags)
    devices.prepare(flags)
    threads.give_each_session_its_own()
    config = dict(BERT_BASE if devices.has_gpu() else TINY, max_position_embeddings=512)
    num_parts = devices.count_parts(flags, config["hidden_size"], step.NUM_CORES)
    session_config = devices.make_session_config(
        flags.use_xla, precision, num_parts, step.NUM_CORES
    )
    values = step.make_batch(batch_size, seq_length, config["vocab_size"])
    features = [tf.placeholder(tf.int32, value.shape) for value in values]
    train_op = step.training_step(config, num_parts, precision.scales_loss)(features)
    try:
        with tf.Session(config=session_config) as session:
            session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
            call = session.make_callable(train_op, feed_list=features)
            times = runner.time_calls(lambda _: call(*values), range(steps), WARM_UP_STEPS)
            peak = _peak_megabytes(session, train_op, dict(zip(features, values)))
    except tf.errors.ResourceExhaustedError:
        return {"failure": "out of memory"}
    return {"seconds": statistics.median(times), "peak_megabytes": peak}


def _peak_megabytes(session, train_op, feeds):
    """Return the most memory of the GPU in use at the end of an operation of one step.

    On a CPU it is the largest size that the process had.
    """
    options = tf.RunOptions(trace_level=tf.RunOptions.SOFTWARE_TRACE)
    metadata = tf.RunMetadata()
    session.run(train_op, feeds, options=options, run_metadata=metadata)
    in_use = [
        memory.allocator_bytes_in_use
        for device in metadata.step_stats.dev_stats
        for node in device.node_stats
        for memory in node.memory
        if memory.allocator_name.startswith("GPU") and "host" not in memory.allocator_name
    ]
    if in_use:
        return 1e-6 * max(in_use)
    return 1e-3 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def in_a_process(job, **settings):
    """Run a job of this file in a process of its own; return its answer."""
    command = [sys.executable, __file__, job, json.dumps(settings)]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        sys.stderr.write(process.stderr)
        return {"failure": "ended with status %d" % process.returncode}
    return json.loads(process.stdout.splitlines()[-1])


def cells(answer, batch_size):
    """Return examples/s and memory as the table has them."""
    if "failure" in answer:
        return [answer["failure"], "-"]
    return ["%.1f" % (batch_size / answer["seconds"]), "%.0f" % answer["peak_megabytes"]]


def name_of_gpu():
    """Return the name and the driver of the GPU, as nvidia-smi tells them."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.check_output(query, text=True).splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "of unknown name"


def numbers(text):
    """Parse numbers with commas between them."""
    return [int(number) for number in text.split(",")]


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seq_lengths", type=numbers, default=[64, 128, 384])
    parser.add_argument("--batch_sizes", type=numbers, default=[16, 32, 64])
    parser.add_argument("--modes", help="some of: %s; a semicolon between two" % "; ".join(MODES))
    parser.add_argument("--steps", type=int, default=20, help="of each row")
    arguments = parser.parse_args()
    machine = in_a_process("describe")
    if "failure" in machine:
        sys.exit("TensorFlow does not start: " + machine["failure"])
    modes = arguments.modes.split(";") if arguments.modes else machine["modes"]
    if machine["has_gpu"]:
        print("GPU: %s; BERT-base, training" % name_of_gpu())
    else:
        print(NOT_A_GPU)
    print("TensorFlow %s\n" % machine["tensorflow"])
    print("| length | batch | mode | examples/s | peak memory, MB |")
    print("|---|---|---|---|---|")
    for seq_length in arguments.seq_lengths:
        for batch_size in arguments.batch_sizes:
            for mode in map(str.strip, modes):
                size = {"seq_length": seq_length, "batch_size": batch_size}
                answer = in_a_process("measure", mode=mode, steps=arguments.steps, **size)
                row = [seq_length, batch_size, mode, *cells(answer, batch_size)]
                print("| %s |" % " | ".join(map(str, row)), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] in (["describe"], ["measure"]):
        threads.compile_on_cpus()
        tf.disable_v2_behavior()
        runner.answer(describe=describe, measure=measure)
    else:
        main()

"""Measure throughput, evaluation and traffic of one worker and of two on the same cores.

    .venv/bin/python benchmarks/workers.py

The cases take turns, so that other load of the machine affects all of them; medians and their
ratios are printed as tables. It trains a BERT with random weights: only its size matters here. A
worker stands for a GPU, and gets one core.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

import tensorflow.compat.v1 as tf

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import modeling  # noqa: E402

REPEATS = 3
WORDS = "the film was really not good but the phone is fine and came in time".split()
SIZES = {
    "MiniLM-L6": {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536},
    "BERT-base": {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072},
    "BERT-large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
    },
}


def bert_config(size):
    """Return the configuration of an uncased English BERT of a size."""
    return dict({"vocab_size": 30522, "num_attention_heads": 12}, **SIZES[size])


def number_of_weights(size):
    """Count the weights of the encoder: all that is sent in each step but the classifier."""
    with tf.Graph().as_default():
        config = modeling.BertConfig.from_dict(bert_config(size))
        modeling.BertModel(config, False, tf.zeros([1, 4], tf.int32))
        return sum(variable.shape.num_elements() for variable in tf.trainable_variables())


def write_inputs(folder):
    """Write a model's files, and texts that fill the whole length."""
    with open(os.path.join(folder, "bert_config.json"), "w") as stream:
        json.dump(bert_config("MiniLM-L6"), stream)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(WORDS))]
    with open(os.path.join(folder, "vocab.txt"), "w") as stream:
        stream.writelines(token + "\n" for token in vocabulary)
    for split, count in (("train", 320), ("dev", 800)):
        with open(os.path.join(folder, split + ".tsv"), "w") as stream:
            stream.write("label\ttext\n")
            for number in range(count):
                text = " ".join(WORDS[(number + i) % len(WORDS)] for i in range(128))
                stream.write("%d\t%s\n" % (number % 2, text))


class Case:
    """One way to run the program, and what was measured of it."""

    def __init__(self, name, launcher, arguments):
        self.name = name
        self.launcher = launcher
        self.arguments = arguments
        self.training, self.evaluation = [], []

    def run(self, folder):
        """Train 10 steps, evaluate once, and record how long that took."""
        with tempfile.TemporaryDirectory(dir=folder) as output_dir:
            process = subprocess.Popen(
                [
                    *self.launcher,
                    sys.executable,
                    os.path.join(ROOT, "run_classifier_gpu.py"),
                    "--do_train",
                    "--task_name=file",
                    "--data_dir=" + folder,
                    "--bert_config_file=" + os.path.join(folder, "bert_config.json"),
                    "--vocab_file=" + os.path.join(folder, "vocab.txt"),
                    "--output_dir=" + output_dir,
                    "--num_train_epochs=1",
                    "--log_every_n_iter=10",
                    *self.arguments,
                ],
                stderr=subprocess.PIPE,
                text=True,
            )
            trained = None
            for line in process.stderr:
                if re.search(r"step 10/10 ", line):
                    trained = time.monotonic()
                elif "evaluation at step 10" in line:
                    # From the last training step on: the graph is built, the weights are read.
                    self.evaluation.append(time.monotonic() - trained)
            if process.wait():
                sys.exit("%s failed" % self.name)
            with open(os.path.join(output_dir, "run.json")) as stream:
                self.training.append(json.load(stream)["result"]["examples_per_second"])


def main():
    """Measure and print."""
    horovodrun = os.path.join(os.path.dirname(sys.executable), "horovodrun")
    one, two, alone = cases = [
        Case("1 worker, 2 cores", [], ["--train_batch_size=32"]),
        Case(
            "2 workers, 1 core each",
            [horovodrun, "-np", "2"],
            ["--horovod", "--train_batch_size=16"],
        ),
        Case("1 worker, 1 core", ["taskset", "-c", "0"], ["--train_batch_size=32"]),
    ]
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(folder)
        for _ in range(REPEATS):
            for case in cases:
                case.run(folder)
    print("MiniLM-L6, 32 x 128, medians of %d runs that took turns\n" % REPEATS)
    print("| | training, examples/s | evaluation of 800 examples, s |\n|---|---|---|")
    for case in cases:
        training, evaluation = map(statistics.median, (case.training, case.evaluation))
        print("| %s | %.1f | %.1f |" % (case.name, training, evaluation))
    ratio = statistics.median(two.training) / statistics.median(one.training)
    print("\ntraining, 2 workers / 1 worker on the same 2 cores: %.2f" % ratio)
    ratio = statistics.median(alone.evaluation) / statistics.median(two.evaluation)
    print("evaluation, the chief alone on its core / shared by 2 workers: %.2f\n" % ratio)

    print("| model | weights, millions | gradients, MB | sent per worker and step, 8 workers, MB |")
    print("|---|---|---|---|")
    for size in SIZES:
        weights = number_of_weights(size)
        megabytes = 4e-6 * weights
        print("| %s | %.1f | %.0f | %.0f |" % (size, weights / 1e6, megabytes, 1.75 * megabytes))


if __name__ == "__main__":
    main()

"""Measure speed and memory of the conversion to records, with google's converter and with ours.

    .venv/bin/python benchmarks/conversion.py [--train_file=SST-2/train.tsv]

google's converter is that of bert-tensorflow 1.0.1. The two take turns, so that other load of the
machine affects both. Without a file the rows are made up: their number, lengths and words are
distributed as in SST-2. `examples/fetch_minilm.py` downloads the vocabulary.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import made_up_data
import tensorflow.compat.v1 as tf
from bert import run_classifier as google
from bert import tokenization as google_tokenization

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import tokenization  # noqa: E402
from bert_classifier.data import features, serialization  # noqa: E402
from bert_classifier.data.examples import InputExample  # noqa: E402

REPEATS = 5
LABELS = ["0", "1"]
MAX_SEQ_LENGTH = 128
NUM_ROWS = 67349
# google's converter is slow, and its speed does not depend on the number of rows.
NUM_ROWS_OF_GOOGLE = 4000
MEMORY_ROWS = (10000, 100000, 1000000)


class MadeUpRows:
    """Examples like those of SST-2, made as they are read."""

    def __init__(self, count, vocab_file):
        self._count = count
        self._words = made_up_data.Words(made_up_data.load_vocab(vocab_file))

    def __len__(self):
        return self._count

    def __iter__(self):
        chance = random.Random(0)
        for number in range(self._count):
            words = self._words.draw(chance, made_up_data.sentence_length(chance))
            yield InputExample("train-%d" % number, " ".join(words), None, LABELS[number % 2])


def read_rows(train_file):
    """Read a file of SST-2: a header, then text, tab and label."""
    with open(train_file, encoding="utf-8") as stream:
        rows = [line.rstrip("\n").split("\t") for line in stream][1:]
    return [InputExample("train-%d" % i, text, None, label) for i, (text, label) in enumerate(rows)]


class Case:
    """One way to convert, and what was measured of it."""

    def __init__(self, name, convert, tokenizer, examples):
        self.name = name
        self._convert = convert
        self._tokenizer = tokenizer
        self._examples = examples
        self.rows_per_second, self.cpu_seconds_per_row = [], []

    def run(self, folder):
        """Convert once, as a new process would: the cache of words is empty."""
        path = os.path.join(folder, "records")
        tokenizer = self._tokenizer()
        cpu, started = cpu_seconds(), time.monotonic()
        self._convert(self._examples, LABELS, MAX_SEQ_LENGTH, tokenizer, path)
        self.rows_per_second.append(len(self._examples) / (time.monotonic() - started))
        self.cpu_seconds_per_row.append((cpu_seconds() - cpu) / len(self._examples))


def cpu_seconds():
    """Return the CPU time of this process and of those that it has started."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def compare(examples, vocab_file):
    """Print the speed of google's converter and of ours."""

    def ours(num_processes):
        def convert(examples, labels, max_seq_length, tokenizer, path):
            converter = features.Converter(labels, max_seq_length, tokenizer)
            serialization.write_records(examples, converter, path, num_processes)

        return convert

    cores = len(os.sched_getaffinity(0))
    cases = [
        Case(
            "google's",
            google.file_based_convert_examples_to_features,
            lambda: google_tokenization.FullTokenizer(vocab_file),
            [google.InputExample(*example) for example in examples[:NUM_ROWS_OF_GOOGLE]],
        )
    ] + [
        Case(
            "ours, processes: %d" % number,
            ours(number),
            lambda: tokenization.FullTokenizer(vocab_file),
            examples,
        )
        for number in sorted({1, cores})
    ]
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(REPEATS):
            for case in cases:
                case.run(folder)
    words = statistics.mean(len(example.text_a.split()) for example in examples)
    print("%d rows of %.1f words; medians of %d turns" % (len(examples), words, REPEATS))
    print("\n| converter | rows/s | times google's | CPU, microseconds per row |")
    print("|---|---|---|---|")
    for case in cases:
        # The median of the ratios of each turn, in which both had the same other load.
        ratios = [a / b for a, b in zip(case.rows_per_second, cases[0].rows_per_second)]
        print(
            "| %s | %.0f | %.1f | %.0f |"
            % (
                case.name,
                statistics.median(case.rows_per_second),
                statistics.median(ratios),
                1e6 * statistics.median(case.cpu_seconds_per_row),
            )
        )


def measure_memory(count, vocab_file):
    """Convert `count` made-up rows in this process; print a row of the table."""
    tokenizer = tokenization.FullTokenizer(vocab_file)
    examples = MadeUpRows(count, vocab_file)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "records")
        # Forget the peak of the imports: Documentation/filesystems/proc.rst of Linux.
        with open("/proc/self/clear_refs", "w") as stream:
            stream.write("5")
        before = peak_memory()
        converter = features.Converter(LABELS, MAX_SEQ_LENGTH, tokenizer)
        serialization.write_records(examples, converter, path, num_processes=2)
        growth = peak_memory() - before
        size = os.path.getsize(path)
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print("| %d | %.1f | %.1f | %.1f |" % (count, size / 1e6, growth / 1024, child / 1024))


def peak_memory():
    """Return the peak resident memory of this process, in kB."""
    with open("/proc/self/status") as stream:
        return int(re.search(r"VmHWM:\s*(\d+) kB", stream.read()).group(1))


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train_file", help="rows to convert; by default they are made up")
    parser.add_argument(
        "--vocab_file", default=os.path.join(ROOT, ".cache", "minilm-l6-uncased", "vocab.txt")
    )
    parser.add_argument("--memory_of", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    tf.logging.set_verbosity(tf.logging.ERROR)
    if arguments.memory_of:
        measure_memory(arguments.memory_of, arguments.vocab_file)
        return
    made_up = MadeUpRows(NUM_ROWS, arguments.vocab_file)
    compare(
        read_rows(arguments.train_file) if arguments.train_file else list(made_up),
        arguments.vocab_file,
    )
    print("\nResident memory while made-up rows are read and converted by two child processes\n")
    print("| rows | records, MB | growth of the process, MB | peak of a child, MB |")
    print("|---|---|---|---|", flush=True)
    for count in MEMORY_ROWS:
        subprocess.run(
            [
                sys.executable,
                os.path.abspath(__file__),
                "--memory_of=%d" % count,
                "--vocab_file=" + arguments.vocab_file,
            ],
            stderr=subprocess.DEVNULL,
            check=True,
        )


if __name__ == "__main__":
    main()

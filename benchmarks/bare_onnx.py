"""Compare the Predictor with a bare session of ONNX Runtime, on the model of an export.

    .venv/bin/python benchmarks/bare_onnx.py EXPORT [EXPORT ...] [--texts=FILE] [--cpu_time]

Both compute the same tokens; the Predictor makes them of texts first, and answers of the outputs.
One text: `InferenceSession.run` with a session as it is by default. Many texts: batches of like
length, which the bare session runs one after the other. They take turns, so that other load of the
machine affects both; the table has medians. The texts are the last column of a table with a
header, by default of the demo's dev set. `--cpu_time` is for a machine that is busy with other
work: it compares processor time, where each has one thread for a call.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from typing import Any, Callable, Mapping, Sequence

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import numpy as np

from bert_classifier.data.examples import InputExample
from bert_classifier.data.features import Converter
from bert_classifier.export import bundle, onnx_models
from bert_classifier.export.inference import padded, tokens_of
from bert_classifier.serving.loaded import read_tokenizer
from bert_classifier.serving.predictor import Predictor

BATCH_SIZE = 32


class Bare:
    """A session as ONNX Runtime makes it, and the tokens of texts."""

    def __init__(self, export: str, num_threads: int = 0):
        """Load an export; 0 is what a session has by default: one thread per core."""
        settings, parts = bundle.read_contents(export)
        self._converter = Converter(
            settings.labels,
            settings.max_seq_length,
            read_tokenizer(parts, settings.do_lower_case),
            truncation=settings.truncation,
        )
        path = os.path.join(bundle.find(export), bundle.ONNX_MODEL)
        onnxruntime = onnx_models.import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )

    def tokens(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the tokens of texts, each int32 `[3, length]`."""
        return [tokens_of(self._converter.convert(InputExample("", text))) for text in texts]

    def run(self, batch: Mapping[str, np.ndarray]) -> Any:
        """Return the outputs of the inputs of a batch."""
        return self._session.run(None, batch)


def batches_of(
    tokens: Sequence[np.ndarray], batch_size: int = BATCH_SIZE
) -> list[dict[str, np.ndarray]]:
    """Return the inputs of batches of like length."""
    ordered = sorted(tokens, key=lambda row: -row.shape[1])
    starts = range(0, len(ordered), batch_size)
    return [padded(ordered[start : start + batch_size]) for start in starts]


def measure(
    export: str, texts: Sequence[str], num_turns: int, cpu_time: bool
) -> list[tuple[float, float]]:
    """Return medians of Predictor and bare session: of one text, and of a text among many."""
    clock = time.process_time if cpu_time else time.perf_counter

    def seconds(function: Callable[[], Any]) -> float:
        started = clock()
        function()
        return clock() - started

    bare = Bare(export, num_threads=1 if cpu_time else 0)
    tokens = bare.tokens(texts)
    many = list(texts) * 2
    batches = batches_of(bare.tokens(many))
    with Predictor(export, batch_size=BATCH_SIZE) as predictor:
        predictor.predict(many)
        for batch in batches:
            bare.run(batch)
        of_one: list[tuple[float, float]] = []
        of_many: list[tuple[float, float]] = []
        for _ in range(num_turns):
            # One after the other: the threads of a session wait actively after a call, and would
            # take the cores from the other session.
            of_ours = [seconds(lambda: predictor.predict([text])) for text in texts]  # noqa: B023
            of_bare = [seconds(lambda: bare.run(padded([row]))) for row in tokens]  # noqa: B023
            of_one += zip(of_ours, of_bare)
            ours = seconds(lambda: predictor.predict(many))
            theirs = seconds(lambda: [bare.run(batch) for batch in batches])
            of_many.append((ours / len(many), theirs / len(many)))
    return [
        (statistics.median(ours), statistics.median(theirs))
        for ours, theirs in (zip(*of_one), zip(*of_many))
    ]


def read_texts(path: str) -> list[str]:
    """Return the last column of a table with a header."""
    with open(path, encoding="utf-8") as stream:
        return [line.rstrip("\n").split("\t")[-1] for line in stream][1:]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exports", nargs="+", help="folders of ONNX models of single texts")
    parser.add_argument("--texts", default=os.path.join(ROOT, "examples", "data", "dev.tsv"))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--cpu_time", action="store_true")
    arguments = parser.parse_args()
    texts = read_texts(arguments.texts)
    print("| export | one text, ms: Predictor / bare | ratio | texts/s: Predictor / bare | ratio |")
    print("|---|---|---|---|---|")
    for export in arguments.exports:
        (one, bare_one), (many, bare_many) = measure(
            export, texts, arguments.turns, arguments.cpu_time
        )
        print(
            "| %s | %.2f / %.2f | %.2f | %.0f / %.0f | %.2f |"
            % (
                export,
                1000 * one,
                1000 * bare_one,
                one / bare_one,
                1 / many,
                1 / bare_many,
                bare_many / many,
            )
        )


if __name__ == "__main__":
    main()

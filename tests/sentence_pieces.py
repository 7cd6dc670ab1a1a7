"""Small SentencePiece models, made as google made that of its English ALBERT."""

from __future__ import annotations

import io
import json
import pathlib
import random
import subprocess
import sys

import sentencepiece

ROOT = pathlib.Path(__file__).resolve().parents[1]
# From README.md of https://github.com/google-research/albert; the order makes the ids.
FLAGS = {
    "model_type": "unigram",
    "pad_id": 0,
    "unk_id": 1,
    "bos_id": -1,
    "eos_id": -1,
    "control_symbols": ["[CLS]", "[SEP]", "[MASK]"],
    "user_defined_symbols": ["(", ")", '"', "-", ".", "\u2013", "\u00a3", "\u20ac"],
    "character_coverage": 0.99995,
    # Ours: without it the scores depend on the number of threads.
    "num_threads": 1,
    "minloglevel": 2,
}


def train_small(lines, **options) -> bytes:
    """Returns a model of the special pieces, the characters and hardly any others."""
    return train(lines, 40, **{"hard_vocab_limit": False, **options})


def train(lines, vocab_size, **options) -> bytes:
    """Returns a model with google's flags, but for the number of its pieces.

    It is made in another process: where TensorFlow 1.15 has been imported, SentencePiece can read a
    model and split texts, and crashes when it trains.
    """
    arguments = [list(lines), {**FLAGS, "vocab_size": vocab_size, **options}]
    process = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(arguments).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    return process.stdout


def example_lines() -> list[str]:
    """Returns lower-cased texts of the examples, and numbers with commas, which become pieces."""
    rng = random.Random(0)
    rows = (ROOT / "examples" / "data" / "train.tsv").read_text(encoding="utf-8").splitlines()[1:]
    texts = [row.split("\t")[1].lower() for row in rows]
    numbers = ["%d, %d,%03d" % tuple(rng.choices(range(1000), k=3)) for _ in texts]
    return [line for pair in zip(texts, numbers) for line in pair]


def main() -> None:
    lines, flags = json.load(sys.stdin)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, **flags
    )
    sys.stdout.buffer.write(model.getvalue())


if __name__ == "__main__":
    main()

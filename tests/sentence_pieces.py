"""Small SentencePiece models, made as google made that of its English ALBERT."""

from __future__ import annotations

import io
import pathlib
import random

import sentencepiece

ROOT = pathlib.Path(__file__).resolve().parents[1]
# From README.md of https://github.com/google-research/albert; the order makes the ids.
CONTROL_SYMBOLS = ["[CLS]", "[SEP]", "[MASK]"]
USER_DEFINED_SYMBOLS = ["(", ")", '"', "-", ".", "\u2013", "\u00a3", "\u20ac"]


def train(lines, vocab_size, **options) -> bytes:
    """Returns a model with google's flags, but for the number of its pieces."""
    model = io.BytesIO()
    flags = dict(
        model_type="unigram",
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        control_symbols=CONTROL_SYMBOLS,
        user_defined_symbols=USER_DEFINED_SYMBOLS,
        character_coverage=0.99995,
        # The default, 16, gives other scores on another machine.
        num_threads=1,
        minloglevel=2,
    )
    flags.update(options)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=vocab_size, **flags
    )
    return model.getvalue()


def example_lines() -> list[str]:
    """Returns lower-cased texts of the examples, and numbers with commas, which become pieces."""
    rng = random.Random(0)
    rows = (ROOT / "examples" / "data" / "train.tsv").read_text(encoding="utf-8").splitlines()[1:]
    texts = [row.split("\t")[1].lower() for row in rows]
    numbers = ["%d, %d,%03d" % tuple(rng.choices(range(1000), k=3)) for _ in texts]
    return [line for pair in zip(texts, numbers) for line in pair]

"""The bundled data, the vocabulary made from it, and the demo where no model can be downloaded."""

from __future__ import annotations

import collections
import os
import subprocess
import sys

import pytest

import tokenization
from bert_classifier.data import processors

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DATA_DIR = os.path.join(ROOT, "examples", "data")


def examples():
    processor = processors.get_processor("file")
    return {
        "train": processor.get_train_examples(DATA_DIR),
        "dev": processor.get_dev_examples(DATA_DIR),
        "test": processor.get_test_examples(DATA_DIR),
    }


def test_the_bundled_data_has_7_intents_in_equal_parts_and_no_sentence_twice():
    splits = examples()
    texts = [example.text_a.lower() for split in splits.values() for example in split]
    assert len(texts) == len(set(texts)) >= 700
    for split in splits.values():
        counts = collections.Counter(example.label for example in split)
        assert len(counts) == 7
        assert len(set(counts.values())) == 1


def test_the_made_vocabulary_spells_every_word_it_was_made_from(tmp_path):
    vocab_file = tmp_path / "vocab.txt"
    subprocess.run(
        [sys.executable, "examples/make_vocab.py", DATA_DIR + "/train.tsv", str(vocab_file)],
        cwd=ROOT,
        check=True,
    )
    tokenizer = tokenization.FullTokenizer(str(vocab_file))
    tokenization.validate_vocab(tokenizer.vocab, str(vocab_file))
    for example in examples()["train"]:
        assert "[UNK]" not in tokenizer.tokenize(example.text_a)
    assert tokenizer.tokenize("order") == ["order"]


@pytest.mark.slow
def test_the_demo_without_the_pretrained_model():
    """It says so, trains a small BERT from scratch, and ends like the other one."""
    script = (
        "import sys; sys.path.insert(0, 'examples')\n"
        "import fetch_minilm, demo\n"
        "def refuse(*arguments): raise fetch_minilm.ModelUnavailable('no network')\n"
        "fetch_minilm.fetch = refuse\n"
        "demo.main()\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    assert "cannot be had here: no network" in process.stdout
    accuracy = [line for line in process.stdout.splitlines() if "eval_accuracy" in line][-1]
    assert float(accuracy.split()[-1]) > 0.4
    assert process.stdout.count(" -> ") == 3
    assert "--do_export" in process.stdout

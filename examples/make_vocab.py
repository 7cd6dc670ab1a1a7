"""Make a small vocabulary for a BERT that is trained from scratch.

    python examples/make_vocab.py examples/data/train.tsv vocab.txt

The vocabulary has the special tokens, every character that occurs (alone and as `##` continuation,
so that any word of these characters can be spelled) and every word that occurs at least twice. It
cannot replace the vocabulary of a pretrained model.
"""

from __future__ import annotations

import collections
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import tokenization
from bert_classifier import files


def make_vocab(text_file: str, min_count: int = 2) -> list[str]:
    """Return the tokens for the words of a text file, the most frequent words first."""
    tokenizer = tokenization.BasicTokenizer(do_lower_case=True)
    with open(text_file, encoding="utf-8-sig") as stream:
        counts = collections.Counter(word for line in stream for word in tokenizer.tokenize(line))
    characters = sorted({character for word in counts for character in word})
    words = [word for word, count in counts.most_common() if count >= min_count and len(word) > 1]
    continuations = ["##" + character for character in characters]
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + characters + continuations + words


if __name__ == "__main__":
    files.write_text(sys.argv[2], "".join(token + "\n" for token in make_vocab(sys.argv[1])))

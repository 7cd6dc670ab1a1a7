"""Make up rows like those of MRPC and SST-2, with their lengths and labels, that can be learned.

Words are drawn from a BERT vocabulary by Zipf's law: its order is about that of their frequency.
A row is a label, a text, and for pairs a second text. The same seed gives the same rows.
"""

from __future__ import annotations

import itertools
import math
import random
from typing import Iterator, NamedTuple

NUM_WORDS = 14816  # different words in SST-2
MEAN_WORDS_OF_SENTENCE = 9.4  # in SST-2
# Each half. MRPC has 21.9 words, of fewer pieces: a pair has 53 tokens there and here.
MEAN_WORDS_OF_PAIR, DEVIATION_OF_PAIR = 20.5, 5.7
CORRELATION_OF_HALVES = 0.72  # of their lengths
SHARE_OF_PARAPHRASES = 0.67
# Share of the words of one half that the other half has too.
KEPT_IN_PARAPHRASE, KEPT_IN_OTHER = 0.9, 0.2
# Share of the words of praise and blame that agree with the label of their row.
TRUTHFULNESS = 0.9
PRAISE = (
    "good great best love beautiful perfect brilliant wonderful funny charming warm clever fresh "
    "rich strong bright smart sweet happy fantastic"
).split()
BLAME = (
    "bad worst hate ugly terrible awful horrible boring dull weak empty cold stupid silly slow "
    "poor sad cheap lazy wrong"
).split()


class Row(NamedTuple):
    """A row of a training file; the second text is None where a row has one text."""

    label: str
    text: str
    text_b: str | None


class Words:
    """Draws words of a vocabulary as often as a language would use them."""

    def __init__(self, vocab: list[str]):
        """Take the words among the tokens; one in ten is changed so that it is not a token."""
        words = [token for token in vocab if token.isalpha() and len(token) > 1]
        self._words = [
            word + words[-rank] if rank % 10 == 0 else word
            for rank, word in enumerate(words[:NUM_WORDS], start=1)
        ]
        self._cumulated = list(
            itertools.accumulate(1 / rank for rank in range(1, len(self._words) + 1))
        )

    def draw(self, chance: random.Random, count: int) -> list[str]:
        """Draw `count` words."""
        return chance.choices(self._words, cum_weights=self._cumulated, k=count)


def load_vocab(path: str) -> list[str]:
    """Read the tokens of a vocabulary."""
    with open(path, encoding="utf-8") as stream:
        return [line.rstrip("\n") for line in stream]


def sentence_length(chance: random.Random) -> int:
    """Draw a number of words as in SST-2: most texts are short, some are long."""
    return 1 + int(chance.expovariate(1 / (MEAN_WORDS_OF_SENTENCE - 0.5)))


def sentences(words: Words, seed: int) -> Iterator[Row]:
    """Make endless sentences that praise (label 1) or blame (label 0), like SST-2."""
    chance = random.Random(seed)
    while True:
        label = chance.randrange(2)
        length = sentence_length(chance)
        text = words.draw(chance, length)
        for place in chance.sample(range(length), 1 + length // 8):
            agrees = chance.random() < TRUTHFULNESS
            text[place] = chance.choice(PRAISE if bool(label) == agrees else BLAME)
        yield Row(str(label), " ".join(text), None)


def correlated(
    chance: random.Random, mean: float, deviation: float, correlation: float
) -> tuple[float, float]:
    """Draw two correlated numbers of the same normal distribution."""
    first, other = chance.gauss(0, deviation), chance.gauss(0, deviation)
    return mean + first, mean + correlation * first + math.sqrt(1 - correlation**2) * other


def pairs(words: Words, seed: int) -> Iterator[Row]:
    """Make pairs that share most of their words (label 1) or few (label 0), like MRPC."""
    chance = random.Random(seed)
    while True:
        is_paraphrase = chance.random() < SHARE_OF_PARAPHRASES
        kept = KEPT_IN_PARAPHRASE if is_paraphrase else KEPT_IN_OTHER
        lengths = correlated(chance, MEAN_WORDS_OF_PAIR, DEVIATION_OF_PAIR, CORRELATION_OF_HALVES)
        num_first, num_second = (max(5, round(length)) for length in lengths)
        first = words.draw(chance, num_first)
        fresh = words.draw(chance, num_second)
        second = [old if chance.random() < kept else new for old, new in zip(first, fresh)]
        second += fresh[len(second) :]
        yield Row(str(int(is_paraphrase)), " ".join(first), " ".join(second))


def long_texts(words: Words, seed: int, num_words: int) -> Iterator[Row]:
    """Make texts of `num_words` words or more, to fill a model's whole length."""
    chance = random.Random(seed)
    for label in itertools.cycle("01"):
        yield Row(label, " ".join(words.draw(chance, num_words)), None)

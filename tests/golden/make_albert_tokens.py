"""Makes albert_tokens/: a SentencePiece model, and the tokens of transformers' AlbertTokenizer.

    python make_albert_tokens.py

Needs sentencepiece==0.2.0 and transformers==4.57.6. The tests need the first alone.
"""

from __future__ import annotations

import json
import pathlib
import random
import sys

import transformers

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import sentence_pieces  # noqa: E402

FOLDER = pathlib.Path(__file__).parent / "albert_tokens"

# A capital sigma is left out: AlbertTokenizer lower-cases character by character, and google's code
# the whole text, so that the sigma at the end of a word has its own form.
TEXTS = [
    "",
    " \t\r\n ",
    "Hello, where is   my order?",
    " leading and trailing \n white\u3000space\u2028and\u00a0more ",
    "01/12, 9,9 and 1,000,000, in 1999, 7,",
    ",,, 3,,, 12,x,3, a1, 1a, ,1",
    "\u00bd, x\u00b2, \u0663, \u2460, \u0967,",  # digits that are not of ASCII
    '$2.50 (\u00a33\u20134) "quoted" - \u20ac1.',
    "cr\u00e8me br\u00fbl\u00e9e cre\u0300me bru\u0302le\u0301e \u0301 a\u0301\u0302\u0303",
    "\u0130stanbul \u0131 \u1e9e \ufb01ne \u212a \u01c4 stra\u00dfe \u2126",
    "full\uff0cwidth\uff01\u3002\uff21\uff22 \U0001d400\U0001d7d8, \u2121 \u00b4 \u00a8",
    "\u4e2d\u6587\u5b57 zz \u3042\u30a2\u30ac \ud55c\uae00 \uff76\uff9e",
    "zero\u200bwidth\u200djoin\u2060er\ufeff soft\u00adhyphen",
    "a\x00b\x05c\x0bd\x1ce\x85g\ufffdh\x7f",
    "\u2581 a\u2581b \u2581\u2581 c",  # what stands for a space in pieces
    "``quotes'' and `more' ''' ```` `` ''",
    "<unk> <pad> [cls] [mask] ##ing",
    "\U0001f468\u200d\U0001f469 \U0001f44d\U0001f3fd \u2764\ufe0f",
    "\u0e01\u0e34\u0e19 \u0939\u093f\u0928\u094d\u0926\u0940 \u05d0\u05b8 \u0627\u0644\u0639\u064e",
    "x" * 300,
]
ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "0123456789,.-",
    "0123456789,,,    ",
    "`'",
    "`'\"()[]<>$\u00a3\u20ac\u2013 \t",
    "\u00e9\u00c8\u00fc\u0301\u0308\u212b\ufb01\u00bd\u2460\u4e2d\u3042\u30ac\U0001f600",
)


def random_texts(count: int) -> list[str]:
    """Returns texts of words of the examples, and of characters that are treated in some way."""
    rng = random.Random(1)
    words = " ".join(sentence_pieces.example_lines()).split()

    def part():
        if rng.random() < 0.4:
            return rng.choice((str, str.upper, str.title))(rng.choice(words))
        alphabet = rng.choice(ALPHABETS)
        return "".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 8)))

    return [
        rng.choice(("", " ")).join(part() for _ in range(rng.randrange(1, 9))) for _ in range(count)
    ]


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    model = FOLDER / "spiece.model"
    model.write_bytes(sentence_pieces.train(sentence_pieces.example_lines(), 700))
    rows = []
    for do_lower_case in (True, False):
        # The bytes of the text alone say what it is: no part of it is a special token.
        tokenizer = transformers.AlbertTokenizer(
            str(model), do_lower_case=do_lower_case, keep_accents=False, split_special_tokens=True
        )
        for text in TEXTS + random_texts(400):
            tokens = tokenizer.tokenize(text)
            ids = tokenizer.convert_tokens_to_ids(tokens)
            rows.append([do_lower_case, text, tokens, ids])
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    (FOLDER / "tokens.json").write_text("[\n%s\n]\n" % lines)


if __name__ == "__main__":
    main()

"""Compares our tokens of a text file with those of transformers' AlbertTokenizer, line by line.

    python compare_with_albert_tokenizer.py spiece.model texts.txt

Prints how many lines have equal tokens and ids, how many have pairs of quotes, and the first lines
that differ; ends with status 1 if any do. Needs sentencepiece==0.2.0 and transformers==4.57.6.
"""

from __future__ import annotations

import pathlib
import sys

import transformers

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import tokenization  # noqa: E402

SHOWN = 5


def main(model: str, text_file: str) -> int:
    with open(text_file, encoding="utf-8", newline="\n") as stream:
        lines = [line.rstrip("\n") for line in stream]
    num_different = 0
    for do_lower_case in (True, False):
        theirs = transformers.AlbertTokenizer(
            model, do_lower_case=do_lower_case, keep_accents=False, split_special_tokens=True
        )
        ours = tokenization.FullTokenizer("", do_lower_case, model)
        different, num_unknown = [], 0
        for line in lines:
            tokens, expected = ours.tokenize(line), theirs.tokenize(line)
            ids = ours.convert_tokens_to_ids(tokens)
            num_unknown += len(ours.unknown_words(line))
            if tokens != expected or ids != theirs.convert_tokens_to_ids(expected):
                different.append((line, tokens, expected))
        print(
            "do_lower_case=%s: %d of %d lines are equal; %d tokens are unknown"
            % (do_lower_case, len(lines) - len(different), len(lines), num_unknown)
        )
        for line, tokens, expected in different[:SHOWN]:
            print("  %r\n    ours   %s\n    theirs %s" % (line, tokens, expected))
        num_different += len(different)
    num_quotes = sum("``" in line or "''" in line for line in lines)
    print("%d lines have pairs of quotes" % num_quotes)
    return 1 if num_different else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""Text -> word pieces -> ids, with the tokens of google's BERT. Needs no TensorFlow."""

from __future__ import annotations

import logging
import re
import string
import unicodedata
from collections import Counter, OrderedDict
from typing import Callable, Iterable, Mapping

_LOG = logging.getLogger(__name__)

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")

_VOCAB_CURE = "--vocab_file must name the unchanged vocab.txt of the pre-trained model"

_LOWER_CASED_MODELS = frozenset(
    [
        "uncased_L-12_H-768_A-12",
        "uncased_L-24_H-1024_A-16",
        "multilingual_L-12_H-768_A-12",
        "chinese_L-12_H-768_A-12",
    ]
)
_CASED_MODELS = frozenset(
    ["cased_L-12_H-768_A-12", "cased_L-24_H-1024_A-16", "multi_cased_L-12_H-768_A-12"]
)

# The Unicode blocks of CJK ideographs, first and last code point. Kana and Hangul are not among
# them: languages written in those are split at spaces and punctuation like any other.
_CHINESE_BLOCKS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)

# Enough for the frequent words of any corpus; rare words that come later are split each time.
_MAX_CACHED_WORDS = 100000
# A longer part is rarely a word that comes again: it is a text in a script without spaces.
_MAX_CACHED_LENGTH = 20


def validate_case_matches_checkpoint(do_lower_case: bool, init_checkpoint: str | None) -> None:
    """Check `do_lower_case` against the folder name of a checkpoint that google published.

    Any other checkpoint passes: its name does not tell how it was trained.

    Raises:
        ValueError: the model is cased and the text would be lower-cased, or the reverse.
    """
    match = re.search(r"([A-Za-z0-9_-]+)/bert_model\.ckpt", init_checkpoint or "")
    model_name = match.group(1) if match else ""
    wrong_models = _CASED_MODELS if do_lower_case else _LOWER_CASED_MODELS
    if model_name in wrong_models:
        kind = "cased" if do_lower_case else "lower-cased"
        raise ValueError(
            f"--do_lower_case={bool(do_lower_case)} does not fit "
            f"--init_checkpoint={init_checkpoint}: {model_name} was trained on {kind} text; "
            f"set --do_lower_case={not do_lower_case}"
        )


def convert_to_unicode(text: str | bytes) -> str:
    """Return `text` as `str`; decode bytes as UTF-8 and leave out what is not UTF-8.

    Raises:
        ValueError: `text` is neither `str` nor `bytes`.
    """
    if isinstance(text, bytes):
        return text.decode("utf-8", "ignore")
    if isinstance(text, str):
        return text
    raise ValueError(f"Text must be str or bytes, not {type(text).__name__}: {text!r}")


def printable_text(text: str | bytes) -> str:
    """Return `text` in the form that `print` and logging take: in Python 3 that is `str`."""
    return convert_to_unicode(text)


def load_vocab(vocab_file: str) -> dict[str, int]:
    """Read a vocabulary, one token per line; the id of a token is the number of its line, from 0.

    White space is stripped from a token, as in google's code. A token of white space only (U+2028
    in the Chinese vocabulary) becomes an empty string, which matches no text; its line still
    counts. Blank lines at the end do not count. If several lines have the same token, the last one
    gives its id, as in google's code.

    Returns:
        An `OrderedDict` from token to id.

    Raises:
        ValueError: the file cannot be read, is not UTF-8 or is empty.
    """
    vocab: dict[str, int] = OrderedDict()
    for index, line in enumerate(_read_lines(vocab_file)):
        vocab[line.strip()] = index
    return vocab


def log_repeated_tokens(vocab_file: str) -> None:
    """Warn if several lines of a vocabulary have the same token, as in some published ones.

    Lines are compared without stripping: tokens that differ only in white space are not reported.
    """
    lines = _read_lines(vocab_file)
    repeated = [line for line, number in Counter(lines).items() if number > 1 and line.strip()]
    if repeated:
        first = lines.index(repeated[0])
        _LOG.warning(
            "%s: tokens in several lines, of which the last one counts: %d, the first %r in lines "
            "%d and %d",
            vocab_file,
            len(repeated),
            repeated[0].strip(),
            first + 1,
            lines.index(repeated[0], first + 1) + 1,
        )


def _read_lines(vocab_file: str) -> list[str]:
    try:
        with open(vocab_file, "rb") as reader:
            text = reader.read().decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"{vocab_file}: {error.strerror}; {_VOCAB_CURE}") from error
    except UnicodeDecodeError as error:
        line_number = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{vocab_file}:{line_number}: is not UTF-8; {_VOCAB_CURE}") from error
    if not text.strip():
        raise ValueError(f"{vocab_file}: is empty; {_VOCAB_CURE}")
    # Only "\n" ends a line: `str.splitlines` would also split at the token U+2028 and so shift all
    # ids after it.
    lines = text.split("\n")
    while not lines[-1].strip(" \t\r"):
        lines.pop()
    return lines


def validate_vocab(vocab: Mapping[str, int], vocab_file: str) -> None:
    """Check that `vocab` has the special tokens that the inputs of BERT are made with.

    Raises:
        ValueError: one of `SPECIAL_TOKENS` is missing.
    """
    missing = [token for token in SPECIAL_TOKENS if token not in vocab]
    if missing:
        raise ValueError(f"{vocab_file}: has no {', '.join(missing)}; {_VOCAB_CURE}")


def convert_by_vocab(vocab: Mapping, items: Iterable) -> list:
    """Look up every item: tokens in a vocabulary, or ids in an inverse vocabulary.

    Raises:
        KeyError: an item is not in `vocab`.
    """
    return [vocab[item] for item in items]


def convert_tokens_to_ids(vocab: Mapping[str, int], tokens: Iterable[str]) -> list[int]:
    """Return the id of every token."""
    return convert_by_vocab(vocab, tokens)


def convert_ids_to_tokens(inv_vocab: Mapping[int, str], ids: Iterable[int]) -> list[str]:
    """Return the token of every id."""
    return convert_by_vocab(inv_vocab, ids)


def whitespace_tokenize(text: str) -> list[str]:
    """Split `text` at runs of white space."""
    return text.split()


class FullTokenizer:
    """Text to word pieces: `BasicTokenizer` finds the words, `WordpieceTokenizer` splits them.

    Attributes:
        vocab: token -> id.
        inv_vocab: id -> token.
    """

    def __init__(self, vocab_file: str, do_lower_case: bool = True):
        self.vocab = load_vocab(vocab_file)
        self.inv_vocab = {index: token for token, index in self.vocab.items()}
        self.basic_tokenizer = BasicTokenizer(do_lower_case=do_lower_case)
        self.wordpiece_tokenizer = WordpieceTokenizer(vocab=self.vocab)
        self._cache: dict[str, list[str]] = {}

    @property
    def vocab_size(self) -> int:
        """Number of ids: larger than the number of tokens if lines have the same token."""
        return max(self.vocab.values()) + 1

    def tokenize(self, text: str | bytes) -> list[str]:
        """Return the word pieces of `text`."""
        pieces: list[str] = []
        # A space always separates words, so the part between two spaces can be split by itself and
        # cached.
        for part in convert_to_unicode(text).split(" "):
            known = self._cache.get(part)
            pieces.extend(self._split_and_remember(part) if known is None else known)
        return pieces

    def _split_and_remember(self, part: str) -> list[str]:
        pieces = self.wordpiece_tokenizer.tokenize(" ".join(self.basic_tokenizer.tokenize(part)))
        if len(part) <= _MAX_CACHED_LENGTH and len(self._cache) < _MAX_CACHED_WORDS:
            self._cache[part] = pieces
        return pieces

    def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]:
        """Return the id of every token."""
        return convert_tokens_to_ids(self.vocab, tokens)

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """Return the token of every id."""
        return convert_ids_to_tokens(self.inv_vocab, ids)


class BasicTokenizer:
    """Text to words: clean it, split it at white space, punctuation and Chinese characters.

    Lower-casing also strips accents, as in the pre-training of the uncased models.
    """

    def __init__(self, do_lower_case: bool = True):
        self.do_lower_case = do_lower_case

    def tokenize(self, text: str | bytes) -> list[str]:
        """Return the words of `text`; a punctuation mark or Chinese character is a word."""
        text = convert_to_unicode(text).translate(_CLEANED)
        if self.do_lower_case:
            text = unicodedata.normalize("NFD", text.lower()).translate(_WITHOUT_ACCENTS)
        return whitespace_tokenize(text.translate(_PUNCTUATION_APART))


class WordpieceTokenizer:
    """Words to word pieces: from left to right, always the longest piece that fits."""

    def __init__(
        self,
        vocab: Mapping[str, int],
        unk_token: str = "[UNK]",
        max_input_chars_per_word: int = 200,
    ):
        self.vocab = vocab
        self.unk_token = unk_token
        self.max_input_chars_per_word = max_input_chars_per_word
        self._cache: dict[str, list[str]] = {}

    def tokenize(self, text: str | bytes) -> list[str]:
        """Return the word pieces of `text`, which `BasicTokenizer` has prepared.

        "unaffable" becomes "un", "##aff", "##able". A word that pieces of the vocabulary cannot
        make, or that is longer than `max_input_chars_per_word`, becomes one `unk_token`.
        """
        pieces: list[str] = []
        for word in whitespace_tokenize(convert_to_unicode(text)):
            pieces.extend(self._cache.get(word) or self._split_and_remember(word))
        return pieces

    def _split_and_remember(self, word: str) -> list[str]:
        if len(word) > self.max_input_chars_per_word:
            return [self.unk_token]
        pieces = self._split(word)
        if len(self._cache) < _MAX_CACHED_WORDS:
            self._cache[word] = pieces
        return pieces

    def _split(self, word: str) -> list[str]:
        pieces = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(len(word), start, -1):
                piece = prefix + word[start:end]
                if piece in self.vocab:
                    break
            else:
                return [self.unk_token]
            pieces.append(piece)
            start = end
        return pieces


def _is_whitespace(char: str) -> bool:
    return char in "\t\n\r" or unicodedata.category(char) == "Zs"


def _is_control(char: str) -> bool:
    # Tab and line ends are control characters in Unicode, but white space in BERT. Unassigned and
    # private-use characters (Cn, Co) stay, as in google's last version; its 1.0.1 drops them.
    return char not in "\t\n\r" and unicodedata.category(char) in ("Cc", "Cf")


def _is_punctuation(char: str) -> bool:
    # BERT also counts the ASCII symbols that Unicode does not: $ + < = > ^ ` | ~
    return char in string.punctuation or unicodedata.category(char).startswith("P")


def _is_chinese_char(char: str) -> bool:
    return any(first <= ord(char) <= last for first, last in _CHINESE_BLOCKS)


class _CharacterTable(dict):
    """A table for `str.translate` that calls `replace(char)` once per different character."""

    def __init__(self, replace: Callable[[str], str]):
        super().__init__()
        self._replace = replace

    def __missing__(self, codepoint: int) -> str:
        self[codepoint] = replacement = self._replace(chr(codepoint))
        return replacement


def _clean(char: str) -> str:
    if char == "\ufffd" or _is_control(char):
        return ""
    if _is_whitespace(char):
        return " "
    return f" {char} " if _is_chinese_char(char) else char


_CLEANED = _CharacterTable(_clean)
_WITHOUT_ACCENTS = _CharacterTable(lambda char: "" if unicodedata.category(char) == "Mn" else char)
_PUNCTUATION_APART = _CharacterTable(lambda char: f" {char} " if _is_punctuation(char) else char)

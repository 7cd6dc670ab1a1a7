"""Text -> word pieces -> ids, with the tokens of google's BERT or ALBERT. Needs no TensorFlow."""

from __future__ import annotations

import hashlib
import logging
import re
import string
import unicodedata
from collections import Counter, OrderedDict
from typing import Any, Callable, Iterable, Iterator, Mapping

_LOG = logging.getLogger(__name__)

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
# The same of a SentencePiece model.
SPECIAL_PIECES = ("<pad>", "<unk>", "[CLS]", "[SEP]")

_VOCAB_CURE = "--vocab_file must name the unchanged vocab.txt of the pre-trained model"
_MODEL_CURE = (
    "--spm_model_file must name the unchanged SentencePiece model of the pre-trained model; a "
    "vocab.txt is given as --vocab_file"
)

# A line of token and id.
_HAS_ID = re.compile(r"[^\t]+\t\d+\s*")

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

# Stands at the beginning of a piece of SentencePiece that begins a word.
_WORD_BEGINS = "\u2581"
# The field of a SentencePiece model, as protobuf numbers it, that follows the pieces.
_NORMALIZER_FIELD = 3

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

    The vocabulary of ERNIE has the id in a second column, after a tab.

    Returns:
        An `OrderedDict` from token to id.

    Raises:
        ValueError: the file cannot be read, is not UTF-8 or is empty, or an id in a second column
            is not the number of its line.
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
        raise ValueError(
            f"{vocab_file}:{line_number}: is not UTF-8; {_VOCAB_CURE}, and --spm_model_file a "
            "SentencePiece model"
        ) from error
    if not text.strip():
        raise ValueError(f"{vocab_file}: is empty; {_VOCAB_CURE}")
    # Only "\n" ends a line: `str.splitlines` would also split at the token U+2028 and so shift all
    # ids after it.
    lines = text.split("\n")
    while not lines[-1].strip(" \t\r"):
        lines.pop()
    return _without_ids(lines, vocab_file) if _HAS_ID.fullmatch(lines[0]) else lines


def _without_ids(lines: list[str], vocab_file: str) -> list[str]:
    """Return the tokens of lines of token and id, with a tab between them.

    Raises:
        ValueError: an id is not the number of its line, from 0.
    """
    tokens = []
    for index, line in enumerate(lines):
        token, _, number = line.partition("\t")
        if number.strip() != str(index):
            raise ValueError(
                f"{vocab_file}:{index + 1}: has {number.strip()!r} after the tab, where the first "
                f"line has an id, and the id of this line is {index}; {_VOCAB_CURE}, and "
                "--spm_model_file a SentencePiece model"
            )
        tokens.append(token)
    return tokens


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

    With `spm_model_file`, a file of SentencePiece, it is a `SentencePieceTokenizer`.

    Attributes:
        vocab: token -> id.
        inv_vocab: id -> token.
        unk_token: stands for a word that pieces of the vocabulary cannot make.
        do_lower_case: whether text is lower-cased first.
        flag: the flag that names the file.
    """

    flag = "--vocab_file"

    def __new__(
        cls,
        vocab_file: str | None = None,
        do_lower_case: bool = True,
        spm_model_file: str | None = None,
    ) -> FullTokenizer:
        """Make a tokenizer of the kind that the arguments, those of google's ALBERT, ask for."""
        if spm_model_file:
            return object.__new__(SentencePieceTokenizer)
        return object.__new__(cls)

    def __init__(
        self, vocab_file: str, do_lower_case: bool = True, spm_model_file: str | None = None
    ):
        self.vocab = load_vocab(vocab_file)
        self.inv_vocab = {index: token for token, index in self.vocab.items()}
        self.do_lower_case = do_lower_case
        self.basic_tokenizer = BasicTokenizer(do_lower_case=do_lower_case)
        self.wordpiece_tokenizer = WordpieceTokenizer(vocab=self.vocab)
        self.unk_token = self.wordpiece_tokenizer.unk_token
        self._cache: dict[str, list[str]] = {}

    @property
    def vocab_size(self) -> int:
        """Number of ids: larger than the number of tokens if lines have the same token."""
        return max(self.vocab.values()) + 1

    def identity(self) -> Any:
        """Return what the pieces of a text depend on, but `do_lower_case`."""
        # An id of a line whose token is in a later line again has none.
        return [self.inv_vocab.get(index, "") for index in range(self.vocab_size)]

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

    def unknown_words(self, text: str | bytes) -> list[str]:
        """Return the parts of `text` that have the id of `unk_token`."""
        if self.unk_token not in self.tokenize(text):
            return []
        words = self.basic_tokenizer.tokenize(text)
        return [w for w in words if self.unk_token in self.wordpiece_tokenizer.tokenize(w)]

    def unknown_characters(self, word: str) -> list[str]:
        """Return the characters of an unknown word that have no piece of their own."""
        pieces = [word[0], *("##" + char for char in word[1:])]
        return [piece[-1] for piece in pieces if piece not in self.vocab]

    def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]:
        """Return the id of every token."""
        return convert_tokens_to_ids(self.vocab, tokens)

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """Return the token of every id."""
        return convert_ids_to_tokens(self.inv_vocab, ids)


class SentencePieceTokenizer(FullTokenizer):
    """Text to the pieces of a SentencePiece model, as that of google's English ALBERT.

    The tokens are those of `AlbertTokenizer` in transformers. Google's own code does not replace
    quotes, and does not lower-case by itself.

    Raises:
        ValueError: the file cannot be read, is no SentencePiece model, is damaged, or lacks one of
            `SPECIAL_PIECES`; or the package sentencepiece is missing.
    """

    flag = "--spm_model_file"

    def __init__(
        self,
        vocab_file: str | None = None,
        do_lower_case: bool = True,
        spm_model_file: str = "",
    ):
        content = _read_model(spm_model_file)
        self._model = _load_model(content, spm_model_file)
        self._digest = hashlib.sha256(content).hexdigest()
        ids = range(self._model.get_piece_size())
        self.inv_vocab = {index: self._model.id_to_piece(index) for index in ids}
        self.vocab = {piece: index for index, piece in self.inv_vocab.items()}
        missing = [piece for piece in SPECIAL_PIECES if piece not in self.vocab]
        if missing:
            raise ValueError(f"{spm_model_file}: has no {', '.join(missing)}; {_MODEL_CURE}")
        self.unk_token = self.inv_vocab[self._model.unk_id()]
        self.do_lower_case = do_lower_case
        controls = {
            piece for index, piece in self.inv_vocab.items() if self._model.is_control(index)
        }
        self._never_in_text = controls | set(SPECIAL_PIECES)

    def identity(self) -> str:
        """Return what the pieces of a text depend on, but `do_lower_case`: scores matter too."""
        return self._digest

    def tokenize(self, text: str | bytes) -> list[str]:
        """Return the pieces of `text`. A piece that is not in the model is unknown text itself."""
        pieces: list[str] = []
        for piece in self._encode(self._prepare(convert_to_unicode(text))):
            has_number = len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit()
            pieces.extend(self._without_comma(piece) if has_number else [piece])
        # Unknown text may look like a piece with a meaning of its own.
        return [self.unk_token if piece in self._never_in_text else piece for piece in pieces]

    def _prepare(self, text: str) -> str:
        text = " ".join(text.split()).replace("``", '"').replace("''", '"')
        text = text.translate(_WITHOUT_MARKS)
        return text.lower() if self.do_lower_case else text

    def _encode(self, text: str) -> list[str]:
        return self._model.encode(text, out_type=str)

    def _without_comma(self, piece: str) -> list[str]:
        """Split a piece that ends in a digit and a comma as if the comma stood apart.

        The texts that google trained its models on were split so.
        """
        pieces = self._encode(piece[:-1].replace(_WORD_BEGINS, ""))
        if not piece.startswith(_WORD_BEGINS) and pieces[0].startswith(_WORD_BEGINS):
            pieces[0] = pieces[0][1:]
        return [*filter(None, pieces), ","]

    def unknown_words(self, text: str | bytes) -> list[str]:
        """Return the pieces of `text` that have the id of `unk_token`."""
        return [p for p in self.tokenize(text) if p not in self.vocab or p == self.unk_token]

    def unknown_characters(self, word: str) -> list[str]:
        """Return the characters of an unknown piece that have no piece of their own."""
        return [char for char in word if char not in self.vocab]

    def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]:
        """Return the id of every token; a text that is no piece has the id of `unk_token`."""
        unknown = self.vocab[self.unk_token]
        return [self.vocab.get(token, unknown) for token in tokens]


def _read_model(path: str) -> bytes:
    try:
        with open(path, "rb") as reader:
            content = reader.read()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; {_MODEL_CURE}") from error
    if not content:
        raise ValueError(f"{path}: is empty; {_MODEL_CURE}")
    return content


def _load_model(content: bytes, path: str) -> Any:
    """Return a `SentencePieceProcessor`."""
    try:
        import sentencepiece  # noqa: PLC0415
    except ImportError as error:
        raise ValueError(
            f"{path}: sentencepiece, which reads it, cannot be imported ({error}); "
            "pip install sentencepiece==0.2.0"
        ) from error
    try:
        # The pieces come first: of a file cut between two of them the library would load the rest.
        if _NORMALIZER_FIELD in _fields(content):
            return sentencepiece.SentencePieceProcessor(model_proto=content)
    except (IndexError, RuntimeError):
        pass
    raise ValueError(f"{path}: is no SentencePiece model, or a damaged one; {_MODEL_CURE}")


def _fields(message: bytes) -> Iterator[int]:
    """Yield the number of each field of a protobuf message of which each has a length.

    Raises:
        IndexError: it is no message, or ends within a number.
    """
    position = 0

    def read_number() -> int:
        nonlocal position
        number = 0
        for shift in range(0, 64, 7):
            byte = message[position]
            position += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
        raise IndexError("a number of more than 64 bits")

    while position < len(message):
        yield read_number() >> 3
        length = read_number()
        position += length


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
            text = text.lower().translate(_WITHOUT_ACCENTS)
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
# A character at a time: in a whole text `normalize` also sorts marks, in a time that grows with the
# square of their number. Nearly all are removed here anyway. The few that are not, such as those of
# notes in music, stay in the order of the text; no vocabulary has them.
_WITHOUT_ACCENTS = _CharacterTable(
    lambda char: "".join(
        part for part in unicodedata.normalize("NFD", char) if unicodedata.category(part) != "Mn"
    )
)


def _without_marks(char: str) -> str:
    # Half a character, a surrogate, is nothing that SentencePiece can read.
    if unicodedata.category(char) == "Cs":
        return "\ufffd"
    return "".join(
        part for part in unicodedata.normalize("NFKD", char) if not unicodedata.combining(part)
    )


_WITHOUT_MARKS = _CharacterTable(_without_marks)
_PUNCTUATION_APART = _CharacterTable(lambda char: f" {char} " if _is_punctuation(char) else char)

"""The files by which transformers splits texts, and those by which texts are split here."""

from __future__ import annotations

import os
import shutil
from typing import Any, Mapping, NamedTuple

from bert_classifier import files
from bert_classifier.errors import BadInput, bad_input
from bert_classifier.hugging_face import configs
from tokenization import FullTokenizer

_SETTINGS_NAME = "tokenizer_config.json"


class Splitting(NamedTuple):
    """A way to split texts.

    Attributes:
        file_name: Of the vocabulary.
        flag: The flag, and the argument of `FullTokenizer`, that takes such a file.
        classes: Those of transformers that split so; the first is written.
        settings: What tokenizer_config.json must say if it says anything.
        cure: What writes the file if it is missing.
    """

    file_name: str
    flag: str
    classes: tuple[str, ...]
    settings: Mapping[str, Any]
    cure: str


WORD_PIECES = Splitting(
    "vocab.txt",
    "vocab_file",
    ("BertTokenizer", "BertTokenizerFast", "ElectraTokenizer", "ElectraTokenizerFast"),
    {"tokenize_chinese_chars": True},
    "BertTokenizer.from_pretrained(...).save_vocabulary(...) writes it",
)
SENTENCE_PIECES = Splitting(
    "spiece.model",
    "spm_model_file",
    ("AlbertTokenizer", "AlbertTokenizerFast"),
    {"remove_space": True, "keep_accents": False},
    "AlbertTokenizer.from_pretrained(...).save_vocabulary(...) writes it",
)


class Tokenizer(NamedTuple):
    """How the texts of a model are split.

    Attributes:
        splitting: The way.
        path: Of the vocabulary.
        do_lower_case: None if nothing says it.
    """

    splitting: Splitting
    path: str
    do_lower_case: bool | None


def read(hf_dir: str, description: configs.Description) -> Tokenizer:
    """Find out how the texts of the model in a directory are split.

    Raises:
        BadInput: they are split in a way that no tokenizer here has, or the vocabulary is missing
            or does not fit the model.
    """
    settings_path = os.path.join(hf_dir, _SETTINGS_NAME)
    settings = configs.read_json(settings_path) if os.path.exists(settings_path) else {}
    name = settings.get("tokenizer_class")
    source = settings_path if name else os.path.join(hf_dir, configs.FILE_NAME)
    name = name or description.tokenizer_class
    possible = [WORD_PIECES]
    if description.layout.may_have_pieces:
        possible.insert(0, SENTENCE_PIECES)
    named = [splitting for splitting in possible if name in splitting.classes]
    if name and not named:
        message = "%s: tokenizer_class is %r, google's tokenizer has %r; %s"
        cure = "delete the line to use google's"
        raise BadInput(message % (source, name, possible[0].classes[0], cure))
    splitting = (named or [s for s in possible if _is_in(hf_dir, s)] or possible)[0]
    _check_settings(settings, splitting, settings_path)
    path = _check_vocabulary(hf_dir, splitting, description.config["vocab_size"])
    return Tokenizer(splitting, path, settings.get("do_lower_case"))


def _is_in(hf_dir: str, splitting: Splitting) -> bool:
    return os.path.exists(os.path.join(hf_dir, splitting.file_name))


def _check_settings(settings: Mapping[str, Any], splitting: Splitting, path: str) -> None:
    wanted = dict(splitting.settings, strip_accents=settings.get("do_lower_case", True))
    for key, value in wanted.items():
        if settings.get(key) not in (None, value):
            message = "%s: %s is %r, google's tokenizer has %r; delete the line to use google's"
            raise BadInput(message % (path, key, settings[key], value))


def _check_vocabulary(hf_dir: str, splitting: Splitting, vocab_size: int) -> str:
    """Return its path; it must not have more tokens than the model has embeddings."""
    path = os.path.join(hf_dir, splitting.file_name)
    if not os.path.exists(path):
        raise BadInput("%s: no such file; %s" % (path, splitting.cure))
    files.check_rereadable(path)
    with bad_input():
        argument: dict[str, Any] = {splitting.flag: path}
        num_tokens = FullTokenizer(**argument).vocab_size
    if num_tokens > vocab_size:
        message = "%s:%d: more words than vocab_size %d; use the %s of this model"
        raise BadInput(message % (path, num_tokens, vocab_size, splitting.file_name))
    return path


def write(tokenizer: Tokenizer, max_seq_length: int, folder: str) -> None:
    """Write the files that AutoTokenizer reads.

    Args:
        tokenizer: How the texts are split.
        max_seq_length: The number of tokens to which a text is cut if the caller asks for a cut.
        folder: Where to.
    """
    splitting = tokenizer.splitting
    copy = os.path.join(folder, splitting.file_name)
    if splitting is SENTENCE_PIECES:
        shutil.copyfile(tokenizer.path, copy)
    else:
        _write_words(tokenizer.path, copy)
    settings = {
        "tokenizer_class": splitting.classes[0],
        "do_lower_case": tokenizer.do_lower_case,
        "model_max_length": max_seq_length,
        **splitting.settings,
    }
    files.write_json(os.path.join(folder, _SETTINGS_NAME), settings)


def _write_words(vocab_file: str, copy: str) -> None:
    """Write a vocabulary as `FullTokenizer` reads it.

    transformers would take a byte order mark, blanks and ids beside a token for parts of it.
    """
    with bad_input():
        tokenizer = FullTokenizer(vocab_file)
    files.write_text(copy, "".join(token + "\n" for token in tokenizer.identity()))

"""SentencePiece in `tokenization`; golden/albert_tokens has the tokens of transformers."""

from __future__ import annotations

import json
import os
import pathlib
import pickle
import subprocess
import sys

import pytest
import sentence_pieces
import sentencepiece
from program import ROOT

import tokenization

GOLDEN = pathlib.Path(__file__).parent / "golden" / "albert_tokens"
MODEL = GOLDEN / "spiece.model"


@pytest.fixture(scope="module")
def tokenizer():
    return tokenization.FullTokenizer("", spm_model_file=str(MODEL))


@pytest.fixture(scope="module")
def letters():
    """A model that knows the letters a to h, and nothing of brackets and capital letters."""
    return sentence_pieces.train_small(["ab cd efgh", "fed cab hag"] * 20)


def write(folder, content, name="spiece.model"):
    path = folder / name
    path.write_bytes(content)
    return str(path)


def load(path, do_lower_case=True):
    return tokenization.FullTokenizer(None, do_lower_case, path)


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_tokens_and_ids_are_those_of_transformers(do_lower_case):
    tokenizer = load(str(MODEL), do_lower_case)
    rows = [
        row for row in json.loads((GOLDEN / "tokens.json").read_text()) if row[0] is do_lower_case
    ]
    for _, text, tokens, ids in rows:
        assert tokenizer.tokenize(text) == tokens, repr(text)
        assert tokenizer.convert_tokens_to_ids(tokens) == ids, repr(text)
    assert len(rows) > 400
    # The comparison says something only where there are such texts.
    texts = [text for _, text, _, _ in rows]
    assert sum("``" in text or "''" in text for text in texts) > 20
    assert sum(1 in ids for _, _, _, ids in rows) > 100
    model = sentencepiece.SentencePieceProcessor(model_file=str(MODEL))
    pieces = [piece for text in texts for piece in model.encode(text, out_type=str)]
    assert sum(piece[-1] == "," and piece[-2:-1].isdigit() for piece in pieces) > 20


def test_the_model_has_googles_ids(tokenizer):
    special = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    known = [*special, "(", ")", '"', "-", ".", "\u2013", "\u00a3", "\u20ac"]
    assert tokenizer.convert_ids_to_tokens(range(13)) == known
    assert tokenizer.convert_tokens_to_ids(known) == list(range(13))
    assert tokenizer.vocab_size == len(tokenizer.vocab) == 700
    assert tokenizer.unk_token == "<unk>"


def test_google_s_arguments_make_the_same_tokenizer(tokenizer):
    for arguments in ((None, True, str(MODEL)), ("30k-clean.vocab", True, str(MODEL))):
        same = tokenization.FullTokenizer(*arguments)
        assert isinstance(same, tokenization.SentencePieceTokenizer)
        assert same.identity() == tokenizer.identity()
    named = tokenization.FullTokenizer(
        vocab_file=None, do_lower_case=False, spm_model_file=str(MODEL)
    )
    assert named.do_lower_case is False


def test_unknown_text_stays_a_piece_whose_id_is_1(tokenizer):
    text = "order \u4e2d\u6587 my"
    tokens = tokenizer.tokenize(text)
    assert "\u4e2d\u6587" in tokens and "<unk>" not in tokens
    assert tokenizer.convert_tokens_to_ids(tokens).count(1) == 1
    assert tokenizer.unknown_words(text) == ["\u4e2d\u6587"]
    assert tokenizer.unknown_characters("\u4e2d\u6587") == ["\u4e2d", "\u6587"]
    assert tokenizer.unknown_words("my order") == []


@pytest.mark.parametrize("text", ["[CLS]", "[SEP] [MASK]", "a [CLS] b", "<pad>", "<unk>", "x[SEP]"])
@pytest.mark.parametrize("do_lower_case", [True, False])
def test_no_text_has_the_id_of_a_control_symbol(letters, tmp_path, text, do_lower_case):
    tokenizer = load(write(tmp_path, letters), do_lower_case)
    ids = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
    assert ids and not {0, 2, 3, 4} & set(ids)


def test_unknown_text_can_look_like_a_control_symbol(letters, tmp_path):
    """What makes the test above one that could fail."""
    model = sentencepiece.SentencePieceProcessor(model_proto=letters)
    assert "[CLS]" in model.encode("[CLS]", out_type=str)
    tokenizer = load(write(tmp_path, letters), do_lower_case=False)
    assert tokenizer.tokenize("[CLS]") == ["\u2581", "<unk>"]
    assert tokenizer.unknown_words("[CLS]") == ["<unk>"]


def test_a_text_is_lower_cased_as_a_whole(tmp_path):
    """As google's code does it: a sigma at the end of a word has its own form."""
    lines = ["\u03bf\u03b4\u03bf\u03c2 \u03c3\u03bf\u03c6\u03bf\u03c2"] * 50
    tokenizer = load(write(tmp_path, sentence_pieces.train_small(lines)))
    upper, lower = "\u039f\u0394\u039f\u03a3", "\u03bf\u03b4\u03bf\u03c2"
    assert "".join(tokenizer.tokenize(upper)) == "\u2581" + lower


@pytest.mark.parametrize(
    "text", ["a\ud800b", "\udfff", "\udcff\udcfe my order", b"my \xff\xfe order", b"caf\xc3\xa9"]
)
def test_text_that_is_no_unicode_is_read(tokenizer, text):
    tokens = tokenizer.tokenize(text)
    assert all(token.encode("utf-8") for token in tokens)
    decoded = text.decode("utf-8", "ignore") if isinstance(text, bytes) else text
    assert tokens == tokenizer.tokenize(decoded)


def test_pickled_for_another_process(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    text = "Hello, where are 1,999, of ``my'' orders? \u4e2d"
    assert copy.tokenize(text) == tokenizer.tokenize(text)
    assert copy.identity() == tokenizer.identity()


def test_another_score_is_another_tokenizer(tokenizer, tmp_path):
    content = bytearray(MODEL.read_bytes())
    position = content.index(b"\x0a\x06\xe2\x96\x81the\x15") + 9  # Its score, as float32.
    content[position] ^= 1
    other = load(write(tmp_path, bytes(content)))
    assert other.vocab == tokenizer.vocab
    assert other.identity() != tokenizer.identity()


# Files that are none


def assert_refused(path, *words):
    with pytest.raises(ValueError) as refused:
        load(path)
    message = str(refused.value)
    assert message.startswith(path + ": ") and "\n" not in message
    for word in words:
        assert word in message


CURE = "--spm_model_file must name"
NO_MODEL = {
    "empty": b"",
    "a vocabulary": b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nfilm\n",
    "a configuration": b'{"vocab_size": 30000}',
    "zero bytes": bytes(1000),
    "bytes of ones": b"\xff" * 1000,
    "a list of pieces": "<pad>\t0\n<unk>\t0\n[CLS]\t0\n\u2581the\t-3.1\n".encode("utf-8"),
}


@pytest.mark.parametrize("content", NO_MODEL.values(), ids=list(NO_MODEL))
def test_another_file_is_refused(tmp_path, content):
    assert_refused(write(tmp_path, content), CURE)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert_refused(str(tmp_path / "spiece.model"), "No such file", CURE)
    assert_refused(str(tmp_path), "directory", CURE)


def test_a_model_that_is_cut_is_refused(letters, tmp_path):
    """Wherever: of one that ends between two pieces SentencePiece would load the rest."""
    path = write(tmp_path, letters)
    assert len(load(path).vocab) < 50
    loaded = []
    for length in [*range(1500), *range(1500, len(letters), 5000)]:
        (tmp_path / "spiece.model").write_bytes(letters[:length])
        try:
            load(path)
            loaded.append(length)
        except ValueError as error:
            assert str(error).startswith(path + ": ")
    assert loaded == []


@pytest.mark.parametrize(
    "options, missing",
    [
        ({"control_symbols": ["[SEP]"]}, "[CLS]"),
        ({"control_symbols": []}, "[CLS], [SEP]"),
        ({"pad_id": -1, "unk_id": 0}, "<pad>"),
        ({"unk_piece": "[UNK]"}, "<unk>"),
    ],
)
def test_a_model_of_another_encoder_is_refused(tmp_path, options, missing):
    model = sentence_pieces.train_small(["ab cd efgh"] * 20, **options)
    assert_refused(write(tmp_path, model), "has no %s; " % missing, CURE)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    assert_refused(str(MODEL), "pip install sentencepiece==0.2.0")


@pytest.mark.parametrize(
    "content, place",
    [(MODEL.read_bytes(), ""), (NO_MODEL["a list of pieces"], ":2")],
    ids=["a model", "a list of pieces"],
)
def test_another_file_as_vocabulary_is_refused(tmp_path, content, place):
    path = write(tmp_path, content)
    with pytest.raises(ValueError) as refused:
        tokenization.FullTokenizer(path)
    message = str(refused.value)
    assert message.startswith(path + place) and "\n" not in message
    assert "--spm_model_file a SentencePiece model" in message


# Vocabularies with ids


def test_a_vocabulary_with_ids_is_that_without(tmp_path):
    tokens = [*tokenization.SPECIAL_TOKENS, "\u4e2d", "##\u4e2d", "film", "\u2028", "a b", "end"]
    plain = write(tmp_path, "".join(token + "\n" for token in tokens).encode(), "plain.txt")
    for end in ("\n", "\r\n", " \n"):
        lines = ["%s\t%d%s" % (token, index, end) for index, token in enumerate(tokens)]
        with_ids = write(tmp_path, "".join(lines).encode(), "vocab.txt")
        assert tokenization.load_vocab(with_ids) == tokenization.load_vocab(plain)


@pytest.mark.parametrize(
    "lines, place",
    [
        ("[PAD]\t0\n[UNK]\t2\n[CLS]\t1\n", ":2: has '2' after the tab"),
        ("[PAD]\t1\n[UNK]\t2\n", ":1: has '1' after the tab"),
        ("[PAD]\t0\n[UNK]\n", ":2: has '' after the tab"),
        ("[PAD]\t0\n[UNK]\tx\n", ":2: has 'x' after the tab"),
        ("[PAD]\t0\n\n[UNK]\t1\n", ":2: has '' after the tab"),
    ],
)
def test_ids_that_are_not_the_numbers_of_the_lines_are_refused(tmp_path, lines, place):
    path = write(tmp_path, lines.encode(), "vocab.txt")
    with pytest.raises(ValueError) as refused:
        tokenization.load_vocab(path)
    assert str(refused.value).startswith(path + place) and "\n" not in str(refused.value)


def test_tokenization_needs_neither_tensorflow_nor_sentencepiece():
    code = (
        "import sys, tokenization\n"
        "tokenization.FullTokenizer(sys.argv[1]).tokenize('film')\n"
        "print([name for name in ('tensorflow', 'sentencepiece', 'numpy') if name in sys.modules])"
    )
    vocab = os.path.join(ROOT, "tests", "golden", "tiny_bert", "vocab.txt")
    assert subprocess.check_output([sys.executable, "-c", code, vocab], cwd=ROOT) == b"[]\n"

import pickle
import random
import time
import unicodedata

import pytest
from google_bert import tokenization as google
from google_bert import tokenization_test as google_test

import tokenization

NASTY_TEXTS = [
    "",
    " \t\r\n ",
    "unaffable",
    "UNwant\u00e9d,running",
    "don't stop... (really?!)",
    "$+<=>^`|~ all ASCII symbols #@*_-/\\",
    "cr\u00e8me br\u00fbl\u00e9e cre\u0300me bru\u0302le\u0301e",  # composed and decomposed accents
    "\u0301 a lone accent and a\u0301\u0302\u0303 stack",
    # A sigma at the end of a word.
    "\u039f\u0394\u039f\u03a3 \u039f\u0394\u039f\u03a3, \u039f\u0394\u039f\u03a3\u2028x",
    "\u0130stanbul \u0131 \u1e9e \ufb01ne \u212a",  # lower-casing that changes length or script
    "\u535a\u63a8zz\u3042\u30a2\ud55c\uae00",  # ideographs stand alone, kana and Hangul do not
    "\u4e00\u9fff\u3400\u4dbf\uf900\ufaff\U00020000\U0002a6df\U0002a700\U0002ceaf\U0002fa1f",
    "\u33ff\u4dc0\u4dff\ua000\uf8ff\ufb00\U0001ffff\U0002a6e0\U0002ceb0\U0002fa20",  # just outside
    "full\uff0cwidth\uff01\u3002\u3000\u300c\u300d\u2014\u2026",
    "zero\u200bwidth\u200djoin\u2060er\ufeff soft\u00adhyphen",
    "a\x00b\x05c\x0bd\x0ce\x1cf\x85g\ufffdh\x7f",  # dropped, so the words grow together
    "no\u00a0break\u2003em\u1680ogham\u202fnarrow",
    "line\u2028paragraph\u2029end",  # str.split splits here although BERT calls it no white space
    "private \ue000\uf8ff unassigned \u0378\U000e0080 surrogate \ud800x\udfff",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f44d\U0001f3fd \u2764\ufe0f",
    "\u0e01\u0e34\u0e19\u0e02\u0e49\u0e32\u0e27 \u0939\u093f\u0928\u094d\u0926\u0940 \u05d0\u05b8",
    "\u0627\u0644\u0639\u064e\u0631\u064e\u0628\u0650\u064a\u0629\u060c \u061f",
    "\u1ffe\u1fef\u037e\u0387\u2329\u232a",  # NFD turns them into other, ASCII punctuation
    "[CLS] [MASK] ##ing [UNK]",
    "x" * 199 + " " + "y" * 200 + " " + "z" * 201,
    b"bytes \xe4\xb8\xad\xff\xfe caf\xc3\xa9",
]


def random_texts(count, seed):
    """Texts that mix words with every kind of character BERT treats in its own way."""
    rng = random.Random(seed)
    alphabets = [
        "abcdefghijklmnopqrstuvwxyz",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        "0123456789.,;:!?'\"()[]{}$+<=>^`|~#@&*_-/\\",
        " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\u00a0\u1680\u2003\u2028\u2029\u202f\u3000",
        "\x00\x05\x7f\u00ad\u200b\u200d\u2060\ufeff\ufffd\ue000\u0378",
        "\u00e9\u00c8\u00fc\u00d6\u0130\u03a3\u03c3\u0301\u0308\u0323\u1e9e\u212b",
        "\u4e2d\u6587\uff0c\u3002\u3042\u30a2\ud55c\uae00\uf900\U00020000\U0001f600",
    ]

    def character():
        if rng.random() < 0.05:
            return chr(rng.randrange(0x110000))
        return rng.choice(rng.choice(alphabets))

    return ["".join(character() for _ in range(rng.randrange(60))) for _ in range(count)]


@pytest.fixture(scope="module")
def vocab_file(tmp_path_factory):
    """A vocabulary of pieces of the random texts, so that words are split in many ways."""
    rng = random.Random(0)
    pieces = set()
    for text in random_texts(300, seed=1) + [text for text in NASTY_TEXTS if text]:
        for lower in (True, False):
            for word in google.BasicTokenizer(lower).tokenize(text):
                for _ in range(8):
                    start, end = sorted(rng.choices(range(len(word) + 1), k=2))
                    pieces.add(("##" if start else "") + word[start:end])
    # Half of the characters: the other half makes words that cannot be spelled.
    pieces.update(
        prefix + char for char in "aceginopqstuwy\u4e2d\uff0c.,!'" for prefix in ("", "##")
    )
    # A lone surrogate cannot be written to a file.
    pieces = {piece.encode("utf-8", "ignore").decode("utf-8") for piece in pieces}
    tokens = [*tokenization.SPECIAL_TOKENS, *sorted(pieces - {"", "##"})]
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_bytes("".join(f"{token}\n" for token in tokens).encode("utf-8"))
    return str(path)


class TestGooglesOwnTests(google_test.TokenizationTest):
    """Every test that google wrote for its tokenization.py, run against ours."""

    test_session = None  # of TensorFlow's TestCase: not a test, in spite of its name

    @pytest.fixture(autouse=True)
    def run_against_ours(self, monkeypatch):
        monkeypatch.setattr(google_test, "tokenization", tokenization)


class TestSameTokensAsGoogle:
    @pytest.mark.parametrize("do_lower_case", [True, False])
    def test_texts(self, google_with_the_last_control_rule, vocab_file, do_lower_case):
        theirs = google_with_the_last_control_rule.FullTokenizer(vocab_file, do_lower_case)
        ours = tokenization.FullTokenizer(vocab_file, do_lower_case)
        assert ours.vocab == theirs.vocab
        assert ours.inv_vocab == theirs.inv_vocab
        all_tokens = []
        for text in NASTY_TEXTS + random_texts(4000, seed=2):
            tokens = theirs.tokenize(text)
            assert ours.tokenize(text) == tokens, repr(text)
            ids = ours.convert_tokens_to_ids(tokens)
            assert ids == theirs.convert_tokens_to_ids(tokens)
            assert ours.convert_ids_to_tokens(ids) == tokens
            all_tokens.extend(tokens)
        # The comparison says something only where words are split and some cannot be spelled.
        assert sum(token.startswith("##") for token in all_tokens) > 10000
        assert all_tokens.count("[UNK]") > 1000

    @pytest.mark.parametrize("do_lower_case", [True, False])
    def test_every_character_between_letters(
        self, google_with_the_last_control_rule, do_lower_case
    ):
        theirs = google_with_the_last_control_rule.BasicTokenizer(do_lower_case)
        ours = tokenization.BasicTokenizer(do_lower_case)
        codepoints = [*range(0x20000), *range(0x2A600, 0x2FB00), *range(0xE0000, 0xE0200)]
        for first in range(0, len(codepoints), 1000):
            text = " ".join(f"A{chr(code)}b" for code in codepoints[first : first + 1000])
            assert ours.tokenize(text) == theirs.tokenize(text), hex(codepoints[first])

    def test_many_marks_on_a_letter(self, google_with_the_last_control_rule):
        """Those that are accents; the order of the others is that of the text here."""
        theirs = google_with_the_last_control_rule.BasicTokenizer()
        ours = tokenization.BasicTokenizer()
        accents = [c for c in map(chr, range(0x20000)) if unicodedata.category(c) == "Mn"]
        rng = random.Random(6)
        for _ in range(2000):
            text = "".join(rng.choices([*rng.choices(accents, k=6), "a", "\u00e9", "\uac01"], k=12))
            assert ours.tokenize(text) == theirs.tokenize(text), ascii(text)

    @pytest.mark.parametrize("do_lower_case", [True, False])
    def test_words_in_other_company(
        self, google_with_the_last_control_rule, vocab_file, do_lower_case
    ):
        """A word is remembered with what it became between other ones."""
        rng = random.Random(5)
        texts = [text for text in NASTY_TEXTS if isinstance(text, str)]
        parts = [part for text in texts for part in text.split(" ")]
        theirs = google_with_the_last_control_rule.FullTokenizer(vocab_file, do_lower_case)
        ours = tokenization.FullTokenizer(vocab_file, do_lower_case)
        for _ in range(500):
            text = " ".join(rng.choices(parts, k=8))
            assert ours.tokenize(text) == theirs.tokenize(text), repr(text)

    def test_word_that_is_seen_again(self, vocab_file):
        tokenizer = tokenization.FullTokenizer(vocab_file)
        first = tokenizer.tokenize("running unwanted")
        expected = list(first)
        first.append("the caller's own list")
        assert tokenizer.tokenize("running unwanted") == expected

    def test_more_words_than_the_cache_holds(self, vocab_file, monkeypatch):
        texts = random_texts(50, seed=3)
        expected = [tokenization.FullTokenizer(vocab_file).tokenize(text) for text in texts]
        monkeypatch.setattr(tokenization, "_MAX_CACHED_WORDS", 5)
        tokenizer = tokenization.FullTokenizer(vocab_file)
        assert [tokenizer.tokenize(text) for text in texts + texts] == expected + expected
        assert len(tokenizer._cache) == len(tokenizer.wordpiece_tokenizer._cache) == 5

    def test_whole_texts_are_not_remembered(self, vocab_file):
        tokenizer = tokenization.FullTokenizer(vocab_file)
        tokenizer.tokenize("\u4e2d" * 20 + " " + "\u4e2d" * 21)
        assert list(tokenizer._cache) == ["\u4e2d" * 20]

    def test_pickled_for_another_process(self, vocab_file):
        tokenizer = tokenization.FullTokenizer(vocab_file)
        expected = tokenizer.tokenize("running unwanted")
        assert pickle.loads(pickle.dumps(tokenizer)).tokenize("running unwanted") == expected


@pytest.mark.parametrize(
    "text, lower, cased",
    [
        (
            "He said: \u201cNo!\u201d",
            "he said : \u201c no ! \u201d",
            "He said : \u201c No ! \u201d",
        ),
        ("Cr\u00c8me", "creme", "Cr\u00c8me"),
        ("\u5f88\u597d\uff0cOK", "\u5f88 \u597d \uff0c ok", "\u5f88 \u597d \uff0c OK"),
        ("a\x0bb\u200bc", "abc", "abc"),
        ("\ue000x \u0378", "\ue000x \u0378", "\ue000x \u0378"),  # 1.0.1 of google drops both
        ("", "", ""),
    ],
)
def test_basic_tokenizer(text, lower, cased):
    assert tokenization.BasicTokenizer().tokenize(text) == lower.split(" ") * bool(text)
    assert tokenization.BasicTokenizer(do_lower_case=False).tokenize(text) == (
        cased.split(" ") * bool(text)
    )


@pytest.mark.parametrize("marks", ["\u0301\u0316", "\u302e\U0001d165"])
def test_very_many_marks_take_no_time(marks):
    """A sort of them takes more than ten seconds."""
    started = time.monotonic()
    first, second = marks
    (word,) = tokenization.BasicTokenizer().tokenize("a" + first * 50000 + second * 50000)
    assert word[0] == "a" and time.monotonic() - started < 5


def test_wordpiece_takes_the_longest_piece_first():
    vocab = {token: index for index, token in enumerate(["un", "una", "##aff", "##ff", "##able"])}
    tokenizer = tokenization.WordpieceTokenizer(vocab, unk_token="?", max_input_chars_per_word=9)
    assert tokenizer.tokenize("unaffable") == ["una", "##ff", "##able"]
    assert tokenizer.tokenize("unaffableunaffable un unx") == ["?", "un", "?"]


CHECKPOINTS = [
    f"{folder}{model}/bert_model.ckpt"
    for folder in ("", "/models/", "gs://bucket/", "/cased_L-12_H-768_A-12/bert_model.ckpt/")
    for model in (
        "uncased_L-12_H-768_A-12",
        "uncased_L-24_H-1024_A-16",
        "multilingual_L-12_H-768_A-12",
        "chinese_L-12_H-768_A-12",
        "cased_L-12_H-768_A-12",
        "cased_L-24_H-1024_A-16",
        "multi_cased_L-12_H-768_A-12",
        "wwm_uncased_L-24_H-1024_A-16",
        "my.uncased_L-12_H-768_A-12",
        "UNCASED_L-12_H-768_A-12",
    )
]


@pytest.mark.parametrize("do_lower_case", [True, False])
@pytest.mark.parametrize(
    "init_checkpoint",
    [*CHECKPOINTS, None, "", "bert_model.ckpt", "chinese_L-12_H-768_A-12/model.ckpt-100"],
)
def test_case_is_refused_where_google_refuses_it(do_lower_case, init_checkpoint):
    def refusal(module):
        try:
            module.validate_case_matches_checkpoint(do_lower_case, init_checkpoint)
        except ValueError as error:
            return error
        return None

    ours, theirs = refusal(tokenization), refusal(google)
    assert (ours is None) == (theirs is None)
    if ours:
        assert init_checkpoint in str(ours)
        assert str(ours).endswith(f"set --do_lower_case={not do_lower_case}")


@pytest.mark.parametrize("convert", ["convert_to_unicode", "printable_text"])
def test_text_and_bytes(convert):
    ours, theirs = getattr(tokenization, convert), getattr(google, convert)
    for text in ["caf\u00e9", b"caf\xc3\xa9", b"broken \xff\xfe utf-8", "", b""]:
        assert ours(text) == theirs(text)
    with pytest.raises(ValueError, match="int"):
        ours(3)


@pytest.mark.parametrize(
    "content",
    [
        "[PAD]\na\nb\n",
        "[PAD]\na\nb",  # no line end after the last token
        "[PAD]\r\na\r\nb\r\n",
        "[PAD]\na \n\tb\n",
        "a\n\u2028\nb\n",
        "a\n\x85\n\u3000\n\u00a0\nb\n",  # white space tokens share the empty name, ids go on
        "a\u2028\na\nb\n",
        "a\n\n\nb\n",
        "a\nb\na\nc\n",
        "\u4e2d\n##\u4e2d\n\U0001f600\n",
    ],
)
def test_vocabulary_has_googles_ids(tmp_path, content):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content.encode("utf-8"))
    vocab = tokenization.load_vocab(str(path))
    assert list(vocab.items()) == list(google.load_vocab(str(path)).items())


def test_byte_order_mark_is_not_part_of_the_first_token(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"\xef\xbb\xbf[PAD]\na\n")
    assert tokenization.load_vocab(str(path)) == {"[PAD]": 0, "a": 1}


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", ": is empty"),
        (b"\n\r\n \n", ": is empty"),
        (b"a\nb\nc\xff\n", ":3: is not UTF-8"),
        (b"\xef\xbb\xbfa\n\xff\n", ":2: is not UTF-8"),
        (b"\xff\xfea\x00\n\x00", ":1: is not UTF-8"),
        (None, ": No such file or directory"),
    ],
)
def test_bad_vocabulary(tmp_path, content, message):
    path = tmp_path / "vocab.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        tokenization.FullTokenizer(str(path))
    assert str(error.value).startswith(f"{path}{message}; --vocab_file must name")
    assert "\n" not in str(error.value)


def test_folder_instead_of_a_vocabulary(tmp_path):
    with pytest.raises(ValueError, match="Is a directory; --vocab_file"):
        tokenization.load_vocab(str(tmp_path))


def test_of_lines_with_the_same_token_the_last_one_counts(tmp_path, caplog):
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\na\nb\na\nb\nc\n")
    tokenizer = tokenization.FullTokenizer(str(path))
    assert tokenizer.vocab == google.load_vocab(str(path))
    assert tokenizer.convert_tokens_to_ids(["a", "b", "c"]) == [3, 4, 5]
    assert tokenizer.vocab_size == 6
    assert not caplog.records
    tokenization.log_repeated_tokens(str(path))
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: tokens in several lines, of which the last one counts: 2, the first 'a' in lines "
        "2 and 4"
    ]


def test_blank_lines_at_the_end_are_no_tokens(tmp_path, caplog):
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"[PAD]\na\n\nb\n\n \r\n\t\n")
    assert tokenization.load_vocab(str(path)) == {"[PAD]": 0, "a": 1, "": 2, "b": 3}
    tokenization.log_repeated_tokens(str(path))
    assert not caplog.records


def test_special_tokens_are_required_where_inputs_are_built():
    vocab = {"[UNK]": 0, "a": 1, "[SEP]": 2}
    with pytest.raises(ValueError, match=r"my/vocab.txt: has no \[PAD\], \[CLS\]; --vocab_file"):
        tokenization.validate_vocab(vocab, "my/vocab.txt")
    tokenization.validate_vocab(dict.fromkeys(tokenization.SPECIAL_TOKENS, 0), "my/vocab.txt")


def test_unknown_token_has_no_id():
    with pytest.raises(KeyError):
        tokenization.convert_tokens_to_ids({"a": 0}, ["a", "b"])

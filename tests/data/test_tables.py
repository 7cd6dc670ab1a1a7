import csv
import gzip
import io
import json
import os
import re
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bert_classifier.data import tables
from bert_classifier.data.tables import FORMATS, ListCell, Row, Table
from bert_classifier.errors import BadInput

WANTED = ("text", "label")
TEXT_AND_LABEL = {
    "tsv": b"text\tlabel\ngood\t1\nbad\t0\n",
    "csv": b"text,label\ngood,1\nbad,0\n",
    "jsonl": b'{"text": "good", "label": 1}\n{"text": "bad", "label": 0}\n',
}
ROWS = [["good", "1"], ["bad", "0"]]

each_format = pytest.mark.parametrize("file_format", FORMATS)


def property_test(max_examples=200):
    """Tries the same examples in every run, and however long they take on a busy machine."""
    return settings(max_examples=max_examples, deadline=None, derandomize=True, database=None)


@pytest.fixture
def table(tmp_path):
    """Writes `content` to a file and opens it."""

    def open_table(content, name, **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return Table(str(path), **{"wanted": WANTED, **options})

    return open_table


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A path that each example of a property writes anew."""
    return tmp_path_factory.mktemp("tables") / "file"


def cells(table):
    return [row.cells for row in table]


def peak_memory(use):
    tracemalloc.start()
    try:
        use()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class TestFormat:
    @pytest.mark.parametrize(
        "name, file_format",
        [
            ("a.tsv", "tsv"),
            ("a.TXT", "tsv"),
            ("a.csv", "csv"),
            ("a.b.jsonl", "jsonl"),
            ("a.ndjson", "jsonl"),
            ("a.json", "jsonl"),
        ],
    )
    @pytest.mark.parametrize("suffix", ["", ".gz"])
    @pytest.mark.parametrize("pack", [bytes, gzip.compress])
    def test_is_told_by_the_extension_and_gzip_by_the_content(
        self, table, name, file_format, suffix, pack
    ):
        opened = table(pack(TEXT_AND_LABEL[file_format]), name + suffix)
        assert opened.file_format == file_format
        assert cells(opened) == ROWS

    @each_format
    @pytest.mark.parametrize("name", ["a", "a.csv", "a.tsv", "a.xlsx"])
    def test_may_be_given(self, table, name, file_format):
        opened = table(TEXT_AND_LABEL[file_format], name, file_format=file_format)
        assert cells(opened) == ROWS

    @pytest.mark.parametrize("name", ["a", "a.gz", "a.xlsx", "csv", ".csv"])
    def test_is_unknown(self, table, name):
        with pytest.raises(BadInput) as error:
            table(b"text\n", name)
        assert str(error.value).endswith(
            f"/{name}: its name does not tell its format; set --file_format to one of "
            "tsv, csv, jsonl"
        )

    @pytest.mark.parametrize(
        "content, expected",
        [
            ("text,label\na;b,1\n", [["a;b", "1"]]),
            ("text;label\na,b;1\n", [["a,b", "1"]]),
            ('"text;a;b",label\nx,1\n', [["x", "1"]]),
            ('"text, first";"label, x";"text"\na;b;c\n', [["a", "b", "c"]]),
            ("text\na\n", [["a"]]),
            ("\n\ntext;label\na;1\n", [["a", "1"]]),
            # A name in the header decides, whatever the texts have.
            ("x;y;z,text\n1;2;3,a\n", [["1;2;3", "a"]]),
            ("text\n;\n", [[";"]]),
            # Else that the rows are equally wide.
            ("1,a; b; c\n0,d\n", [["1", "a; b; c"], ["0", "d"]]),
            ("1;a, b, c\n0;d\n", [["1", "a, b, c"], ["0", "d"]]),
            ('1,"a\nb; c"\n0,"d; e"\n', [["1", "a\nb; c"], ["0", "d; e"]]),
            ("1,a; b; c\n\n0,d\n", [["1", "a; b; c"], ["0", "d"]]),
            # Or Excel's first line.
            ("sep=;\r\ntext;label\na,b;1\n", [["a,b", "1"]]),
            ('\n"sep=,"\n1,a;b\n0,c;d\n', [["1", "a;b"], ["0", "c;d"]]),
            ("SEP=|\ntext|label\na;b,c|1", [["a;b,c", "1"]]),
        ],
    )
    def test_separator_of_csv_is_found(self, table, content, expected):
        opened = table(content, "a.csv", skip_ragged=True)
        assert cells(opened) == expected

    @pytest.mark.parametrize("separator", ["comma", "semicolon"])
    def test_separator_of_csv_may_be_given(self, table, separator):
        opened = table("1,a;b\n0,c;d\n", "a.csv", separator=separator)
        expected = {
            "comma": [["1", "a;b"], ["0", "c;d"]],
            "semicolon": [["1,a", "b"], ["0,c", "d"]],
        }
        assert cells(opened) == expected[separator]

    def test_a_name_in_the_first_row_is_no_header_where_there_is_none(self, table):
        opened = table("1,text;b\n0,c;d\n", "a.csv", has_header=False, separator="comma")
        assert cells(opened) == [["1", "text;b"], ["0", "c;d"]]


class TestHeader:
    @pytest.mark.parametrize(
        "content, options, columns, rows",
        [
            ("text\tlabel\na\t1\n", {}, ["text", "label"], [["a", "1"]]),
            ("id\t text \na\t1\n", {}, ["id", "text"], [["a", "1"]]),
            ("\ufefftext\tlabel\na\t1\n", {}, ["text", "label"], [["a", "1"]]),
            ("a text\t1\nb\t0\n", {}, ["1", "2"], [["a text", "1"], ["b", "0"]]),
            ("\ufeffa text\t1\n", {}, ["1", "2"], [["a text", "1"]]),
            ("a\t2\nb\t1\n", {"wanted": ["1", "2", 0]}, ["1", "2"], [["a", "2"], ["b", "1"]]),
            ("text\t1\n", {"wanted": []}, ["1", "2"], [["text", "1"]]),
            ("text\t1\n", {"has_header": False}, ["1", "2"], [["text", "1"]]),
            ("a\t1\nb\t2\n", {"has_header": True}, ["a", "1"], [["b", "2"]]),
            ("text\tlabel\n", {}, ["text", "label"], []),
        ],
    )
    @pytest.mark.parametrize("name, separator", [("a.tsv", "\t"), ("a.csv", ","), ("a.csv", ";")])
    def test_is_the_first_row_that_has_a_wanted_name(
        self, table, content, options, columns, rows, name, separator
    ):
        opened = table(content.replace("\t", separator), name, **options)
        assert opened.columns == columns
        assert opened.has_header == (columns != ["1", "2"])
        assert cells(opened) == rows

    @pytest.mark.parametrize("options", [{}, {"wanted": []}, {"has_header": False}])
    def test_of_json_are_the_keys_of_the_first_object(self, table, options):
        opened = table('{"b": "x", "a": "y"}\n{"a": "1", "b": "2"}\n', "a.jsonl", **options)
        assert opened.has_header is True
        assert opened.columns == ["b", "a"]
        assert cells(opened) == [["x", "y"], ["2", "1"]]


class TestPosition:
    @pytest.mark.parametrize(
        "header, column, position",
        [
            ("id\ttext\tlabel", "id", 0),
            ("id\ttext\tlabel", "label", 2),
            ("id\ttext\tlabel", "1", 0),
            ("id\ttext\tlabel", "3", 2),
            ("id\ttext\tlabel", 0, 0),
            ("id\ttext\tlabel", 2, 2),
            ("text\t1\tlabel", "1", 1),
            ("text\t1\tlabel", "2", 1),
            ("text\tx\tx", "3", 2),
            ("a\tb\tc", "1", 0),
            ("a\tb\tc", "3", 2),
            ("a\tb\tc", 2, 2),
        ],
    )
    def test_is_found(self, table, header, column, position):
        assert table(header, "a.tsv").position(column) == position

    COLUMNS = "the columns, separated by tabs, are ['text', 'LABEL', 'x', 'x']"

    @pytest.mark.parametrize(
        "content, name, column, message",
        [
            ("text\tLABEL\tx\tx\n", "a.tsv", "id", f":1: no column 'id'; {COLUMNS}"),
            ("text\tLABEL\tx\tx\n", "a.tsv", 4, f":1: no column 4; {COLUMNS}"),
            ("text\tLABEL\tx\tx\n", "a.tsv", -1, f":1: no column -1; {COLUMNS}"),
            ("text\tLABEL\tx\tx\n", "a.tsv", "0", f":1: no column '0'; {COLUMNS}"),
            ("text\tLABEL\tx\tx\n", "a.tsv", "5", f":1: no column '5'; {COLUMNS}"),
            (
                "text\tLABEL\tx\tx\n",
                "a.tsv",
                "label",
                f":1: no column 'label'; did you mean 'LABEL'? {COLUMNS}",
            ),
            (
                "text\tLABEL\tx\tx\n",
                "a.tsv",
                "x",
                ":1: column 'x' is there more than once; rename it or give a number",
            ),
            (
                "\n\ntext,label\n",
                "a.csv",
                "TXT",
                ":3: no column 'TXT'; did you mean 'text'? the columns, separated by commas, are "
                "['text', 'label']",
            ),
            (
                "text;label\n",
                "a.csv",
                "score",
                ":1: no column 'score'; the columns, separated by semicolons, are "
                "['text', 'label']",
            ),
            (
                '\n{"text": 1}\n',
                "a.json",
                "score",
                ":2: no column 'score'; the columns are ['text']",
            ),
            (
                "Text,score\n",
                "a.tsv",
                "label",
                ":1: no column 'label'; the columns, separated by tabs, are ['Text,score'], taken "
                "for a row and not for a header",
            ),
            (
                " Text\tscore\n",
                "a.tsv",
                "text",
                ":1: no column 'text'; did you mean 'Text'? the columns, separated by tabs, are "
                "[' Text', 'score'], taken for a row and not for a header",
            ),
        ],
    )
    def test_is_unknown(self, table, content, name, column, message):
        opened = table(content, name)
        with pytest.raises(BadInput) as error:
            opened.position(column)
        assert str(error.value) == opened.path + message

    def test_is_unknown_and_a_flag_gives_it(self, table):
        opened = table("text\tstars\n", "a.tsv")
        with pytest.raises(BadInput, match=r"are \['text', 'stars'\]; give --label_column$"):
            opened.position("label", "--label_column")

    def test_is_unknown_in_one_short_line_however_long_the_columns_are(self, table):
        opened = table("text " * 10000 + "\r\ttext\n", "a.tsv")
        with pytest.raises(BadInput) as error:
            opened.position("texts")
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 500 + len(opened.path)


class TestRows:
    @each_format
    @pytest.mark.parametrize(
        "change",
        [
            lambda content: content,
            lambda content: content[:-1],
            lambda content: content.replace(b"\n", b"\r\n"),
            lambda content: content.replace(b"\n", b"\r\n")[:-1],
            lambda content: b"\xef\xbb\xbf" + content,
            lambda content: content + b"\n\r\n\n",
            lambda content: b"\r\n\n" + content,
            lambda content: gzip.compress(content[:20]) + gzip.compress(content[20:]),
        ],
    )
    def test_are_the_same_however_the_file_was_saved(self, table, file_format, change):
        opened = table(change(TEXT_AND_LABEL[file_format]), "a", file_format=file_format)
        assert cells(opened) == ROWS
        assert cells(opened) == ROWS  # once more: each iteration starts anew

    @pytest.mark.parametrize(
        "content, name, rows",
        [
            ("text\na\n\n\nb\n", "a.tsv", [(2, "a"), (3, ""), (4, ""), (5, "b")]),
            ("text\r\na\r\n\r\nb\r\n\r\n", "a.csv", [(2, "a"), (3, ""), (4, "b")]),
            ('text\na\n\n""\n\n', "a.csv", [(2, "a"), (3, ""), (4, "")]),
            ('"text"\n"a\n\nb\n"\nc\n', "a.csv", [(2, "a\n\nb\n"), (6, "c")]),
            ('\n{"text": "a"}\n \n{"text": "b"}\n\n', "a.json", [(2, "a"), (4, "b")]),
        ],
    )
    def test_know_the_line_in_which_they_begin(self, table, content, name, rows):
        assert list(table(content, name)) == [Row(line, [text]) for line, text in rows]

    @pytest.mark.parametrize(
        "text",
        [
            '" an open quotation mark',
            'a "quoted" word, a closing one"',
            '""',
            " spaces around ",
            "line\u2028separator",
            "next\x85line and \x0b\x0c\x1c\x1d\x1e",
            "carriage\rreturn",
            "\ufeff at the start and \ufeff in the text",
            "\u5f88\u597d\uff0c\U0001f44d",
            "back\\slash\\t",
        ],
    )
    def test_of_tsv_have_texts_as_they_are(self, table, text):
        assert cells(table(f"text\tlabel\n{text}\t1\n", "a.tsv")) == [[text, "1"]]
        assert cells(table(f"label\ttext\n1\t{text}\n", "a.tsv")) == [["1", text]]

    @pytest.mark.parametrize(
        "line, expected",
        [
            ('5" disk,"say ""hi"""', ['5" disk', 'say "hi"']),
            (' "a","b, c"', [' "a"', "b, c"]),
            ('"",', ["", ""]),
            ('"a\r\nb","""\n"""', ["a\r\nb", '"\n"']),
            ('a\rb,"c\rd"', ["a\rb", "c\rd"]),
            ('"%s",' % ("a\n" * 1200), ["a\n" * 1200, ""]),
        ],
    )
    def test_of_csv_are_unquoted(self, table, line, expected):
        assert cells(table(f"text,label\n{line}\nx,y\n", "a.csv")) == [expected, ["x", "y"]]
        assert cells(table(f"text,label\n{line}", "a.csv")) == [expected]

    @pytest.mark.parametrize(
        "value, expected",
        [
            ('"a\\tb\\n\\u00e9\\ud83d\\ude00"', "a\tb\n\u00e9\U0001f600"),
            ("null", ""),
            ("true", "true"),
            ("false", "false"),
            ("-3", "-3"),
            ("5.000", "5.000"),
            ("1E400", "1E400"),
            ("[]", ""),
            ('["one"]', "one"),
            ('["two", "one"]', "two,one"),
        ],
    )
    def test_of_json_are_texts(self, table, value, expected):
        content = f'{{"label": "x", "text": "y"}}\n{{"label": {value}}}\n'
        assert cells(table(content, "a.json")) == [["x", "y"], [expected, ""]]

    @pytest.mark.parametrize(
        "value, elements",
        [("[]", ()), ('["one"]', ("one",)), ('["a,b", "c;d"]', ("a,b", "c;d")), ("[1]", ("1",))],
    )
    def test_of_json_have_lists_whole(self, table, value, elements):
        ((_, cell),) = cells(table(f'{{"text": "a", "label": {value}}}', "a.json"))
        assert isinstance(cell, ListCell)
        assert cell.elements == elements
        assert cell == ",".join(elements)

    @pytest.mark.parametrize(
        "value, cell",
        [
            ('{"a": {}}', ""),
            ("[[0, 2]]", ""),
            ('"\\ud83d"', ""),
            ("NaN", ""),
            ("3", "3"),
            ('["a,b"]', "a,b"),
        ],
    )
    def test_of_json_may_have_anything_where_nobody_asks(self, table, value, cell):
        content = f'{{"text": "a", "meta": {value}}}\n{{"text": "b", "new": {value}}}\n'
        opened = table(content, "a.json")
        assert cells(opened) == [["a", cell], ["b", ""]]
        if cell == "":
            opened.position("meta")
            with pytest.raises(BadInput, match="a.json:1: "):
                cells(opened)

    def test_that_are_ragged_may_be_left_out_and_counted(self, table):
        content = "text\tlabel\na\t1\nb\n\nc\t1\t2\nd\t0\n"
        opened = table(content, "a.tsv", skip_ragged=True)
        assert opened.skipped == 0
        for _ in range(2):
            assert list(opened) == [Row(2, ["a", "1"]), Row(6, ["d", "0"])]
            assert opened.skipped == 3


T = "text\tlabel\n"
C = "text,label\n"
J = '{"text": "a", "label": "1"}\n'
LONG = "key" * 1000
OPEN_QUOTE = "a quotation mark opens a cell that does not end"
BAD_FILES = [
    ("a.tsv", "", ": is empty; check --dev_file"),
    ("a.csv", "\n\r\n\n", ": is empty; check --dev_file"),
    ("a.json", " \n\t\n", ": is empty; check --dev_file"),
    ("a.tsv.gz", gzip.compress(b""), ": is empty; check --dev_file"),
    ("a.tsv", T.encode("utf-16"), ":1: is UTF-16; save the file as UTF-8"),
    ("a.tsv", b"\xfe\xff" + T.encode("utf-16-be"), ":1: is UTF-16; save the file as UTF-8"),
    ("a.csv", C.encode("utf-16-le"), ":1: is UTF-16; save the file as UTF-8"),
    ("a.json", J.encode("utf-16-be"), ":1: is UTF-16; save the file as UTF-8"),
    ("a.tsv", T + "a\t1\nb\0\t1\n", ":3: has a NUL byte; save the file as UTF-8 text"),
    ("a.tsv", T.encode() + b"a\t1\nb\xff\t1\n", ":3: is not UTF-8; convert the file, "),
    ("a.csv", b"\xef\xbb\xbf" + C.encode() + b"\xca\xd6\xbb\xfa,1\n", ":2: is not UTF-8; "),
    ("a.json", J.encode() + b'\n{"text": "\xed\xa0\x80"}', ":3: is not UTF-8; "),
    ("a.tsv", T + "a" * (1 << 24) + "\t1\n", ":2: is longer than 16777216 bytes; end each row"),
    ("a.json", "[" * (1 << 24) + "\n", ":1: is longer than 16777216 bytes; end each row with"),
    ("a.tsv", T + "a\t1\nb\n", ":3: columns: 1, but 2 in line 1; a tab must stand between two"),
    ("a.tsv", T + "a\t1\n\nb\t1\n", ":3: is blank; remove it"),
    ("a.tsv", "\n" + T + "a\tb\t1\n", ":3: columns: 3, but 2 in line 2; a tab must stand between"),
    ("a.csv", C + "a, b,1\n", ":2: columns: 3, but 2 in line 1; put a text that contains the"),
    ("a.csv", C + '"a\nb",1\n\n\nc,2\n', ":4: is blank; remove it"),
    (
        "a.csv",
        C + "a;b\n",
        ":2: columns: 1, but 2 in line 1; put a text that contains the separator",
    ),
    ("a.csv", "a,b;c\nd,e;f\n", ": commas as well as semicolons may separate its columns; give --"),
    ("a.csv", "sep=;\r\n", ": is empty; check --dev_file"),
    ("a.tsv", b"PAR1" + bytes(60), ":1: is no text file; save the table as UTF-8 text"),
    ("a.csv", b"PK\3\4\x14\0\6\0\x08\0\0\0!\0", ":1: is no text file; save the table as UTF-8"),
    ("a.csv", C + 'a,1\n"b,0\nc,0\n', f":3: {OPEN_QUOTE}; close it or"),
    ("a.csv", C + '"a\nb","1\nb,0\n', f":3: {OPEN_QUOTE}; close it or"),
    (
        "a.csv",
        C + '"' + ("a" * 9999 + "\n") * 1700 + '",1\n',
        ":2: a quotation mark opens a cell that is longer than 16777216 characters; close it or",
    ),
    ("a.csv", '"', f":1: {OPEN_QUOTE}; close it or"),
    ("a.csv", '"""', f":1: {OPEN_QUOTE}; close it or"),
    ("a.csv", C + '1,"a" b\n', ":2: text after the closing quotation mark of column 2; double a"),
    ("a.csv", C + '"a\nb"c,1\n', ":3: text after the closing quotation mark of column 1; double"),
    ("a.json", J + "text\n", ":2: is no JSON (Expecting value, character 1); write one object per"),
    ("a.json", J + '{"text": "a\tb"}', ":2: is no JSON (Invalid control character at, character"),
    (
        "a.json",
        "[\n" + J + "]\n",
        ":1: is no JSON (Expecting value, character 2); write one object",
    ),
    ("a.json", "{\n", ":1: is no JSON (Expecting property name enclosed in double quotes, char"),
    ("a.json", '{"text": ' + '{"a": ' * 5000, ":1: maximum recursion depth exceeded"),
    ("a.json", f"[{J[:-1]}]\n", ":1: is no JSON object with keys; write one per line"),
    ("a.json", J + "null\n", ":2: is no JSON object with keys; write one per line"),
    ("a.json", "{}\n" + J, ":1: is no JSON object with keys; write one per line"),
    ("a.json", J + '{"text": {"a": "b"}}', ":2: the value of 'text' cannot be used; write a text"),
    ("a.json", J + '{"label": [["a"]]}', ":2: the value of 'label' cannot be used; write a text"),
    ("a.json", J + '{"label": ["a", null]}', ":2: the value of 'label' cannot be used; write a"),
    ("a.json", J + '{"text": NaN}', ":2: the value of 'text' cannot be used; write a text, a"),
    ("a.json", J + '{"text": "a", "text": "a"}', ":2: has the key 'text' twice; keep one"),
    ("a.json", J + '{"text": [{"a": 1, "a": 2}]}', ":2: has the key 'a' twice; keep one"),
    (
        "a.json",
        J + '{"text": "\\ud83d"}',
        r":2: has '\ud83d', which is half a character; remove it",
    ),
    ("a.json", '{"\\ude00": "a"}', r":1: has '\ude00', which is half a character; remove it"),
    ("a.json", J + '{"text_b": "a"}', ":2: key 'text_b' is not in the first object; add it there"),
    ("a.json", J + '{"text": "a", "txt": "b"}', ":2: key 'txt' is not in the first object; add"),
    ("a.json", J + f'{{"{LONG}": 1}}', f":2: key '{LONG[:99]} is not in the first object; add it"),
    (
        "a.json",
        f'{{"{LONG}": {{}}}}',
        f":1: the value of '{LONG[:99]} cannot be used; write a text",
    ),
    ("a.json", f'{{"{LONG}": 1, "{LONG}": 1}}', f":1: has the key '{LONG[:99]} twice; keep one"),
    ("a.tsv", b"\x1f\x8b", ":1: damaged gzip data (Compressed file ended before "),
    ("a.tsv", gzip.compress(T.encode())[:-1], ":2: damaged gzip data (Compressed file ended "),
    ("a.tsv", gzip.compress(T.encode())[:-8] + bytes(8), ":2: damaged gzip data (CRC check failed"),
    ("a.tsv", gzip.compress(T.encode()) + b"a", ":2: damaged gzip data (Not a gzipped file"),
    ("a.tsv", gzip.compress(b"")[:10] + b"\xff", ":1: damaged gzip data (Error -3 while "),
]


@pytest.mark.parametrize("name, content, message", BAD_FILES, ids=[row[2] for row in BAD_FILES])
def test_bad_file(table, tmp_path, name, content, message):
    with pytest.raises(BadInput) as error:
        list(table(content, name, cure="check --dev_file", wanted=(*WANTED, LONG)))
    assert str(error.value).startswith(f"{tmp_path / name}{message}")
    assert str(error.value).isprintable()  # which also says that it is one line
    assert len(str(error.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize(
    "path, reason",
    [
        ("missing.tsv", "No such file or directory"),
        ("missing", "No such file or directory"),
        (".", "Is a directory"),
        ("a.tsv/b.tsv", "Not a directory"),
        ("loop.csv", "Too many levels of symbolic links"),
        ("/proc/self/mem", "Input/output error"),
    ],
)
def test_file_that_cannot_be_read(tmp_path, monkeypatch, path, reason):
    (tmp_path / "a.tsv").touch()
    os.symlink("loop.csv", str(tmp_path / "loop.csv"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput) as error:
        Table(path, cure="check --data_dir")
    assert str(error.value) == f"{path}: {reason}; check --data_dir"


@pytest.mark.parametrize(
    "name, start, repeated, end, expected",
    [
        ("a.tsv", "a", "\ta", "", ["a"] * 50001),
        ("a.csv", '"\n"', ',"\n"', "", ["\n"] * 50001),
        ("a.csv", '"', '""', '"', ['"' * 50000]),
    ],
    ids=["many cells", "many lines", "many quotation marks"],
)
def test_extreme_row(table, name, start, repeated, end, expected):
    (row,) = table(start + repeated * 50000 + end, name)
    assert row.cells == expected


class TestMemory:
    ROW = {
        "tsv": '{0} words of a text with a "\t{0}\n',
        "csv": '"{0} words of\na text with a """,{0}\n',
        "jsonl": '{{"text": "{0} words of a text with a \\"", "label": {0}}}\n',
    }

    @each_format
    @pytest.mark.parametrize("pack", [open, gzip.open])
    def test_does_not_grow_with_the_file(self, tmp_path, file_format, pack):
        path = tmp_path / "file"
        header = {"tsv": T, "csv": C, "jsonl": ""}[file_format]
        rows = "".join(self.ROW[file_format].format(index) for index in range(1000))
        with pack(str(path), "wb") as writer:
            writer.write(header.encode())
            for _ in range(50):
                writer.write(rows.encode())
        opened = Table(str(path), file_format, wanted=WANTED)
        counts = []
        peak = peak_memory(lambda: counts.append(sum(1 for _ in opened)))
        assert counts == [50000]
        assert peak < 300000

    @pytest.mark.parametrize(
        "name, start, rest",
        [("a.csv", C + '"', "a\n"), ("a.tsv", T, "a"), ("a.json", "", "[")],
    )
    @pytest.mark.parametrize("pack", [open, gzip.open])
    def test_does_not_grow_with_what_never_ends(
        self, tmp_path, monkeypatch, name, start, rest, pack
    ):
        monkeypatch.setattr(tables, "_MAX_LINE_BYTES", 1 << 20)
        monkeypatch.setattr(tables, "_MAX_RECORD_CHARACTERS", 1 << 20)
        path = tmp_path / name
        with pack(str(path), "wb") as writer:
            writer.write(start.encode())
            for _ in range(20):
                writer.write(rest.encode() * (1 << 20))

        def read():
            with pytest.raises(BadInput):
                list(Table(str(path), wanted=WANTED))

        assert peak_memory(read) < 5000000


def written(path, content):
    path.write_bytes(content)
    return str(path)


def texts(without=""):
    return st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0" + without))


def tables_of(cell, min_width=1):
    """Rows that all have the same number of cells."""
    widths = st.integers(min_width, 4)
    return widths.flatmap(
        lambda width: st.lists(st.lists(cell, min_size=width, max_size=width), min_size=1)
    )


@property_test()
@given(tables_of(texts("\t\n\r"), min_width=2), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_tsv_gives_back_what_was_written(scratch, rows, end, compressed):
    header = [f"column {number}" for number in range(len(rows[0]))]
    content = "".join("\t".join(row) + end for row in [header, *rows]).encode("utf-8")
    path = written(scratch, gzip.compress(content) if compressed else content)
    table = Table(path, "tsv", wanted=["column 1"])
    assert table.columns == header
    assert cells(table) == rows
    assert [row.line for row in table] == list(range(2, len(rows) + 2))


@property_test()
@given(
    tables_of(texts(), min_width=2),
    st.sampled_from(",;"),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]),
)
def test_csv_gives_back_what_pythons_module_wrote(scratch, rows, separator, quoting):
    header = [f"column {number}" for number in range(len(rows[0]))]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=separator, quoting=quoting).writerows([header, *rows])
    table = Table(written(scratch, file.getvalue().encode("utf-8")), "csv", has_header=True)
    assert table.columns == header
    assert cells(table) == rows


@property_test(max_examples=1000)
@given(st.text('",\n a', min_size=1), st.sampled_from(["\n", "\r\n"]))
@example('a"b,"c\n', "\n")
@example('""\n\n""', "\n")
def test_csv_is_read_as_pythons_module_reads_it(scratch, content, end):
    content = content.replace("\n", end)
    try:
        expected = [row for row in csv.reader(io.StringIO(content, newline=""), strict=True) if row]
    except csv.Error:
        expected = None
    try:
        table = Table(written(scratch, content.encode("utf-8")), "csv", skip_ragged=True)
    except BadInput:
        assert expected is None or not content.strip()
        return
    if expected is None:
        with pytest.raises(BadInput):
            list(table)
    else:
        without_blank_lines = [row for row in cells(table) if row != [""]]
        same_width = [row for row in expected if len(row) == len(expected[0])]
        assert without_blank_lines == [row for row in same_width if row != [""]]


json_values = st.one_of(
    texts(), st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.just("\0")
).filter(lambda value: value not in (float("inf"), float("-inf")))


@property_test()
@given(
    st.lists(texts().map(str.strip), min_size=1, max_size=4, unique=True).flatmap(
        lambda keys: st.lists(st.fixed_dictionaries({key: json_values for key in keys}), min_size=1)
    ),
    st.booleans(),
)
def test_json_gives_back_what_pythons_module_wrote(scratch, records, ensure_ascii):
    lines = [json.dumps(record, ensure_ascii=ensure_ascii) for record in records]
    table = Table(written(scratch, "\n".join(lines).encode("utf-8")), "jsonl")
    assert table.columns == list(records[0])
    for row, record in zip(table, records):
        for cell, value in zip(row.cells, record.values()):
            if value is None:
                assert cell == ""
            elif isinstance(value, str):
                assert cell == value
            else:
                assert json.loads(cell) == value
                assert type(json.loads(cell)) is type(value)


bytes_of_a_file = st.one_of(
    st.binary(),
    st.text('{}[]",:;\\\n\r\t 0eaNu\u4f60').map(lambda text: text.encode("utf-8")),
    st.lists(st.sampled_from([*TEXT_AND_LABEL.values(), b'{"text": "', b'"a', b"\n"])).map(
        b"".join
    ),
)


@property_test(max_examples=500)
@given(bytes_of_a_file, st.sampled_from(FORMATS), st.sampled_from([None, False, True]))
@example(b"\xef\xbb\xbf", "tsv", True)
@example(b'{"text": "\\ud800"}', "jsonl", None)
def test_any_bytes_are_rows_or_an_error_of_one_line(scratch, content, file_format, has_header):
    for data in (content, gzip.compress(content), gzip.compress(content)[: len(content)]):
        path = written(scratch, data)
        try:
            table = Table(path, file_format, has_header, WANTED)
            rows = list(table)
        except BadInput as error:
            assert re.match(re.escape(path) + r"(:[1-9]\d*)?: .*; ", str(error))
            assert str(error).isprintable()
        else:
            assert all(len(row.cells) == len(table.columns) for row in rows)
            lines = [row.line for row in rows]
            assert lines == sorted(set(lines))
            "".join(cell for row in rows for cell in row.cells).encode("utf-8")


PIPE = "is a pipe and can be read only once; write it to a file first"


@pytest.mark.parametrize("kind", ["a FIFO that nobody writes to", "a pipe", "a device"])
def test_what_can_be_read_only_once_is_refused(tmp_path, kind):
    path = str(tmp_path / "a.tsv")
    read_end, write_end = os.pipe()
    if kind == "a pipe":
        path = f"/dev/fd/{read_end}"
    elif kind == "a device":
        path = "/dev/zero"
    else:
        os.mkfifo(path)
    with pytest.raises(BadInput) as error:
        Table(path, "tsv")
    expected = PIPE.replace("pipe", "device") if kind == "a device" else PIPE
    assert str(error.value) == f"{path}: {expected}"
    os.close(read_end)
    os.close(write_end)


def test_a_text_of_a_megabyte_is_read(table):
    text = "sun w1 " * 150000
    assert cells(table(f"text\tlabel\n{text}\t1\n", "a.tsv")) == [[text, "1"]]

"""Answer texts with an exported model, on the command line.

    python -m bert_classifier.predict EXPORT TEXT       one text; of pairs: TEXT TEXT_B
    python -m bert_classifier.predict EXPORT --input_file=reviews.csv   a table, as in training
    zcat reviews.gz | python -m bert_classifier.predict EXPORT          a text per line; of pairs,
                                                                        with a tab
    python -m bert_classifier.predict EXPORT            asks for texts, on a terminal

EXPORT is the folder of an export, a SavedModel or an ONNX model, or a frozen graph; or a folder of
exports, for the newest; or the output_dir of a run, for the best. The answers have the columns
`label`, `confidence`, a `p(<label>)` per label, `text` and, for pairs, `text_b`; if the texts come
from a table, also its column id, index or guid. A regression has a `score` in place of the first
three.
`--output_format=jsonl` writes an object per line. Below the minimum confidence the label is empty,
or null.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import sys
from typing import Any, BinaryIO, Iterator, Sequence, TextIO, Tuple, Union

from bert_classifier import streams

if __name__ == "__main__":
    streams.fill_closed()
    # Read by TensorFlow's C++ side when it is imported. It would log an error if there is no GPU;
    # real errors come as exceptions too.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from bert_classifier import files
from bert_classifier.data.examples import find_ids
from bert_classifier.data.tables import FORMATS, SEPARATORS, Table
from bert_classifier.errors import BadInput
from bert_classifier.export import bundle
from bert_classifier.serving import answers
from bert_classifier.serving.predictor import Predictor, Text, chunks

PROGRAM = "bert_classifier.predict"

# The name of a row of a table, None for other texts, and the text.
Question = Tuple[Union[str, None], Text]

_BYTES_PER_READ = 1 << 16

_INTERRUPTED = 130  # The exit status of a program that Ctrl-C has ended, in a shell.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status, 2 for bad input."""
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    parser = _argument_parser()
    # Otherwise TEXT would have to follow EXPORT directly.
    options = parser.parse_intermixed_args(arguments)
    if options.texts and options.input_file:
        parser.error("give a TEXT or an --input_file, not both")
    # Bytes or code points that are no characters must not stop the program.
    _reconfigure(sys.stdin, errors="surrogateescape")
    _reconfigure(sys.stdout, encoding="utf-8", errors="backslashreplace")
    is_asked = bool(options.texts or options.input_file or options.output_file)
    try:
        _check_streams(options)
        for name in ("export", "input_file", "output_file"):
            path = getattr(options, name)
            setattr(options, name, path and files.user_path(path))
        _check_output(options)
        _check_texts(options.texts)
        with Predictor(
            options.export,
            options.temperature,
            options.min_confidence,
            options.batch_size,
            options.server,
        ) as predictor:
            if predictor.export != options.export:
                print(PROGRAM + ": %s" % predictor.origin(), file=sys.stderr)
            if not is_asked and sys.stdin.isatty():
                _converse(predictor, options.top_k)
            else:
                _write_answers(predictor, options)
    except BrokenPipeError:
        streams.leave_stdout()
    except (BadInput, OSError) as error:
        print(PROGRAM + ": %s" % error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


def _argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bert_classifier.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "export",
        metavar="EXPORT",
        help="the folder of an export, or of several, an output_dir, or a frozen graph",
    )
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="the text, or both of a pair")
    parser.add_argument("--input_file", help="a table of texts, plain or gzipped")
    parser.add_argument(
        "--text_column", help="its name or its number, from 1; default: text, or the first column"
    )
    parser.add_argument("--text_b_column", help="of pairs; default: text_b, or the second column")
    parser.add_argument(
        "--id_column", help="what names a row of the answers; default: id, index or guid, if any"
    )
    parser.add_argument("--file_format", choices=FORMATS, help="default: as the file's name says")
    parser.add_argument(
        "--separator", choices=SEPARATORS, help="of CSV; default: as the rows of the file tell"
    )
    header = parser.add_mutually_exclusive_group()
    header.add_argument(
        "--has_header",
        action="store_const",
        const=True,
        help="the first row names the columns; by default it does if it has their names",
    )
    header.add_argument(
        "--nohas_header", dest="has_header", action="store_const", const=False, help="it does not"
    )
    parser.add_argument("--output_file", help="appears when it is complete; default: stdout")
    parser.add_argument("--output_format", choices=("tsv", "jsonl"), default="tsv")
    parser.add_argument("--top_k", type=int, default=3, help="labels in top_k of jsonl; default: 3")
    parser.add_argument(
        "--min_confidence",
        type=float,
        help="answer only where the probability is not below; default: as exported",
    )
    parser.add_argument(
        "--temperature", type=float, help="divides the logits; default: as exported"
    )
    parser.add_argument("--batch_size", type=int, default=32, help="default: 32")
    parser.add_argument(
        "--server",
        help="a TensorFlow Serving that has the model and computes, "
        "as http://localhost:8501/v1/models/NAME",
    )
    return parser


def _reconfigure(stream: TextIO, **settings: Any) -> None:
    # An object in place of a real stream may have no settings.
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(**settings)


def _check_streams(options: argparse.Namespace) -> None:
    """Refuse a closed stdin or stdout that would be needed: Python sets them to None."""
    if sys.stdin is None and not (options.texts or options.input_file):
        raise BadInput("standard input is closed; give a TEXT or an --input_file")
    if sys.stdout is None and not options.output_file:
        raise BadInput("standard output is closed; give an --output_file")


def _check_output(options: argparse.Namespace) -> None:
    """Refuse an output that cannot be written, or that would take the place of what is read."""
    output = options.output_file
    if output is None:
        return
    files.check_output("output_file", output)
    texts = options.input_file or ("" if options.texts else "/dev/stdin")
    for path in (options.export, texts):
        # The terminal may be both.
        if os.path.isfile(output) and os.path.exists(path) and os.path.samefile(output, path):
            raise BadInput("--output_file=%s: is a file that is read; give another one" % output)


def _check_texts(texts: Sequence[str]) -> None:
    """Refuse the path of an export in place of a text."""
    for text in texts:
        if bundle.is_export(text):
            raise BadInput(
                "TEXT: %s is an export, as if a shell had put several paths in the place of a *; "
                "give one of them, or the folder that they are in, and then the text" % text
            )


def _converse(predictor: Predictor, top_k: int) -> None:
    """Ask for texts on the terminal, until the end of input."""
    form = answers.Form(predictor.settings)
    prompts = ("text: ", "text_b: ")[: predictor.settings.texts_per_example]
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            (prediction,) = predictor.predict([_text([input(p) for p in prompts])], top_k)
            ranked = ", ".join("%s %.4f" % best for best in prediction.top_k)
            answer = form.label_cell(prediction.label) or "no answer"
            print("%s   (%s)" % (answer, ranked) if ranked else answer)
    print()


def _text(texts: Sequence[str]) -> Text:
    return texts[0] if len(texts) == 1 else (texts[0], texts[1])


def _write_answers(predictor: Predictor, options: argparse.Namespace) -> None:
    settings = predictor.settings
    id_name, chunks = _read_questions(options, settings.texts_per_example)
    form = answers.Form(settings, id_name)
    with _open_output(options.output_file) as output:
        if options.output_format == "tsv":
            output.write("\t".join(form.header) + "\n")
        for chunk in chunks:
            predictions = predictor.predict([text for _, text in chunk], options.top_k)
            for (identifier, text), prediction in zip(chunk, predictions):
                texts = [text] if isinstance(text, str) else text
                if options.output_format == "tsv":
                    line = "\t".join(form.cells(prediction, texts, identifier))
                else:
                    line = form.json_line(prediction, texts, identifier)
                output.write(line + "\n")
            output.flush()


def _read_questions(
    options: argparse.Namespace, texts_per_example: int
) -> tuple[str | None, Iterator[list[Question]]]:
    """Return the name of the column that names rows, if any, and the questions in chunks."""
    if options.input_file:
        id_name, questions = _read_table(options, texts_per_example)
        return id_name, chunks(questions, lambda question: question[1])
    for flag in ("text_column", "text_b_column", "id_column", "file_format", "separator"):
        if getattr(options, flag):
            raise BadInput("--%s: is for an --input_file; give one, or leave it out" % flag)
    if not options.texts:
        lines = _read_lines(sys.stdin.buffer, texts_per_example)
        return None, ([(None, text) for text in chunk] for chunk in lines)
    if len(options.texts) != texts_per_example:
        raise BadInput(
            "TEXT: there are %d, and the model reads %d; quote a text that has spaces"
            % (len(options.texts), texts_per_example)
        )
    return None, iter([[(None, _text(options.texts))]])


def _read_table(
    options: argparse.Namespace, texts_per_example: int
) -> tuple[str, Iterator[Question]]:
    given = (options.text_column, options.text_b_column)
    if options.text_b_column and texts_per_example == 1:
        raise BadInput("--text_b_column: the model reads single texts; leave it out")
    names = [column or name for column, name in zip(given, ("text", "text_b"))]
    names = names[:texts_per_example]
    table = Table(
        options.input_file,
        options.file_format,
        options.has_header,
        [*names, options.id_column] if options.id_column else names,
        cure="check --input_file",
        separator=options.separator,
    )
    columns: Sequence[str | int] = names
    if not table.has_header:
        # Do not guess which column is the text: it could be the labels.
        if not options.text_column and len(table.columns) > texts_per_example:
            raise BadInput(
                "%s: has %d columns, and the first row does not name %s; say what to read with "
                "--text_column" % (options.input_file, len(table.columns), " and ".join(names))
            )
        columns = [column or number for number, column in enumerate(given[:texts_per_example])]
    flags = ("--text_column", "--text_b_column")
    positions = [table.position(column, flag) for column, flag in zip(columns, flags)]
    id_position = find_ids(table, positions)
    if options.id_column:
        id_position = table.position(options.id_column, "--id_column")
    id_name = "index"
    if id_position is not None:
        id_name = table.columns[id_position] if table.has_header else "id"
    return id_name, (
        (
            str(number) if id_position is None else row.cells[id_position],
            _text([row.cells[position] for position in positions]),
        )
        for number, row in enumerate(table)
    )


def _read_lines(stream: BinaryIO, texts_per_example: int) -> Iterator[list[Text]]:
    """Yield the texts of a stream, one per line, as they come: a chunk does not wait for more.

    Raises:
        BadInput: a line is not UTF-8, or is not a pair for a model of pairs.
    """
    first = 1
    for lines in _available_lines(stream):
        yield from chunks(
            _parse_line(number, line, texts_per_example)
            for number, line in enumerate(lines, start=first)
        )
        first += len(lines)


def _available_lines(stream: Any) -> Iterator[list[bytes]]:
    """Yield the lines that have come; wait only if there is none."""
    begun: list[bytes] = []
    for data in iter(lambda: stream.read1(_BYTES_PER_READ), b""):
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join([*begun, lines[0]])
            begun = []
            yield lines
        begun.append(rest)
    last = b"".join(begun)
    if last:
        yield [last]


def _parse_line(number: int, line: bytes, texts_per_example: int) -> Text:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(
            "<stdin>:%d: is not UTF-8; convert it, for example with `iconv -f GB18030 -t UTF-8` "
            "if it is Chinese" % number
        ) from error
    text = text[:-1] if text.endswith("\r") else text
    if texts_per_example == 1:
        return text
    if text.count("\t") != 1:
        raise BadInput(
            "<stdin>:%d: tabs: %d; write the two texts of a pair with one tab between them"
            % (number, text.count("\t"))
        )
    return _text(text.split("\t"))


@contextlib.contextmanager
def _open_output(path: str | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    with files.output(path) as written, open(
        written, "w", encoding="utf-8", errors="backslashreplace", newline="\n"
    ) as stream:
        yield stream


if __name__ == "__main__":
    sys.exit(main())

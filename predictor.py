"""What comes back: loads a bundle once and answers texts.

    python predictor.py EXPORT "It came broken."              one text; of pairs: TEXT TEXT_B
    python predictor.py EXPORT --input_file=reviews.csv       a table, as in training
    zcat reviews.gz | python predictor.py EXPORT              a text per line; of pairs, with a tab
    python predictor.py EXPORT                                asks for texts, on a terminal

EXPORT is the folder of an export or a frozen graph; or a folder of exports, of which the newest is
taken; or the output_dir of a run, of which the best is. The answers have the columns `label`,
`confidence`, a `p(<label>)` per label, `text` and, for pairs, `text_b`; those to a table also have
what names its rows, its column id, index or guid. A regression has `score` alone.
`--output_format=jsonl` gives an object per line. Where the model is not sure enough to answer, the
label is empty, or null.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import functools
import io
import itertools
import json
import logging
import math
import os
import sys
import tempfile
from typing import (
    Any,
    BinaryIO,
    Callable,
    Iterable,
    Iterator,
    Sequence,
    TextIO,
    Tuple,
    TypeVar,
    Union,
)

import streams

if __name__ == "__main__":
    streams.fill_closed()
# Read by TensorFlow's C++ side when it is imported. It would log an error for want of a GPU; what
# really is one comes as an exception as well.
if "tensorflow" not in sys.modules:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow.compat.v1 as tf

import answers
import bundle
import features
import files
from answers import Prediction
from errors import BadInput
from processors import InputExample, find_ids
from tables import FORMATS, SEPARATORS, Table
from tokenization import FullTokenizer

_LOG = logging.getLogger(__name__)

Text = Union[str, Tuple[str, str]]
# What names a row of a table, None of other texts, and what is asked.
Question = Tuple[Union[str, None], Text]
_Item = TypeVar("_Item")

# Of a stream: enough to make good batches of texts of one length, and never much to hold in memory.
_TEXTS_PER_CHUNK = 1024
_CHARACTERS_PER_CHUNK = 1 << 20
_BYTES_PER_READ = 1 << 16

_INTERRUPTED = 130  # What a shell says of a program that Ctrl-C has ended.


class Predictor:
    """A loaded bundle. Use it as a context manager, or call `close()` when done.

    Threads may share it.

    Args:
        export: folder of an export, or file of a frozen graph; or a folder of exports, for the
            newest, or the output_dir of a run, for the best.
        temperature: what the logits are divided by; by default what the bundle says, and 1 gives
            the probabilities of the model itself.
        min_confidence: where the best label has a lower probability there is no answer; by default
            what the bundle says. For classification only.
        batch_size: texts, or windows of texts, that go through the model at once.

    Attributes:
        export: the one that answers.
        settings: those of the bundle, with the temperature and the confidence that are in use.
        evaluation: step and metrics of its checkpoint, as in `metrics.json`.

    Raises:
        BadInput: the bundle cannot be used, or an argument does not fit it.
    """

    def __init__(
        self,
        export: str,
        temperature: float | None = None,
        min_confidence: float | None = None,
        batch_size: int = 32,
    ):
        if batch_size < 1:
            raise BadInput("batch_size=%d: give 1 or more" % batch_size)
        self._batch_size = batch_size
        self.export = bundle.find(export)
        self._model, settings, parts = bundle.open_bundle(self.export)
        self.evaluation = json.loads(parts.get(bundle.METRICS, b"{}").decode("utf-8"))
        if self.export != export:
            _LOG.info("%s", self.origin())
        self._workers = concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0)))
        self.settings = _adjusted(settings, temperature, min_confidence)
        self._converter = features.Converter(
            settings.labels,
            settings.max_seq_length,
            _read_tokenizer(parts[bundle.VOCAB], settings.do_lower_case),
            settings.problem_type,
            settings.truncation,
            settings.window_stride,
        )

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def origin(self) -> str:
        """Say which export answers, of which step, and how good it was found."""
        step, metric = self.evaluation.get("step"), self.evaluation.get("best_metric")
        told = [] if step is None else ["step %s" % step]
        if metric in self.evaluation.get("metrics", {}):
            told.append("%s %.4f" % (metric, float(self.evaluation["metrics"][metric])))
        return "the model is %s%s" % (self.export, " (%s)" % ", ".join(told) if told else "")

    def close(self) -> None:
        """Frees the model and its threads."""
        self._workers.shutdown()
        self._model.close()

    def predict(self, texts: Iterable[Text], top_k: int = 3) -> list[Prediction]:
        """Answers texts, in their order.

        Args:
            texts: each a str, whatever is in it, or, if the model is one of pairs, two of them.
            top_k: how many of the labels `Prediction.top_k` should have, if there are so many.

        Raises:
            TypeError: this is not a list of texts.
            BadInput: these are pairs and the model reads single texts, or the reverse.
        """
        return self._answer(list(self._checked(texts)), top_k)

    def predict_stream(self, texts: Iterable[Text], top_k: int = 3) -> Iterator[Prediction]:
        """Answers any number of texts, in their order, with a bounded part of them in memory.

        The arguments and errors are those of `predict`. What comes before an error is answered.
        """
        answer = functools.partial(self._answer, top_k=top_k)
        return itertools.chain.from_iterable(map(answer, _chunks(self._checked(texts))))

    def _checked(self, texts: Iterable[Text]) -> Iterator[Text]:
        if isinstance(texts, (str, bytes)):
            raise TypeError("texts is one %s; give a list of texts" % type(texts).__name__)
        return (self._check(number, text) for number, text in enumerate(texts))

    def _check(self, number: int, text: Any) -> Text:
        is_pair = isinstance(text, (tuple, list))
        strings = text if is_pair else [text]
        if is_pair and len(text) != 2 or not all(isinstance(string, str) for string in strings):
            raise TypeError(
                "texts[%d] is %.100r; give a str, or a pair of str for a model of pairs"
                % (number, text)
            )
        if len(strings) != self.settings.texts_per_example:
            raise BadInput(
                "texts[%d] is a pair, and the model reads single texts; give a str" % number
                if is_pair
                else "texts[%d] is one text, and the model reads pairs; give (text, text_b)"
                % number
            )
        return text

    def _answer(self, texts: Sequence[Text], top_k: int) -> list[Prediction]:
        if top_k < 0:
            raise BadInput("top_k=%d: give 0 or more" % top_k)
        if not texts:
            return []
        windows = [self._windows(text) for text in texts]
        outputs = self._run(list(itertools.chain.from_iterable(windows)))
        counts = np.array([len(of_text) for of_text in windows])
        sums = np.add.reduceat(outputs, np.cumsum(counts) - counts)
        return answers.decide(self.settings, (sums.T / counts.astype(np.float32)).T, top_k)

    def _windows(self, text: Text) -> list[np.ndarray]:
        """Gives what is read of a text at once, int32 `[3, length]` in the order of the inputs."""
        text_a, text_b = (text, None) if isinstance(text, str) else text
        converted = self._converter.convert(InputExample("", text_a, text_b))
        tokens = np.array([getattr(converted, name) for name in bundle.INPUTS], np.int32)
        length = self.settings.max_seq_length
        return [tokens[:, start : start + length] for start in range(0, tokens.shape[1], length)]

    def _run(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        """Gives the probabilities, or numbers, of windows: float32 `[num_windows, ...]`.

        Those of similar length share a batch, which is as long as its longest, so little of the
        time goes into padding. Each core has a batch of its own: they need not wait for each other
        as often as when they share one.
        """
        # The longest first: what is left for the end, when a core may have nothing more, is short.
        order = sorted(range(len(windows)), key=lambda number: -windows[number].shape[1])
        batches = [
            [windows[number] for number in order[start : start + self._batch_size]]
            for start in range(0, len(order), self._batch_size)
        ]
        if len(batches) == 1:  # It is not worth waking another thread.
            outputs = [self._run_batch(batches[0])]
        else:
            outputs = list(self._workers.map(self._run_batch, batches))
        return np.concatenate(outputs)[np.argsort(order)]

    def _run_batch(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        """Runs the model once; as `_run`, the longest window being the first."""
        tokens = np.zeros([len(bundle.INPUTS), len(windows), windows[0].shape[1]], np.int32)
        for row, window in enumerate(windows):
            tokens[:, row, : window.shape[1]] = window
        is_regression = self.settings.problem_type == "regression"
        output = "predictions" if is_regression else "probabilities"
        return self._model.run(dict(zip(bundle.INPUTS, tokens)))[output]


def _adjusted(
    settings: bundle.Settings, temperature: float | None, min_confidence: float | None
) -> bundle.Settings:
    """Replaces what the user wants to be different; see `Predictor`."""
    if temperature is not None:
        if not 0 < temperature < math.inf:
            raise BadInput("temperature=%s: give a number above 0" % temperature)
        if settings.problem_type == "regression":
            raise BadInput("temperature: a regression has no probabilities; leave it out")
        settings = settings._replace(temperature=temperature)
    if min_confidence is not None:
        if not 0 <= min_confidence <= 1:
            raise BadInput("min_confidence=%s: give a number from 0 to 1" % min_confidence)
        if settings.problem_type != "classification":
            raise BadInput(
                "min_confidence: is for classification, and this is %s; leave it out"
                % settings.problem_type
            )
        settings = settings._replace(min_confidence=min_confidence)
    return settings


def _read_tokenizer(vocab: bytes, do_lower_case: bool) -> FullTokenizer:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, bundle.VOCAB)
        with open(path, "wb") as stream:
            stream.write(vocab)
        return FullTokenizer(path, do_lower_case)


def _text_itself(text: Any) -> Text:
    return text


def _chunks(
    items: Iterable[_Item], text_of: Callable[[_Item], Text] = _text_itself
) -> Iterator[list[_Item]]:
    """Gives items in lists of bounded size; before an error, those that came before it."""
    chunk: list[_Item] = []
    num_characters = 0
    try:
        for item in items:
            chunk.append(item)
            text = text_of(item)
            num_characters += len(text) if isinstance(text, str) else sum(map(len, text))
            if len(chunk) == _TEXTS_PER_CHUNK or num_characters >= _CHARACTERS_PER_CHUNK:
                yield chunk
                chunk, num_characters = [], 0
    except Exception:
        yield chunk
        raise
    yield chunk


# The command line


def main(arguments: Sequence[str] | None = None) -> int:
    """Answers as the command line says; returns the exit status, 2 for bad input."""
    tf.logging.set_verbosity(tf.logging.ERROR)
    parser = _argument_parser()
    # Otherwise a text would have to stand directly behind EXPORT.
    options = parser.parse_intermixed_args(arguments)
    if options.texts and options.input_file:
        parser.error("give a TEXT or an --input_file, not both")
    # What is no character, such as half of one, must not stop the program, here or there.
    _reconfigure(sys.stdin, errors="surrogateescape")
    _reconfigure(sys.stdout, encoding="utf-8", errors="backslashreplace")
    is_asked = bool(options.texts or options.input_file or options.output_file)
    try:
        _check_streams(options)
        for name in ("export", "input_file", "output_file"):
            path = getattr(options, name)
            setattr(options, name, path and files.user_path(path))
        _check_output(options.output_file)
        _check_texts(options.texts)
        with Predictor(
            options.export, options.temperature, options.min_confidence, options.batch_size
        ) as predictor:
            if predictor.export != options.export:
                print("predictor.py: %s" % predictor.origin(), file=sys.stderr)
            if not is_asked and sys.stdin.isatty():
                _converse(predictor, options.top_k)
            else:
                _write_answers(predictor, options)
    except BrokenPipeError:
        streams.leave_stdout()
    except (BadInput, OSError) as error:
        print("predictor.py: %s" % error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


def _argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="predictor.py",
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
    return parser


def _reconfigure(stream: TextIO, **settings: Any) -> None:
    # What has taken the place of a real stream may be none that has settings.
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(**settings)


def _check_streams(options: argparse.Namespace) -> None:
    """Say what cannot be read, or would be written to nobody: Python has no stream then."""
    if sys.stdin is None and not (options.texts or options.input_file):
        raise BadInput("standard input is closed; give a TEXT or an --input_file")
    if sys.stdout is None and not options.output_file:
        raise BadInput("standard output is closed; give an --output_file")


def _check_texts(texts: Sequence[str]) -> None:
    """Refuse the path of an export where a text should be."""
    for text in texts:
        if bundle.is_export(text):
            raise BadInput(
                "TEXT: %s is an export, as if a shell had put several paths in the place of a *; "
                "give one of them, or the folder that they are in, and then the text" % text
            )


def _check_output(path: str | None) -> None:
    """Says before all the work, and not after it, that its result cannot be written."""
    if path is not None and not os.path.isdir(os.path.dirname(path) or "."):
        raise BadInput("--output_file=%s: there is no such folder; make it first" % path)
    if path is not None and os.path.isdir(path):
        raise BadInput("--output_file=%s: is a folder; give the name of a file" % path)


def _converse(predictor: Predictor, top_k: int) -> None:
    """Asks a person for texts until there are no more."""
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
    """Reads what is to be answered, and the name of the column that names its rows."""
    if options.input_file:
        id_name, questions = _read_table(options, texts_per_example)
        return id_name, _chunks(questions, lambda question: question[1])
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
        # The other columns may be anything: rather no answers than answers to labels.
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
    """Gives the texts of a stream, a line each; who writes one and waits gets its answer.

    Raises:
        BadInput: a line is not UTF-8, or is no pair where it should be one.
    """
    first = 1
    for lines in _available_lines(stream):
        yield from _chunks(
            _parse_line(number, line, texts_per_example)
            for number, line in enumerate(lines, start=first)
        )
        first += len(lines)


def _available_lines(stream: Any) -> Iterator[list[bytes]]:
    """Gives as many lines as have come, and waits only if there is none."""
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
    with contextlib.ExitStack() as until_done:
        # A device or a pipe is written to: a file in its place would be the end of it.
        if os.path.isfile(path) or not os.path.exists(path):
            path = until_done.enter_context(files.atomic(path))
        yield until_done.enter_context(
            open(path, "w", encoding="utf-8", errors="backslashreplace", newline="\n")
        )


if __name__ == "__main__":
    sys.exit(main())

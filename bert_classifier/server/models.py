"""The versions of a model: the one that answers, and those that replace it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Iterator, NamedTuple, Sequence

import numpy as np

from bert_classifier.errors import BadInput
from bert_classifier.export import bundle
from bert_classifier.export.inference import padded
from bert_classifier.server.contract import EXAMPLES, SERVING_DEFAULT, Reads
from bert_classifier.serving.loaded import check_ranges
from bert_classifier.serving.predictor import Predictor, Text

_LOG = logging.getLogger(__name__)

# In TensorFlow Serving a path without a number has no version; clients need one.
_ONLY_VERSION = 1


class Options(NamedTuple):
    """How a version is loaded: the arguments of `Predictor`."""

    temperature: float | None = None
    min_confidence: float | None = None
    batch_size: int = 32

    def check(self) -> None:
        """Check what no export could be loaded with.

        Raises:
            BadInput: a value is impossible.
        """
        try:
            check_ranges(self.temperature, self.min_confidence)
        except BadInput as error:
            raise BadInput("--%s" % error) from error


class Version:
    """A loaded version.

    Attributes:
        number: of the version.
        settings: of its bundle.
        reads: what its signatures read.
        answer_texts: batch of (text, top_k) -> predictions.
        answer_tokens: batch of tokens -> outputs of each, by name.
        answer_examples: batch of serialized `tf.Example` -> outputs of each, by name.
    """

    def __init__(self, number: int, predictor: Predictor):
        self.number = number
        self.settings = predictor.settings
        self.reads = Reads(
            predictor.signatures,
            self.settings.max_seq_length,
            predictor.encoder["vocab_size"],
            predictor.encoder.get("type_vocab_size", 2),
        )
        self.origin = predictor.origin()
        self.calls_at_a_time = predictor.calls_at_a_time
        self.in_use = 0
        # Functions, not methods: the queue compares them by identity.
        self.answer_texts = lambda items: _answer_texts(predictor, items)
        self.answer_tokens = lambda rows: _rows(predictor.run(padded(rows)))
        self.answer_examples = lambda rows: _rows(
            predictor.run({EXAMPLES: list(rows)}, EXAMPLES + ":" + SERVING_DEFAULT)
        )
        self.close = predictor.close

    def warm_up(self) -> None:
        """Answer a text, so that the first client does not wait for what is done only once."""
        text: Text = "a" if self.settings.texts_per_example == 1 else ("a", "b")
        self.answer_texts([(text, 1)])


class Models:
    """The versions of a model in a folder, of which the newest that can be loaded answers.

    The methods are for the event loop's thread; only loading and closing are in another one.
    """

    def __init__(self, path: str, options: Options, count: Callable[[str], None]):
        """Load the first version.

        Args:
            path: as of `Predictor`. A newer export in the folder of the one that it stands for
                replaces it later, unless it is the path of one export.
            options: how to load a version.
            count: is told `loaded` or `refused` for each attempt.

        Raises:
            BadInput: there is none that can be loaded.
        """
        self._options = options
        self._count = count
        self._thread = ThreadPoolExecutor(1)
        self._states: dict[int, str] = {}
        # Path -> what it looked like when it was last seen, or refused.
        self._seen: dict[str, Any] = {}
        self._refused: dict[str, Any] = {}
        self._folder, candidates = _candidates(path)
        self._current = self._load_first(candidates)
        self._states[self._current.number] = "AVAILABLE"

    @property
    def states(self) -> dict[int, str]:
        """Return version -> state, as TensorFlow Serving names them."""
        return dict(self._states)

    @property
    def number(self) -> int:
        """Return the version that answers."""
        return self._current.number

    @property
    def calls_at_a_time(self) -> int:
        """Return how many batches at the same time are worth it."""
        return self._current.calls_at_a_time

    @contextlib.contextmanager
    def current(self) -> Iterator[Version]:
        """Yield the version that answers; it stays loaded in this block."""
        version = self._current
        version.in_use += 1
        try:
            yield version
        finally:
            version.in_use -= 1
            if version is not self._current and not version.in_use:
                self._unload(version)

    async def watch(self, seconds: float) -> None:
        """Look for a newer version again and again, without end."""
        loop = asyncio.get_event_loop()
        while self._folder is not None:
            await asyncio.sleep(seconds)
            try:
                path = await loop.run_in_executor(self._thread, self._wanted)
                if path is not None and _number(path) != self._current.number:
                    await self._replace(path)
            except Exception:  # A disk that is away for a moment must not end the watch.
                _LOG.exception("Looking for a newer version has failed; it goes on")

    async def _replace(self, path: str) -> None:
        number = _number(path)
        self._states[number] = "LOADING"
        version = await asyncio.get_event_loop().run_in_executor(self._thread, self._try, path)
        if version is None:
            del self._states[number]
            return
        old, self._current = self._current, version
        self._states.update({number: "AVAILABLE", old.number: "UNLOADING"})
        if not old.in_use:
            self._unload(old)

    def _unload(self, version: Version) -> None:
        # The same version may have come again.
        if version.number != self._current.number:
            self._states.pop(version.number, None)
        self._thread.submit(version.close)

    def _load_first(self, candidates: Sequence[str]) -> Version:
        """Load the newest that can be loaded, or say why the newest of all cannot."""
        refused = []
        for path in candidates:
            look = _look(path)
            try:
                version = self._load(path)
            except BadInput as error:
                refused.append((path, look, error))
                continue
            for refusal in refused:
                self._refuse(*refusal)
            return version
        raise refused[0][-1]

    def _wanted(self) -> str | None:
        """Return the newest export that has not been refused and is no longer being written."""
        exports = _exports(str(self._folder))
        now = {path: _look(path) for path in exports}
        before, self._seen = self._seen, now
        self._refused = {path: look for path, look in self._refused.items() if path in now}
        for path in exports:
            is_current = _number(path) == self._current.number
            if is_current or now[path] == before.get(path) != self._refused.get(path):
                return path
        return None

    def _try(self, path: str) -> Version | None:
        look = _look(path)
        try:
            return self._load(path)
        except Exception as error:
            self._refuse(path, look, error)
            return None

    def _load(self, path: str) -> Version:
        version = Version(_number(path), Predictor(path, *self._options))
        try:
            version.warm_up()
        except Exception:
            version.close()
            raise
        _LOG.info("Version %d: %s", version.number, version.origin)
        self._count("loaded")
        return version

    def _refuse(self, path: str, look: Any, error: Exception) -> None:
        # As it was before: what has been completed meanwhile is tried again.
        self._refused[path] = look
        self._count("refused")
        message = str(error) if isinstance(error, BadInput) else "%s: %r" % (path, error)
        _LOG.error("Not loaded: %s", " ".join(message.split()))


def _candidates(path: str) -> tuple[str | None, list[str]]:
    """Return the folder of versions that a path stands for, if any, and its exports."""
    newest = bundle.find(path)
    folder = os.path.dirname(newest)
    is_one = newest == path or os.path.isfile(path)
    if is_one or not os.path.basename(newest).isdecimal():
        return None, [newest]
    return folder, _exports(folder)


def _exports(folder: str) -> list[str]:
    """List the exports in a folder, newest first."""
    return bundle.list_exports(folder)[::-1]


def _number(path: str) -> int:
    name = os.path.basename(os.path.abspath(path))
    return int(name) if name.isdecimal() else _ONLY_VERSION


def _look(path: str) -> list[Any]:
    """Return what changes while an export is written: names, sizes and times of its files."""
    found = []
    for parent, _, names in os.walk(path):
        for name in sorted(names):
            with contextlib.suppress(OSError):  # It may be removed in this moment.
                status = os.stat(os.path.join(parent, name))
                found.append((parent, name, status.st_size, status.st_mtime))
    return sorted(found)


def _answer_texts(predictor: Predictor, items: Sequence[tuple[Text, int]]) -> list[Any]:
    most = max(top_k for _, top_k in items)
    predictions = predictor.predict([text for text, _ in items], most)
    return [p._replace(top_k=p.top_k[:top_k]) for p, (_, top_k) in zip(predictions, items)]


def _rows(outputs: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return the outputs of each row of a batch."""
    number = len(next(iter(outputs.values())))
    return [{name: value[row] for name, value in outputs.items()} for row in range(number)]

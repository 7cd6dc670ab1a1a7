"""Join what several requests ask into batches for the model."""

from __future__ import annotations

import asyncio
import itertools
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, NamedTuple, Sequence

from bert_classifier.server.contract import Refusal, gone
from bert_classifier.server.limits import Limits

_LOG = logging.getLogger(__name__)

# Several texts in a batch are together no longer: a long text in windows is many rows for the
# model, and until the batch is done others wait, and who is gone is not noticed.
_LONGEST_BATCH = 100_000

# What answers a batch: its items -> their answers, in their order. Items of one function can share
# a batch.
Run = Callable[[Sequence[Any]], Sequence[Any]]


class _Waiting(NamedTuple):
    run: Run
    item: Any
    length: int
    since: float
    answer: asyncio.Future
    is_gone: Callable[[], bool]


class Batcher:
    """A queue of texts, and the threads in which the model reads them.

    All methods are for the event loop's thread. A batch begins when a thread is free and the batch
    is full, or its oldest text has waited for `longest_wait_ms`. While all threads are busy, what
    comes waits anyway, and so the batches grow with the load.
    """

    def __init__(
        self, limits: Limits, num_threads: int, observe: Callable[[int], None] = lambda size: None
    ):
        """Start the threads.

        Args:
            limits: of the batches and of the queue.
            num_threads: batches that are computed at the same time.
            observe: is told the size of each batch.
        """
        self._limits = limits
        self._observe = observe
        self._threads = ThreadPoolExecutor(num_threads)
        self._num_free = num_threads
        self._waiting: list[_Waiting] = []
        self._timer: asyncio.Handle | None = None
        self._tasks: set[asyncio.Future] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    async def answer(
        self,
        run: Run,
        items: Sequence[Any],
        lengths: Sequence[int],
        is_gone: Callable[[], bool] = lambda: False,
    ) -> list[Any]:
        """Return the answers to items, in their order.

        Args:
            run: what answers them.
            items: texts or rows of tokens.
            lengths: of the items, in any unit: those of like length share a batch.
            is_gone: tells whether who has asked is gone; what still waits then is not answered.

        Raises:
            Refusal: 429, the queue has no place for all of them; 504, it took too long; or `gone`.
            Exception: what `run` has raised for one of them.
        """
        if not items:
            return []
        if len(self._waiting) + len(items) > self._limits.queue_size:
            raise Refusal(429, "the server is busy; send it again later", {"Retry-After": "1"})
        loop = asyncio.get_event_loop()
        entries = [
            _Waiting(run, item, length, loop.time(), loop.create_future(), is_gone)
            for item, length in zip(items, lengths)
        ]
        self._waiting += entries
        # Not at once: what has come in the same moment shares the batch.
        loop.call_soon(self._start_batches)
        answers = [entry.answer for entry in entries]
        try:
            _, missing = await asyncio.wait(answers, timeout=self._limits.answer_timeout)
        finally:
            if any([answer.cancel() for answer in answers]):
                self._start_batches()  # Takes what has been given up out of the queue.
        if missing:
            raise Refusal(504, "there was no answer in time; send it again later")
        if any(answer.cancelled() for answer in answers):
            raise gone()
        errors = [error for error in (answer.exception() for answer in answers) if error]
        if errors:
            raise errors[0]
        return [answer.result() for answer in answers]

    def close(self) -> None:
        """End the threads when they are done."""
        self._threads.shutdown(wait=False)

    def _start_batches(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_event_loop()
        # Without those of requests that have been given up.
        for entry in self._waiting:
            if entry.is_gone():
                entry.answer.cancel()
        self._waiting = [entry for entry in self._waiting if not entry.answer.done()]
        while self._num_free and self._waiting:
            oldest = self._waiting[0]
            alike = [entry for entry in self._waiting if entry.run is oldest.run]
            due = oldest.since + self._limits.longest_wait_ms / 1000
            if len(alike) < self._limits.largest_batch and loop.time() < due:
                self._timer = loop.call_at(due, self._start_batches)
                return
            batch = nearest(oldest, alike, self._limits.largest_batch)
            chosen = set(map(id, batch))
            self._waiting = [entry for entry in self._waiting if id(entry) not in chosen]
            self._num_free -= 1
            self._observe(len(batch))
            task = asyncio.ensure_future(self._answer_batch(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer_batch(self, batch: Sequence[_Waiting]) -> None:
        loop = asyncio.get_event_loop()
        run, items = batch[0].run, [entry.item for entry in batch]
        answers = await loop.run_in_executor(self._threads, _answers_or_errors, run, items)
        self._num_free += 1
        for entry, answer in zip(batch, answers):
            if entry.answer.done():
                continue
            if isinstance(answer, Exception):
                entry.answer.set_exception(answer)
            else:
                entry.answer.set_result(answer)
        self._start_batches()


def nearest(oldest: Any, entries: Sequence[Any], most: int) -> list[Any]:
    """Return up to `most` entries: the oldest, and those whose length is nearest to its.

    Those that would make a batch too long are left out; the oldest never is.
    """
    if len(entries) > most or sum(entry.length for entry in entries) > _LONGEST_BATCH:
        entries = sorted(entries, key=lambda e: (e is not oldest, abs(e.length - oldest.length)))
    lengths = itertools.accumulate(entry.length for entry in entries)
    number = sum(length <= _LONGEST_BATCH for length in lengths)
    return list(entries[: min(most, max(1, number))])


def _answers_or_errors(run: Run, items: Sequence[Any]) -> Sequence[Any]:
    """Return the answers to items, with an exception in the place of those that have none.

    One bad item makes a whole batch fail; the others in it may be of other clients.
    """
    try:
        return run(items)
    except Exception as error:
        if len(items) == 1:
            return [error]
        _LOG.debug("A batch has failed; each of its texts is tried alone: %s", error)
        return [_answers_or_errors(run, [item])[0] for item in items]

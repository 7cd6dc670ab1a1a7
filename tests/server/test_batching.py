"""The queue, without a model."""

from __future__ import annotations

import asyncio
import random
import threading
import time

import pytest

from bert_classifier.server import batching
from bert_classifier.server.batching import Batcher
from bert_classifier.server.contract import Refusal
from bert_classifier.server.limits import Limits


def ask(limits, questions, num_threads=1, run=None):
    """Asks all at once; gives the answers, or errors, and the batches."""
    batches = []
    lock = threading.Lock()

    def double(items):
        with lock:
            batches.append(list(items))
        return [2 * item for item in items]

    async def main():
        batcher = Batcher(limits, num_threads)
        answers = [
            batcher.answer(run or double, items, [abs(item) for item in items])
            for items in questions
        ]
        try:
            return await asyncio.gather(*answers, return_exceptions=True)
        finally:
            assert len(batcher) == 0
            batcher.close()

    return asyncio.run(main()), batches


def test_each_gets_its_own_answers_in_order():
    questions = [[random.randrange(100) for _ in range(random.randrange(5))] for _ in range(50)]
    answers, batches = ask(Limits(largest_batch=7), questions, num_threads=3)
    assert answers == [[2 * item for item in items] for items in questions]
    assert max(map(len, batches)) == 7


def test_requests_of_the_same_moment_share_a_batch():
    _, batches = ask(Limits(largest_batch=8), [[1], [2], [3, 4]])
    assert batches == [[1, 2, 3, 4]]


def test_texts_of_like_length_share_a_batch():
    """The first in the queue is always in the next batch, so that nobody waits for ever."""
    _, batches = ask(Limits(largest_batch=2), [[9], [1], [8], [2]])
    assert sorted(map(sorted, batches)) == [[1, 2], [8, 9]]
    assert 9 in batches[0]


def test_long_texts_share_no_batch():
    """Others would have to wait until all of them are done."""
    _, batches = ask(Limits(), [[200_000], [60_000, 60_000], [1, 2]])
    assert [sum(batch) for batch in batches] == [200_000, 60_000, 60_003]


def test_different_functions_share_no_batch():
    seen = []

    def first(items):
        seen.append(("first", list(items)))
        return items

    def second(items):
        seen.append(("second", list(items)))
        return items

    async def main():
        batcher = Batcher(Limits(), 1)
        runs = [first, second, first]
        await asyncio.gather(*(batcher.answer(run, [n], [1]) for n, run in enumerate(runs)))
        batcher.close()

    asyncio.run(main())
    assert seen == [("first", [0, 2]), ("second", [1])]


def test_a_batch_waits_for_others_as_long_as_it_may():
    async def main(limits):
        batches = []

        def run(items):
            batches.append(list(items))
            return items

        batcher = Batcher(limits, 1)
        first = asyncio.ensure_future(batcher.answer(run, [1], [1]))
        await asyncio.sleep(0.05)
        await batcher.answer(run, [2], [1])
        await first
        batcher.close()
        return batches

    assert asyncio.run(main(Limits(longest_wait_ms=0))) == [[1], [2]]
    assert asyncio.run(main(Limits(longest_wait_ms=5000, largest_batch=2))) == [[1, 2]]
    assert asyncio.run(main(Limits(longest_wait_ms=500))) == [[1, 2]]


def test_a_full_queue_refuses_all_of_a_request_or_nothing():
    answers, batches = ask(Limits(queue_size=4), [[1, 2, 3], [4, 5], [6]])
    assert answers[0] == [2, 4, 6] and answers[2] == [12]
    assert isinstance(answers[1], Refusal) and answers[1].status == 429
    assert sorted(sum(batches, [])) == [1, 2, 3, 6]


def test_a_bad_item_spoils_no_others():
    def run(items):
        if 3 in items:
            raise ValueError("three")
        return [-item for item in items]

    answers, _ = ask(Limits(), [[1, 2], [3, 4], [5]], run=run)
    assert answers[0] == [-1, -2] and answers[2] == [-5]
    assert isinstance(answers[1], ValueError)


def test_who_waits_too_long_is_told_so_and_leaves_the_queue():
    release = threading.Event()

    def run(items):
        release.wait(30)
        return items

    async def main():
        batcher = Batcher(Limits(answer_timeout=0.1, largest_batch=1), 1)
        first = asyncio.ensure_future(batcher.answer(run, [1], [1]))
        second = asyncio.ensure_future(batcher.answer(run, [2], [1]))
        for waiting in (first, second):
            with pytest.raises(Refusal) as refused:
                await waiting
            assert refused.value.status == 504
        assert len(batcher) == 0
        release.set()
        assert await batcher.answer(lambda items: items, [3], [1]) == [3]
        batcher.close()

    asyncio.run(main())


def test_who_is_gone_leaves_the_queue():
    """The first is in the model; of those that wait, only who is there is answered."""
    release = threading.Event()
    seen = []

    def run(items):
        seen.extend(items)
        release.wait(30)
        return items

    async def main():
        batcher = Batcher(Limits(largest_batch=1, queue_size=3), 1)
        first = asyncio.ensure_future(batcher.answer(run, [1], [1]))
        await asyncio.sleep(0.05)
        is_gone = False
        gone = asyncio.ensure_future(batcher.answer(run, [2, 3], [1, 1], lambda: is_gone))
        cancelled = asyncio.ensure_future(batcher.answer(run, [4], [1]))
        await asyncio.sleep(0.05)
        assert len(batcher) == 3
        cancelled.cancel()
        is_gone = True
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        with pytest.raises(Refusal) as refused:
            await gone
        assert refused.value.status == 499 and len(batcher) == 0
        last = asyncio.ensure_future(batcher.answer(run, [5, 6, 7], [1, 1, 1]))
        release.set()
        assert await asyncio.gather(first, last) == [[1], [5, 6, 7]]
        batcher.close()

    asyncio.run(main())
    assert seen == [1, 5, 6, 7]


def test_batches_run_at_the_same_time():
    barrier = threading.Barrier(2, timeout=30)

    def run(items):
        barrier.wait()
        return items

    answers, _ = ask(Limits(largest_batch=1), [[1], [2]], num_threads=2, run=run)
    assert answers == [[1], [2]]


def test_nearest_keeps_the_oldest():
    class Entry:
        def __init__(self, length):
            self.length = length

    entries = [Entry(length) for length in (50, 1, 49, 200, 51)]
    chosen = batching.nearest(entries[0], entries, 3)
    assert sorted(entry.length for entry in chosen) == [49, 50, 51]
    same = [Entry(5) for _ in range(9)]
    assert batching.nearest(same[7], same, 2)[0] is same[7]


def test_the_loop_is_free_while_the_model_works():
    async def main():
        batcher = Batcher(Limits(), 1)
        working = asyncio.ensure_future(
            batcher.answer(lambda items: time.sleep(0.3) or items, [1], [1])
        )
        ticks = 0
        while not working.done():
            await asyncio.sleep(0.01)
            ticks += 1
        batcher.close()
        return ticks

    assert asyncio.run(main()) > 3

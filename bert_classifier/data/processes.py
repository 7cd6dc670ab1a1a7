"""Map a function over chunks of work, in several processes or threads."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import multiprocessing
import signal
import traceback
from typing import Any, Callable, Generator, Iterator


def map_in_processes(
    function: Callable[[Any], Any], chunks: Iterator[Any], num_processes: int
) -> Generator[Any, None, None]:
    """Yield `function(chunk)` for each chunk, in their order.

    A process has one chunk, and gets the next when its result is taken. The pools of the standard
    library are not used: `multiprocessing.Pool` waits for ever for a process that was killed, and
    the processes of `ProcessPoolExecutor` live on when this one is killed.
    """
    if num_processes == 1:
        yield from map(function, chunks)
        return
    workers: list[WorkerProcess] = []
    try:
        for _ in range(num_processes):
            workers.append(WorkerProcess(function))
        at_work: collections.deque[WorkerProcess] = collections.deque()
        for worker, chunk in zip(workers, chunks):
            worker.send(chunk)
            at_work.append(worker)
        for chunk in chunks:
            worker = at_work.popleft()
            result = worker.receive()
            worker.send(chunk)
            at_work.append(worker)
            yield result
        for worker in at_work:
            yield worker.receive()
    finally:
        for worker in workers:
            worker.kill()


def map_in_threads(
    function: Callable[[Any], Any], chunks: Iterator[Any], num_threads: int
) -> Generator[Any, None, None]:
    """Yield `function(chunk)` for each chunk, in their order; read one chunk ahead."""
    with concurrent.futures.ThreadPoolExecutor(num_threads) as threads:
        at_work: collections.deque[concurrent.futures.Future] = collections.deque()
        for chunk in chunks:
            at_work.append(threads.submit(function, chunk))
            if len(at_work) > num_threads:
                yield at_work.popleft().result()
        for result in at_work:
            yield result.result()


class WorkerProcess:
    """A process that applies a function to what it is sent. It ends when its parent does."""

    def __init__(self, function: Callable[[Any], Any]):
        context = multiprocessing.get_context("fork")
        self._connection, end_of_process = context.Pipe()
        self._process = context.Process(
            target=_work, args=(function, end_of_process, self._connection), daemon=True
        )
        self._process.start()
        end_of_process.close()

    def send(self, chunk: Any) -> None:
        """Send a chunk. The result of the one before must have been received."""
        with self._must_be_alive():
            self._connection.send(chunk)

    def receive(self) -> Any:
        """Wait for the result and return it; raise the error of the function."""
        with self._must_be_alive():
            result, error, stack = self._connection.recv()
        if error:
            raise error from RuntimeError("in another process:\n" + stack)
        return result

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    @contextlib.contextmanager
    def _must_be_alive(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            self._process.join()
            raise RuntimeError(
                "A helper process has died with exit code %s; if it was killed (-9), memory may "
                "have run out" % self._process.exitcode
            ) from error


def _work(function: Callable[[Any], Any], connection: Any, end_of_parent: Any) -> None:
    # A terminal sends these signals to all processes. Only the parent acts on them, and then ends
    # its children: it would take a child that ends by itself for a failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    # The pipe only breaks at the end of the parent if no copy of the parent's side is open.
    end_of_parent.close()
    with contextlib.suppress(EOFError, OSError):
        while True:
            chunk = connection.recv()
            try:
                answer: tuple[Any, Exception | None, str] = (function(chunk), None, "")
            except Exception as error:
                answer = (None, error, traceback.format_exc())
            connection.send(answer)

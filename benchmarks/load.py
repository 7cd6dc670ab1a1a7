"""Load a server, and compare with requests that come one by one.

    .venv/bin/python benchmarks/load.py EXPORT [--clients=64] [--seconds=60] [--text=TEXT]

It starts `python -m bert_classifier.serve` on a free port. Clients in a process of their own, which
each keep a connection, send single texts: first one client, then all, then one again. The last line
has the ratio of their throughputs. The clients need the same cores, so that a server on a machine
of its own does better. Other work on the machine changes the throughputs more than the server's
processor time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from typing import Iterator, NamedTuple, Sequence

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

TEXTS = (
    "Where is my order?",
    "The kettle arrived with a cracked lid, and I would like another one.",
    "How do I change the address of an order that I placed this morning?",
    "I was charged twice.",
    "My password does not work any more, and the message that should reset it does not come.",
    "Does the large one fit a bed of 160 cm?",
)


class Server(NamedTuple):
    """A server on this machine."""

    port: int
    pid: int


class Turn(NamedTuple):
    """What clients have seen.

    Attributes:
        num_clients: at the same time.
        seconds: from the first request to the last answer.
        latencies: of the answers, in seconds, in ascending order.
        num_errors: of answers other than 200.
        processor_seconds: of the server.
    """

    num_clients: int
    seconds: float
    latencies: Sequence[float]
    num_errors: int
    processor_seconds: float = 0.0

    @property
    def throughput(self) -> float:
        """Return the answers per second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: float) -> float:
        """Return the latency that so many percent do not exceed, in milliseconds; or nan."""
        if not self.latencies:
            return float("nan")
        position = min(len(self.latencies) - 1, int(len(self.latencies) * percent / 100))
        return 1000 * self.latencies[position]

    def __str__(self) -> str:
        return (
            "%3d clients: %6d answers in %5.1f s, %7.1f/s, p50 %6.1f ms, p99 %6.1f ms, "
            "processor %5.2f ms each, errors: %d"
            % (
                self.num_clients,
                len(self.latencies),
                self.seconds,
                self.throughput,
                self.percentile(50),
                self.percentile(99),
                1000 * self.processor_seconds / max(1, len(self.latencies)),
                self.num_errors,
            )
        )


def main() -> int:
    """Print the turns and their ratio; return 1 if an answer was an error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("export", metavar="EXPORT", help="as of bert_classifier.serve")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--text", help="that is sent; default: some questions of a shop's clients")
    options = parser.parse_args()
    requests = [_request(text) for text in ([options.text] if options.text else TEXTS)]
    with _server(options.export) as server:
        _ask(server, requests, 8, 2.0)  # Until all that is done only once is done.
        turns = []
        for clients, part in ((1, 0.5), (options.clients, 1.0), (1, 0.5)):
            turns.append(_ask(server, requests, clients, part * options.seconds))
            print(turns[-1], flush=True)
    before, loaded, after = turns
    one_by_one = (before.throughput + after.throughput) / 2
    print("%.2f times the throughput of one by one" % (loaded.throughput / one_by_one))
    return int(any(turn.num_errors for turn in turns))


def _request(text: str) -> bytes:
    body = json.dumps({"texts": [text]}).encode("ascii")
    head = "POST /v1/texts HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return (head + "Content-Length: %d\r\n\r\n" % len(body)).encode("ascii") + body


@contextlib.contextmanager
def _server(export: str) -> Iterator[Server]:
    """Yield a server in a process of its own."""
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "bert_classifier.serve", os.path.abspath(export), "--port=0"],
            cwd=ROOT,
            stderr=log,
        )
        try:
            found = None
            while found is None:
                if server.poll() is not None:
                    log.seek(0)
                    raise SystemExit(log.read())
                time.sleep(0.1)
                log.seek(0)
                found = re.search(r"answers on http://\S+:(\d+)/", log.read())
            yield Server(int(found.group(1)), server.pid)
        finally:
            server.terminate()
            server.wait()


def _ask(server: Server, requests: Sequence[bytes], num_clients: int, seconds: float) -> Turn:
    before = _processor_seconds(server.pid)
    # In a process of its own, which does not share an interpreter with this one.
    with multiprocessing.get_context("fork").Pool(1) as pool:
        turn = pool.apply(_clients, (server.port, requests, num_clients, seconds))
    return turn._replace(processor_seconds=_processor_seconds(server.pid) - before)


def _processor_seconds(pid: int) -> float:
    """Return the processor time of a process, as Linux counts it."""
    with open("/proc/%d/stat" % pid) as stream:
        # The name in parentheses may have spaces; user and system time are 14th and 15th of all.
        values = stream.read().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


def _clients(port: int, requests: Sequence[bytes], num_clients: int, seconds: float) -> Turn:
    """Be clients that each send the next request when they have their answer.

    One thread for all: threads would wait for each other, and need more of the server's cores.
    """
    selector = selectors.DefaultSelector()
    began = time.perf_counter()
    for number in range(num_clients):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(connection, selectors.EVENT_READ, [number, b"", time.perf_counter()])
        connection.sendall(requests[number % len(requests)])
    latencies: list[float] = []
    num_errors = 0
    while selector.get_map():
        for key, _ in selector.select():
            connection, state = key.fileobj, key.data
            data = connection.recv(1 << 16)  # type: ignore[union-attr]
            state[1] += data
            if data and not _is_complete(state[1]):
                continue
            now = time.perf_counter()
            if state[1].startswith(b"HTTP/1.1 200 "):
                latencies.append(now - state[2])
            else:
                num_errors += 1
            if not data or now - began > seconds:
                selector.unregister(connection)
                connection.close()  # type: ignore[union-attr]
                continue
            state[0] += 1
            state[1], state[2] = b"", time.perf_counter()
            connection.sendall(requests[state[0] % len(requests)])  # type: ignore[union-attr]
    return Turn(num_clients, time.perf_counter() - began, sorted(latencies), num_errors)


def _is_complete(answer: bytes) -> bool:
    head, separator, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    return bool(separator and length) and len(body) >= int(length.group(1))  # type: ignore[union-attr]


if __name__ == "__main__":
    sys.exit(main())

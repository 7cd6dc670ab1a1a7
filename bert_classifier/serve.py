"""Answer texts with an exported model over HTTP.

    python -m bert_classifier.serve EXPORT

EXPORT is the folder of an export or a frozen graph; or a folder of exports, or the output_dir of a
run, for the newest: a newer one that comes into the same folder then replaces it.

    curl -d '{"texts": ["The kettle arrived."]}' http://127.0.0.1:8501/v1/texts

answers a text; http://127.0.0.1:8501/ is a page for the browser; below /v1/models/NAME is the REST
API of TensorFlow Serving. The page docs/serving.md says more.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import logging
import os
import re
import resource
import signal
import socket
import sys
from typing import Iterator, NoReturn, Sequence

from bert_classifier import streams

if __name__ == "__main__":
    streams.fill_closed()
    # Read by TensorFlow's C++ side when it is imported; real errors come as exceptions too.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import uvicorn

from bert_classifier import files
from bert_classifier.errors import BadInput
from bert_classifier.server.app import Access, App
from bert_classifier.server.batching import Batcher
from bert_classifier.server.limits import Limits
from bert_classifier.server.metrics import Metrics
from bert_classifier.server.models import Models, Options
from bert_classifier.server.protocol import BoundedProtocol

PROGRAM = "bert_classifier.serve"

_LOG = logging.getLogger(__name__)

# For how long a server that is about to end still takes connections, in seconds, while `/readyz`
# says that it will end; and then requests on these: clients that keep their connection learn from
# an answer that it will be closed, and lose no request.
_LAST_CONNECTIONS = 0.5
_LAST_REQUESTS = 0.5
# Clients use a connection again for so long, in seconds.
_KEEP_ALIVE = 30
# Connections that the system keeps until the server takes them, and how many it takes at once.
_BACKLOG = 2048
_TAKEN_AT_ONCE = 100
# Open files beside connections that are counted: those just taken, libraries, models.
_OTHER_FILES = 400
_INTERRUPTED = 130  # The exit status of a program that Ctrl-C has ended, in a shell.


class Server(uvicorn.Server):
    """uvicorn's server, which tells the application first that it is about to end."""

    def __init__(self, config: uvicorn.Config, app: App, origin: str):
        """Take the application, and what answers, for the log."""
        super().__init__(config)
        self._app = app
        self._origin = origin

    def install_signal_handlers(self) -> None:
        """Leave the signals to `_serve`; older versions of uvicorn call this."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `_serve`; newer versions would end with the signal again."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say where."""
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(_BACKLOG)  # For asyncio the two numbers are one.
            host, port = listener.getsockname()[:2]
            host = "[%s]" % host if ":" in host else host
            _LOG.info("%s answers on http://%s:%d/", self._origin, host, port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what has been asked, and end."""
        self._app.is_draining = True
        _LOG.info("The server answers what has been asked, and ends")
        await asyncio.sleep(_LAST_CONNECTIONS)
        # The system has accepted connections that the server has not. To close the listener resets
        # them, with what clients have sent.
        accepted = [connection for listener in sockets or [] for connection in _accept(listener)]
        for server in self.servers:
            server.close()
        for connection in accepted:
            loop = asyncio.get_event_loop()
            await loop.connect_accepted_socket(  # type: ignore[attr-defined]
                self._protocol, connection
            )
        await asyncio.sleep(_LAST_REQUESTS)
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    def stop(self) -> None:
        """End soon; at once if this is the second time."""
        if self.should_exit:
            _LOG.info("A second signal: the server ends at once")
            _end(1)
        self.should_exit = True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server until a signal ends it; return the exit status, 2 for bad input."""
    options = _argument_parser().parse_args(arguments)
    logging.basicConfig(
        format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stderr
    )
    # What clients do wrong is told to them, and what TensorFlow loads is told in other words.
    for name in ("uvicorn", "tensorflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        limits = Limits(*(getattr(options, name) for name in Limits._fields))
        limits.check()
        _allow_open_files(limits.most_connections)
        access = Access(_read_token(options.api_token_file), _check_origins(options.cors_origin))
        if not re.fullmatch(r"[^/:\s]+", options.name):
            raise BadInput("--name=%s: give a name without /, : and spaces" % options.name)
        if not 0 < options.poll_seconds <= 1e6:
            raise BadInput("--poll_seconds=%s: give a number above 0" % options.poll_seconds)
        model_options = Options(options.temperature, options.min_confidence, limits.largest_batch)
        model_options.check()
        listener = _listen(options.host, options.port)
        metrics = Metrics()
        models = Models(files.user_path(options.export), model_options, metrics.count_version)
    except (BadInput, OSError) as error:
        print("%s: %s" % (PROGRAM, error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _INTERRUPTED
    with contextlib.closing(listener):
        asyncio.run(_serve(options, models, limits, metrics, access, listener))
    _end(0)


def _end(status: int) -> NoReturn:
    """End the process; Python itself would first wait for batches that nobody waits for."""
    logging.shutdown()
    os._exit(status)


def _accept(listener: socket.socket) -> list[socket.socket]:
    """Return the connections that wait at a listener, which does not block."""
    found = []
    with contextlib.suppress(OSError):  # None waits, or no more files may be open.
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            found.append(connection)
    return found


async def _serve(
    options: argparse.Namespace,
    models: Models,
    limits: Limits,
    metrics: Metrics,
    access: Access,
    listener: socket.socket,
) -> None:
    batcher = Batcher(limits, models.calls_at_a_time, metrics.observe_batch)
    metrics.watch(batcher.__len__, lambda: models.number)
    app = App(options.name, models, batcher, limits, metrics, access)
    config = uvicorn.Config(
        app.asgi(),
        loop="asyncio",
        http=functools.partial(  # type: ignore[arg-type]
            BoundedProtocol, limits, functools.partial(metrics.count_request, "unread")
        ),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_TAKEN_AT_ONCE,
        timeout_keep_alive=_KEEP_ALIVE,
        # The application gives up first.
        timeout_graceful_shutdown=int(limits.answer_timeout + limits.sender_timeout) + 2,
    )
    server = Server(config, app, "Version %d of %s" % (models.number, options.name))
    loop = asyncio.get_event_loop()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # As nohup has it.
            loop.add_signal_handler(number, server.stop)
    watching = asyncio.ensure_future(models.watch(options.poll_seconds))
    await server.serve(sockets=[listener])
    watching.cancel()
    batcher.close()


def _argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bert_classifier.serve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("export", metavar="EXPORT", help="an export, a folder of exports, or an output_dir")
    add("--host", default="127.0.0.1", help="0.0.0.0 for all of the network; default: %(default)s")
    add("--port", type=int, default=8501, help="0 for any free one; default: %(default)s")
    add("--name", default="default", help="of the model, in addresses; default: %(default)s")
    add("--api_token_file", help="its content is what clients must send; default: nothing")
    add(
        "--cors_origin",
        action="append",
        default=[],
        help="pages of this origin may ask from a browser; may be repeated; default: none",
    )
    add("--poll_seconds", type=float, default=5.0, help="between two looks for a newer version")
    add("--temperature", type=float, help="divides the logits; default: as exported")
    add("--min_confidence", type=float, help="below it there is no label; default: as exported")
    defaults = Limits()
    helps = {
        "largest_batch": "texts that the model reads at once",
        "longest_wait_ms": "for others to share a batch, in milliseconds",
        "queue_size": "texts that may wait; beyond it the answer is 429",
        "most_texts": "in a request",
        "longest_text": "in characters",
        "largest_body": "of a request, in bytes",
        "largest_head": "of a request: its headers, in bytes",
        "most_connections": "at the same time",
        "sender_timeout": "seconds in which a client must have sent its request",
        "answer_timeout": "seconds in which it must have the answer",
    }
    for name, value in defaults._asdict().items():
        add("--" + name, type=type(value), default=value, help=helps[name] + "; %(default)s")
    return parser


def _read_token(path: str | None) -> bytes | None:
    if path is None:
        return None
    with open(files.user_path(path), "rb") as stream:
        token = stream.read().strip()
    if not re.fullmatch(rb"[!-~]+", token):
        raise BadInput(
            "--api_token_file=%s: give a file with one line of printable ASCII, without spaces"
            % path
        )
    return token


def _allow_open_files(most_connections: int) -> None:
    """Raise the system's limit: each connection is an open file."""
    # Those that are refused stay open too, until their clients have seen why.
    needed = 2 * most_connections + _OTHER_FILES
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (sys.maxsize if n == resource.RLIM_INFINITY else n for n in limits)
    if needed > hard:
        raise BadInput(
            "--most_connections=%d: needs %d open files, and the system allows %d; give less, or "
            "allow more with ulimit -n or LimitNOFILE" % (most_connections, needed, hard)
        )
    if needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, limits[1]))


def _check_origins(origins: Sequence[str]) -> Sequence[str]:
    for origin in origins:
        if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
            raise BadInput(
                "--cors_origin=%s: give it as a browser does, for example https://example.com"
                % origin
            )
    return origins


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket with the address: a taken one is told before a model is loaded."""
    if not 0 <= port <= 65535:
        raise BadInput("--port=%d: give a number from 0 to 65535" % port)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise BadInput("--host=%s: %s; give an address of this machine" % (host, error)) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Two that only bind can have the same port. Who connects now waits for the model.
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise BadInput(
            "--host=%s --port=%d: %s; give another" % (host, port, error.strerror)
        ) from error
    return listener


if __name__ == "__main__":
    sys.exit(main())

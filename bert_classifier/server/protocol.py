"""HTTP with limits: what is too slow, too large or no HTTP is refused with one line of JSON."""

from __future__ import annotations

import asyncio
import http
import socket
import struct
from typing import Any, Callable

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bert_classifier.server.contract import to_json
from bert_classifier.server.limits import Limits

# How long what a refused client still sends is read and thrown away, in seconds. A connection that
# is closed with unread data is reset, and the client might not see the answer.
_LINGER = 1.0
_AT_ONCE = struct.pack("ii", 1, 0)  # Of SO_LINGER: on, and for no second.


class BoundedProtocol(HttpToolsProtocol):
    """A connection.

    uvicorn bounds neither the size of headers nor the time in which a request must have been sent.
    """

    def __init__(self, limits: Limits, count_refusal: Callable[[int], None], **options: Any):
        """Take the limits, and what is told the status of each refusal."""
        super().__init__(**options)
        self._limits = limits
        self._count_refusal = count_refusal
        self._is_refused = False
        # The status and the message of a refusal that waits for the answers before it.
        self._refusal: tuple[int, str] | None = None
        # A request has begun, and its headers have not ended.
        self._is_begun, self._is_head = False, True
        # As received, and as parsed: one piece may have several requests.
        self._head_size = self._parsed_size = 0
        self._sender_timer: asyncio.TimerHandle | None = None
        self._answer_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for a request, if there is a place for one more connection."""
        super().connection_made(transport)
        self._start_sender_timer()
        if len(self.connections) > 2 * self._limits.most_connections:
            self.transport.abort()  # There is no place for those that are refused, either.
        elif len(self.connections) > self._limits.most_connections:
            self._refuse(503, "too many connections; try again later")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_sender_timer()
        self._stop_answer_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read a part of a request."""
        if self._is_refused:
            return
        if self._is_head:
            self._head_size += len(data)
        self._start_sender_timer()
        self._unset_keepalive_if_required()
        self._parse(data)
        if self.pipeline and self.flow.read_paused:
            # That the rest is not here is not the client's fault.
            self._stop_sender_timer()
        # The parser tells nothing of a header that has not ended.
        if self._is_head and self._head_size > self._limits.largest_head:
            self._refuse_head()

    def on_url(self, url: bytes) -> None:
        """Read a part of the first line."""
        super().on_url(url)
        self._check_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Read a header."""
        super().on_header(name, value)
        if name[-1:] in b" \t":
            # Some proxies would see another header, or none (RFC 7230, 3.2.4).
            self._refuse(400, "there is a space before a colon")
        self._check_head(len(name) + len(value) + 4)

    def on_message_begin(self) -> None:
        """Begin to count the size of the headers."""
        self._is_begun, self._parsed_size = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Let the application answer."""
        if self._is_refused or self.parser.should_upgrade():
            return
        # The application need not answer whom nobody reads: `request.state.is_gone`.
        self.scope["state"]["is_gone"] = self.transport.is_closing
        super().on_headers_complete()
        self._is_head = False

    def on_body(self, body: bytes) -> None:
        """Read a part of the body; after a refusal it would be that of an earlier request."""
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for the answer instead of the request."""
        if self._is_refused or self.parser.should_upgrade():
            return
        self._is_begun, self._is_head, self._head_size = False, True, 0
        self._stop_sender_timer()
        if self.cycle.response_complete:
            # It was refused before all of it was here; uvicorn has stopped this timer since.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        else:
            self._start_answer_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, or begin to answer it if it is here."""
        # The answer may be here still, if the client does not read it: then the timer goes on.
        if not self.transport.get_write_buffer_size():
            self._stop_answer_timer()
        is_next_here = bool(self.pipeline)
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if is_next_here or self._is_begun:
            self._unset_keepalive_if_required()
        if is_next_here:
            self._start_answer_timer()
        elif self._refusal is not None:
            self._send_refusal(*self._refusal)
        if self._is_begun and not self._is_refused:
            self._start_sender_timer()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(400, msg)

    def _parse(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest and not self._is_refused:
                try:
                    self.parser.feed_data(rest)
                    return
                except httptools.HttpParserUpgrade as upgrade:
                    rest = rest[upgrade.args[0] :]
                    self._read_again_without_upgrade()
        except httptools.HttpParserError:
            self.send_400_response("the request is not valid HTTP")

    def _read_again_without_upgrade(self) -> None:
        """Ignore the header Upgrade, which curl and Java send, as RFC 9110, 7.8 allows.

        The parser would take the body of the request for another request.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":
            self._refuse(400, "this is no proxy")
            return
        lines = [b"%s %s HTTP/%s" % (method, self.url, version.encode("ascii"))]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(b"\r\n".join(lines) + b"\r\n\r\n")

    def _check_head(self, size: int) -> None:
        self._parsed_size += size
        if self._parsed_size > self._limits.largest_head:
            self._refuse_head()

    def _refuse_head(self) -> None:
        self._refuse(431, "the headers are larger than %d bytes" % self._limits.largest_head)

    def _start_sender_timer(self) -> None:
        if self._sender_timer is None:
            self._sender_timer = self.loop.call_later(
                self._limits.sender_timeout, self._refuse_slow_sender
            )

    def _start_answer_timer(self) -> None:
        # The application gives up first; what is left is a client that does not read the answer.
        self._stop_answer_timer()
        self._answer_timer = self.loop.call_later(
            self._limits.answer_timeout + self._limits.sender_timeout, self._abort_unread
        )

    def _abort_unread(self) -> None:
        is_unread = bool(self.transport.get_write_buffer_size())
        if self._is_refused or is_unread or not self.cycle.response_complete:
            # To close the connection would wait until all is read: here, and then in the system.
            connection = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            self.transport.abort()

    def _stop_sender_timer(self) -> None:
        if self._sender_timer is not None:
            self._sender_timer.cancel()
            self._sender_timer = None

    def _stop_answer_timer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None

    def _refuse_slow_sender(self) -> None:
        self._refuse(
            408, "the request was not complete after %g seconds" % self._limits.sender_timeout
        )

    def _refuse(self, status: int, message: str) -> None:
        """Answer with an error after the answers before it, and then close the connection."""
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
        self._stop_sender_timer()
        if self._is_head:  # The last request that the application has is an earlier one.
            is_next = self.cycle is None or self.cycle.response_complete
        elif self.pipeline:
            self.pipeline.popleft()  # The application must not answer it too.
            is_next = False
        elif self.cycle.response_started:
            # The body of a request that has been answered already.
            self.transport.abort()
            return
        else:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            is_next = True
        if is_next:
            self._send_refusal(status, message)
        else:
            self._refusal = (status, message)

    def _send_refusal(self, status: int, message: str) -> None:
        self._unset_keepalive_if_required()
        self._count_refusal(status)
        body = to_json({"error": message})
        head = "HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % (
            status,
            http.HTTPStatus(status).phrase,
            len(body),
        )
        self.transport.write(head.encode("ascii") + b"connection: close\r\n\r\n" + body)
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        if self._answer_timer is None:
            self._start_answer_timer()
        self.loop.call_later(_LINGER, self._end)

    def _end(self) -> None:
        """Close the connection if the client has been sent all; `_abort_unread` ends the others."""
        if self.transport.get_write_buffer_size():
            self.loop.call_later(_LINGER, self._end)
        else:
            self.transport.abort()

"""The routes of the server: from a request to its answer."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from typing import Any, Awaitable, Callable, NamedTuple, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from bert_classifier.errors import one_line
from bert_classifier.server import contract, page
from bert_classifier.server.batching import Batcher
from bert_classifier.server.contract import Refusal
from bert_classifier.server.limits import Limits
from bert_classifier.server.metrics import Metrics
from bert_classifier.server.models import Models, Version

_LOG = logging.getLogger(__name__)

# `curl -d` sends the second one, also in the examples of TensorFlow Serving's documentation.
_CONTENT_TYPES = ("application/json", "application/x-www-form-urlencoded", "text/plain", "")

Answer = Callable[[Request], Awaitable[Response]]


class Access(NamedTuple):
    """Who may ask.

    Attributes:
        token: what a client has to send; None for nothing.
        origins: pages of these origins may ask from a browser.
    """

    token: bytes | None = None
    origins: Sequence[str] = ()


class App:
    """A server's state, and its routes.

    Attributes:
        is_draining: whether the server is about to end: it answers, and takes nothing new.
    """

    def __init__(
        self,
        name: str,
        models: Models,
        batcher: Batcher,
        limits: Limits,
        metrics: Metrics,
        access: Access,
    ):
        self._name = name
        self._models = models
        self._batcher = batcher
        self._limits = limits
        self._metrics = metrics
        self._access = access
        self.is_draining = False

    def asgi(self) -> Starlette:
        """Return the application that uvicorn runs."""
        routes = [
            self._route("/", "page", self._page, is_open=True),
            self._route("/healthz", "healthz", self._healthz, is_open=True),
            self._route("/readyz", "readyz", self._readyz, is_open=True),
            self._route("/metrics", "metrics", self._show_metrics),
            self._route("/v1/texts", "texts", self._texts, methods=["POST"]),
            # TensorFlow Serving has one answer, 400, for all that it does not know there.
            self._route("/v1/models/{rest:path}", "models", self._model, methods=_METHODS),
        ]
        cors = Middleware(
            CORSMiddleware,
            allow_origins=list(self._access.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
        )
        application = Starlette(
            routes=routes,
            middleware=[cors] if self._access.origins else [],
            exception_handlers={HTTPException: self._unrouted},
        )
        application.router.redirect_slashes = False
        return application

    def _route(
        self,
        path: str,
        name: str,
        answer: Answer,
        methods: Sequence[str] = ("GET",),
        is_open: bool = False,
    ) -> Route:
        async def endpoint(request: Request) -> Response:
            started = time.monotonic()
            try:
                if not is_open:
                    self._check_token(request)
                response = await answer(request)
            except Refusal as refusal:
                response = _refused(refusal)
            except ClientDisconnect:
                response = _refused(contract.gone())
            except Exception:
                _LOG.exception("%s %s has failed", request.method, request.scope["path"])
                response = _refused(Refusal(500, "the server has failed; its log says why"))
            self._metrics.count_request(name, response.status_code, time.monotonic() - started)
            return self._finished(response)

        return Route(path, endpoint, methods=list(methods))

    async def _unrouted(self, request: Request, error: Any) -> Response:
        refusal = Refusal(error.status_code, "%s; see /" % error.detail, error.headers)
        self._metrics.count_request("unknown", error.status_code)
        return self._finished(_refused(refusal))

    def _finished(self, response: Response) -> Response:
        response.headers["x-content-type-options"] = "nosniff"
        if self.is_draining:
            response.headers["connection"] = "close"
        return response

    def _check_token(self, request: Request) -> None:
        if self._access.token is None:
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        # In constant time, so that the time does not tell how much of it is right.
        is_right = hmac.compare_digest(token.strip().encode("utf-8"), self._access.token)
        if scheme.lower() != "bearer" or not is_right:
            raise Refusal(
                401,
                "send the header Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )

    # Pages for people and for machines

    async def _page(self, request: Request) -> Response:
        with self._models.current() as version:
            return page.response(self._name, version.settings.texts_per_example, self._limits)

    async def _healthz(self, request: Request) -> Response:
        return _json({"status": "alive"})

    async def _readyz(self, request: Request) -> Response:
        if self.is_draining:
            raise Refusal(503, "the server is about to end")
        return _json({"status": "ready", "version": str(self._models.number)})

    async def _show_metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), headers={"content-type": self._metrics.content_type})

    # The model

    async def _texts(self, request: Request) -> Response:
        body = await self._read(request)
        with self._models.current() as version:
            texts, top_k = contract.parse_texts(
                body, version.settings.texts_per_example, self._limits
            )
            lengths = [
                len(text) if isinstance(text, str) else sum(map(len, text)) for text in texts
            ]
            items = [(text, top_k) for text in texts]
            is_gone = request.state.is_gone
            answers = await self._batcher.answer(version.answer_texts, items, lengths, is_gone)
        return _json(contract.answer_texts(answers))

    async def _model(self, request: Request) -> Response:
        address = contract.parse_path(request.method, request.scope["path"])
        if address.name != self._name:
            raise contract.not_found(address)
        if address.question == "status":
            return _json(self._status(address))
        contract.refuse_other_methods(address.question)
        with self._models.current() as version:
            if address.version not in (None, version.number):
                raise contract.not_found(address)
            if address.question == "metadata":
                return _json(_metadata(self._name, version))
            return await self._predict(request, version)

    def _status(self, address: contract.Address) -> dict:
        states = self._models.states
        if address.version is not None:
            if address.version not in states:
                raise contract.not_found(address)
            states = {address.version: states[address.version]}
        return contract.answer_status(states)

    async def _predict(self, request: Request, version: Version) -> Response:
        query = contract.parse_predict(await self._read(request), version.reads, self._limits)
        rows, is_gone = query.rows, request.state.is_gone
        if query.signature == contract.SERVING_DEFAULT:
            lengths = [row.shape[1] for row in rows]
            outputs = await self._batcher.answer(version.answer_tokens, rows, lengths, is_gone)
        else:
            outputs = await self._answer_examples(version, rows, is_gone)
        return _json(contract.answer_predict(outputs, query.is_columnar))

    async def _answer_examples(
        self, version: Version, rows: Sequence[bytes], is_gone: Callable[[], bool]
    ) -> list[Any]:
        lengths = list(map(len, rows))
        try:
            return await self._batcher.answer(version.answer_examples, rows, lengths, is_gone)
        except (Refusal, asyncio.CancelledError):
            raise
        except Exception as error:
            # Only the model can read these bytes, and so only it can tell that they are wrong.
            message = "examples: cannot be read (%.200s)" % one_line(error)
            raise Refusal(400, message) from error

    async def _read(self, request: Request) -> bytes:
        """Return the body of a request.

        Raises:
            Refusal: it is too large, or it is neither JSON nor what `curl -d` sends for it.
        """
        content_type, _, parameters = request.headers.get("content-type", "").partition(";")
        charset = parameters.strip().lower().replace('"', "").replace("utf8", "utf-8")
        if content_type.strip().lower() not in _CONTENT_TYPES or charset not in (
            "",
            "charset=utf-8",
        ):
            raise Refusal(415, "the content type is not application/json")
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Refusal(415, "the body is compressed; send it as it is")
        most = self._limits.largest_body
        too_large = Refusal(413, "the body is larger than %d bytes" % most)
        if int(request.headers.get("content-length", 0)) > most:
            raise too_large
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise too_large
            parts.append(part)
        return b"".join(parts)


_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def _metadata(name: str, version: Version) -> dict:
    signatures = version.reads.signatures
    return contract.answer_metadata(name, version.number, signatures, version.settings)


def _json(value: Any) -> Response:
    return Response(contract.to_json(value), media_type="application/json")


def _refused(refusal: Refusal) -> Response:
    return Response(
        contract.to_json({"error": str(refusal)}),
        refusal.status,
        dict(refusal.headers),
        "application/json",
    )

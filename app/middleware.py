"""Gives each request an id and a date, logs it in one line, counts it, and keeps unforeseen errors from callers."""

from __future__ import annotations

import logging
import time
from email.utils import formatdate
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.logs import choose_request_id, request_id
from app.problems import anonymous_problem
from app.telemetry import Telemetry

log = logging.getLogger(__name__)

REQUEST_ID_HEADER = "X-Request-ID"
FUSE_PATH = "/fuse"
# Probes and scrapes come every few seconds and say nothing worth a line, unless they are refused.
QUIET_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})


class RequestContext:
    """ASGI middleware around the whole app.

    Args:
        app: The app.
        telemetry: Counts the fuse requests.
    """

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request; other kinds of scopes pass unchanged."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})
        body = _Body(receive)
        identity = choose_request_id(Headers(scope=scope).get(REQUEST_ID_HEADER))
        token = request_id.set(identity)
        response = _Response(send, identity)
        started = time.perf_counter()
        try:
            await self._app(scope, body.receive, response.send)
        except Exception:  # Whatever escaped the handlers: log it here, where the request id is known.
            log.exception("unforeseen error")
            if response.status == 0:
                await anonymous_problem()(scope, receive, response.send)
        finally:
            self._record(scope, body, response, time.perf_counter() - started)
            request_id.reset(token)

    def _record(self, scope: Scope, body: _Body, response: _Response, seconds: float) -> None:
        path, state, status = scope["path"], scope["state"], response.status
        fields = {"method": scope["method"], "path": path, "status": status, "ms": round(seconds * 1000, 1)}
        fields |= {"bytes_in": body.bytes, "bytes_out": response.bytes}
        if path == FUSE_PATH:
            model = state.get("model", "none")
            self._telemetry.requests.labels(model, str(status)).inc()
            self._telemetry.request_seconds.observe(seconds)
            fields |= {"model": model, **state.get("fused", {})}
        fields |= state.get("refused", {})
        quiet = path in QUIET_PATHS and status < HTTPStatus.BAD_REQUEST
        log.log(logging.DEBUG if quiet else logging.INFO, "request", extra=fields)


class _Body:
    """Receives the body of a request and counts its bytes."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.bytes = 0

    async def receive(self) -> Message:
        message = await self._receive()
        self.bytes += len(message.get("body", b""))
        return message


class _Response:
    """Sends a response with the request id, remembers its status (0 until it starts) and counts its bytes."""

    def __init__(self, send: Send, identity: str) -> None:
        self._send = send
        self._identity = identity
        self.status = 0
        self.bytes = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID_HEADER] = self._identity
            headers["Date"] = formatdate(usegmt=True)
        self.bytes += len(message.get("body", b""))
        await self._send(message)

"""Gives each request an id, logs and counts it, and keeps unforeseen errors from callers."""

from __future__ import annotations

import logging
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.logs import choose_request_id, request_id
from app.problems import anonymous_problem
from app.telemetry import Telemetry

log = logging.getLogger(__name__)

REQUEST_ID_HEADER = "X-Request-ID"
FUSE_PATH = "/fuse"
# Probes and scrapes come every few seconds and say nothing worth a line.
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
        identity = choose_request_id(Headers(scope=scope).get(REQUEST_ID_HEADER))
        token = request_id.set(identity)
        response = _Response(send, identity)
        started = time.perf_counter()
        try:
            await self._app(scope, receive, response.send)
        except Exception:  # Whatever escaped the handlers: log it here, where the request id is known.
            log.exception("unforeseen error")
            if response.status == 0:
                await anonymous_problem()(scope, receive, response.send)
        finally:
            self._record(scope, response.status, time.perf_counter() - started)
            request_id.reset(token)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        path, model = scope["path"], scope["state"].get("model", "none")
        if path == FUSE_PATH:
            self._telemetry.requests.labels(model, str(status)).inc()
            self._telemetry.request_seconds.observe(seconds)
        level = logging.DEBUG if path in QUIET_PATHS else logging.INFO
        fields = {"method": scope["method"], "path": path, "status": status, "ms": round(seconds * 1000, 1)}
        log.log(level, "request", extra=fields | {"model": model})


class _Response:
    """Sends a response with the request id and remembers its status; 0 until it starts."""

    def __init__(self, send: Send, identity: str) -> None:
        self._send = send
        self._identity = identity
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)[REQUEST_ID_HEADER] = self._identity
        await self._send(message)

"""Wires the HTTP app, and runs it so that SIGTERM lets accepted requests finish."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import FrameType

import uvicorn
from fastapi import FastAPI

from app.middleware import QUIET_PATHS, RequestContext
from app.openapi import DescribedApp
from app.problems import install_problem_handlers
from app.routes import router
from app.service import Service, build_service
from app.settings import Settings
from app.telemetry import Telemetry
from app.tracing import configure_tracing, tracing_options

log = logging.getLogger(__name__)

# Beyond the time for requests: runs that nobody waits for any more must have ended by then.
LAST_RUNS_S = 30.0
DRAIN_TICK_S = 0.05
DESCRIPTION = """Fuses an aligned pair of images into one.

    curl -F image_a=@visible.png -F image_b=@infrared.png localhost:8000/fuse -o fused.png
"""


def create_app(settings: Settings | None = None, telemetry: Telemetry | None = None) -> FastAPI:
    """Builds the app; its models are loaded and warmed up when this returns.

    Args:
        settings: Settings to use; read from the environment without.
        telemetry: Metrics to use; new ones without.

    Raises:
        StartupError: There is nothing to serve, or nothing to run it with.
    """
    service = build_service(settings or Settings(), telemetry)
    configure_tracing()
    app = DescribedApp(
        title="pairfuse",
        version="1",
        description=DESCRIPTION,
        lifespan=_lifespan,
        redirect_slashes=False,
        telemetry=tracing_options(QUIET_PATHS),
    )
    app.state.service = service
    app.include_router(router)
    app.add_middleware(RequestContext, telemetry=service.telemetry)
    install_problem_handlers(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    service.pipeline.start()
    yield
    service.gate.drain()
    await service.pipeline.stop()


class DrainingServer(uvicorn.Server):
    """A server that keeps listening on SIGTERM until the requests inside are answered.

    While it drains, /readyz and new requests get 503, so that a load balancer sees why. A second signal, or
    SIGINT, ends it the quick way.

    Args:
        config: Of uvicorn.
        service: Whose gate is closed.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._drain_started: float | None = None
        self._signalled = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Starts the drain at the first SIGTERM."""
        if sig == signal.SIGTERM and self._drain_started is None:
            self._drain_started = time.monotonic()
            self._service.gate.drain()
        else:
            super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._signalled.set)

    async def main_loop(self) -> None:
        """Waits for a signal, then for the end of the drain: uvicorn's own loop wakes ten times a second for ever."""
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(None if self._drain_started is None else DRAIN_TICK_S):
                    await self._signalled.wait()
            self._signalled.clear()

    async def on_tick(self, counter: int) -> bool:
        """Ends the main loop once the drain is complete; called now and then."""
        if self._drain_started is not None and self._drained(time.monotonic() - self._drain_started):
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Closes everything; a run that hangs cannot be ended, and does not keep the process for good."""
        limit = threading.Timer(self._service.settings.drain_timeout_s + LAST_RUNS_S, _give_up)
        limit.daemon = True
        limit.start()
        try:
            await super().shutdown(sockets)
        finally:
            if not self.force_exit:  # Ended the quick way, it has not waited for runs: that comes after.
                limit.cancel()

    def _drained(self, seconds: float) -> bool:
        settings = self._service.settings
        if seconds >= settings.drain_delay_s + settings.drain_timeout_s:
            return True
        return seconds >= settings.drain_delay_s and self._service.gate.idle


def _give_up() -> None:
    log.critical("a model run does not end; the process ends without it")
    os._exit(1)


def serve(settings: Settings) -> None:
    """Runs the service until a signal ends it.

    Raises:
        StartupError: There is nothing to serve, or nothing to run it with.
    """
    log.info("settings", extra=settings.model_dump(mode="json"))
    app = create_app(settings)
    asyncio.run(DrainingServer(server_config(app, settings), app.state.service).serve())


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Returns how uvicorn serves the app."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,  # Of the last tick, and there is none; RequestContext sends the true one.
        timeout_graceful_shutdown=max(1, round(settings.drain_timeout_s)),
    )

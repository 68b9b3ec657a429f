"""One of several processes that serve one port: ``python -m app.worker ORDERS``, started by the supervisor."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn
from pydantic import BaseModel

from app.errors import StartupError
from app.logs import configure_logs
from app.server import DrainingServer, create_app, server_config
from app.service import Service
from app.settings import Settings
from app.shared_telemetry import SharedTelemetry


class Orders(BaseModel):
    """What the supervisor tells a worker.

    Attributes:
        number: Number of the worker, from 0.
        folder: Folder of the shared metrics.
        addresses: Family and address of each socket to serve.
        channel: File descriptor of a socket to the supervisor.
        settings: The settings of the service.
    """

    number: int
    folder: Path
    addresses: list[tuple[int, str, int]]
    channel: int
    settings: dict[str, Any]


class WorkerServer(DrainingServer):
    """A server that tells the supervisor when it listens, and drains when the supervisor is gone.

    Args:
        config: Of uvicorn.
        service: Whose gate is closed.
        channel: Socket to the supervisor.
    """

    def __init__(self, config: uvicorn.Config, service: Service, channel: socket.socket) -> None:
        super().__init__(config, service)
        self._channel = channel

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, then says so."""
        await super().startup(sockets)
        if self.started:
            self._channel.send(b"1")
            asyncio.get_running_loop().add_reader(self._channel, self._orphaned)

    def _orphaned(self) -> None:
        asyncio.get_running_loop().remove_reader(self._channel)
        self.handle_exit(signal.SIGTERM, None)


def listen_at(family: int, host: str, port: int) -> socket.socket:
    """Returns a socket bound to an address that other processes of this user may be bound to as well.

    The kernel shares new connections out among those that listen. One listening socket for all workers would not do:
    whoever wakes first takes a whole burst of connections, because no event loop here is ever busy for long.
    """
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    bound.bind((host, port))
    return bound


def run_worker(orders: Orders) -> None:
    """Serves until a signal, or the end of the supervisor.

    Raises:
        StartupError: There is nothing to serve, or nothing to run it with.
    """
    settings = Settings(**orders.settings)
    configure_logs(settings.log_level, settings.log_format, orders.number)
    app = create_app(settings, SharedTelemetry(orders.folder, orders.number))
    sockets = [listen_at(*address) for address in orders.addresses]
    server = WorkerServer(server_config(app, settings), app.state.service, socket.socket(fileno=orders.channel))
    asyncio.run(server.serve(sockets))


def main() -> None:
    """Runs the worker; an error that the operator can cure ends it with one line and exit code 1."""
    try:
        run_worker(Orders.model_validate_json(sys.argv[1]))
    except StartupError as error:
        sys.exit(f"pairfuse: {error}")


if __name__ == "__main__":
    main()

"""Runs several workers on one port: starts them, replaces those that end, and passes signals on.

The workers share nothing but the port and a folder of metrics. The supervisor serves nothing itself.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

from app.errors import StartupError
from app.settings import Settings
from app.shared_telemetry import forget_worker
from app.worker import Orders, listen_at

log = logging.getLogger(__name__)

LONGEST_PAUSE_S = 30.0


def run_workers(settings: Settings) -> int:
    """Runs ``settings.workers`` workers until a signal ends them.

    Returns:
        0 if all of them ended as they should after the signal; else the exit code of one that did not.

    Raises:
        StartupError: The address is taken or does not exist, or there is no place for the metrics.
        KeyboardInterrupt: SIGINT ended them.
    """
    log.info("settings", extra=settings.model_dump(mode="json"))
    with ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pairfuse-")))
        except OSError as error:
            raise StartupError(
                f"Several workers need a folder to share their metrics in: {error}. Let the process write to /tmp, "
                "name another folder with TMPDIR, or set PAIRFUSE_WORKERS=1."
            ) from None
        addresses = _reserve(settings, stack)
        log.info("workers share a port", extra={"workers": settings.workers, "addresses": addresses})
        return asyncio.run(Supervisor(settings, folder, addresses).run())


def _reserve(settings: Settings, stack: ExitStack) -> list[tuple[int, str, int]]:
    """Returns family, address and port of all that the host name stands for, and keeps them bound, not listening."""
    if not hasattr(socket, "SO_REUSEPORT"):
        raise StartupError("This system cannot share a port among processes. Set PAIRFUSE_WORKERS=1.")
    addresses: list[tuple[int, str, int]] = []
    port = settings.port
    try:
        found = socket.getaddrinfo(settings.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, *_, address in found:
            host = str(address[0])
            # Without SO_REUSEPORT: with it, a second service would take half of the first one's connections unseen.
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((host, port))
            port = stack.enter_context(listen_at(family, host, port)).getsockname()[1]
            addresses.append((int(family), host, port))
    except OSError as error:
        raise StartupError(f"Cannot listen on {settings.host}:{port}: {error.strerror}. Choose another.") from None
    return addresses


class Supervisor:
    """Keeps the workers running. Lives on one event loop.

    Args:
        settings: Settings of the service.
        folder: Folder of the shared metrics.
        addresses: Family, address and port of each socket to serve.
    """

    def __init__(self, settings: Settings, folder: Path, addresses: list[tuple[int, str, int]]) -> None:
        self._settings = settings
        self._folder = folder
        self._addresses = addresses
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._channels: dict[int, socket.socket] = {}
        self._stopping = asyncio.Event()
        self._signal = signal.SIGTERM
        self._exit_code = 0

    async def run(self) -> int:
        """Starts the workers and returns, after a signal, when all have ended; see ``run_workers``."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._pass_on, number)
        # One first: a fault that every worker would meet is told once, and ends the start.
        if await self._launch(0):
            async with asyncio.TaskGroup() as tasks:
                for worker in range(self._settings.workers):
                    tasks.create_task(self._keep(worker, ready=worker == 0))
        else:
            code = await self._bury(0)
            self._exit_code = 0 if self._stopping.is_set() else abs(code)
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        return self._exit_code

    def _pass_on(self, number: signal.Signals) -> None:
        self._signal = number
        self._stopping.set()
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(number)

    async def _keep(self, worker: int, *, ready: bool) -> None:
        """Runs a worker, and its successors, until the service ends; ``ready``: it has been launched."""
        pause = 0.0
        ready = ready or await self._launch(worker)
        while True:
            code = await self._bury(worker)
            if self._stopping.is_set():
                # Before it is ready, SIGTERM ends a worker the hard way, and nobody has lost anything.
                self._exit_code = self._exit_code or (abs(code) if ready else 0)
                return
            # One that served is replaced at once; one that cannot start would fail as fast as it is started.
            pause = 0.0 if ready else min(LONGEST_PAUSE_S, max(1.0, 2 * pause))
            log.error("worker ended", extra={"worker": worker, "code": code, "restart_in_s": pause})
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            if self._stopping.is_set():
                return
            ready = await self._launch(worker)

    async def _launch(self, worker: int) -> bool:
        """Starts a worker and returns True when it listens, or False when it ended before."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        orders = Orders(
            number=worker,
            folder=self._folder,
            addresses=self._addresses,
            channel=theirs.fileno(),
            settings=self._settings.model_dump(mode="json"),
        )
        with theirs:
            # A session of its own: Ctrl-C in a terminal must reach a worker once, from here.
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "app.worker", orders.model_dump_json()),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._processes[worker] = process
        self._channels[worker] = ours  # Its end tells the worker that nobody supervises it any more.
        if self._stopping.is_set():
            process.terminate()
        ready = await asyncio.get_running_loop().sock_recv(ours, 1) != b""
        if ready:
            log.info("worker ready", extra={"worker": worker, "pid": process.pid})
        return ready

    async def _bury(self, worker: int) -> int:
        """Waits for the end of a worker and returns its exit code, or the negative number of the signal."""
        code = await self._processes[worker].wait()
        del self._processes[worker]
        self._channels.pop(worker).close()
        forget_worker(self._folder, worker)
        return code

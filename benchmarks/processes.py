"""Servers as processes of their own: started, watched, suspended, and ended, they and nothing else."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.errors import BenchError

HOST = "127.0.0.1"
READY_SECONDS = 180
LEFT_OVER_SECONDS = 2
PROBE_SECONDS = 10
LOG_TAIL = 2000
REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Server:
    """A running server and whatever processes it started.

    Attributes:
        process: Its main process.
        port: Where it listens on 127.0.0.1.
        log: File with what it printed.
    """

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def cpu_seconds(self) -> float:
        """Returns the CPU time of all its processes so far, in seconds."""
        times = [process.cpu_times() for process in self._tree()]
        return float(sum(each.user + each.system for each in times))

    def resident_bytes(self) -> int:
        """Returns the resident memory of all its processes, in bytes; what they share counts once for each."""
        return sum(process.memory_info().rss for process in self._tree())

    def log_tail(self) -> str:
        """Returns the last lines of what it printed."""
        return self.log.read_text(errors="replace")[-LOG_TAIL:]

    def suspend(self) -> None:
        """Stops all its processes from running until ``resume``; connections stay open."""
        for process in self._tree():
            process.suspend()

    def resume(self) -> None:
        """Lets them run again."""
        for process in self._tree():
            process.resume()

    def _tree(self) -> list[psutil.Process]:
        if self.process.poll() is not None:
            return []
        main = psutil.Process(self.process.pid)
        return [main, *main.children(recursive=True)]


@contextlib.contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], port: int, log: Path, path: str, patience_s: float = 30.0
) -> Iterator[Server]:
    """Starts a server and ends it, with all its processes, at the end.

    Args:
        command: Program and arguments.
        environment: All environment variables.
        port: Where it will listen.
        log: File for its output.
        path: What answers 200 once it is ready.
        patience_s: Seconds that it has to end after SIGTERM; then it is killed.

    Raises:
        BenchError: It ended by itself or was not ready in time.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=dict(environment), stdout=output, stderr=output)
    server = Server(process, port, log)
    try:
        wait_until_ready(process, lambda: answers(port, path), log)
        yield server
    finally:
        stop(process, patience_s)


@contextlib.contextmanager
def running_pairfuse(log: Path, **settings: object) -> Iterator[Server]:
    """Starts this clone's service on the CPU; settings are those of ``app.settings``, by field name.

    Raises:
        BenchError: It ended by itself or was not ready in time.
    """
    port = free_port()
    chosen = {"host": HOST, "port": port, "device": "cpu"} | settings
    with running([sys.executable, "-m", "app", "serve"], service_environment(chosen), port, log, "/readyz") as server:
        yield server


def service_environment(settings: Mapping[str, object]) -> dict[str, str]:
    """Returns this process's environment with these settings of the service and no others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PAIRFUSE_")}
    return kept | {f"PAIRFUSE_{name.upper()}": str(value) for name, value in settings.items()}


def free_port() -> int:
    """Returns a port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int, path: str) -> bool:
    """Tells whether a GET is answered with 200."""
    connection = http.client.HTTPConnection(HOST, port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def wait_until_ready(process: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path) -> None:
    """Asks until the answer is yes.

    Raises:
        BenchError: The process ended by itself or was not ready in time; its last log lines are in the message.
    """
    ends_at = time.monotonic() + READY_SECONDS
    while not ready():
        gone = process.poll() is not None
        if gone or time.monotonic() > ends_at:
            what = "ended by itself" if gone else f"was not ready after {READY_SECONDS} s"
            raise BenchError(f"the service {what}; its last log lines:\n{log.read_text(errors='replace')[-LOG_TAIL:]}")
        time.sleep(0.05)


def stop(process: subprocess.Popen[bytes], patience_s: float) -> None:
    """Ends a process with SIGTERM, and what is left of it and of those it started by force."""
    if process.poll() is not None:
        return
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in psutil.wait_procs(children, timeout=LEFT_OVER_SECONDS)[1]:
        child.kill()

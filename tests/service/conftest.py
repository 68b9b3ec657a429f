"""Starts the service as a process of its own, as an operator would."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

READY_SECONDS = 60
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Live:
    """A running service.

    Attributes:
        process: Its process.
        port: Where it listens.
        log: File with its log lines.
        client: An HTTP client for it.
    """

    process: subprocess.Popen
    port: int
    log: Path
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)

    def fuse(self, image_a: bytes, image_b: bytes, **fields: object) -> httpx.Response:
        files = {"image_a": ("a", image_a), "image_b": ("b", image_b)}
        return self.client.post("/fuse", files=files, data={key: str(value) for key, value in fields.items()})

    def metric(self, name: str) -> float:
        """Returns the value of one sample, labels included in its name; 0 if it does not exist yet."""
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[-1])
        return 0.0

    def until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Waits for a condition, with a bound."""
        ends_at = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < ends_at, f"waited in vain; log:\n{self.log.read_text()[-3000:]}"
            time.sleep(0.005)

    def stop(self) -> int:
        """Sends SIGTERM and returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_ready(live: Live) -> None:
    ends_at = time.monotonic() + READY_SECONDS
    while time.monotonic() < ends_at and live.process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if live.client.get("/readyz").status_code == 200:
                return
        time.sleep(0.02)
    pytest.fail(f"the service did not become ready; log:\n{live.log.read_text()[-3000:]}")


@contextlib.contextmanager
def running_service(
    weights: Path, log: Path, module: str = "app", faults: Path | None = None, **settings: object
) -> Iterator[Live]:
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PAIRFUSE_")}
    environment |= {"PAIRFUSE_WEIGHTS": str(weights), "PAIRFUSE_PORT": str(port), "PAIRFUSE_DEVICE": "cpu"}
    environment |= {f"PAIRFUSE_{name.upper()}": str(value) for name, value in settings.items()}
    if faults is not None:
        environment["FAULTS"] = str(faults)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, "serve"],
            cwd=REPOSITORY,
            env=environment,
            stderr=output,
            stdout=output,
        )
    live = Live(process, port, log)
    try:
        wait_until_ready(live)
        yield live
    finally:
        live.client.close()
        if process.poll() is None:
            process.kill()
        process.wait(30)


@pytest.fixture(scope="session")
def service(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service with the test bundles that all harmless tests share."""
    with running_service(weights, tmp_path_factory.mktemp("service") / "log", threads=1) as live:
        yield live


@pytest.fixture(scope="session")
def real_service(real_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service with the released models of the clone."""
    with running_service(real_weights, tmp_path_factory.mktemp("real") / "log") as live:
        yield live


@pytest.fixture
def start_service(weights: Path, tmp_path: Path) -> Iterator[Callable[..., Live]]:
    """Starts services with settings of their own, for tests that bring them into trouble; one run after another."""
    defaults = {"weights": weights, "log": tmp_path / "log", "max_runs": 1}
    with contextlib.ExitStack() as stack:
        yield lambda **settings: stack.enter_context(running_service(**(defaults | settings)))


@pytest.fixture(params=["service", "real_service"])
def any_service(request: pytest.FixtureRequest) -> Live:
    """The service with test bundles, and the one with the released models."""
    return request.getfixturevalue(request.param)

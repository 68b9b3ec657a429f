"""Runs the service as an operator would, in a process of its own, and sends it pairs."""

from __future__ import annotations

import contextlib
import http.client
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.errors import BenchError
from benchmarks.processes import HOST, running_pairfuse

ANSWER_SECONDS = 1800  # A large pair takes minutes with some models.
LOOKUPS = re.compile(r'^pairfuse_encoder_cache_total\{result="(\w+)"\} (\S+)$', re.MULTILINE)
TIMING = re.compile(r"([a-z_]+);dur=([0-9.]+)")


@dataclass(frozen=True)
class Answer:
    """One answered POST /fuse.

    Attributes:
        seconds: Whole time at the caller, from the first byte sent to the last received.
        stages: Seconds of each stage, as the service reports them.
    """

    seconds: float
    stages: dict[str, float]


class Client:
    """Sends pairs, one at a time.

    The form is put together and the connection made before the clock starts, and the plain client of the standard
    library is used, so that the time is the service's and not the caller's.

    Args:
        port: Where the service listens.
        model: Name of the model to ask for.
    """

    def __init__(self, port: int, model: str) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_SECONDS)
        self._model = model

    def fuse(self, files: tuple[bytes, bytes], strength: float | None) -> Answer:
        """Fuses one pair of PNG files to a PNG file.

        Raises:
            BenchError: The service answered no PNG.
        """
        fields = {"model": self._model, "format": "png"}
        if strength is not None:
            fields["strength"] = f"{strength}"
        parts = {
            name: (f"{name}.png", file, "image/png") for name, file in zip(("image_a", "image_b"), files, strict=True)
        }
        form = httpx.Request("POST", f"http://{HOST}/fuse", data=fields, files=parts)
        body, headers = form.read(), {"Content-Type": form.headers["Content-Type"]}
        self._connect()
        started = time.perf_counter()
        self._connection.request("POST", "/fuse", body, headers)
        response = self._connection.getresponse()
        content = response.read()
        seconds = time.perf_counter() - started
        if response.status != http.HTTPStatus.OK or not content.startswith(b"\x89PNG"):
            raise BenchError(f"POST /fuse answered {response.status}: {content[:300].decode(errors='replace')}")
        return Answer(seconds, parse_timing(response.getheader("Server-Timing", "")))

    def lookups(self) -> dict[str, int]:
        """Returns how many codes the service found in its cache (``hit``) and how many not (``miss``)."""
        found = {name: int(float(count)) for name, count in LOOKUPS.findall(self._get("/metrics")[1])}
        return {"hit": 0, "miss": 0} | found

    def _connect(self) -> None:
        """Makes a new connection: the service closes one that was idle for seconds, as during a slow graph's run."""
        self._connection.close()
        self._connection.connect()

    def _get(self, path: str) -> tuple[int, str]:
        self._connect()
        self._connection.request("GET", path)
        response = self._connection.getresponse()
        return response.status, response.read().decode()

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


def parse_timing(header: str) -> dict[str, float]:
    """Returns the seconds of each stage in a Server-Timing header."""
    return {name: float(duration) / 1000 for name, duration in TIMING.findall(header)}


@contextlib.contextmanager
def running_service(bundle: Path, name: str, threads: int) -> Iterator[tuple[int, Client]]:
    """Starts the service with one bundle alone; ends it, and nothing else, at the end.

    Args:
        bundle: The bundle's folder.
        name: The model's name.
        threads: CPU threads of one model run.

    Yields:
        The process id, and a client.

    Raises:
        BenchError: The service ended by itself or was not ready in time.
    """
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "weights")
        weights.mkdir()
        (weights / name).symlink_to(bundle.resolve(), target_is_directory=True)
        settings = {"weights": weights, "threads": threads, "deadline_s": ANSWER_SECONDS}
        with running_pairfuse(Path(folder, "log"), **settings) as server:
            client = Client(server.port, name)
            try:
                yield server.process.pid, client
            finally:
                client.close()

"""Clients in a process of their own, as light on the CPU as Python allows: what they take, the server lacks.

Closed loop: each client sends its next request when it has the last answer. Open loop: requests come at random times
of a fixed rate, however many are unanswered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from multiprocessing import get_context
from random import Random

import aiohttp

from benchmarks.processes import HOST

PNG_SIGNATURE = b"\x89PNG"
ANSWER_SECONDS = 180.0
PROBE_INTERVAL, PROBE_SECONDS = 0.1, 60.0
# Less than servers keep an idle connection, so that none is used just when it is closed.
KEEP_ALIVE_SECONDS = 2.0
NO_ANSWER = 0
NO_PICTURE = -1
BOUNDARY = "pairfuse-bench"
HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
OK, UNAVAILABLE, LATE = 200, 503, 504


@dataclass(frozen=True)
class Shot:
    """One request.

    Attributes:
        start: When it was sent, on the machine's monotonic clock.
        seconds: Until the last byte of the answer.
        status: Of the answer; 0 if the connection was refused or lost, -1 for a 200 that is no PNG.
        retry_after: Seconds after which the answer asks to come back, if it does.
        first: Whether it was the first of its client, when the others had not filled the queue yet.
    """

    start: float
    seconds: float
    status: int
    retry_after: float | None
    first: bool = False

    @property
    def end(self) -> float:
        """When the answer was complete."""
        return self.start + self.seconds


@dataclass(frozen=True)
class Load:
    """All requests of one run.

    Attributes:
        shots: In the order in which they ended.
        seconds: From the first sent to the last answered.
        cpu_seconds: CPU time of the clients.
    """

    shots: list[Shot]
    seconds: float
    cpu_seconds: float

    @property
    def times(self) -> list[float]:
        """Seconds of the requests that were answered with a picture; without first ones, if there are others."""
        answered = [shot for shot in self.shots if shot.status == OK]
        return [shot.seconds for shot in answered if not shot.first] or [shot.seconds for shot in answered]

    @property
    def throughput(self) -> float:
        """Pictures a second."""
        return self.count(OK) / self.seconds

    def count(self, status: int) -> int:
        """Returns the number of requests with a status."""
        return sum(shot.status == status for shot in self.shots)


@dataclass(frozen=True)
class Burst:
    """Requests at a fixed rate, and what came after them.

    Attributes:
        load: The requests.
        probes: Requests after their end, one after another, until one was answered with a picture.
    """

    load: Load
    probes: list[Shot]


def client_process(bodies: Mapping[str, Sequence[bytes]]) -> ProcessPoolExecutor:
    """Returns the process that clients run in.

    Args:
        bodies: Complete forms, by the name under which a run asks for them.
    """
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=hold, initargs=(bodies,))


def form(file_a: bytes, file_b: bytes) -> bytes:
    """Returns a complete body for ``HEADERS``."""
    parts = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}.png"\r\n'
        f"Content-Type: image/png\r\n\r\n".encode()
        + data
        + b"\r\n"
        for name, data in (("image_a", file_a), ("image_b", file_b))
    )
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def closed_loop(port: int, bodies: str, *, clients: int, seconds: float = 1e9, requests: int | None = None) -> Load:
    """Runs clients that each wait for their answer; one that is refused waits as long as it is told.

    A client whose connection is lost sends no more.

    Args:
        port: Where the server listens.
        bodies: Name of the forms to send in turn.
        clients: Number of clients at once.
        seconds: Time after which no request is sent any more.
        requests: Number of requests in all after which it ends earlier.
    """
    return asyncio.run(_measured(_closed_loop(port, _BODIES[bodies], clients, seconds, requests)))


def first_answer(port: int, bodies: str) -> bytes:
    """Returns the body of the answer to the first form of a name, whatever its status."""

    async def ask() -> bytes:
        body = _BODIES[bodies][0]
        async with _session(port) as session, session.post("/fuse", data=body, headers=HEADERS) as answer:
            return await answer.read()

    return asyncio.run(ask())


def open_loop(port: int, bodies: str, *, rate: float, seconds: float, seed: int) -> Burst:
    """Sends requests at random times (a Poisson process), then asks until one is let in again.

    Args:
        port: Where the server listens.
        bodies: Name of the forms to send in turn.
        rate: Requests a second.
        seconds: Time after which they end.
        seed: Chooses the times.
    """
    probes: list[Shot] = []
    load = asyncio.run(_measured(_open_loop(port, _BODIES[bodies], rate, seconds, Random(seed), probes)))
    return Burst(load, probes)


_BODIES: dict[str, Sequence[bytes]] = {}


def hold(bodies: Mapping[str, Sequence[bytes]]) -> None:
    """Keeps complete forms in this process, by the name under which a run asks for them."""
    _BODIES.update(bodies)


async def _measured(work: Coroutine[None, None, list[Shot]]) -> Load:
    cpu, started = time.process_time(), time.monotonic()
    shots = await work
    return Load(shots, time.monotonic() - started, time.process_time() - cpu)


def _session(port: int) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS)
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    return aiohttp.ClientSession(f"http://{HOST}:{port}", connector=connector, timeout=timeout)


async def _closed_loop(
    port: int, bodies: Sequence[bytes], clients: int, seconds: float, requests: int | None
) -> list[Shot]:
    shots: list[Shot] = []
    ends_at = time.monotonic() + seconds
    numbers = count() if requests is None else iter(range(requests))

    async def send_in_turn(session: aiohttp.ClientSession) -> None:
        first = True
        for number in numbers:
            shots.append(replace(await _post(session, bodies[number % len(bodies)]), first=first))
            first = False
            left = ends_at - time.monotonic()
            if left <= 0 or shots[-1].status == NO_ANSWER:
                return
            if shots[-1].status == UNAVAILABLE:
                await asyncio.sleep(min(left, shots[-1].retry_after or 0.0))

    async with _session(port) as session, asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(send_in_turn(session))
    return shots


async def _open_loop(
    port: int, bodies: Sequence[bytes], rate: float, seconds: float, random: Random, probes: list[Shot]
) -> list[Shot]:
    shots: list[Shot] = []
    started, due = time.monotonic(), 0.0

    async def send(session: aiohttp.ClientSession, number: int) -> None:
        shots.append(await _post(session, bodies[number % len(bodies)]))

    async def probe(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < started + seconds + PROBE_SECONDS:
            probes.append(await _post(session, bodies[0]))
            if probes[-1].status == OK:
                return
            await asyncio.sleep(PROBE_INTERVAL)

    async with _session(port) as session, asyncio.TaskGroup() as group:
        for number in count():
            due += random.expovariate(rate)
            await asyncio.sleep(max(0.0, started + min(due, seconds) - time.monotonic()))
            if due > seconds:
                break
            group.create_task(send(session, number))
        group.create_task(probe(session))
    return shots


async def _post(session: aiohttp.ClientSession, body: bytes) -> Shot:
    start = time.monotonic()
    status, wait = NO_ANSWER, None
    try:
        async with session.post("/fuse", data=body, headers=HEADERS) as answer:
            content = await answer.read()
        status = answer.status
        if status == OK and not content.startswith(PNG_SIGNATURE):
            status = NO_PICTURE
        if "Retry-After" in answer.headers:
            wait = float(answer.headers["Retry-After"])
    except (aiohttp.ClientError, TimeoutError):
        pass
    return Shot(start, time.monotonic() - start, status, wait)

"""How the service behaves: at rest, over many requests, under too many, and when it is told to end."""

from __future__ import annotations

import math
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from benchmarks.processes import Server
from benchmarks.serve.load import NO_ANSWER, OK, UNAVAILABLE, Load, closed_loop, open_loop
from benchmarks.serve.profile import MIXED, Profile
from benchmarks.serve.speed import ONE_SIZE

SETTLE_SECONDS = 1.0
SAMPLE_SECONDS = 0.2
MEMORY_CLIENTS = 4
EXCESS = 3.0
EXIT_SECONDS = 60.0  # Twice the default of PAIRFUSE_DRAIN_TIMEOUT_S.


@dataclass
class Memory:
    """Resident memory over many requests of mixed sizes.

    Attributes:
        requests: Number of requests.
        samples: Bytes, at equal intervals.
    """

    requests: int
    samples: list[int] = field(default_factory=list)

    @property
    def drift(self) -> float:
        """Growth over the second half by a straight line through it, as a share of its start."""
        half = np.array(self.samples[len(self.samples) // 2 :], np.float64)
        slope, start = np.polyfit(np.arange(len(half)), half, 1)
        return float(slope * (len(half) - 1) / start)


@dataclass(frozen=True)
class Overload:
    """Three times more requests than the service can answer, at random times.

    Attributes:
        rate: Requests a second.
        load: All of them.
        accepted_after: Seconds from the last request to the sending of the first that was let in again.
        answered_after: Seconds from the last request to the answer of that one.
    """

    rate: float
    load: Load
    accepted_after: float
    answered_after: float

    @property
    def unexplained(self) -> int:
        """Refusals that do not say when to come back."""
        return sum(shot.status == UNAVAILABLE and shot.retry_after is None for shot in self.load.shots)

    @property
    def errors(self) -> int:
        """Answers that are neither a picture nor a refusal."""
        return sum(shot.status not in {OK, UNAVAILABLE, NO_ANSWER} for shot in self.load.shots)


@dataclass(frozen=True)
class Drain:
    """SIGTERM while clients are at work.

    Attributes:
        load: Their requests.
        signalled: When the signal was sent, on the machine's monotonic clock.
        seconds: From the signal to the end of the process.
        exit_code: Of the process; None if it had to be killed.
    """

    load: Load
    signalled: float
    seconds: float
    exit_code: int | None

    def inside(self) -> dict[int, int]:
        """Returns the requests that were on their way at the signal, by status."""
        return _by_status(self.load, lambda start, end: start < self.signalled <= end)

    def later(self) -> dict[int, int]:
        """Returns those sent after the signal, by status; 0: nobody listened any more."""
        return _by_status(self.load, lambda start, _: start >= self.signalled)

    @property
    def failed(self) -> int:
        """Requests on their way at the signal that got neither a picture nor a refusal."""
        return sum(number for status, number in self.inside().items() if status not in {OK, UNAVAILABLE})


def idle_share(server: Server, seconds: float) -> float:
    """Returns the share of one core that a server takes without requests."""
    time.sleep(SETTLE_SECONDS)
    before, started = server.cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    return (server.cpu_seconds() - before) / (time.monotonic() - started)


def watch_memory(server: Server, clients: ProcessPoolExecutor, requests: int) -> Memory:
    """Sends pairs of mixed sizes and watches the resident memory."""
    memory = Memory(requests)
    with _sampling(server, memory.samples):
        run = partial(closed_loop, server.port, MIXED, clients=MEMORY_CLIENTS, requests=requests)
        clients.submit(run).result()
    return memory


def overload(server: Server, clients: ProcessPoolExecutor, capacity: float, seconds: float) -> Overload:
    """Sends three times the requests that the service can answer, then waits until it lets one in again.

    Args:
        server: The service.
        clients: The process of the clients.
        capacity: Pictures a second that it can make.
        seconds: Length of the overload.
    """
    rate = EXCESS * capacity
    run = partial(open_loop, server.port, ONE_SIZE, rate=rate, seconds=seconds, seed=1)
    burst = clients.submit(run).result()
    first, last = burst.probes[0], burst.probes[-1]
    if last.status != OK:
        return Overload(rate, burst.load, math.inf, math.inf)
    return Overload(rate, burst.load, last.start - first.start, last.end - first.start)


def drain(server: Server, clients: ProcessPoolExecutor, profile: Profile) -> Drain:
    """Sends SIGTERM while clients are at work; the service is gone afterwards."""
    run = partial(closed_loop, server.port, ONE_SIZE, clients=profile.drain_clients, seconds=3 * profile.drain_seconds)
    at_work = clients.submit(run)
    time.sleep(profile.drain_seconds)
    signalled = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    try:
        exit_code: int | None = server.process.wait(EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        exit_code = None
    seconds = time.monotonic() - signalled
    return Drain(at_work.result(), signalled, seconds, exit_code)


def _by_status(load: Load, chosen: Callable[[float, float], bool]) -> dict[int, int]:
    return dict(Counter(shot.status for shot in load.shots if chosen(shot.start, shot.end)))


@contextmanager
def _sampling(server: Server, samples: list[int]) -> Iterator[None]:
    done = threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_SECONDS):
            samples.append(server.resident_bytes())

    sampler = threading.Thread(target=sample, name="memory", daemon=True)
    sampler.start()
    try:
        yield
    finally:
        done.set()
        sampler.join()

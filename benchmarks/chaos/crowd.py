"""Lets many clients at a service and finds out whether it has come through."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.chaos.clients import client, good_request
from benchmarks.chaos.ledger import Ledger
from benchmarks.chaos.wire import Outcome, Sending, perform
from benchmarks.memory import watch_peak
from benchmarks.scrape import scrape

ANSWER_SECONDS = 60.0
REST_SECONDS = 30.0
REST_INTERVAL = 0.05
MEGA = 1e6


@dataclass(frozen=True)
class Crowd:
    """What the clients met.

    Attributes:
        ledger: The end of each client.
        faults: What was wrong, in words; empty if the service has come through.
        seconds: Time of it all.
        idle_bytes: Resident memory of the service before.
        peak_bytes: Its largest up to the end.
    """

    ledger: Ledger
    faults: list[str]
    seconds: float
    idle_bytes: int
    peak_bytes: int


async def perform_all(
    port: int, sendings: Iterable[tuple[int, Sending]], at_once: int, on_end: Callable[[int, Sending, Outcome], None]
) -> None:
    """Performs numbered clients, so many at once, in their order.

    Args:
        port: Where the service listens.
        sendings: The clients; taken one by one, when there is a place for the next.
        at_once: Number of clients at once.
        on_end: Called with each client and its outcome.
    """
    waiting = iter(sendings)

    async def serve_turns() -> None:
        for number, sending in waiting:
            on_end(number, sending, await perform(port, sending, ANSWER_SECONDS))

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(serve_turns())


def let_in(
    port: int, pid: int, *, requests: int, seed: int, at_once: int, most_bytes: float, on_end: Callable[[], object]
) -> Crowd:
    """Performs the clients of a seed and checks the service after them.

    Args:
        port: Where a service listens that was started with ``clients.SETTINGS`` and serves nobody else.
        pid: Its process.
        requests: Number of clients.
        seed: Chooses what they do.
        at_once: Number of clients at once.
        most_bytes: Most resident memory that the service may take more than before.
        on_end: Called after each client.
    """
    ledger, started = Ledger(), time.monotonic()
    reference = asyncio.run(perform(port, good_request(), ANSWER_SECONDS))
    before = scrape(port)

    def enter(number: int, sending: Sending, outcome: Outcome) -> None:
        ledger.add(number, sending, outcome)
        on_end()

    with watch_peak(pid) as peak:
        idle_bytes = peak.bytes
        numbered = ((number, client(seed, number)) for number in range(requests))
        asyncio.run(perform_all(port, numbered, at_once, enter))
        wait_for_rest(port, before.answered + ledger.heads)
        after = scrape(port)
        again = asyncio.run(perform(port, good_request(), ANSWER_SECONDS))
    faults = ledger.wrong + ledger.differences(before, after)
    if reference.status != 200 or (again.status, again.body) != (reference.status, reference.body):
        faults.append(f"a good request was answered {reference.status} before and {again.status} after, or otherwise")
    if peak.bytes > idle_bytes + most_bytes:
        faults.append(f"memory grew from {idle_bytes / MEGA:.0f} to {peak.bytes / MEGA:.0f} MB")
    return Crowd(ledger, faults, time.monotonic() - started, idle_bytes, peak.bytes)


def wait_for_rest(port: int, answered: int) -> None:
    """Waits, within a bound, until nothing is inside and so many requests are counted."""
    ends_at = time.monotonic() + REST_SECONDS
    while time.monotonic() < ends_at:
        counts = scrape(port)
        if counts.idle and counts.answered >= answered:
            return
        time.sleep(REST_INTERVAL)

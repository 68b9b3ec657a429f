"""What was measured, held against its targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.findings import Finding, Target
from benchmarks.rounds import spread
from benchmarks.serve.conduct import Drain, Memory, Overload
from benchmarks.serve.load import NO_ANSWER, UNAVAILABLE, Load
from benchmarks.serve.profile import Profile
from benchmarks.serve.speed import ONE_SIZE, Cell, Speed
from benchmarks.serve.subjects import PAIRFUSE

ONE_CLIENT, OF_THE_BEST, TAIL = Target("≤", 1.08), Target("≥", 0.95), Target("≤", 1.3)
AHEAD, SOONER = Target("≥", 1.0), Target("≤", 1.0)
IDLE, DRIFT, RECOVERY, NONE = Target("<", 0.5), Target("≤", 5.0), Target("≤", 2.0), Target("≤", 0)
SOME = Target("≥", 1)
ENOUGH = 20
SATURATED = 4  # Clients from which a server always has a request to work on.


@dataclass(frozen=True)
class Measured:
    """All raw results of one run.

    Attributes:
        facts: Of the machine and the run.
        profile: Lengths and counts.
        speed: Turns of the bare pipeline and the servers.
        idle: Share of a core that each server takes at rest.
        memory: Of the service over many requests.
        overload: Of the service.
        drain: Of the service.
        deadline_s: What the service promises at most, in seconds.
        left_out: What was not measured and why.
    """

    facts: Mapping[str, str]
    profile: Profile
    speed: Speed
    idle: Mapping[str, float]
    memory: Memory
    overload: Overload
    drain: Drain
    deadline_s: float
    left_out: list[str]


def findings(measured: Measured) -> list[Finding]:
    """Returns every value that has a target, of pairfuse alone."""
    speed, over = measured.speed, measured.overload
    one = speed.loads[Cell(PAIRFUSE, ONE_SIZE, 1)]
    found = [_ratio("one_client", "one client: whole request / bare pipeline", _over_bare(speed), ONE_CLIENT, one)]
    for cell, loads in _cells(speed, PAIRFUSE):
        what = f"{cell.clients} client{'s'[: cell.clients > 1]}, {cell.pairs}"
        if cell.clients >= SATURATED:
            rates = of_best(speed, cell)
            found.append(_ratio("of_best", f"{what}: pictures a second / best in process", rates, OF_THE_BEST, loads))
        if cell.clients >= SATURATED and cell.pairs == ONE_SIZE:
            found.append(_ratio("tail", f"{what}: p99 / p50", [tail(load) for load in loads], TAIL, loads))
        found += _against_others(speed, cell, what)
    slowest = percentile(over.load, 99)
    return [
        *found,
        Finding("idle_percent", "CPU at rest", "% of a core", measured.idle[PAIRFUSE] * 100, target=IDLE),
        Finding(
            "drift_percent",
            f"growth of memory in the second half of {measured.memory.requests} requests",
            "%",
            measured.memory.drift * 100,
            target=DRIFT,
        ),
        Finding(
            "overload_p99_s", "overload: p99 of the accepted", "s", slowest, target=Target("≤", measured.deadline_s)
        ),
        # If nothing is refused, it was no overload and says nothing.
        Finding("overload_refused", "overload: refused", "requests", over.load.count(UNAVAILABLE), target=SOME),
        Finding("overload_errors", "overload: neither picture nor 503", "requests", over.errors, target=NONE),
        Finding("overload_silent", "overload: 503 without Retry-After", "requests", over.unexplained, target=NONE),
        Finding("overload_lost", "overload: connections lost", "requests", over.load.count(NO_ANSWER), target=NONE),
        Finding(
            "recovery_s", "overload: its end to the next request let in", "s", over.accepted_after, target=RECOVERY
        ),
        Finding(
            "drain_failed", "SIGTERM: accepted requests that failed", "requests", measured.drain.failed, target=NONE
        ),
        Finding("drain_exit", "SIGTERM: exit code", "", measured.drain.exit_code, target=NONE),
    ]


def _against_others(speed: Speed, cell: Cell, what: str) -> list[Finding]:
    """Returns the findings that hold pairfuse against the best of the other servers in each round, if there are any."""
    loads = speed.loads[cell]
    others = [turns for other, turns in speed.loads.items() if other == replace(cell, name=other.name) != cell]
    if not others:
        return []
    rounds = list(zip(loads, *others, strict=True))
    rates = [own.throughput / max(load.throughput for load in rest) for own, *rest in rounds]
    p99s = [percentile(own, 99) / min(percentile(load, 99) for load in rest) for own, *rest in rounds]
    fewest = [load for turns in (loads, *others) for load in turns]
    return [
        _ratio("ahead", f"{what}: pictures a second / best of the other servers", rates, AHEAD, fewest),
        _ratio("sooner", f"{what}: p99 / least p99 of the other servers", p99s, SOONER, fewest),
    ]


def _over_bare(speed: Speed) -> list[float]:
    """Returns median request / median bare pair with one client, round by round."""
    loads = speed.loads[Cell(PAIRFUSE, ONE_SIZE, 1)]
    turns = speed.bare[ONE_SIZE, "one by one"]
    return [percentile(load, 50) / median(turn.times) for load, turn in zip(loads, turns, strict=True)]


def of_best(speed: Speed, cell: Cell) -> list[float]:
    """Returns pictures a second of a server / those of the better bare pipeline, round by round."""
    best = speed.best_bare(cell.pairs)
    return [load.throughput / rate for load, rate in zip(speed.loads[cell], best, strict=True)]


def tail(load: Load) -> float:
    """Returns the 99th percentile of the seconds of the answered requests / their median."""
    return percentile(load, 99) / percentile(load, 50)


def _ratio(key: str, label: str, values: list[float], target: Target, loads: list[Load]) -> Finding:
    """Returns a finding over the rounds; without a target if a turn had too few requests to be held against it."""
    found = spread(values)
    fewest = min(len(load.times) for load in loads)
    if fewest < ENOUGH:
        label += f" (not judged: a turn had {fewest} of the {ENOUGH} requests that it takes)"
    return Finding(key, label, "×", found.median, found.low, found.high, target if fewest >= ENOUGH else None)


def percentile(load: Load, q: float) -> float:
    """Returns a percentile of the seconds of the answered requests."""
    return float(np.percentile(load.times, q))


def _cells(speed: Speed, name: str) -> Iterator[tuple[Cell, list[Load]]]:
    return ((cell, loads) for cell, loads in speed.loads.items() if cell.name == name)


def median(values: list[float]) -> float:
    """Returns the median."""
    return float(np.median(values))

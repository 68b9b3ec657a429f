"""Turns what was measured into targets, tables, Markdown and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.findings import Finding
from benchmarks.report import VERDICTS, number
from benchmarks.serve.judged import Measured, findings, median, of_best, percentile, tail
from benchmarks.serve.load import LATE, NO_ANSWER, OK, UNAVAILABLE, Load
from benchmarks.serve.profile import MIXED, PAIRS_A_SIZE
from benchmarks.serve.speed import ONE_SIZE, WAYS, Cell, Speed

MEGA = 1e6
WORDS = {OK: "a picture", UNAVAILABLE: "503", NO_ANSWER: "no connection"}

Table = tuple[list[str], list[list[str]]]


def target_table(measured: Measured) -> Table:
    """Returns the table of targets."""
    rows = []
    for row in findings(measured):
        quartiles = "" if row.low is None or row.high is None else f"{number(row.low)} – {number(row.high)}"
        value = "unknown" if row.value is None else f"{number(row.value)} {row.unit}".strip()
        target = f"{row.target.sign} {row.target.bound:g}" if row.target else ""
        rows.append([row.label, value, quartiles, target, VERDICTS[row.passed]])
    return ["", "median", "quartiles", "target", ""], rows


def speed_table(speed: Speed, pairs: str) -> Table:
    """Returns pictures a second and latency of the bare pipeline and of every server, for one kind of pairs."""
    header = ["", "clients", "pictures/s", "/ best in process", "p50, ms", "p99, ms", "p99 / p50", "refused, late"]
    rows = []
    for way in WAYS:
        turns = speed.bare[pairs, way]
        ratios = [turn.throughput / best for turn, best in zip(turns, speed.best_bare(pairs), strict=True)]
        p50, p99 = (median([float(np.percentile(turn.times, q)) * 1e3 for turn in turns]) for q in (50, 99))
        figures = [median([turn.throughput for turn in turns]), median(ratios), p50, p99, p99 / p50]
        rows.append([f"in process, {way}", "–", *map(number, figures), "–"])
    for cell, loads in speed.loads.items():
        if cell.pairs == pairs:
            figures = [*_medians(speed, cell).values()]
            refused, late = (sum(load.count(status) for load in loads) for status in (UNAVAILABLE, LATE))
            rows.append([cell.name, f"{cell.clients}", *map(number, figures), f"{refused}, {late}"])
    return header, rows


def _medians(speed: Speed, cell: Cell) -> dict[str, float]:
    """Returns the medians over the rounds of one server's turns."""
    loads = speed.loads[cell]
    return {
        "pictures_a_second": median([load.throughput for load in loads]),
        "of_best_in_process": median(of_best(speed, cell)),
        "p50_ms": median([percentile(load, 50) * 1e3 for load in loads]),
        "p99_ms": median([percentile(load, 99) * 1e3 for load in loads]),
        "p99_over_p50": median([tail(load) for load in loads]),
    }


def conduct_table(measured: Measured) -> Table:
    """Returns in words and numbers how the service behaved."""
    memory, over, drain = measured.memory, measured.overload, measured.drain
    samples = [each / MEGA for each in memory.samples]
    accepted = over.load.count(OK)
    rows = [[f"CPU at rest, {name}", f"{share * 100:.2f} % of a core"] for name, share in measured.idle.items()]
    rows += [
        ["memory, first and last sample, largest", f"{samples[0]:.0f}, {samples[-1]:.0f}, {max(samples):.0f} MB"],
        ["overload", f"{over.rate:.1f} requests/s for {measured.profile.overload_seconds:g} s"],
        ["· accepted, refused", f"{accepted}, {over.load.count(UNAVAILABLE)} of {len(over.load.shots)}"],
        ["· p50, p99 of the accepted", f"{percentile(over.load, 50):.2f} s, {percentile(over.load, 99):.2f} s"],
        ["· p99 of the refusals", f"{_refusal_ms(over.load):.0f} ms"],
        [
            "· end to the next request let in, to its picture",
            f"{over.accepted_after:.2f} s, {over.answered_after:.2f} s",
        ],
        ["SIGTERM: requests on their way got", _in_words(drain.inside())],
        ["· requests sent later got", _in_words(drain.later())],
        ["· signal to exit", f"{drain.seconds:.1f} s"],
        ["CPU of the clients", f"{_client_ms(measured.speed):.1f} ms a request"],
    ]
    return ["", ""], rows


def as_markdown(measured: Measured, picture: str) -> str:
    """Returns the whole of docs/performance.md, with the path of the picture from there."""
    profile = measured.profile
    return "\n".join(
        [
            "# Performance of the service",
            "",
            "Made by `make bench-serve` (`python -m benchmarks.serve`); do not edit. "
            "[Raw numbers](benchmarks/serve/serve.json).",
            "",
            f"![Pictures a second and 99th percentile by clients, memory over many requests]({picture})",
            "",
            ", ".join(f"{name}: {value}" for name, value in measured.facts.items()),
            "",
            *INTRODUCTION.format(profile=profile, pairs=PAIRS_A_SIZE).splitlines(),
            *(line for left_out in measured.left_out for line in ("", left_out)),
            "",
            "## Targets",
            "",
            *_lines(target_table(measured)),
            "",
            "## Pairs of one size",
            "",
            *_lines(speed_table(measured.speed, ONE_SIZE)),
            "",
            "## Pairs of mixed sizes",
            "",
            *_lines(speed_table(measured.speed, MIXED)),
            "",
            "## At rest, over time, under overload, at the end",
            "",
            *_lines(conduct_table(measured)),
            "",
        ]
    )


INTRODUCTION = """\
How it is measured:

- The service, its clients, and the bare pipeline are one process each, on 127.0.0.1 and on the same cores. In each
  of {profile.rounds} rounds each has a turn of {profile.seconds:g} s, in every second round backwards; whoever has none
  is suspended. Ratios are taken within a round, values are medians over the rounds. Only ratios can be compared
  between machines.
- *In process* is the same work without HTTP: decode both files, both graphs, colour, encode, with the service's own
  functions and threads. One client is held against *one by one*, a saturated service against the better of both
  ways. The clients take CPU from the service, but not from the bare pipeline.
- Nothing is cached: {pairs} pairs of each size are sent in turn, and the service's cache of codes is off. Its other
  settings are the defaults. A client that is refused with 503 waits as long as `Retry-After` says;
  *late* are requests that passed the deadline (504).
- The other servers run the same graphs with the same number of threads, read and write with Pillow (PNG at its
  fastest), and answer the same luminance to within a grey level; their code is in `benchmarks/rivals/`. They check
  neither sizes nor limits, and their queues have no end.
- Overload is three times the best rate above, at random times, whether or not earlier requests are answered. It ends
  when the last one is sent."""


def as_json(measured: Measured) -> dict[str, Any]:
    """Returns facts, findings and raw samples."""
    speed = measured.speed
    bare = [
        {"pairs": pairs, "way": way, "rounds": [{"seconds": turn.seconds, "times_s": turn.times} for turn in turns]}
        for (pairs, way), turns in speed.bare.items()
    ]
    loads = [
        asdict(cell) | {"medians": _medians(speed, cell), "rounds": [_raw(load) for load in loads]}
        for cell, loads in speed.loads.items()
    ]
    return {
        "machine": dict(measured.facts),
        "profile": asdict(measured.profile),
        "left_out": measured.left_out,
        "findings": [_finding(row) for row in findings(measured)],
        "bare": bare,
        "servers": loads,
        "idle_share": dict(measured.idle),
        "memory": asdict(measured.memory),
        "overload": {"rate": measured.overload.rate, **_raw(measured.overload.load)},
        "drain": {"inside": measured.drain.inside(), "later": measured.drain.later(), "exit": measured.drain.exit_code},
    }


def _refusal_ms(load: Load) -> float:
    refusals = [shot.seconds * 1e3 for shot in load.shots if shot.status == UNAVAILABLE]
    return float(np.percentile(refusals, 99)) if refusals else 0.0


def _client_ms(speed: Speed) -> float:
    return median([load.cpu_seconds / len(load.shots) * 1e3 for loads in speed.loads.values() for load in loads])


def _in_words(statuses: Mapping[int, int]) -> str:
    parts = (f"{WORDS.get(status, str(status))} {count}" for status, count in sorted(statuses.items(), reverse=True))
    return ", ".join(parts) or "none"


def _finding(row: Finding) -> dict[str, Any]:
    value = row.value if row.value is not None and math.isfinite(row.value) else None
    return {"key": row.key, "label": row.label, "value": value, "unit": row.unit, "passed": row.passed}


def _raw(load: Load) -> dict[str, Any]:
    statuses = {str(status): load.count(status) for status in sorted({shot.status for shot in load.shots})}
    times = [round(each, 5) for each in load.times]
    return {"seconds": load.seconds, "client_cpu_s": load.cpu_seconds, "statuses": statuses, "times_s": times}


def _lines(table: Table) -> list[str]:
    header, rows = table
    aligned = ["---" if column == 0 else "---:" for column in range(len(header))]
    return [f"| {' | '.join(row)} |" for row in (header, aligned, *rows)]

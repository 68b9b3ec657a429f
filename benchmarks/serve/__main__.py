"""``make bench-serve``: the running service beside its bare pipeline and beside other servers of the same model.

    python -m benchmarks.serve [--quick] [--rounds N] [--bundle DIR] [--threads T] [--litserve PYTHON] [--note TEXT]
                               [--out DIR] [--page FILE]

Prints tables, writes ``serve.json`` and a picture into the folder, and the page. A missed target is shown, not an
error: a busy machine misses targets too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from app.bundles import read_bundle
from app.cores import usable_cores
from app.errors import BundleError
from app.settings import CLONE_WEIGHTS, Settings
from benchmarks.errors import BenchError
from benchmarks.facts import machine_facts
from benchmarks.pictures import Scene
from benchmarks.processes import REPOSITORY
from benchmarks.serve import report
from benchmarks.serve.bare import Files, bare_process
from benchmarks.serve.conduct import drain, idle_share, overload, watch_memory
from benchmarks.serve.judged import Measured
from benchmarks.serve.load import client_process, form
from benchmarks.serve.plot import draw
from benchmarks.serve.profile import FULL, MIXED, MIXED_SIZES, PAIRS_A_SIZE, QUICK, SIZE
from benchmarks.serve.speed import ONE_SIZE, count_turns, measure_speed
from benchmarks.serve.subjects import NO_LITSERVE, PAIRFUSE, all_subjects, find_litserve

FAILED = 2
PICTURE = "serve.svg"
MODEL = "titok-ste-lite"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = _parse(arguments)
    console, errors = Console(highlight=False), Console(stderr=True, highlight=False)
    try:
        name = read_bundle(options.bundle).card.name
        measured = _measure(options, name, errors)
    except (BenchError, BundleError) as error:
        errors.print(f"bench-serve: {error}", markup=False, soft_wrap=True)
        return FAILED
    options.out.mkdir(parents=True, exist_ok=True)
    content = json.dumps(report.as_json(measured), indent=1, ensure_ascii=False)
    (options.out / "serve.json").write_text(content + "\n", encoding="utf-8")
    (options.out / PICTURE).write_text(draw(measured.speed, measured.memory), encoding="utf-8")
    picture = os.path.relpath(options.out / PICTURE, options.page.parent)
    options.page.write_text(report.as_markdown(measured, picture), encoding="utf-8")
    _show(measured, console)
    console.print(f"written to {options.out} and {options.page}")
    return 0


def _measure(options: argparse.Namespace, name: str, errors: Console) -> Measured:
    profile = QUICK if options.quick else FULL
    profile = replace(profile, rounds=options.rounds or profile.rounds)
    litserve = find_litserve(options.litserve)
    left_out = [] if litserve else [f"{NO_LITSERVE}."]
    for line in left_out:
        errors.print(f"bench-serve: {line}", markup=False, soft_wrap=True)
    pairs = _draw_pairs()
    bodies = {key: [form(*files) for files in several] for key, several in pairs.items()}
    with (
        tempfile.TemporaryDirectory() as folder,
        bare_process(options.bundle, options.threads, pairs) as bare,
        client_process(bodies) as clients,
        all_subjects(options.bundle, options.threads, litserve, Path(folder)) as subjects,
        Progress(console=errors, transient=True) as progress,
    ):
        task = progress.add_task("speed", total=count_turns(len(subjects), profile))
        speed = measure_speed(subjects, bare, clients, profile, lambda: progress.advance(task))
        progress.update(task, description="rest, memory, overload, end", total=None)
        idle = {}
        for subject in subjects:
            with subject.awake() as server:
                idle[subject.name] = idle_share(server, profile.idle_seconds)
        service = next(subject.server for subject in subjects if subject.name == PAIRFUSE)
        service.resume()
        memory = watch_memory(service, clients, profile.memory_requests)
        flooded = overload(service, clients, speed.capacity(), profile.overload_seconds)
        drained = drain(service, clients, profile)
    facts = {"model": name, **machine_facts(options.threads), "profile": profile.name}
    facts |= {"note": options.note} if options.note else {}
    return Measured(facts, profile, speed, idle, memory, flooded, drained, Settings().deadline_s, left_out)


def _draw_pairs() -> dict[str, list[Files]]:
    """Draws the pairs of each name, mixed sizes in turn."""
    scenes = {size: Scene(*size) for size in {SIZE, *MIXED_SIZES}}
    return {
        ONE_SIZE: [scenes[SIZE].files() for _ in range(PAIRS_A_SIZE)],
        MIXED: [scenes[size].files() for _ in range(PAIRS_A_SIZE) for size in MIXED_SIZES],
    }


def _show(measured: Measured, console: Console) -> None:
    console.print(*(f"{name}: {value}" for name, value in measured.facts.items()), sep=" · ")
    tables = {
        "targets": report.target_table(measured),
        ONE_SIZE: report.speed_table(measured.speed, ONE_SIZE),
        MIXED: report.speed_table(measured.speed, MIXED),
        "conduct": report.conduct_table(measured),
    }
    for title, (header, rows) in tables.items():
        table = Table(*header, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
        console.print(table)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="some minutes instead of an hour or two")
    parser.add_argument("--rounds", type=int, help="turns of each server, instead of the profile's")
    parser.add_argument("--bundle", type=Path, default=CLONE_WEIGHTS / MODEL, help="folder of the model")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="CPU threads of one model run")
    parser.add_argument("--litserve", metavar="PYTHON", help="interpreter that has litserve and what it needs here")
    parser.add_argument("--note", help="what a reader must know of this run, e.g. that the machine was busy")
    parser.add_argument(
        "--out", type=Path, default=REPOSITORY / "docs/benchmarks/serve", help="folder for numbers and picture"
    )
    parser.add_argument("--page", type=Path, default=REPOSITORY / "docs/performance.md", help="file of the tables")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

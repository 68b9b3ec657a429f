"""``make chaos``: clients that are wrong, slow or gone, then damaged images; the service must come through.

    python -m benchmarks.chaos [--requests N] [--seconds S] [--seed N] [--at-once N] [--memory-mb M] [--weights DIR]
                               [--model NAME] [--keep DIR]

Starts a service of its own. Ends with 0 if everything adds up, with 1 if not, with 2 if it could not be tried.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from app.settings import CLONE_WEIGHTS
from benchmarks.chaos.clients import SETTINGS
from benchmarks.chaos.crowd import MEGA, Crowd, let_in
from benchmarks.chaos.fuzz import Fuzzed, fuzz
from benchmarks.errors import BenchError
from benchmarks.processes import Server, running_pairfuse

FAULTS, FAILED = 1, 2
MOST_SHOWN = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = _parse(arguments)
    console = Console(highlight=False)
    settings = {"weights": options.weights.resolve(), **SETTINGS}
    settings |= {"model": options.model} if options.model else {}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        try:
            with running_pairfuse(log, **settings) as server:
                try:
                    faults = _try(server, options, console)
                except OSError as error:
                    faults = [f"the service does not answer any more: {error}"]
        except BenchError as error:
            console.print(f"chaos: {error}", markup=False, soft_wrap=True)
            return FAILED
        if server.process.returncode != 0:
            faults.append(f"on SIGTERM the service ended with {server.process.returncode}")
        if "unforeseen error" in log.read_text(errors="replace"):
            faults.append("the service's log has unforeseen errors")
    for fault in faults[:MOST_SHOWN]:
        console.print(f"WRONG  {fault}", markup=False, soft_wrap=True)
    seed = f"seed {options.seed}"
    console.print(f"{len(faults)} things do not add up ({seed})" if faults else f"everything adds up ({seed})")
    return FAULTS if faults else 0


def _try(server: Server, options: argparse.Namespace, console: Console) -> list[str]:
    faults: list[str] = []
    shared = {"seed": options.seed, "at_once": options.at_once}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        if options.requests:
            task = progress.add_task("clients", total=options.requests)
            crowd = let_in(
                server.port,
                server.process.pid,
                requests=options.requests,
                most_bytes=options.memory_mb * MEGA,
                on_end=lambda: progress.advance(task),
                **shared,
            )
            console.print(_crowd_table(crowd))
            faults += crowd.faults
        if options.seconds:
            task = progress.add_task("damaged images", total=None)
            on_case = lambda: progress.advance(task)  # noqa: E731
            fuzzed = fuzz(server.port, seconds=options.seconds, keep=options.keep, on_case=on_case, **shared)
            console.print(_fuzz_table(fuzzed, options.seconds))
            faults += fuzzed.faults
    return faults


def _crowd_table(crowd: Crowd) -> Table:
    ledger = crowd.ledger
    title = (
        f"{ledger.sent} clients in {crowd.seconds:.0f} s; {ledger.heads} requests, {ledger.left} left early; service"
    )
    title += f" {crowd.idle_bytes / MEGA:.0f} MB before, at most {crowd.peak_bytes / MEGA:.0f} MB"
    return _table(title, "client", crowd.ledger.ends)


def _fuzz_table(fuzzed: Fuzzed, seconds: float) -> Table:
    return _table(f"{fuzzed.cases} damaged images in {seconds:.0f} s", "image", fuzzed.ends)


def _table(title: str, first: str, ends: Mapping[str, Counter[str]]) -> Table:
    columns = sorted(set().union(*ends.values()))
    table = Table(first, "all", *columns, title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for kind, counts in sorted(ends.items()):
        table.add_row(kind, str(counts.total()), *(str(counts[column] or "") for column in columns))
    return table


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--requests", type=int, default=3000, help="clients, a third of them trouble; 0: none")
    parser.add_argument("--seconds", type=float, default=600, help="time for damaged images; 0: none")
    parser.add_argument("--seed", type=int, default=1, help="the same seed sends the same bytes")
    parser.add_argument("--at-once", type=int, default=24, help="clients at once")
    parser.add_argument("--memory-mb", type=float, default=512, help="memory that the service may take more than idle")
    parser.add_argument("--weights", type=Path, default=CLONE_WEIGHTS, help="folder of bundles")
    parser.add_argument("--model", help="default model of the service")
    parser.add_argument("--keep", type=Path, default=Path("out/fuzz"), help="folder for images that broke something")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

"""``make bench``: measures every model in a weights folder on this machine.

    python -m benchmarks.bench [--weights DIR] [--rounds N] [--size H W] [--threads T] [--large-seconds S] [--out DIR]

Prints the tables of each model and writes ``bench.json``, ``bench.md`` and a plot for each model with tiles. A missed
target is shown, not an error: a busy machine misses targets too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from app.bundles import Bundle, find_bundles, read_bundle
from app.cores import usable_cores
from app.errors import BundleError, StartupError
from app.settings import CLONE_WEIGHTS
from benchmarks.errors import BenchError
from benchmarks.facts import machine_facts
from benchmarks.large import SIZES, Large, measure_large
from benchmarks.large_report import draw_large
from benchmarks.measure import Measured, measure
from benchmarks.report import as_json, as_markdown, as_tables

FAILED = 2
MIN_SIDE = 32


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = _parse(arguments)
    errors = Console(stderr=True, highlight=False)
    try:
        bundles = load_bundles(options.weights, errors)
        measured = _measure_all(bundles, options, errors)
    except (BenchError, BundleError, StartupError) as error:
        errors.print(f"bench: {error}", markup=False, soft_wrap=True)
        return FAILED
    facts = machine_facts(options.threads)
    _write(options.out, facts, measured)
    console = Console()
    console.print(*(f"{name}: {value}" for name, value in facts.items()), sep=" · ", highlight=False)
    for table in as_tables(measured):
        console.print(table)
    console.print(f"written to {options.out}", highlight=False)
    return 0


def load_bundles(weights: Path, errors: Console) -> list[Bundle]:
    """Reads every sound bundle of a folder and reports the others.

    Raises:
        BenchError: There is none.
        StartupError: The folder does not exist.
    """
    bundles: list[Bundle] = []
    for folder in find_bundles(weights):
        try:
            bundles.append(read_bundle(folder))
        except BundleError as error:
            errors.print(f"bench: skipped: {error}", markup=False, soft_wrap=True)
    if not bundles:
        raise BenchError(f"no usable bundle in {weights}; train and export one, or give --weights")
    return bundles


def _measure_all(bundles: list[Bundle], options: argparse.Namespace, errors: Console) -> list[Measured]:
    size = (options.size[0], options.size[1])
    measured = []
    with Progress(console=errors, transient=True) as progress:
        for bundle in bundles:
            task = progress.add_task(bundle.card.name, total=options.rounds)
            found = measure(bundle, options.threads, size, options.rounds, partial(progress.advance, task))
            runs = len(SIZES) * (1 if bundle.card.tiling is None else 2)
            task = progress.add_task(f"{bundle.card.name}, large images", total=runs)
            large = measure_large(bundle, options.threads, options.large_seconds, partial(progress.advance, task))
            measured.append(replace(found, large=large))
    return measured


def _write(folder: Path, facts: dict[str, str], measured: list[Measured]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(as_json(facts, measured), indent=1, ensure_ascii=False)
    (folder / "bench.json").write_text(content + "\n", encoding="utf-8")
    (folder / "bench.md").write_text(as_markdown(facts, measured), encoding="utf-8")
    for item in measured:
        if isinstance(item.large, Large):
            draw_large(item.name, item.large, folder)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=Path, default=CLONE_WEIGHTS, help="folder that holds the bundles")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of every measurement (default 15)")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"))
    parser.add_argument("--threads", type=int, default=usable_cores(), help="CPU threads of one model run")
    parser.add_argument(
        "--large-seconds",
        type=float,
        default=1800,
        help="most seconds of one run of a large image, whole or in tiles (default 1800); 0: no large images",
    )
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder for the results")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.threads < 1 or min(options.size) < MIN_SIDE:
        parser.error(f"--rounds and --threads must be at least 1, the sides of --size at least {MIN_SIDE}")
    if not options.large_seconds >= 0:
        parser.error("--large-seconds must not be negative")
    return options


if __name__ == "__main__":
    sys.exit(main())

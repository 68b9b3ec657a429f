"""Measures what a reduced working size costs and saves: fused pairs against those of the full size, and times.

    python -m benchmarks.working_size --models NAME … [--data DATA] [--focus FOLDER] [--limit N] [--out DIR]

Every way back to full size is compared (``benchmarks/working_ways.py``). A further row, the model alone, compares the
fused reduced pair with the reduced copy of the full result: how far the model itself depends on the size. Times and
likeness of a drawn pair are measured for the same shares of its longer side. Prints the tables and writes them as
Markdown, the record as JSON and a plot as SVG.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from app.bundles import read_bundle
from app.color import to_bytes
from app.cores import usable_cores
from app.engine import Engine
from app.errors import BundleError, StartupError
from app.guided import enlarge
from app.onnx_backend import OnnxBackend
from app.settings import CLONE_WEIGHTS, Settings
from app.working import NATIVE, Size, reduce_plane, working_size
from benchmarks.errors import BenchError
from benchmarks.facts import machine_facts
from benchmarks.pictures import Plane, Scene
from benchmarks.rounds import WHOLE, Step, interleave, processor_timed, spread
from benchmarks.working_report import ALONE, FULL, KEPT, PSNR, SSIM, TRUTH, as_markdown, draw
from benchmarks.working_ways import WAYS
from training.data.images import DataError
from training.evaluation.metrics import METRICS, TRUTH_METRICS
from training.evaluation.pairs import Grey, Pair, load_pairs

FAILED = 2
NAME = "working-size"
SHARES = tuple(Fraction(share) for share in ("3/4", "1/2", "1/3", "1/4"))
COLUMNS = ("pairs", "model", "side", "way", PSNR, SSIM, *KEPT, TRUTH)
Row = dict[str, str | float | None]


@dataclass(frozen=True)
class PairSet:
    """Pairs in two folders, and the tasks (as cards name them) that they are for."""

    folder: str
    a: str
    b: str
    tasks: frozenset[str]
    truth: str | None = None


SETS = (
    PairSet("ivf/val", "visible", "infrared", frozenset({"infrared-visible"})),
    PairSet("mef/val", "over", "under", frozenset({"multi-exposure"})),
    PairSet("mif-ct/val", "ct", "mri", frozenset({"mri-ct"})),
    PairSet("mif-pet/val", "pet", "mri", frozenset({"mri-pet"})),
)
FOCUS = PairSet("", "a", "b", frozenset({"multi-focus"}), "truth")


def compare(engine: Engine, pair: Pair, shares: Sequence[Fraction]) -> Iterator[tuple[tuple[str, str], list[float]]]:
    """Fuses one pair at full size and at shares of it.

    Args:
        engine: A loaded model.
        pair: The pair.
        shares: The working side as shares of the longer side, below 1.

    Yields:
        Side ("full", "1/2") and way, and the values of ``COLUMNS`` from the first PSNR on; those without a meaning
        are NaN.
    """
    a, b = (np.multiply(image, np.float32(1 / 255), dtype=np.float32) for image in (pair.a, pair.b))
    plane = _fuse(engine, a, b)
    native = to_bytes(plane)
    yield ("full", FULL), [np.nan, np.nan, *_kept(pair, native)]
    for share in shares:
        size = working_size(Size(*a.shape), _side(a, share), engine.card.size)
        low_a, low_b = reduce_plane(a, size), reduce_plane(b, size)
        low_fused = _fuse(engine, low_a, low_b)
        small, expected = to_bytes(low_fused), to_bytes(reduce_plane(plane, size))
        yield (str(share), ALONE), [*_likeness(expected, small), np.nan, np.nan, np.nan]
        for way, bring_back in WAYS.items():
            fused = to_bytes(bring_back(a, b, low_a, low_b, low_fused))
            yield (str(share), way), _likeness(native, fused) + _kept(pair, fused)


def measure_times(engine: Engine, a: Plane, b: Plane, shares: Sequence[Fraction], rounds: int) -> Iterator[Row]:
    """Yields CPU seconds of the model and of reduction and guided step, native first, and the likeness to native."""
    sizes = {Fraction(1): Size(*a.shape)}
    sizes |= {share: working_size(Size(*a.shape), _side(a, share), engine.card.size) for share in shares}
    fused: dict[str, Plane] = {}
    steps: dict[str, Step] = {}
    for share, size in sizes.items():
        lows = (a, b) if share == 1 else (reduce_plane(a, size), reduce_plane(b, size))
        model, guide = f"{share} model", f"{share} guide"
        steps[model] = processor_timed(partial(_keep, fused, model, partial(_fuse, engine, *lows)))
        if share != 1:
            steps[guide] = processor_timed(
                partial(_keep, fused, guide, partial(_there_and_back, a, b, size, fused, model))
            )
    series = interleave(steps, rounds, lambda: None)
    medians = {name: spread([sample[WHOLE] for sample in samples]).median for name, samples in series.items()}
    for share, size in sizes.items():
        back = fused.get(f"{share} guide")
        alike = [None, None] if back is None else _likeness(to_bytes(fused["1 model"]), to_bytes(back))
        yield {
            "model": engine.card.name,
            "pair": str(Size(*a.shape)),
            "share": float(share),
            "max_side": NATIVE if share == 1 else _side(a, share),
            "working size": str(size),
            "model s": medians[f"{share} model"],
            "guide s": medians.get(f"{share} guide"),
            PSNR: alike[0],
            SSIM: alike[1],
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = _parse(arguments)
    console = Console(soft_wrap=True, highlight=False)
    try:
        engines = [_open(options.weights / name, options.threads) for name in options.models]
        fidelity = list(_compare_all(engines, options))
        if not fidelity and (options.data or options.focus):
            raise BenchError(f"there are no pairs for the tasks of {', '.join(options.models)}")
        times = list(_times(engines, options))
    except (BenchError, BundleError, DataError, StartupError) as error:
        print(f"working_size: {error}", file=sys.stderr)  # noqa: T201
        return FAILED
    record = {"machine": machine_facts(options.threads), "fidelity": fidelity, "times": times}
    text = as_markdown(record)
    console.print(text, markup=False)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{NAME}.md").write_text(text + "\n", encoding="utf-8")
    (options.out / f"{NAME}.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draw(record, options.out / f"{NAME}.svg")
    return 0


def _compare_all(engines: Sequence[Engine], options: argparse.Namespace) -> Iterator[Row]:
    places = [(options.data / entry.folder, entry) for entry in SETS] if options.data else []
    places += [(options.focus, FOCUS)] if options.focus else []
    for folder, entry in places:
        fitting = [e for e in engines if entry.tasks & {task.name for task in e.card.tasks}]
        pairs = load_pairs(folder, entry.a, entry.b, truth=entry.truth, limit=options.limit) if fitting else []
        for engine in fitting:
            values: dict[tuple[str, str], list[list[float]]] = {}
            for pair in pairs:
                for key, found in compare(engine, pair, options.shares):
                    values.setdefault(key, []).append(found)
            label = f"{entry.folder or 'focus'} ({len(pairs)})"
            for (side, way), found_all in values.items():
                means = [None if np.isnan(value) else float(value) for value in np.mean(found_all, axis=0)]
                yield dict(zip(COLUMNS, (label, engine.card.name, side, way, *means), strict=True))


def _times(engines: Sequence[Engine], options: argparse.Namespace) -> Iterator[Row]:
    timed = options.models if options.timed is None else options.timed
    a, b = (np.ascontiguousarray(np.clip(plane[0, 0], 0, 1)) for plane in Scene(*options.size).planes())
    for engine in engines:
        if engine.card.name in timed:
            yield from measure_times(engine, a, b, options.shares, options.rounds)


def _open(folder: Path, threads: int) -> Engine:
    bundle = read_bundle(folder)
    return Engine(bundle.card, OnnxBackend(bundle, Settings(device="cpu", threads=threads)), 0, lambda hit: None)


def _fuse(engine: Engine, a: Plane, b: Plane) -> Plane:
    edit = tuple(slot.default for slot in engine.card.edit_slots)
    return engine.run([engine.job(a, b, edit)])[0].luma


def _keep(results: dict[str, Plane], name: str, work: Callable[[], Plane]) -> None:
    results[name] = work()


def _there_and_back(a: Plane, b: Plane, size: Size, fused: dict[str, Plane], name: str) -> Plane:
    return enlarge(a, b, reduce_plane(a, size), reduce_plane(b, size), fused[name])


def _side(plane: Plane, share: Fraction) -> int:
    return round(max(plane.shape) * share)


def _likeness(expected: Grey, found: Grey) -> list[float]:
    return [TRUTH_METRICS[name](expected, found) for name in ("PSNR_truth", "SSIM_truth")]


def _kept(pair: Pair, fused: Grey) -> list[float]:
    truth = np.nan if pair.truth is None else TRUTH_METRICS["PSNR_truth"](pair.truth, fused)
    return [METRICS[name](pair.a, pair.b, fused) for name in KEPT] + [truth]


def _share(text: str) -> Fraction:
    try:
        share = Fraction(text)
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share such as 1/2, above 0 and below 1")
    return share


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.working_size", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with ivf/val, mef/val, mif-ct/val and mif-pet/val")
    parser.add_argument("--focus", type=Path, help="what `python -m training synthesise focus` wrote")
    parser.add_argument("--weights", type=Path, default=CLONE_WEIGHTS, help="folder that holds the bundles")
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME", help="bundles to measure")
    parser.add_argument("--shares", type=_share, nargs="+", default=SHARES, help="working sides, of the longer side")
    parser.add_argument("--limit", type=int, help="only the first pairs of each set")
    parser.add_argument("--timed", nargs="*", metavar="NAME", help="bundles to time (default: all of --models)")
    parser.add_argument("--size", type=int, nargs=2, default=(1080, 1920), metavar=("H", "W"), help="the timed pair")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of every time (default 3)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="CPU threads of one model run")
    parser.add_argument("--out", type=Path, default=Path("out/working-size"), help="folder for the results")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    if unknown := set(options.timed or ()) - set(options.models):
        parser.error(f"--timed names {', '.join(sorted(unknown))}, which --models does not")
    return options


if __name__ == "__main__":
    sys.exit(main())

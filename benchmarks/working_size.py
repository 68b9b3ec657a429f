"""Measures what a reduced working size costs and saves: fused pairs against those of the full size, and times.

    python -m benchmarks.working_size --data DATA [--focus FOLDER] [--models NAME …] [--limit N] [--out DIR]
    python -m benchmarks.working_size --times --models NAME [--sides 0 2048 1024] [--size H W] [--out DIR]

Three ways back to full size are compared: the fused picture enlarged, the same with the larger of both sources' lost
detail at each pixel, and the guided step of the service. A further row compares the fused reduced pair with the
reduced copy of the full result: how far the model itself depends on the size. Prints the table and writes it as
Markdown and JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
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
from benchmarks.pictures import Plane, Scene
from benchmarks.rounds import WHOLE, Step, interleave, processor_timed, spread
from training.data.images import DataError
from training.evaluation.metrics import METRICS, TRUTH_METRICS
from training.evaluation.pairs import Grey, Pair, load_pairs

FAILED = 2
KEPT = ("Qabf", "VIF")
COLUMNS = ("pairs", "model", "side", "way", "PSNR to full, dB", "SSIM to full", *KEPT, "PSNR to truth, dB")
FULL = "full size"
NOT_YET = "reduced, as it is"
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


def enlarged(a: Plane, b: Plane, low_a: Plane, low_b: Plane, low_fused: Plane) -> Plane:
    """Returns the fused picture enlarged, with no detail of the sources; arguments as of ``enlarge``."""
    return _stretch(low_fused, a)


def larger_detail(a: Plane, b: Plane, low_a: Plane, low_b: Plane, low_fused: Plane) -> Plane:
    """Returns the fused picture enlarged, plus the larger of what both sources lost at each pixel."""
    lost_a, lost_b = a - _stretch(low_a, a), b - _stretch(low_b, b)
    fused: Plane = _stretch(low_fused, a) + np.where(np.abs(lost_a) > np.abs(lost_b), lost_a, lost_b)
    return fused


WAYS: dict[str, Callable[[Plane, Plane, Plane, Plane, Plane], Plane]] = {
    "enlarged": enlarged,
    "larger detail": larger_detail,
    "guided": enlarge,
}


def compare(engine: Engine, pair: Pair, shares: Sequence[int]) -> Iterator[tuple[tuple[str, str], list[float]]]:
    """Fuses one pair at full size and at parts of it.

    Args:
        engine: A loaded model.
        pair: The pair.
        shares: Divisors of the longer side.

    Yields:
        Side ("full", "1/2") and way, and the values of ``COLUMNS`` from the first PSNR on; those without a meaning
        are NaN.
    """
    a, b = (np.multiply(image, np.float32(1 / 255), dtype=np.float32) for image in (pair.a, pair.b))
    plane = _fuse(engine, a, b)
    native = to_bytes(plane)
    yield ("full", FULL), [np.nan, np.nan, *_kept(pair, native)]
    for share in shares:
        size = working_size(Size(*a.shape), max(a.shape) // share, engine.card.size)
        low_a, low_b = reduce_plane(a, size), reduce_plane(b, size)
        low_fused = _fuse(engine, low_a, low_b)
        small, expected = to_bytes(low_fused), to_bytes(reduce_plane(plane, size))
        yield (f"1/{share}", NOT_YET), [*_likeness(expected, small), np.nan, np.nan, np.nan]
        for way, bring_back in WAYS.items():
            fused = to_bytes(bring_back(a, b, low_a, low_b, low_fused))
            yield (f"1/{share}", way), _likeness(native, fused) + _kept(pair, fused)


def time_steps(engine: Engine, a: Plane, b: Plane, sides: Iterable[int]) -> dict[str, Step]:
    """Returns a step for the model and one for reduction and guided step together, for each ``max_side``."""
    steps: dict[str, Step] = {}
    for side in sides:
        size = working_size(Size(*a.shape), side, engine.card.size)
        low_a, low_b = (a, b) if side == NATIVE else (reduce_plane(a, size), reduce_plane(b, size))
        steps[f"{size} model"] = processor_timed(partial(_fuse, engine, low_a, low_b))
        if side != NATIVE:
            fused = _fuse(engine, low_a, low_b)
            steps[f"{size} guide"] = processor_timed(partial(_there_and_back, a, b, size, fused))
    return steps


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = _parse(arguments)
    console = Console(soft_wrap=True, highlight=False)
    try:
        engines = [_open(options.weights / name, options.threads) for name in options.models]
        rows = list(_times(engines, options) if options.times else _compare_all(engines, options))
        if not rows:
            raise BenchError(f"there are no pairs for the tasks of {', '.join(options.models)}")
    except (BenchError, BundleError, DataError, StartupError) as error:
        print(f"working_size: {error}", file=sys.stderr)  # noqa: T201
        return FAILED
    text = as_markdown(rows)
    console.print(text, markup=False)
    options.out.mkdir(parents=True, exist_ok=True)
    name = "times" if options.times else "working-size"
    (options.out / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    (options.out / f"{name}.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


def as_markdown(rows: Sequence[Row]) -> str:
    """Returns a table of rows, at least one, that all have the same keys."""
    names = list(rows[0])
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    return "\n".join(lines + [f"| {' | '.join(_cell(row[name]) for name in names)} |" for row in rows])


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
    a, b = (np.ascontiguousarray(np.clip(plane[0, 0], 0, 1)) for plane in Scene(*options.size).planes())
    for engine in engines:
        steps = time_steps(engine, a, b, options.sides)
        for name, samples in interleave(steps, options.rounds, lambda: None).items():
            found = spread([sample[WHOLE] for sample in samples])
            size, _, step = name.partition(" ")
            yield {
                "model": engine.card.name,
                "pair": str(Size(*a.shape)),
                "working size": size,
                "step": step,
                "median, CPU s": found.median,
                "low, CPU s": found.low,
                "high, CPU s": found.high,
            }


def _open(folder: Path, threads: int) -> Engine:
    bundle = read_bundle(folder)
    return Engine(bundle.card, OnnxBackend(bundle, Settings(device="cpu", threads=threads)), 0, lambda hit: None)


def _fuse(engine: Engine, a: Plane, b: Plane) -> Plane:
    edit = tuple(slot.default for slot in engine.card.edit_slots)
    return engine.run([engine.job(a, b, edit)])[0].luma


def _there_and_back(a: Plane, b: Plane, size: Size, fused: Plane) -> Plane:
    return enlarge(a, b, reduce_plane(a, size), reduce_plane(b, size), fused)


def _likeness(expected: Grey, found: Grey) -> list[float]:
    return [TRUTH_METRICS[name](expected, found) for name in ("PSNR_truth", "SSIM_truth")]


def _kept(pair: Pair, fused: Grey) -> list[float]:
    truth = np.nan if pair.truth is None else TRUTH_METRICS["PSNR_truth"](pair.truth, fused)
    return [METRICS[name](pair.a, pair.b, fused) for name in KEPT] + [truth]


def _stretch(plane: Plane, like: Plane) -> Plane:
    height, width = like.shape
    return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR))


def _cell(value: str | float | None) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{value:.3g}" if value < 1 else f"{value:.2f}"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.working_size", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with ivf/val, mef/val, mif-ct/val and mif-pet/val")
    parser.add_argument("--focus", type=Path, help="what `python -m training synthesise focus` wrote")
    parser.add_argument("--weights", type=Path, default=CLONE_WEIGHTS, help="folder that holds the bundles")
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME", help="bundles to measure")
    parser.add_argument("--shares", type=int, nargs="+", default=[2, 4], help="divisors of the longer side")
    parser.add_argument("--limit", type=int, help="only the first pairs of each set")
    parser.add_argument("--times", action="store_true", help="time a drawn pair instead")
    parser.add_argument("--sides", type=int, nargs="+", default=[NATIVE, 2048, 1024], help="values of max_side to time")
    parser.add_argument("--size", type=int, nargs=2, default=(2160, 3840), metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=5, help="rounds of every time (default 5)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="CPU threads of one model run")
    parser.add_argument("--out", type=Path, default=Path("out/working-size"), help="folder for the results")
    options = parser.parse_args(arguments)
    if not (options.times or options.data or options.focus):
        parser.error("give --data, --focus or --times")
    if min(options.shares) < 2 or options.rounds < 1 or options.threads < 1:
        parser.error("--shares must be at least 2, --rounds and --threads at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())

"""The torch backend beside the onnx backend on one CPU core: time of a pair, and how far the pictures are apart.

python -m benchmarks.backends              prints a Markdown table

A pair is two images encoded and fused; no code is cached. Ways take turns, and times are the process's own processor
time, so that other programs on the machine count little.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from app.backends import open_backend
from app.bundles import read_bundle
from app.color import Plane
from app.engine import Engine
from app.settings import CLONE_WEIGHTS, Settings
from benchmarks.pictures import Scene

MODELS = ("titok-ste-lite", "tita", "unifusion")
WAYS: dict[str, dict[str, Any]] = {
    "onnx": {"backend": "onnx"},
    "torch, float32": {"backend": "torch", "precision": "float32"},
    "torch, bfloat16": {"backend": "torch", "precision": "bfloat16"},
}


def open_engine(folder: Path, way: str) -> Engine:
    """Opens a bundle one way, with one thread and no cache."""
    settings = Settings(device="cpu", threads=1, **WAYS[way])
    bundle = read_bundle(folder)
    return Engine(bundle.card, open_backend(bundle, settings), 0, lambda _: None)


def fuse(engine: Engine, pair: tuple[Plane, Plane]) -> tuple[float, Plane]:
    """Fuses a pair (H, W) and returns the seconds of processor time and the picture."""
    job = engine.job(*pair, tuple(slot.default for slot in engine.card.edit_slots))
    begun = time.process_time()
    fused = engine.run([job])[0].luma
    return time.process_time() - begun, fused


def compare(folder: Path, pair: tuple[Plane, Plane], rounds: int) -> Iterator[str]:
    """Yields the rows of one model."""
    engines = {way: open_engine(folder, way) for way in WAYS}
    pictures = {way: fuse(engine, pair)[1] for way, engine in engines.items()}  # Before the clock: it warms up.
    taken: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for way, engine in engines.items():
            taken[way].append(fuse(engine, pair)[0])
    for way, seconds in taken.items():
        difference = pictures[way] - pictures["onnx"]
        apart = (
            "" if way == "onnx" else f"{_psnr(difference)} dB, at most {255 * np.abs(difference).max():.2g} grey levels"
        )
        spread = f"{min(seconds) * 1000:.0f} to {max(seconds) * 1000:.0f}"
        yield f"| {folder.name} | {way} | {median(seconds) * 1000:.0f} ms | {spread} | {apart} |"


def _psnr(difference: Plane) -> str:
    return f"{-10 * np.log10(np.square(difference, dtype=np.float64).mean()):.0f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="pairs that each way fuses")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), help="height and width in pixels")
    options = parser.parse_args(arguments)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    a, b = Scene(*options.size).planes()
    lines = ["| model | way | time | from … to | apart from onnx |", "|---|---|---|---|---|"]
    for name in MODELS:
        lines += compare(CLONE_WEIGHTS / name, (a[0, 0], b[0, 0]), options.rounds)
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Measures memory against image size: a model on the whole image, beside the same image in tiles if it can do that."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from app.bundles import Bundle
from app.card import Tiling
from benchmarks.errors import BenchError
from benchmarks.large_run import TILED, TOO_LITTLE_MEMORY, WHOLE
from benchmarks.pictures import Scene
from benchmarks.processes import REPOSITORY

SIZES = ((480, 640), (960, 1280), (1536, 2048), (2304, 3072), (3072, 4096))
MOST_BYTES = 12 * 10**9
TOO_LARGE = "more pixels than the card allows"
NOT_ASKED = "memory against image size was not asked for"
# Some libraries abort when an allocation fails, and a kernel that runs short kills.
OUT_OF_MEMORY = {TOO_LITTLE_MEMORY, -signal.SIGABRT, -signal.SIGKILL}
SHARE = 0.8  # Of the memory that is free: the rest is for whatever else runs.


@dataclass(frozen=True)
class LargeRun:
    """One run in a fresh process.

    Attributes:
        height: Of the pair, in pixels.
        width: Likewise.
        way: ``whole`` or ``tiled``.
        peak: Largest resident memory of the process in bytes; None if the run did not end.
        seconds: Time of the run, without opening the graphs; None likewise.
        missing: Why it did not end.
    """

    height: int
    width: int
    way: str
    peak: int | None = None
    seconds: float | None = None
    missing: str = ""


@dataclass(frozen=True)
class Large:
    """All runs of one bundle, and the tiles that its card asks for; None if it fuses every image as a whole."""

    tiling: Tiling | None
    runs: list[LargeRun]

    def run(self, size: tuple[int, int], way: str) -> LargeRun:
        """Returns the run of one size, height and width, in one way."""
        return next(run for run in self.runs if (run.height, run.width, run.way) == (*size, way))

    @property
    def ways(self) -> tuple[str, ...]:
        """In which ways there are runs."""
        return (WHOLE,) if self.tiling is None else (WHOLE, TILED)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of all pairs, smallest first."""
        return sorted({(run.height, run.width) for run in self.runs})


def measure_large(
    bundle: Bundle,
    threads: int,
    seconds: float,
    on_run: Callable[[], object],
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> Large | str:
    """Fuses one pair of each size once in every way, each time in a fresh process.

    Args:
        bundle: A checked bundle.
        threads: CPU threads of one model run.
        seconds: Most seconds of one run; what takes longer is not measured, and neither is what is larger. 0 leaves
            everything out.
        on_run: Called after each run.
        sizes: Heights and widths, smallest first.

    Returns:
        The runs, or why there are none.

    Raises:
        BenchError: A run failed for another reason than time and memory.
    """
    if not seconds:
        return NOT_ASKED
    large = Large(bundle.card.tiling, [])
    missing = dict.fromkeys(large.ways, "")
    for height, width in sizes:
        if height * width > bundle.card.size.max_pixels:
            missing = dict.fromkeys(missing, TOO_LARGE)
        with tempfile.TemporaryDirectory() as folder:
            # Drawn here: what that takes would count in the process that is measured.
            for name, plane in zip("ab", Scene(height, width).planes(), strict=True):
                np.save(Path(folder, name), plane)
            for way, reason in missing.items():
                run = LargeRun(height, width, way, missing=reason)
                if not reason:
                    run = _run(bundle, threads, seconds, Path(folder), run)
                missing[way] = run.missing
                large.runs.append(run)
                on_run()
    return large


def _run(bundle: Bundle, threads: int, seconds: float, images: Path, run: LargeRun) -> LargeRun:
    most_bytes = int(min(MOST_BYTES, SHARE * psutil.virtual_memory().available))
    arguments = (str(bundle.fusion.parent.resolve()), run.way, str(images), str(threads), str(most_bytes))
    command = [sys.executable, "-m", "benchmarks.large_run", *arguments]
    try:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return LargeRun(run.height, run.width, run.way, missing=f"more than {seconds:g} s")
    if done.returncode in OUT_OF_MEMORY:
        return LargeRun(run.height, run.width, run.way, missing=f"more than {most_bytes / 1e9:.2g} GB")
    if done.returncode:
        raise BenchError(
            f"{bundle.card.name}, {run.width}×{run.height}, {run.way}, failed:\n{done.stderr[-2000:].strip()}"
        )
    found = json.loads(done.stdout)
    return LargeRun(run.height, run.width, run.way, found["peak"], found["seconds"])

"""What it costs two models to share a device in turn, or side by side: rates and waits of both, on one CPU core.

python -m benchmarks.sharing              prints a Markdown table

Times are seconds of processor time of this process, so that other programs on the machine do not count.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from app.catalog import load_catalog
from app.engine import Engine, Job
from app.settings import CLONE_WEIGHTS, Settings
from app.telemetry import Telemetry
from app.turns import Device, Share

# Two runs that weigh nothing go side by side, two that weigh all go in turn.
RULES = {"side by side": 0.0, "in turn": 1.0}


@dataclass(frozen=True)
class Load:
    """One model, its pair, and how many callers send it again as soon as they have the result."""

    engine: Engine
    job: Job
    callers: int

    @property
    def name(self) -> str:
        """The model's name."""
        return self.engine.card.name


def make_load(engine: Engine, size: tuple[int, int], callers: int) -> Load:
    """Makes a load of random pictures (H, W)."""
    a, b = np.random.default_rng(0).random((2, *size), np.float32)
    return Load(engine, engine.job(a, b, tuple(slot.default for slot in engine.card.edit_slots)), callers)


def measure(loads: Sequence[Load], weight: float, seconds: float) -> dict[str, list[float]]:
    """Runs all callers at once and returns by model how long each of their pairs took, in seconds."""
    device, ends_at = Device(time.process_time), time.process_time() + seconds
    taken: dict[str, list[float]] = defaultdict(list)
    queued: dict[str, int] = defaultdict(int)

    def call(load: Load, share: Share, worker: threading.Lock) -> None:
        while (begun := time.process_time()) < ends_at:
            queued[load.name] += 1
            with worker:  # A model has one thread.
                device.claim(share, weight).result()
                load.engine.run([load.job])
                queued[load.name] -= 1
                if not queued[load.name]:  # Else the next claim gives it back, as in the batcher.
                    share.release()
            taken[load.name].append(time.process_time() - begun)

    threads = []
    for load in loads:
        share, worker = Share(device), threading.Lock()
        threads += [threading.Thread(target=call, args=(load, share, worker)) for _ in range(load.callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def main() -> None:
    """Measures the pairs of models that docs/deployment.md shows."""
    parser = argparse.ArgumentParser(description="Two models on one CPU core, in turn and side by side.")
    parser.add_argument("--weights", type=Path, default=CLONE_WEIGHTS, help="folder of bundles")
    parser.add_argument("--seconds", type=float, default=5.0, help="processor time of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="how often each rule is measured, in alternation")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    catalog = load_catalog(Settings(weights=arguments.weights, device="cpu", threads=1), Telemetry())
    lite, medical, tita = (catalog.get(name) for name in ("titok-ste-lite", "titok-ste-medical", "tita"))
    pairs = [
        (make_load(lite, (128, 160), 1), make_load(tita, (64, 96), 1)),
        (make_load(lite, (128, 160), 4), make_load(tita, (64, 96), 1)),
        (make_load(lite, (128, 160), 2), make_load(medical, (128, 160), 2)),
    ]
    sys.stdout.write("| rule | model | callers | runs a second | median wait |\n|---|---|---|---|---|\n")
    for loads in pairs:
        rounds: dict[str, list[dict[str, list[float]]]] = defaultdict(list)
        for _ in range(arguments.rounds):
            for rule, weight in RULES.items():
                rounds[rule].append(measure(loads, weight, arguments.seconds))
        for rule, results in rounds.items():
            for load in loads:
                rate = median(len(taken[load.name]) / arguments.seconds for taken in results)
                wait = median(median(taken[load.name]) for taken in results)
                sys.stdout.write(f"| {rule} | {load.name} | {load.callers} | {rate:.1f} | {wait * 1000:.0f} ms |\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()

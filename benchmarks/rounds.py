"""Repeats several measurements in turn, so that a disturbance of the machine hits all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

# A sample holds seconds by name. WHOLE is always there; a request adds its stages.
Sample = dict[str, float]
Step = Callable[[], Sample]
WHOLE = "whole"
TRIES = 2


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over the rounds."""

    median: float
    low: float
    high: float


def spread(values: list[float]) -> Spread:
    """Returns median and quartiles of at least one value."""
    low, median, high = np.percentile(values, (25, 50, 75))
    return Spread(float(median), float(low), float(high))


def timed(work: Callable[[], object]) -> Step:
    """Makes a step of a function."""

    def step() -> Sample:
        started = time.perf_counter()
        work()
        return {WHOLE: time.perf_counter() - started}

    return step


def processor_timed(work: Callable[[], object]) -> Step:
    """Makes a step of the CPU seconds of all threads: what other programs take meanwhile does not count."""

    def step() -> Sample:
        started = time.process_time()
        work()
        return {WHOLE: time.process_time() - started}

    return step


def interleave(steps: Mapping[str, Step], rounds: int, on_round: Callable[[], object]) -> dict[str, list[Sample]]:
    """Runs all steps in turn, one at a time, and keeps the better of two tries in each round.

    Every second round runs backwards, so that no step always follows the same other one. One round before
    the first warms everything up and is not kept.

    Args:
        steps: What to measure, by name.
        rounds: Number of rounds.
        on_round: Called after each round.

    Returns:
        One sample a round for each step.
    """
    series: dict[str, list[Sample]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for number in range(rounds):
        for name in list(steps)[:: -1 if number % 2 else 1]:
            series[name].append(min((steps[name]() for _ in range(TRIES)), key=lambda sample: sample[WHOLE]))
        on_round()
    return series

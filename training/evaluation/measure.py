"""Measure the fused images of one pair, in this process or in several. Free of models, so that workers start fast."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TypeVar

from training.data.images import DataError
from training.evaluation.metrics import Metric, find_metrics
from training.evaluation.metrics.common import Triple, check_triple
from training.evaluation.pairs import Grey, Pair

Task = TypeVar("Task")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class FusedPair:
    """A pair and its fused images by method."""

    pair: Pair
    images: dict[str, Grey]


def measure_pair(metrics: Sequence[str], fused: FusedPair) -> dict[str, list[float]]:
    """One value per metric for each method.

    Raises:
        DataError: A metric cannot be computed, for instance because the images are too small for it.
    """
    values: dict[str, list[float]] = {}
    for name, image in fused.images.items():
        try:
            triple = check_triple(fused.pair.a, fused.pair.b, image)
        except ValueError as error:
            raise DataError(f"{name} on {fused.pair.name!r}: {error}") from error
        values[name] = [_value(metric, triple, f"{name} on {fused.pair.name!r}") for metric in find_metrics(metrics)]
    return values


def _value(metric: Metric, triple: Triple, where: str) -> float:
    try:
        return metric.function(triple)
    except ValueError as error:
        raise DataError(f"{where}: {error}; leave {metric.name} out with --metrics") from error


def in_order(function: Callable[[Task], Answer], tasks: Iterable[Task], jobs: int) -> Iterator[Answer]:
    """``map`` over processes: answers come in the order of the tasks, which are drawn only a little ahead.

    Args:
        function: Can be pickled.
        tasks: Drawn in this process.
        jobs: Number of processes; 1 computes here.

    Raises:
        DataError: A process was killed, most likely for want of memory.
    """
    if jobs == 1:
        yield from map(function, tasks)
        return
    waiting: deque[Future[Answer]] = deque()
    # Not forked: a copy of a process with threads, as onnxruntime has, may hang.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(function, task))
                if len(waiting) > 2 * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise DataError("a measuring process was killed, perhaps for want of memory: use fewer --jobs") from error

"""Measure the fused images of one pair, in this process or in several. Free of models, so that workers start fast."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from training.data.images import DataError
from training.evaluation.metrics import AnyMetric, TruthMetric, find_metrics
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
        where = f"{name} on {fused.pair.name!r}"
        try:
            triple = check_triple(fused.pair.a, fused.pair.b, image)
        except ValueError as error:
            raise DataError(f"{where}: {error}") from error
        values[name] = [_value(metric, triple, fused.pair.truth, where) for metric in find_metrics(metrics)]
    return values


def _value(metric: AnyMetric, triple: Triple, truth: Grey | None, where: str) -> float:
    cure = f"leave {metric.name} out with --metrics"
    try:
        if not isinstance(metric, TruthMetric):
            return metric.function(triple)
        cure = "evaluate without --truth"
        if truth is None:
            raise ValueError(f"{metric.name} needs the truth of the pair")
        return metric(truth, triple.f)
    except ValueError as error:
        raise DataError(f"{where}: {error}; {cure}") from error


def in_order(function: Callable[[Task], Answer], tasks: Iterable[Task], jobs: int) -> Generator[Answer, None, None]:
    """``map`` over processes: answers come in the order of the tasks, which are drawn only a little ahead.

    Close the iterator, or draw it to its end: either ends the processes. An error or Ctrl-C ends them at once.

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
    with _processes(jobs) as pool:
        try:
            for task in tasks:
                with _ctrl_c_later():  # this may start a process
                    waiting.append(pool.submit(function, task))
                if len(waiting) > 2 * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise DataError("a measuring process was killed, perhaps for want of memory: use fewer --jobs") from error


@contextmanager
def _processes(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with this block, whatever ends it, and with this process, even if that is killed."""
    others = multiprocessing.active_children()
    # Not forked: a copy of a process with threads, as onnxruntime has, may hang.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_end_with_parent) as pool:
        try:
            yield pool
        except BaseException:
            for process in multiprocessing.active_children():
                if process not in others:
                    process.terminate()  # the pool alone would wait for results that nobody wants any more
            raise


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Hold Ctrl-C back for the block, and for good from processes started in it: it is for this one to end them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)  # only this ends a process whose main thread waits for a task

    threading.Thread(target=wait, daemon=True).start()

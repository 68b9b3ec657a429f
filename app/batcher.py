"""Feeds one model: groups waiting pairs of one size and runs them in the model's own thread.

A request brings one pair, or several that it needs together: they are let in and given up as a whole. A
failed batch is run again one pair at a time, so a pair that breaks the run fails alone. Pairs whose caller
has left are taken out of the queue before they cost a run; a run whose callers have all left may end early.
After three failed runs in a row a known-good pair decides whether the model is healthy; while it is not,
the check is repeated.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from app.engine import Fused, Job
from app.errors import AbandonedError, OverloadedError, RunFailedError
from app.logs import request_id
from app.telemetry import Telemetry

log = logging.getLogger(__name__)

FAILURES_TO_UNHEALTHY = 3


@dataclass(frozen=True)
class BatchLimits:
    """Bounds of one batcher.

    Attributes:
        max_queue: Most waiting pairs; an empty queue takes those of any one request.
        max_batch: Most pairs in one run.
        max_pixels: Most pixels of image_a over one run; a single pair may have more.
        max_wait_s: Longest wait of the oldest pair for others of its size, in seconds.
        probe_interval_s: Seconds between two checks of an unhealthy model.
    """

    max_queue: int
    max_batch: int
    max_pixels: int
    max_wait_s: float
    probe_interval_s: float = 5.0


@dataclass(eq=False)
class _Entry:
    job: Job
    future: asyncio.Future[tuple[Fused, float]]
    caller: str
    queued_at: float


class Batcher:
    """Queue and worker of one model. Lives on one event loop.

    Args:
        name: The model's name, for logs and metrics.
        run: Fuses jobs of one size; called in a thread of its own, one call at a time.
        probe: A job that a healthy model fuses.
        limits: Bounds of queue and batch.
        telemetry: Receives batch sizes, queue depth and failures.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Job]], list[Fused]],
        probe: Job,
        limits: BatchLimits,
        telemetry: Telemetry,
    ) -> None:
        self._name = name
        self._run = run
        self._probe = probe
        self._limits = limits
        self._telemetry = telemetry
        self._pending: deque[_Entry] = deque()
        self._arrival = asyncio.Event()
        self._failures = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"run-{name}")
        self._worker: asyncio.Task[None] | None = None

    @property
    def healthy(self) -> bool:
        """Whether the worker is alive and its last three runs did not all fail."""
        alive = self._worker is not None and not self._worker.done()
        return alive and self._failures < FAILURES_TO_UNHEALTHY

    @property
    def depth(self) -> int:
        """Number of waiting pairs."""
        return len(self._pending)

    def start(self) -> None:
        """Starts the worker on the running event loop."""
        self._worker = asyncio.create_task(self._serve(), name=f"batcher-{self._name}")
        self._worker.add_done_callback(_report_end)

    async def stop(self) -> None:
        """Ends the worker; a run that has begun is waited for."""
        if self._worker is not None:
            self._worker.cancel()
            with suppress(asyncio.CancelledError):
                await self._worker
        await asyncio.to_thread(self._thread.shutdown)

    async def submit(self, *jobs: Job) -> list[tuple[Fused, float]]:
        """Waits for the results of the jobs of one request, all of one size.

        If one fails, or the call is cancelled, all that are not done leave the queue or have their run abandoned.

        Returns:
            For each job its result and the seconds that it waited for its run, equal for jobs of one run.

        Raises:
            OverloadedError: The queue has no room for all of them; none was queued.
            RunFailedError: The run failed for one of these jobs.
        """
        if self._pending and self.depth + len(jobs) > self._limits.max_queue:
            raise OverloadedError(
                f"{self.depth} pairs wait for {self._name}; {len(jobs)} more would pass the bound of "
                f"{self._limits.max_queue}. Try again shortly."
            )
        loop, caller, now = asyncio.get_running_loop(), request_id.get(), time.perf_counter()
        entries = [_Entry(job, loop.create_future(), caller, now) for job in jobs]
        self._pending.extend(entries)
        self._telemetry.queue_depth.inc(len(entries))
        self._arrival.set()
        try:
            # In turn, so that a failure is seen at once: of one size, none runs before the one ahead of it.
            return [await entry.future for entry in entries]
        finally:
            for entry in entries:
                self._leave(entry)

    def _leave(self, entry: _Entry) -> None:
        """Gives a job up unless it is done."""
        entry.future.cancel()
        if entry.future.cancelled():
            entry.job.abandoned.set()
        if entry in self._pending:
            self._drop(entry)

    def _drop(self, entry: _Entry) -> None:
        self._pending.remove(entry)
        self._telemetry.queue_depth.dec()

    async def _serve(self) -> None:
        while True:
            if self._failures >= FAILURES_TO_UNHEALTHY:
                await self._check_health()
            await self._wait_for_work()
            batch = await self._collect()
            if batch:
                self._telemetry.batch_size.observe(len(batch))
                await self._execute(batch)

    async def _wait_for_work(self) -> None:
        """Returns when a pair waits, or when an unhealthy model is due for its next check."""
        pause = self._limits.probe_interval_s if self._failures >= FAILURES_TO_UNHEALTHY else None
        if not self._pending:
            self._arrival.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._arrival.wait(), pause)

    async def _collect(self) -> list[_Entry]:
        """Takes the oldest pair and those of its size, after waiting for more of them if that is set."""
        if not self._pending:
            return []
        closes_at = self._pending[0].queued_at + self._limits.max_wait_s
        while self._pending and len(self._matching()) < self._most(self._pending[0].job):
            left = closes_at - time.perf_counter()
            if left <= 0:
                break
            self._arrival.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._arrival.wait(), left)
        batch = self._matching()
        for entry in batch:
            self._drop(entry)
        return batch

    def _matching(self) -> list[_Entry]:
        """Returns the pairs that would run now: of the size of the oldest, as many as the limits allow."""
        if not self._pending:
            return []
        oldest = self._pending[0].job
        return [entry for entry in self._pending if entry.job.size == oldest.size][: self._most(oldest)]

    def _most(self, job: Job) -> int:
        """Returns how many pairs of a job's size may run together."""
        return max(1, min(self._limits.max_batch, self._limits.max_pixels // job.a.size))

    async def _execute(self, batch: list[_Entry]) -> None:
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._thread, self._run, [entry.job for entry in batch])
        except AbandonedError:
            callers = [entry.caller for entry in batch]
            log.info("model run ended early: nobody waits", extra={"model": self._name, "requests": callers})
            return
        except Exception:  # Whatever a run raises, the worker must live on.
            self._note_failure(batch)
            await self._after_failure(batch)
            return
        self._failures = 0
        for entry, fused in zip(batch, results, strict=True):
            if not entry.future.done():
                entry.future.set_result((fused, started - entry.queued_at))

    async def _after_failure(self, batch: list[_Entry]) -> None:
        if len(batch) == 1:
            if not batch[0].future.done():
                batch[0].future.set_exception(RunFailedError())
                await asyncio.sleep(0)  # Its request takes its other jobs back before they cost a run.
            return
        for entry in batch:
            if not entry.future.done():
                await self._execute([entry])

    def _note_failure(self, batch: list[_Entry]) -> None:
        self._failures += 1
        self._telemetry.run_failures.labels(self._name).inc()
        callers = [entry.caller for entry in batch]
        log.exception("model run failed", extra={"model": self._name, "pairs": len(batch), "requests": callers})

    async def _check_health(self) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._run, [self._probe])
        except Exception:  # Any failure means: still unhealthy.
            log.exception("model is unhealthy: its check run failed", extra={"model": self._name})
        else:
            log.warning("model passed its check run after failed runs", extra={"model": self._name})
            self._failures = 0


def _report_end(worker: asyncio.Task[None]) -> None:
    """Logs why a worker ended by itself; its batcher is unhealthy from then on."""
    if not worker.cancelled() and worker.exception() is not None:
        log.critical("batcher ended", exc_info=worker.exception())

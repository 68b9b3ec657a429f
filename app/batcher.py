"""Feeds one model: groups waiting pairs of one size and runs them in the model's own thread.

A request brings one pair, or several that it needs together: they are let in and given up as a whole. It is turned
away at once if the pairs before it would take longer than it can wait. Pairs whose caller has left or whose time
is over are taken out before they cost a run; a run whose callers have all left is ended. A failed batch is run
again one pair at a time, so a pair that breaks the run fails alone. After three failed runs in a row a known-good pair
decides whether the model is healthy; if not, it is restarted until it is.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeVar

from app.engine import Fused, Job
from app.errors import AbandonedError, NotReadyError, OutOfMemoryError, OverloadedError, RunFailedError
from app.health import Health
from app.logs import request_id
from app.pace import Pace
from app.telemetry import Telemetry
from app.turns import Share
from app.waiting import BatchLimits, Entry, Waiting

T = TypeVar("T")

log = logging.getLogger(__name__)


class Model(Protocol):
    """What a batcher needs of a model; one thread calls it, but for ``interrupt``. ``app.engine.Engine`` is one."""

    def run(self, jobs: Sequence[Job], pause: Callable[[], None]) -> list[Fused]:
        """Fuses jobs of one size; calls ``pause`` where others may go first."""
        ...

    def interrupt(self, jobs: Sequence[Job]) -> None:
        """Lets the run of these jobs end early, if it goes on now."""
        ...

    def check(self) -> None:
        """Runs a known-good pair; raises if that fails."""
        ...

    def reopen(self) -> None:
        """Starts the model anew; raises if that fails."""
        ...


class Batcher:
    """Queue and worker of one model. Lives on one event loop.

    Args:
        name: The model's name, for logs and metrics.
        model: Runs in a thread of its own, one call at a time.
        share: The model's claim on its device.
        limits: Bounds of queue and batch.
        telemetry: Receives batch sizes, queue depth, failures and restarts.
    """

    def __init__(self, name: str, model: Model, share: Share, limits: BatchLimits, telemetry: Telemetry) -> None:
        self._name = name
        self._model = model
        self._share = share
        self._limits = limits
        self._telemetry = telemetry
        self._waiting = Waiting(limits)
        self._running: list[Entry] = []
        self._jobs: list[Job] = []
        self._run_since = 0.0
        self._pace = Pace()
        self._arrival = asyncio.Event()
        self._health = Health(name, limits.restart_pause_s, telemetry)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"run-{name}")
        self._worker: asyncio.Task[None] | None = None

    @property
    def healthy(self) -> bool:
        """Whether the worker is alive and its last three runs did not all fail."""
        alive = self._worker is not None and not self._worker.done()
        return alive and self._health.good

    @property
    def depth(self) -> int:
        """Number of waiting pairs."""
        return len(self._waiting)

    @property
    def wait_s(self) -> float:
        """Seconds until all that is here now is done, at the usual pace; 0 before the first run."""
        return self._left(self._pace.usual_s)

    def start(self) -> None:
        """Starts the worker on the running event loop."""
        self._worker = asyncio.create_task(self._live(), name=f"batcher-{self._name}")

    async def stop(self) -> None:
        """Ends the worker, and a run that has begun."""
        if self._worker is not None:
            self._worker.cancel()
            with suppress(asyncio.CancelledError):
                await self._worker
        await asyncio.to_thread(self._thread.shutdown)

    def check_room(self, pairs: int, expires_at: float = math.inf) -> None:
        """Refuses a request that the model cannot serve in time; says nothing while the model is idle.

        Args:
            pairs: How many pairs it brings.
            expires_at: When its caller stops waiting, by ``time.perf_counter``.

        Raises:
            NotReadyError: The model is down.
            OverloadedError: The queue has no room for all pairs, or at the pace of the fastest of the last runs it
                would still take too long to get to them.
        """
        now = time.perf_counter()
        if self._health.down_s is not None:
            raise self._down()
        if self.depth and self.depth + pairs > self._limits.max_queue:
            raise OverloadedError(
                f"{self.depth} pairs wait for {self._name}; {pairs} more would pass the bound of "
                f"{self._limits.max_queue}. Try again when Retry-After says.",
                self.wait_s,
            )
        left_s, least_s = expires_at - now, self._left(self._pace.least_s)
        if 0 < left_s < least_s:
            raise OverloadedError(
                f"{self._name} needs at least {least_s:.1f} s for the {self.depth} pairs before this one, and the "
                f"request ends in {left_s:.1f} s. Try again when Retry-After says.",
                self.wait_s - left_s,
            )

    async def submit(self, *jobs: Job, expires_at: float = math.inf) -> list[tuple[Fused, float]]:
        """Waits for the results of the jobs of one request, all of one size.

        If one fails, or the call is cancelled, all that are not done leave the queue or have their run abandoned.

        Args:
            jobs: The pairs.
            expires_at: When the caller stops waiting, by ``time.perf_counter``: later, none of them is run.

        Returns:
            For each job its result and the seconds that it waited for its run, equal for jobs of one run.

        Raises:
            NotReadyError: The model is down.
            OutOfMemoryError: Memory does not suffice for one of these jobs.
            OverloadedError: The queue has no room for all of them, or no time; none was queued.
            RunFailedError: The run failed for one of these jobs.
            TimeoutError: The time was over before its run.
        """
        self.check_room(len(jobs), expires_at)
        loop, caller, now = asyncio.get_running_loop(), request_id.get(), time.perf_counter()
        entries = [Entry(job, loop.create_future(), caller, now, expires_at) for job in jobs]
        for entry in entries:
            self._waiting.add(entry)
        self._telemetry.queue_depth.inc(len(entries))
        self._arrival.set()
        try:
            # In turn, so that a failure is seen at once: of one size, none runs before the one ahead of it.
            return [await entry.future for entry in entries]
        finally:
            for entry in entries:
                self._leave(entry)

    def _left(self, seconds: Callable[[int], float]) -> float:
        """Returns the seconds for what waits, and for what is left of the run, by a pace."""
        running = seconds(_pixels(self._running))
        if running:
            running = max(0.0, running - (time.perf_counter() - self._run_since))
        return running + seconds(self._waiting.pixels)

    def _down(self) -> NotReadyError:
        detail = f"{self._name} fails and is being restarted. Use another model, or try again when Retry-After says."
        return NotReadyError(detail, self._health.down_s or 0.0)

    def _leave(self, entry: Entry) -> None:
        """Gives a job up unless it is done."""
        entry.future.cancel()
        if entry.future.cancelled():
            entry.job.abandoned.set()
            if all(job.abandoned.is_set() for job in self._jobs):
                self._model.interrupt(self._jobs)
        else:
            entry.future.exception()  # Of several that failed, its request has seen the first: asyncio need not warn.
        if entry in self._waiting:
            self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        self._waiting.remove(entry)
        self._telemetry.queue_depth.dec()

    async def _live(self) -> None:
        """Keeps the worker alive: an error that escapes it is logged, and the model is then checked."""
        while True:
            try:
                await self._serve()
            except Exception:
                log.critical("worker of a model ended; it starts again", exc_info=True, extra={"model": self._name})
                self._health.doubt()
                await asyncio.sleep(self._limits.restart_pause_s)  # It may end at once again.

    async def _serve(self) -> None:
        while True:
            if not self._health.good:
                await self._recover()
            await self._wait_for_work()
            try:
                while self._health.good and (group := self._waiting.due(time.perf_counter())):
                    await self._run_next(self._limits.weight(group[0].job))
            finally:
                self._share.release()

    async def _run_next(self, weight: float) -> None:
        claimed_at = time.perf_counter()
        await self._share.claim(weight)
        # Only now: what came or left while other models ran counts too.
        if batch := self._take(weight):
            await self._run_batch(batch, claimed_at)

    async def _wait_for_work(self) -> None:
        """Returns when a group of pairs should run."""
        while not self._waiting.due(time.perf_counter()):
            closes_at = self._waiting.closes_at
            pause = None if math.isinf(closes_at) else max(0.0, closes_at - time.perf_counter())
            self._arrival.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._arrival.wait(), pause)

    def _take(self, weight: float) -> list[Entry]:
        """Takes out the pairs that run next, none if they weigh more; and before that those whose time is over."""
        now = time.perf_counter()
        for entry in self._waiting:
            if entry.expires_at <= now:
                self._drop(entry)
                self._telemetry.expired.labels(self._name).inc()
                if not entry.future.done():
                    entry.future.set_exception(TimeoutError())
        batch = self._waiting.due(now)
        if batch and self._limits.weight(batch[0].job) > weight:
            return []
        for entry in batch:
            self._drop(entry)
        return batch

    async def _recover(self) -> None:
        await self._health.recover(self._check, partial(self._in_thread, self._model.reopen), self._turn_all_away)

    async def _check(self) -> None:
        await self._share.claim(0.0)
        try:
            await self._in_thread(self._model.check)
        finally:
            self._share.release()

    def _turn_all_away(self) -> None:
        for entry in self._waiting:
            self._drop(entry)
            if not entry.future.done():
                entry.future.set_exception(self._down())

    async def _run_batch(self, batch: list[Entry], claimed_at: float) -> None:
        self._running, self._run_since = batch, claimed_at
        try:
            self._telemetry.batch_size.observe(len(batch))
            await self._execute(batch)
        finally:
            self._running, self._jobs = [], []
            for entry in batch:
                if not entry.future.done():  # The worker itself failed, or is told to end.
                    entry.future.set_exception(RunFailedError())

    async def _execute(self, batch: list[Entry]) -> None:
        started = time.perf_counter()
        self._jobs = [entry.job for entry in batch]
        try:
            results = await self._in_thread(self._model.run, self._jobs, self._share.pass_on)
        except AbandonedError:
            log.info("model run ended early: nobody waits", extra=self._facts(batch))
            return
        except OutOfMemoryError as error:  # Says nothing about the model's health, and is logged where it was met.
            await self._after_failure(batch, error)
            return
        except Exception:  # Whatever a run raises, the worker must live on.
            self._note_failure(batch)
            await self._after_failure(batch, RunFailedError())
            return
        self._health.note_run()
        self._pace.note(_pixels(batch), time.perf_counter() - self._run_since)
        for entry, fused in zip(batch, results, strict=True):
            if not entry.future.done():
                entry.future.set_result((fused, started - entry.queued_at))

    async def _after_failure(self, batch: list[Entry], error: Exception) -> None:
        if len(batch) == 1:
            if not batch[0].future.done():
                batch[0].future.set_exception(error)
                await asyncio.sleep(0)  # Its request takes its other jobs back before they cost a run.
            return
        for entry in batch:
            if not entry.future.done():
                self._run_since = time.perf_counter()
                await self._execute([entry])

    async def _in_thread(self, work: Callable[..., T], *args: object) -> T:
        """Calls in the model's thread. If the worker is told to end, the call ends first: it holds the device."""
        call = asyncio.get_running_loop().run_in_executor(self._thread, work, *args)
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            self._model.interrupt(self._jobs)
            await asyncio.wait([call])
            raise

    def _facts(self, batch: list[Entry]) -> dict[str, object]:
        return {"model": self._name, "pairs": len(batch), "requests": [entry.caller for entry in batch]}

    def _note_failure(self, batch: list[Entry]) -> None:
        self._health.note_failure()
        log.exception("model run failed", extra=self._facts(batch))


def _pixels(entries: Sequence[Entry]) -> int:
    return sum(entry.job.a.size for entry in entries)

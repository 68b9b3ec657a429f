"""Feeds one model: groups waiting pairs of one size and has them run in the model's lanes.

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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from app.engine import Fused, Job
from app.errors import NotReadyError, OverloadedError
from app.health import Health
from app.lane import Lane, Model, Served
from app.logs import request_id
from app.pace import Pace
from app.telemetry import Telemetry
from app.turns import Account, Device, Share
from app.waiting import BatchLimits, Entry, Waiting

log = logging.getLogger(__name__)

# From how many runs on, as a part of the lanes, each of them gets only its own part of the threads. With fewer, cores
# would be idle.
CROWDED = 0.75


class Batcher:
    """Queue and lanes of one model. Lives on one event loop.

    Args:
        name: The model's name, for logs and metrics.
        model: Runs in threads of its own.
        device: What it runs on, shared with other models.
        limits: Bounds of queue and runs.
        telemetry: Receives batch sizes, queue depth, failures and restarts.
    """

    def __init__(self, name: str, model: Model, device: Device, limits: BatchLimits, telemetry: Telemetry) -> None:
        self._name = name
        self._model = model
        self._limits = limits
        self._telemetry = telemetry
        self._waiting = Waiting(limits)
        self._pace = Pace()
        self._health = Health(name, limits.restart_pause_s, telemetry)
        self._threads = ThreadPoolExecutor(limits.lanes, thread_name_prefix=f"run-{name}")
        served = Served(name, model, self._threads, self._health, self._pace, telemetry, self._turn_all_away)
        account = Account()
        self._lanes = [Lane(served, Share(device, account)) for _ in range(limits.lanes)]
        self._work: dict[Lane, asyncio.Task[None]] = {}
        self._change = asyncio.Event()
        self._rested = True
        self._dispatcher: asyncio.Task[None] | None = None

    @property
    def healthy(self) -> bool:
        """Whether pairs are being dispatched, the last three runs did not all fail, and none is stuck."""
        alive = self._dispatcher is not None and not self._dispatcher.done()
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
        """Starts to dispatch pairs, on the running event loop."""
        self._dispatcher = asyncio.create_task(self._live(), name=f"batcher-{self._name}")

    async def stop(self) -> None:
        """Ends all work, and runs that have begun."""
        tasks = [task for task in (self._dispatcher, *self._work.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._threads.shutdown)

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

        If one fails, or the call is cancelled, all that are not done leave the queue or have their run ended.

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
        self._change.set()
        try:
            # All of them, so that a failure is seen at once, whichever it is.
            return await asyncio.gather(*(entry.future for entry in entries))
        finally:
            for entry in entries:
                self._leave(entry)

    def _left(self, seconds: Callable[[int], float]) -> float:
        """Returns the seconds for what waits, and for what is left of the runs, by a pace."""
        return sum(lane.left_s(seconds) for lane in self._lanes) + seconds(self._waiting.pixels)

    def _down(self) -> NotReadyError:
        detail = f"{self._name} fails and must recover. Use another model, or try again when Retry-After says."
        return NotReadyError(detail, self._health.down_s or 0.0)

    def _leave(self, entry: Entry) -> None:
        """Gives a job up unless it is done."""
        entry.future.cancel()
        if entry.future.cancelled():
            for lane in self._lanes:
                lane.leave(entry)
        else:
            entry.future.exception()  # Of several that failed, its request has seen the first: asyncio need not warn.
        if entry in self._waiting:
            self._drop(entry)
        entry.left.set()

    def _drop(self, entry: Entry) -> None:
        self._waiting.remove(entry)
        self._telemetry.queue_depth.dec()

    async def _live(self) -> None:
        """Keeps pairs being dispatched: an error that escapes is logged, and the model is then checked."""
        while True:
            try:
                await self._dispatch()
            except Exception:
                await self._note_death()

    async def _note_death(self) -> None:
        log.critical("worker of a model ended; it starts again", exc_info=True, extra={"model": self._name})
        self._health.doubt()
        await asyncio.sleep(self._limits.restart_pause_s)  # It may end at once again.

    async def _dispatch(self) -> None:
        """Sets a free lane to work whenever a group of pairs should run."""
        while True:
            self._change.clear()
            lane = self._free()
            if lane and self._health.doubted:
                await self._recover(lane)
            elif lane and self._health.good and self._due():
                self._pace.time.begin()
                self._work[lane] = asyncio.create_task(self._serve(lane), name=f"lane-{self._name}")
            else:
                await self._wait_for_change()

    def _due(self, but: Lane | None = None) -> list[Entry]:
        """Returns what should run, besides what other lanes claim the device for already."""
        return self._waiting.due(time.perf_counter()) if self._count_claiming(but) < self.depth else []

    def _count_claiming(self, but: Lane | None = None) -> int:
        return sum(lane is not but and not lane.busy for lane in self._work)

    def _free(self) -> Lane | None:
        return next((lane for lane in self._lanes if lane not in self._work), None)

    async def _wait_for_change(self) -> None:
        """Returns when pairs came or a lane is free, or when a group need not wait for more pairs any longer."""
        pause = None
        if self._health.good and self._free() and self._count_claiming() < self.depth:
            pause = max(0.0, self._waiting.closes_at - time.perf_counter())
        idle = not self._work and not self.depth
        if idle and not self._rested:
            pause = self._limits.rest_after_s
        try:
            async with asyncio.timeout(pause):  # Not wait_for: in Python 3.11 a stop that meets a change is lost in it.
                await self._change.wait()
        except TimeoutError:
            if idle:
                await self._rest()

    async def _rest(self) -> None:
        """Gives memory back, once after each spell of work."""
        self._rested = True
        await self._use(self._lanes[0], self._model.rest)

    async def _serve(self, lane: Lane) -> None:
        """Has a lane run what is due, until nothing is."""
        try:
            while self._health.good and (group := self._due(but=lane)):
                await self._run_next(lane, self._limits.weight(group[0].job))
        except Exception:
            await self._note_death()
        finally:
            lane.share.release()
            del self._work[lane]
            self._pace.time.end()
            self._change.set()

    async def _run_next(self, lane: Lane, weight: float) -> None:
        claimed_at = self._pace.time.now()
        await lane.share.claim(weight)
        # Only now: what came or left while other runs went on counts too.
        if batch := self._take(weight):
            self._rested = False
            await lane.run(batch, claimed_at, narrow=self._is_crowded(lane, weight))

    def _is_crowded(self, lane: Lane, weight: float) -> bool:
        """Whether enough runs can go on side by side to keep all cores at work with one part of them each."""
        crowd = min(lane.share.count_runs() + self.depth, lane.share.most_of(weight))
        return len(self._lanes) > 1 and crowd >= CROWDED * len(self._lanes)

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

    async def _recover(self, lane: Lane) -> None:
        check = partial(self._use, lane, self._model.check)
        await self._health.recover(check, partial(self._reopen, lane), self._turn_all_away)

    async def _reopen(self, lane: Lane) -> None:
        if self._work:  # A check run goes beside runs that have begun, a restart does not.
            await asyncio.wait(self._work.values())
        await lane.in_thread(self._model.reopen)

    async def _use(self, lane: Lane, work: Callable[[], None]) -> None:
        """Calls the model in an idle lane, for something that takes hardly any memory."""
        await lane.share.claim(0.0)
        try:
            await lane.in_thread(work)
        finally:
            lane.share.release()

    def _turn_all_away(self) -> None:
        for entry in self._waiting:
            self._drop(entry)
            if not entry.future.done():
                entry.future.set_exception(self._down())

"""Runs batches of one model, one after another; a model may have several lanes side by side."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol, TypeVar

from app.engine import Fused, Job
from app.errors import AbandonedError, OutOfMemoryError, RunFailedError
from app.health import Health
from app.pace import Pace
from app.runs import Run
from app.telemetry import Telemetry
from app.turns import Share
from app.waiting import Entry

T = TypeVar("T")

log = logging.getLogger(__name__)

STUCK_AFTER_S = 60.0


class Model(Protocol):
    """What runs pairs; several threads call it, but for ``reopen``. ``app.engine.Engine`` is one."""

    def run(self, jobs: Sequence[Job], run: Run) -> list[Fused]:
        """Fuses jobs of one size; pauses and ends early where the run says so."""
        ...

    def check(self) -> None:
        """Runs a known-good pair; raises if that fails."""
        ...

    def rest(self) -> None:
        """Gives memory back that is kept for further runs."""
        ...

    def reopen(self) -> None:
        """Starts the model anew; raises if that fails. Called while nothing runs."""
        ...


@dataclass(frozen=True)
class Served:
    """What all lanes of one model share.

    Attributes:
        name: The model's name, for logs and metrics.
        model: The model.
        threads: Has a thread for each lane.
        health: Told of runs and failures.
        pace: Told how long they took.
        telemetry: Receives batch sizes.
        turn_all_away: Called when a run is stuck.
    """

    name: str
    model: Model
    threads: ThreadPoolExecutor
    health: Health
    pace: Pace
    telemetry: Telemetry
    turn_all_away: Callable[[], None]


class Lane:
    """Runs one batch at a time. Lives on one event loop.

    Args:
        served: The model.
        share: This lane's claim on the model's device.
    """

    def __init__(self, served: Served, share: Share) -> None:
        self.share = share
        self._served = served
        self._batch: list[Entry] = []
        # Those of the batch that the model runs at present, and their run.
        self._now: list[Entry] = []
        self._run = Run()
        self._stuck = False
        self._since = 0.0

    @property
    def busy(self) -> bool:
        """Whether it runs a batch."""
        return bool(self._batch)

    def left_s(self, seconds: Callable[[int], float]) -> float:
        """Returns the seconds that what is left of its batch will add, by a pace of all lanes together."""
        if not self._batch:
            return 0.0
        return max(0.0, seconds(pixels_of(self._batch)) - (self._served.pace.time.now() - self._since))

    def leave(self, entry: Entry) -> None:
        """Ends the run of a pair whose caller has left, if nobody waits for any other one of it."""
        if entry in self._now and not self._run.ended and all(each.future.cancelled() for each in self._now):
            self._run.end()
            asyncio.get_running_loop().call_later(STUCK_AFTER_S, self._look_after, self._run)

    def _look_after(self, run: Run) -> None:
        """Sounds the alarm if a run goes on long after it was told to end: its thread, or the device, hangs."""
        if self._run is run and self._now:
            log.critical("model run does not end; only a restart of the process can help", extra=self._facts(self._now))
            self._stuck = True
            self._served.health.note_stuck()
            self._served.turn_all_away()

    async def run(self, batch: list[Entry], since: float, *, narrow: bool) -> None:
        """Runs a batch and answers its callers.

        Args:
            batch: Pairs of one size.
            since: When the device was claimed for it, by the model's ``WorkTime``.
            narrow: Whether other runs need the CPU cores as well.
        """
        self._batch, self._since = batch, since
        try:
            self._served.telemetry.batch_size.observe(len(batch))
            await self._execute(batch, narrow=narrow)
        finally:
            self._batch, self._now = [], []
            if self._stuck:
                self._stuck = False
                self._served.health.note_loose()
            for entry in batch:
                if not entry.future.done():  # The worker itself failed, or is told to end.
                    entry.future.set_exception(RunFailedError())

    async def _execute(self, batch: list[Entry], *, narrow: bool) -> None:
        started, served = perf_counter(), self._served
        self._now, self._run = batch, Run(narrow=narrow, pause=self._pass_on)
        try:
            results = await self.in_thread(served.model.run, [entry.job for entry in batch], self._run)
        except AbandonedError:
            log.info("model run ended early: nobody waits", extra=self._facts(batch))
            return
        except OutOfMemoryError as error:  # Says nothing about the model's health, and is logged where it was met.
            await self._after_failure(batch, error, narrow=narrow)
            return
        except Exception:  # Whatever a run raises, the worker must live on.
            served.health.note_failure()
            log.exception("model run failed", extra=self._facts(batch))
            await self._after_failure(batch, RunFailedError(), narrow=narrow)
            return
        served.health.note_run()
        served.pace.note(pixels_of(batch), served.pace.time.now() - self._since)
        for entry, fused in zip(batch, results, strict=True):
            if not entry.future.done():
                entry.future.set_result((fused, started - entry.queued_at))

    def _pass_on(self) -> None:
        """Lets other models go first; called in the run's thread. It waits no longer than its callers do."""
        turn = self.share.pass_on()
        with self._run.stopped_by(turn.cancel):
            turn.result()

    async def _after_failure(self, batch: list[Entry], error: Exception, *, narrow: bool) -> None:
        if len(batch) == 1:
            if not batch[0].future.done():
                batch[0].future.set_exception(error)
                await batch[0].left.wait()  # Its request takes its other jobs back before they cost a run.
            return
        for entry in batch:
            if not entry.future.done():
                self._since = self._served.pace.time.now()
                await self._execute([entry], narrow=narrow)

    async def in_thread(self, work: Callable[..., T], *args: object) -> T:
        """Calls in a thread of the model. If the lane is told to end, the call ends first: it holds the device."""
        call = asyncio.get_running_loop().run_in_executor(self._served.threads, work, *args)
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            self._run.end()
            await asyncio.wait([call])
            raise

    def _facts(self, batch: list[Entry]) -> dict[str, object]:
        return {"model": self._served.name, "pairs": len(batch), "requests": [entry.caller for entry in batch]}


def pixels_of(entries: Sequence[Entry]) -> int:
    """Returns the pixels of image_a over all pairs."""
    return sum(entry.job.a.size for entry in entries)

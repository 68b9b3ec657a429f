"""Several runs of one model side by side: how many, how wide, and what happens when some of them fail."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from contextlib import asynccontextmanager

import pytest

from app.batcher import Batcher
from app.engine import Fused
from app.telemetry import Telemetry
from app.turns import Device
from tests.app.test_batcher import POISON, job, limits, run, until
from tests.app.test_batcher_together import three

LARGE = (100, 100)  # As many pixels as a run may have at most.


class Crowd:
    """Stands in for a model: each run goes on until it is let go, by the value of its first pair."""

    def __init__(self) -> None:
        self.begun: list[float] = []
        self.narrow: list[bool] = []
        self.runs = {}
        self.restarts = self.checks = self.rests = 0
        self.broken = False
        self._gates: defaultdict[float, threading.Event] = defaultdict(threading.Event)

    def let_go(self, *values: float) -> None:
        for value in values:
            self._gates[value].set()

    def run(self, jobs, run):
        value = float(jobs[0].a[0, 0])
        gate = self._gates[value]
        self.runs[value] = run
        self.narrow.append(run.narrow)
        self.begun.append(value)
        assert gate.wait(20)
        if self.broken or value == POISON:
            raise RuntimeError("poison")
        return [Fused(each.a, 0.0, 0.0) for each in jobs]

    def check(self):
        self.checks += 1
        if self.broken:
            raise RuntimeError("still broken")

    def rest(self):
        self.rests += 1

    def reopen(self):
        self.restarts += 1
        self.broken = False


@asynccontextmanager
async def crowded(crowd: Crowd, lanes: int = 2, **changes):
    telemetry = Telemetry()
    batcher = Batcher("test", crowd, Device(), limits(max_batch=1, lanes=lanes, **changes), telemetry)
    batcher.start()
    try:
        yield batcher, telemetry
    finally:
        crowd.let_go(*range(-1, 100))
        await batcher.stop()


def submit(batcher: Batcher, *values: float, size=(4, 4)) -> list[asyncio.Task]:
    return [asyncio.create_task(batcher.submit(job(value, size))) for value in values]


@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_as_many_runs_go_on_as_there_are_lanes(lanes):
    async def scenario():
        crowd = Crowd()
        async with crowded(crowd, lanes) as (batcher, _):
            tasks = submit(batcher, *range(6))
            await until(lambda: len(crowd.begun) == lanes and batcher.depth == 6 - lanes)
            for done in range(6):
                crowd.let_go(done)
                await tasks[done]
                started = min(6, lanes + done + 1)
                await until(lambda started=started: len(crowd.begun) == started and batcher.depth == 6 - started)
            assert sorted(crowd.begun) == [0, 1, 2, 3, 4, 5]

    run(scenario())


def test_a_slow_run_holds_nobody_up_but_its_own_caller():
    async def scenario():
        crowd = Crowd()
        async with crowded(crowd) as (batcher, _):
            [slow] = submit(batcher, 9)
            await until(lambda: crowd.begun == [9])
            for value in range(5):
                crowd.let_go(value)
                assert (await batcher.submit(job(value)))[0][0].luma[0, 0] == value
            assert not slow.done()
            crowd.let_go(9)
            await slow

    run(scenario())


def test_a_run_alone_is_wide_and_runs_side_by_side_are_narrow():
    async def scenario():
        crowd = Crowd()
        async with crowded(crowd) as (batcher, _):
            for values, narrow in (([0], [False]), ([1, 2, 3], [True, True, True]), ([4], [False])):
                crowd.narrow.clear()
                tasks = submit(batcher, *values)
                for done, value in enumerate(values, 1):
                    begun = min(done + 1, len(values))
                    await until(lambda begun=begun: len(crowd.narrow) == begun)
                    crowd.let_go(value)
                    await tasks[done - 1]
                assert crowd.narrow == narrow

    run(scenario())


def test_with_few_runs_for_many_lanes_no_core_is_left_idle():
    async def scenario():
        crowd = Crowd()
        async with crowded(crowd, lanes=8) as (batcher, _):
            tasks = []
            for value in range(8):
                tasks += submit(batcher, value)
                await until(lambda value=value: len(crowd.begun) == value + 1)
            assert crowd.narrow == [False] * 5 + [True] * 3
            crowd.let_go(*range(8))
            await asyncio.gather(*tasks)

    run(scenario())


def test_pairs_too_large_for_each_other_run_one_by_one_and_wide():
    async def scenario():
        crowd = Crowd()
        async with crowded(crowd, lanes=4) as (batcher, _):
            tasks = submit(batcher, 0, 1, 2, size=LARGE)
            for value in range(3):
                await until(lambda value=value: len(crowd.begun) == value + 1)
                assert batcher.depth == 2 - value
                crowd.let_go(value)
                await tasks[value]
            assert crowd.narrow == [False] * 3

    run(scenario())


def test_pairs_of_one_request_run_side_by_side_and_come_in_order():
    async def scenario():
        crowd = Crowd()
        async with crowded(crowd, lanes=3) as (batcher, _):
            task = asyncio.create_task(batcher.submit(*three()))
            await until(lambda: sorted(crowd.begun) == [1, 2, 3])
            crowd.let_go(3, 2, 1)
            assert [fused.luma[0, 0] for fused, _ in await task] == [1, 2, 3]

    run(scenario())


def test_a_caller_that_leaves_ends_its_own_run_only():
    async def scenario():
        crowd = Crowd()
        async with crowded(crowd) as (batcher, _):
            leaving, staying = submit(batcher, 1, 2)
            await until(lambda: len(crowd.begun) == 2)
            leaving.cancel()
            await until(leaving.done)
            assert crowd.runs[1].ended
            assert not crowd.runs[2].ended
            crowd.let_go(2)
            assert (await staying)[0][0].luma[0, 0] == 2

    run(scenario())


def test_memory_is_given_back_once_after_each_spell_of_work():
    async def scenario():
        crowd = Crowd()
        async with crowded(crowd, rest_after_s=0.02) as (batcher, _):
            for spell in (1, 2):
                crowd.let_go(spell)
                await batcher.submit(job(spell))
                await until(lambda spell=spell: crowd.rests == spell)
                await asyncio.sleep(0.06)
                assert crowd.rests == spell

    run(scenario())


def test_a_model_at_work_does_not_rest():
    async def scenario():
        crowd = Crowd()
        async with crowded(crowd, rest_after_s=0.01) as (batcher, _):
            first, second = submit(batcher, 1, 2)
            await until(lambda: len(crowd.begun) == 2)
            crowd.let_go(1)
            await first
            await asyncio.sleep(0.05)
            assert crowd.rests == 0
            crowd.let_go(2)
            await second
            await until(lambda: crowd.rests == 1)

    run(scenario())

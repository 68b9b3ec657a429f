"""Several runs of one model side by side: how many, how wide, and what happens when some of them fail."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from contextlib import asynccontextmanager

import pytest

from app.batcher import Batcher
from app.engine import Fused
from app.errors import NotReadyError, RunFailedError
from app.telemetry import Telemetry
from app.turns import Device
from tests.app.test_batcher import POISON, job, limits, metric, run, until
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


def test_if_one_of_a_request_fails_its_other_runs_end():
    async def scenario():
        crowd = Crowd()
        async with crowded(crowd, lanes=3) as (batcher, telemetry):
            task = asyncio.create_task(batcher.submit(*three(1, 2, POISON)))
            await until(lambda: len(crowd.begun) == 3)
            crowd.let_go(POISON)
            with pytest.raises(RunFailedError):
                await task
            assert crowd.runs[1].ended
            assert crowd.runs[2].ended
            assert batcher.healthy
            assert metric(telemetry, "pairfuse_run_failures_total") == 1

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


def test_a_failing_model_is_restarted_only_when_none_of_its_runs_goes_on():
    async def scenario():
        crowd = Crowd()
        async with crowded(crowd) as (batcher, _):
            [long] = submit(batcher, 50)
            await until(lambda: crowd.begun == [50])
            crowd.broken = True
            for value in (1, 2, 3):
                crowd.let_go(value)
                with pytest.raises(RunFailedError):
                    await batcher.submit(job(value))
            assert not batcher.healthy
            waiting = submit(batcher, 4)
            await until(lambda: batcher.depth == 1)
            await asyncio.sleep(0.02)  # Time enough for a restart that did not wait.
            assert (crowd.checks, crowd.restarts, crowd.begun) == (1, 0, [50, 1, 2, 3])
            crowd.let_go(50, 4)
            with pytest.raises(RunFailedError):
                await long
            await asyncio.gather(*waiting)
            assert (crowd.checks, crowd.restarts) == (2, 1)
            assert batcher.healthy

    run(scenario())


def test_what_waits_is_done_sooner_with_more_lanes():
    async def scenario(lanes: int) -> float:
        crowd = Crowd()
        async with crowded(crowd, lanes, max_queue=99) as (batcher, _):
            tasks = submit(batcher, *range(lanes))
            await until(lambda: len(crowd.begun) == lanes)
            await asyncio.sleep(0.05)
            crowd.let_go(*range(lanes))
            await asyncio.gather(*tasks)
            tasks = submit(batcher, *range(10, 40))
            await until(lambda: batcher.depth == 30 - lanes)
            wait_s = batcher.wait_s
            crowd.let_go(*range(10, 40))
            await asyncio.gather(*tasks)
            return wait_s

    # Thirty runs of 50 ms: one after another 1.5 s.
    alone, four = (asyncio.run(asyncio.wait_for(scenario(lanes), 30)) for lanes in (1, 4))
    assert alone > 1.4
    assert four < 0.6 * alone


def test_stopping_ends_every_run():
    async def scenario():
        crowd = Crowd()
        async with crowded(crowd) as (batcher, _):
            tasks = submit(batcher, 1, 2, 3)
            await until(lambda: len(crowd.begun) == 2)
            stopping = asyncio.create_task(batcher.stop())
            await until(lambda: crowd.runs[1].ended and crowd.runs[2].ended)
            assert not stopping.done()  # The device is theirs until they have ended.
            crowd.let_go(1, 2)
            await stopping
            tasks[2].cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(each) for each in results] == [RunFailedError, RunFailedError, asyncio.CancelledError]
            assert sorted(crowd.begun) == [1, 2]

    run(scenario())


def test_a_run_that_does_not_end_takes_its_model_down_until_it_does(monkeypatch):
    monkeypatch.setattr("app.lane.STUCK_AFTER_S", 0.02)

    async def scenario():
        crowd = Crowd()
        async with crowded(crowd) as (batcher, telemetry):
            hanging, working = submit(batcher, 1, 2)
            await until(lambda: len(crowd.begun) == 2)
            waiting = submit(batcher, 3)
            hanging.cancel()
            await until(lambda: not batcher.healthy)
            assert metric(telemetry, "pairfuse_model_up") == 0
            with pytest.raises(NotReadyError, match="must recover"):
                await batcher.submit(job(4))
            with pytest.raises(NotReadyError):
                await waiting[0]
            crowd.let_go(2)
            assert (await working)[0][0].luma[0, 0] == 2
            assert not batcher.healthy
            crowd.let_go(1)
            await until(lambda: batcher.healthy)
            assert (crowd.checks, crowd.restarts) == (1, 0)
            crowd.let_go(5)
            assert (await batcher.submit(job(5)))[0][0].luma[0, 0] == 5

    run(scenario())


def test_a_run_that_ends_when_told_to_is_not_stuck(monkeypatch):
    monkeypatch.setattr("app.lane.STUCK_AFTER_S", 0.02)

    async def scenario():
        crowd = Crowd()
        async with crowded(crowd, lanes=1) as (batcher, _):
            [leaving] = submit(batcher, 1)
            await until(lambda: len(crowd.begun) == 1)
            leaving.cancel()
            crowd.let_go(1)
            [staying] = submit(batcher, 2)
            await until(lambda: len(crowd.begun) == 2)
            await asyncio.sleep(0.05)  # By now the first would count as stuck.
            assert batcher.healthy
            crowd.let_go(2)
            await staying

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


def test_poisonous_pairs_beside_a_long_run_do_not_stop_the_others():
    async def scenario():
        crowd = Crowd()
        async with crowded(crowd) as (batcher, _):
            [long] = submit(batcher, 50)
            await until(lambda: crowd.begun == [50])
            crowd.let_go(POISON, 7)
            for _ in range(7):
                with pytest.raises(RunFailedError):
                    await batcher.submit(job(POISON))
            assert (await batcher.submit(job(7)))[0][0].luma[0, 0] == 7
            assert (crowd.checks, crowd.restarts) == (2, 0)
            assert not long.done()
            crowd.let_go(50)
            await long

    run(scenario())


def test_a_good_run_that_began_before_the_failures_does_not_clear_the_model():
    async def scenario():
        crowd, checking = Crowd(), threading.Event()
        crowd.check = lambda: checking.wait(20)
        async with crowded(crowd) as (batcher, telemetry):
            [long] = submit(batcher, 50)
            await until(lambda: crowd.begun == [50])
            crowd.let_go(POISON)
            for _ in range(3):
                with pytest.raises(RunFailedError):
                    await batcher.submit(job(POISON))
            crowd.let_go(50)
            await long
            assert not batcher.healthy
            assert metric(telemetry, "pairfuse_model_up") == 0
            checking.set()
            await until(lambda: batcher.healthy)
            assert metric(telemetry, "pairfuse_model_up") == 1

    run(scenario())


@pytest.mark.parametrize("turns", range(4))
def test_a_stop_that_meets_a_change_is_heard(turns):
    async def scenario():
        crowd = Crowd()
        batcher = Batcher("test", crowd, Device(), limits(rest_after_s=600.0), Telemetry())
        batcher.start()
        crowd.let_go(1)
        await batcher.submit(job(1))
        for _ in range(20):
            await asyncio.sleep(0)  # The lane ends, and the batcher waits for work or for its rest.
        leaving = submit(batcher, 2)
        for _ in range(turns):
            await asyncio.sleep(0)
        crowd.let_go(2)
        await batcher.stop()
        leaving[0].cancel()
        await asyncio.gather(*leaving, return_exceptions=True)

    run(scenario())


class Tiled(Crowd):
    """Its runs pause after each step, as in tiles; the steps of all runs are counted in their order."""

    def run(self, jobs, run):
        for _ in range(3):
            super().run(jobs, run)
            run.between_tiles()
        return [Fused(each.a, 0.0, 0.0) for each in jobs]


def test_a_large_pair_that_pauses_does_not_let_the_next_one_of_its_model_pass():
    async def scenario():
        crowd = Tiled()
        crowd.let_go(1, 2, 3, 4)
        async with crowded(crowd, lanes=4) as (batcher, _):
            await asyncio.gather(*submit(batcher, 1, 2, 3, 4, size=LARGE))
            assert [crowd.begun[step : step + 3] for step in range(0, 12, 3)] == [[n] * 3 for n in crowd.begun[::3]]

    run(scenario())


def test_a_run_that_nobody_waits_for_does_not_wait_for_its_turn_to_end():
    async def scenario():
        device, crowd, other = Device(), Tiled(), Crowd()
        batchers = [
            Batcher(name, model, device, limits(lanes=2, max_batch=1), Telemetry())
            for name, model in (("tiled", crowd), ("other", other))
        ]
        for batcher in batchers:
            batcher.start()
        [paused] = submit(batchers[0], 1, size=LARGE)
        await until(lambda: crowd.begun == [1])
        holding = submit(batchers[1], 5, size=LARGE)
        await until(lambda: batchers[1].depth == 1)
        crowd.let_go(1)
        await until(lambda: other.begun == [5])
        paused.cancel()
        await batchers[0].stop()  # Its run has ended, though the device is not free.
        assert not holding[0].done()
        other.let_go(5)
        await holding[0]
        await batchers[1].stop()

    run(scenario())


def test_runs_that_wait_for_each_other_do_not_count_the_wait():
    """Else a queue of large pairs would refuse what there is time for."""

    async def scenario():
        crowd = Crowd()
        async with crowded(crowd, lanes=4, max_queue=99) as (batcher, _):
            began = time.perf_counter()
            tasks = submit(batcher, *range(12), size=LARGE)
            for value in range(12):
                await until(lambda value=value: len(crowd.begun) == value + 1)
                await asyncio.sleep(0.01)
                crowd.let_go(*crowd.begun)
            await asyncio.gather(*tasks)
            taken = time.perf_counter() - began
            [held] = submit(batcher, 20, size=LARGE)
            waiting = submit(batcher, *range(21, 32), size=LARGE)
            await until(lambda: batcher.depth == 11)
            assert batcher.wait_s < 2 * taken
            batcher.check_room(1, time.perf_counter() + taken)
            crowd.let_go(*range(20, 32))
            await asyncio.gather(held, *waiting)

    run(scenario())

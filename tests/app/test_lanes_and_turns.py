"""Several runs of one model side by side that wait for each other or for other models, and how that is counted."""

from __future__ import annotations

import asyncio
import time

from app.batcher import Batcher
from app.engine import Fused
from app.telemetry import Telemetry
from app.turns import Device, Share
from tests.app.test_batcher import limits, run, until
from tests.app.test_batcher_lanes import LARGE, Crowd, crowded, submit


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


def test_a_lane_let_in_for_a_small_pair_runs_no_large_one():
    async def scenario():
        device, crowd = Device(), Crowd()
        batcher = Batcher("test", crowd, device, limits(lanes=2, max_batch=1), Telemetry())
        batcher.start()
        first, second = Share(device), Share(device)
        await first.claim(1.5)
        [leaving] = submit(batcher, 1)
        await until(lambda: batcher.depth == 1)
        [staying] = submit(batcher, 2, size=LARGE)
        await until(lambda: batcher.depth == 2)
        leaving.cancel()
        await until(leaving.done)
        claim = asyncio.create_task(second.claim(1.0))
        await asyncio.sleep(0)
        first.release()
        await claim
        for _ in range(20):
            await asyncio.sleep(0)
        assert batcher.depth == 1
        second.release()
        crowd.let_go(2)
        await staying
        await batcher.stop()

    run(scenario())

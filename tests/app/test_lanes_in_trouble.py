"""Several runs of one model side by side when some fail, hang, or are stopped."""

from __future__ import annotations

import asyncio
import threading

import pytest

from app.batcher import Batcher
from app.errors import NotReadyError, RunFailedError
from app.telemetry import Telemetry
from app.turns import Device
from tests.app.test_batcher import POISON, job, limits, metric, run, until
from tests.app.test_batcher_lanes import Crowd, crowded, submit
from tests.app.test_batcher_together import three


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
        assert not batcher.healthy
        leaving[0].cancel()
        await asyncio.gather(*leaving, return_exceptions=True)

    run(scenario())

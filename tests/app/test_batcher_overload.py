"""Deadlines in the queue, requests that could not be served in time, and several models on one device."""

from __future__ import annotations

import asyncio
import time

import pytest

from app.batcher import Batcher
from app.errors import OverloadedError
from app.telemetry import Telemetry
from app.turns import Device
from tests.app.test_batcher import Runner, hold_one, job, limits, metric, run, started, until

HOUR = 3600.0


def in_s(seconds: float) -> float:
    return time.perf_counter() + seconds


async def slow_run(batcher: Batcher, runner: Runner, size=(4, 4)) -> float:
    """Lets one run take a while and returns for how long its caller waited."""
    begun = time.perf_counter()
    runner.held, before = True, len(runner.batches)
    task = asyncio.create_task(batcher.submit(job(9, size)))
    await until(lambda: len(runner.batches) > before)
    await asyncio.sleep(0.02)
    runner.permits.release()
    await task
    return time.perf_counter() - begun


def test_a_pair_whose_time_is_over_costs_no_run():
    async def scenario():
        runner = Runner()
        async with started(runner, max_batch=1) as (batcher, telemetry):
            first = await hold_one(batcher, runner)
            expires_at = in_s(0.01)
            late = asyncio.create_task(batcher.submit(job(1), expires_at=expires_at))
            patient = asyncio.create_task(batcher.submit(job(2), expires_at=in_s(HOUR)))
            await until(lambda: batcher.depth == 2 and time.perf_counter() > expires_at)
            runner.permits.release(10)
            with pytest.raises(TimeoutError):
                await late
            await asyncio.gather(first, patient)
            assert runner.batches == [[0], [2]]
            assert metric(telemetry, "pairfuse_expired_total") == 1
            assert metric(telemetry, "pairfuse_queue_depth") == 0

    run(scenario())


def test_a_request_that_cannot_be_reached_in_time_is_refused_at_once():
    async def scenario():
        runner = Runner()
        async with started(runner, max_batch=1, max_queue=99) as (batcher, telemetry):
            taken = await slow_run(batcher, runner)
            first = asyncio.create_task(batcher.submit(job(0)))
            waiting = [asyncio.create_task(batcher.submit(job(value))) for value in range(1, 21)]
            await until(lambda: batcher.depth == 20)
            # Twenty runs, each of which took 20 ms at the least.
            with pytest.raises(OverloadedError, match="20 pairs before this one") as caught:
                await batcher.submit(job(50), expires_at=in_s(0.1))
            assert 1 <= int(caught.value.headers["Retry-After"]) <= 60
            assert batcher.depth == metric(telemetry, "pairfuse_queue_depth") == 20
            # With time enough it is let in.
            last = asyncio.create_task(batcher.submit(job(51), expires_at=in_s(HOUR)))
            await until(lambda: batcher.depth == 21)
            assert batcher.wait_s > 19 * 0.02
            assert batcher.wait_s < 22 * taken
            runner.permits.release(100)
            await asyncio.gather(first, last, *waiting)

    run(scenario())


def test_an_idle_model_refuses_nobody_however_slow_it_was():
    async def scenario():
        runner = Runner()
        async with started(runner) as (batcher, _):
            for _ in range(3):
                await slow_run(batcher, runner)
            runner.held = False
            batcher.check_room(1, in_s(1e-4))
            batcher.check_room(3, in_s(-1.0))
            assert batcher.wait_s == 0
            assert (await batcher.submit(job(5), expires_at=in_s(HOUR)))[0][0].luma[0, 0] == 5

    run(scenario())


def test_before_the_first_run_a_queue_refuses_by_number_only():
    async def scenario():
        runner = Runner()
        async with started(runner, max_queue=2) as (batcher, _):
            first = await hold_one(batcher, runner)
            tasks = [asyncio.create_task(batcher.submit(job(v), expires_at=in_s(HOUR))) for v in (1, 2)]
            await until(lambda: batcher.depth == 2)
            batcher._limits = limits(max_queue=3)
            batcher.check_room(1, in_s(1e-3))
            with pytest.raises(OverloadedError, match="bound of 3") as caught:
                batcher.check_room(2, in_s(HOUR))
            assert caught.value.headers == {"Retry-After": "1"}
            runner.permits.release(10)
            await asyncio.gather(first, *tasks)

    run(scenario())


def test_large_pairs_count_for_more_than_small_ones():
    async def scenario():
        runner = Runner()
        async with started(runner, max_batch=1, max_queue=99) as (batcher, _):
            await slow_run(batcher, runner)
            first = asyncio.create_task(batcher.submit(job(0)))
            large = asyncio.create_task(batcher.submit(job(1, (400, 400))))  # Ten thousand times the pixels.
            await until(lambda: batcher.depth == 1)
            with pytest.raises(OverloadedError, match="the 1 pairs before"):
                batcher.check_room(1, in_s(150.0))
            batcher.check_room(1, in_s(HOUR))
            runner.permits.release(10)
            await asyncio.gather(first, large)

    run(scenario())


def test_a_busy_size_does_not_keep_a_rare_one_waiting():
    async def scenario():
        runner = Runner()
        async with started(runner, max_batch=2, max_queue=99) as (batcher, _):
            first = await hold_one(batcher, runner)
            busy = [asyncio.create_task(batcher.submit(job(1))) for _ in range(3)]
            rare = asyncio.create_task(batcher.submit(job(7, (5, 5))))
            busy += [asyncio.create_task(batcher.submit(job(1))) for _ in range(9)]
            await until(lambda: batcher.depth == 13)
            runner.permits.release(100)
            await asyncio.gather(first, rare, *busy)
            # Two runs hold those of the busy size that came first, and then it is its turn.
            assert runner.batches.index([7]) == 3

    run(scenario())


def pair_of_batchers(**changes):
    device, runners = Device(), [Runner(), Runner()]
    batchers = [
        Batcher(name, runner, device, limits(**changes), Telemetry())
        for name, runner in zip("ab", runners, strict=True)
    ]
    for batcher in batchers:
        batcher.start()
    return batchers, runners


@pytest.mark.parametrize(("max_pixels", "together"), [(1000, True), (16, False)])
def test_small_runs_of_two_models_go_side_by_side_and_large_ones_in_turn(max_pixels, together):
    async def scenario():
        (first, second), (left, right) = pair_of_batchers(max_pixels=max_pixels)
        holding = await hold_one(first, left)
        right.held = True
        task = asyncio.create_task(second.submit(job(5)))
        if together:
            await until(lambda: right.batches == [[5]])
        else:
            await until(lambda: second.depth == 1)
            assert right.batches == []
        left.permits.release(9)
        right.permits.release(9)
        await asyncio.gather(holding, task)
        await asyncio.gather(first.stop(), second.stop())

    run(scenario())


def test_a_model_that_waits_for_the_device_takes_what_comes_meanwhile():
    async def scenario():
        (first, second), (left, right) = pair_of_batchers(max_pixels=64)
        holding = asyncio.create_task(first.submit(job(0, (8, 8))))
        left.held = True
        await until(lambda: left.batches == [[0]])
        tasks = [asyncio.create_task(second.submit(job(value))) for value in (1, 2, 3)]
        await until(lambda: second.depth == 3)
        tasks[1].cancel()
        await until(lambda: second.depth == 2)
        left.permits.release(9)
        await asyncio.gather(holding, tasks[0], tasks[2])
        assert right.batches == [[1, 3]]
        await asyncio.gather(first.stop(), second.stop())

    run(scenario())

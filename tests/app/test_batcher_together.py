"""Several pairs of one request: let in together, given up together."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest

from app.batcher import Batcher
from app.engine import Job
from app.errors import OverloadedError, RunFailedError
from tests.app.test_batcher import POISON, Runner, hold_one, job, metric, run, started, until

DEPTH = "pairfuse_queue_depth"


def three(*values: float) -> list[Job]:
    return [job(value) for value in values or (1, 2, 3)]


async def queued(batcher: Batcher, jobs: list[Job]) -> asyncio.Task:
    """Submits jobs behind a run that has begun and returns once all of them wait."""
    before = batcher.depth
    task = asyncio.create_task(batcher.submit(*jobs))
    await until(lambda: batcher.depth == before + len(jobs))
    return task


@pytest.mark.parametrize(("max_batch", "batches"), [(1, [[1], [2], [3]]), (2, [[1, 2], [3]]), (4, [[1, 2, 3]])])
def test_results_come_in_order_and_pairs_of_one_run_waited_equally_long(max_batch, batches):
    async def scenario():
        runner = Runner()
        async with started(runner, max_batch=max_batch) as (batcher, telemetry):
            results = await batcher.submit(*three())
            assert [fused.luma[0, 0] for fused, _ in results] == [1, 2, 3]
            assert runner.batches == batches
            waits = [waited for _, waited in results]
            assert waits == sorted(waits)
            assert len(set(waits)) == len(batches)
            assert metric(telemetry, DEPTH) == 0

    run(scenario())


@pytest.mark.parametrize(("waiting", "fits"), [(0, True), (1, True), (2, False), (3, False)])
def test_the_queue_takes_all_of_them_or_none(waiting, fits):
    async def scenario():
        runner = Runner()
        async with started(runner, max_queue=4) as (batcher, telemetry):
            tasks = [await hold_one(batcher, runner)]
            tasks += [await queued(batcher, [job(value)]) for value in range(10, 10 + waiting)]
            if fits:
                tasks.append(await queued(batcher, three()))
            else:
                with pytest.raises(OverloadedError, match=f"{waiting} pairs wait for test; 3 more .* bound of 4"):
                    await batcher.submit(*three())
            assert batcher.depth == metric(telemetry, DEPTH) == waiting + 3 * fits
            runner.permits.release(10)
            await asyncio.gather(*tasks)
            assert any(1 in batch for batch in runner.batches) == fits
            assert batcher.depth == metric(telemetry, DEPTH) == 0

    run(scenario())


def test_a_queue_smaller_than_a_request_takes_it_when_empty():
    async def scenario():
        runner = Runner()
        async with started(runner, max_queue=1) as (batcher, _):
            first = await hold_one(batcher, runner)
            large = await queued(batcher, three())
            with pytest.raises(OverloadedError):
                await batcher.submit(job(9))
            runner.permits.release(10)
            await asyncio.gather(first, large)
            assert runner.batches == [[0], [1, 2, 3]]

    run(scenario())


def test_a_caller_that_leaves_the_queue_takes_all_of_them_along():
    async def scenario():
        runner = Runner()
        async with started(runner) as (batcher, telemetry):
            first = await hold_one(batcher, runner)
            task = await queued(batcher, three())
            staying = await queued(batcher, three(4, 5, 6))
            task.cancel()
            await until(task.done)
            assert batcher.depth == metric(telemetry, DEPTH) == 3
            runner.permits.release(10)
            await asyncio.gather(first, staying)
            assert runner.batches == [[0], [4, 5, 6]]

    run(scenario())


def test_a_caller_that_leaves_between_two_runs_abandons_the_rest():
    async def scenario():
        runner = Runner()
        runner.held = True
        async with started(runner, max_batch=1) as (batcher, telemetry):
            task = asyncio.create_task(batcher.submit(*three()))
            runner.permits.release()
            await until(lambda: runner.batches == [[1], [2]])
            task.cancel()
            await until(task.done)
            assert [run.ended for run in runner.runs] == [False, True]
            assert batcher.depth == metric(telemetry, DEPTH) == 0
            runner.permits.release(10)
            await batcher.submit(job(7))
            assert runner.batches == [[1], [2], [7]]

    run(scenario())


@pytest.mark.parametrize(
    ("max_batch", "values", "batches"),
    [
        (1, (POISON, 2, 3), [[POISON]]),
        (1, (1, POISON, 3), [[1], [POISON]]),
        (3, (POISON, 2, 3), [[POISON, 2, 3], [POISON]]),
        (3, (1, 2, POISON), [[1, 2, POISON], [1], [2], [POISON]]),
    ],
)
def test_if_one_fails_the_others_cost_no_further_run(max_batch, values, batches):
    async def scenario():
        runner = Runner()
        async with started(runner, max_batch=max_batch) as (batcher, telemetry):
            with pytest.raises(RunFailedError):
                await batcher.submit(*three(*values))
            assert batcher.depth == metric(telemetry, DEPTH) == 0
            assert batcher.healthy
            await batcher.submit(job(7))
            assert runner.batches == [*batches, [7]]

    run(scenario())


def test_a_failure_harms_no_other_request_of_the_run():
    async def scenario():
        runner = Runner()
        async with started(runner, max_batch=4) as (batcher, _):
            first = await hold_one(batcher, runner)
            failing, other = await queued(batcher, three(POISON, 2, 3)), await queued(batcher, [job(4)])
            runner.permits.release(10)
            results = await asyncio.gather(first, failing, other, return_exceptions=True)
            assert isinstance(results[1], RunFailedError)
            assert results[2][0][0].luma[0, 0] == 4
            assert runner.batches == [[0], [POISON, 2, 3, 4], [POISON], [4]]

    run(scenario())


def test_the_time_of_all_of_them_ends_together_without_a_warning():
    async def scenario():
        warnings = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: warnings.append(context))
        runner = Runner()
        async with started(runner) as (batcher, telemetry):
            first = await hold_one(batcher, runner)
            expires_at = time.perf_counter() + 0.005
            late = asyncio.create_task(batcher.submit(*three(), expires_at=expires_at))
            await until(lambda: batcher.depth == 3 and time.perf_counter() > expires_at)
            runner.permits.release(10)
            with pytest.raises(TimeoutError):
                await late
            await first
            assert metric(telemetry, "pairfuse_expired_total") == 3
        del late
        gc.collect()
        assert warnings == []

    run(scenario())

"""Failing models: check runs, restarts, and a worker that dies."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from app.errors import NotReadyError, OutOfMemoryError, RunFailedError
from tests.app.test_batcher import POISON, Runner, hold_one, job, metric, run, started, until


@asynccontextmanager
async def failing(runner: Runner, **changes):
    """A batcher whose model has just failed three times in a row."""
    runner.broken = True
    async with started(runner, **changes) as (batcher, telemetry):
        for _ in range(3):
            assert batcher.healthy
            with pytest.raises(RunFailedError):
                await batcher.submit(job(1))
        yield batcher, telemetry


def up(telemetry) -> float:
    return metric(telemetry, "pairfuse_model_up")


def restarts(telemetry, result: str) -> float:
    name = f'pairfuse_restarts_total{{model="test",result="{result}"}}'
    return metric(telemetry, name) if name in telemetry.render().decode() else 0.0


def test_a_broken_model_is_restarted():
    async def scenario():
        runner = Runner()
        async with failing(runner) as (batcher, telemetry):
            await until(lambda: batcher.healthy)
            assert runner.restarts == 1
            assert (restarts(telemetry, "ok"), restarts(telemetry, "failed"), up(telemetry)) == (1, 0, 1)
            assert (await batcher.submit(job(5)))[0][0].luma[0, 0] == 5

    run(scenario())


def test_poisonous_pairs_restart_nothing():
    async def scenario():
        runner = Runner()
        async with started(runner) as (batcher, telemetry):
            for _ in range(7):
                with pytest.raises(RunFailedError):
                    await batcher.submit(job(POISON))
            await until(lambda: batcher.healthy)
            assert runner.restarts == 0
            assert (await batcher.submit(job(5)))[0][0].luma[0, 0] == 5
            assert "pairfuse_restarts_total{" not in telemetry.render().decode()

    run(scenario())


def test_while_restarts_fail_callers_are_turned_away_and_told_when_to_come_back():
    async def scenario():
        runner = Runner()
        runner.beyond_repair = True
        async with failing(runner, restart_pause_s=20.0) as (batcher, telemetry):
            await until(lambda: restarts(telemetry, "failed") == 1)
            assert not batcher.healthy
            assert up(telemetry) == 0
            with pytest.raises(NotReadyError, match="test fails and must recover") as caught:
                await batcher.submit(job(1))
            assert int(caught.value.headers["Retry-After"]) in {19, 20}
            assert batcher.depth == 0

    run(scenario())


def test_pairs_that_wait_through_a_failed_restart_are_turned_away_too():
    async def scenario():
        runner = Runner()
        runner.beyond_repair = True
        async with started(runner, restart_pause_s=20.0, max_batch=1) as (batcher, telemetry):
            first = await hold_one(batcher, runner)
            runner.broken = True
            waiting = [asyncio.create_task(batcher.submit(job(value))) for value in range(1, 6)]
            await until(lambda: batcher.depth == 5)
            runner.permits.release(100)
            results = await asyncio.gather(first, *waiting, return_exceptions=True)
            assert [type(result) for result in results] == [RunFailedError] * 3 + [NotReadyError] * 3
            assert batcher.depth == metric(telemetry, "pairfuse_queue_depth") == 0

    run(scenario())


def test_restarts_go_on_until_one_works():
    async def scenario():
        runner = Runner()
        runner.beyond_repair = True
        async with failing(runner) as (batcher, telemetry):
            await until(lambda: restarts(telemetry, "failed") >= 3)
            runner.beyond_repair = False
            await until(lambda: batcher.healthy)
            assert restarts(telemetry, "ok") == 1
            assert (await batcher.submit(job(5)))[0][0].luma[0, 0] == 5

    run(scenario())


def test_pauses_double_up_to_a_minute(monkeypatch):
    pauses = []

    async def scenario():
        real_sleep = asyncio.sleep

        async def sleep(seconds):
            if seconds >= 1:
                pauses.append(seconds)
            await real_sleep(0)

        monkeypatch.setattr("app.health.asyncio.sleep", sleep)
        runner = Runner()
        runner.beyond_repair = True
        async with failing(runner, restart_pause_s=1.0):
            await until(lambda: len(pauses) >= 8)

    run(scenario())
    assert pauses[:8] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_too_little_memory_is_no_sign_of_a_broken_model():
    async def scenario():
        runner = Runner()
        real_run = runner.run

        def run_out(jobs, run):
            real_run(jobs, run)
            if any(job.a[0, 0] == 2 for job in jobs):
                raise OutOfMemoryError(4, 4)
            return real_run(jobs, run)

        runner.run = run_out
        async with started(runner) as (batcher, telemetry):
            first = await hold_one(batcher, runner)
            tasks = [asyncio.create_task(batcher.submit(job(value))) for value in (1, 2, 3)]
            await until(lambda: batcher.depth == 3)
            runner.permits.release(100)
            results = await asyncio.gather(first, *tasks, return_exceptions=True)
            assert [isinstance(result, OutOfMemoryError) for result in results] == [False, False, True, False]
            for _ in range(5):
                with pytest.raises(OutOfMemoryError):
                    await batcher.submit(job(2))
            assert batcher.healthy
            assert "pairfuse_run_failures_total{" not in telemetry.render().decode()

    run(scenario())


def test_a_worker_that_dies_fails_its_own_batch_and_comes_back():
    async def scenario():
        runner = Runner()
        async with started(runner) as (batcher, telemetry):
            observe = telemetry.batch_size.observe

            def fail_once(value):
                telemetry.batch_size.observe = observe
                raise OSError("unforeseen")

            telemetry.batch_size.observe = fail_once
            with pytest.raises(RunFailedError):
                await batcher.submit(job(1))
            assert not batcher.healthy
            assert up(telemetry) == 0
            await until(lambda: batcher.healthy)
            assert (await batcher.submit(job(5)))[0][0].luma[0, 0] == 5

    run(scenario())


def test_pairs_that_wait_while_a_worker_dies_are_served():
    async def scenario():
        runner = Runner()
        async with started(runner, max_batch=1) as (batcher, telemetry):
            first = await hold_one(batcher, runner)
            tasks = [asyncio.create_task(batcher.submit(job(value))) for value in (1, 2)]
            await until(lambda: batcher.depth == 2)
            observe = telemetry.batch_size.observe

            def fail_once(value):
                telemetry.batch_size.observe = observe
                raise OSError("unforeseen")

            telemetry.batch_size.observe = fail_once
            runner.permits.release(100)
            results = await asyncio.gather(first, *tasks, return_exceptions=True)
            assert isinstance(results[1], RunFailedError)
            assert results[2][0][0].luma[0, 0] == 2

    run(scenario())

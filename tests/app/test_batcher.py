from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager

import numpy as np
import pytest

from app.batcher import Batcher
from app.engine import Fused, Job
from app.errors import OverloadedError, RunFailedError
from app.runs import Run
from app.telemetry import Telemetry
from app.turns import Device
from app.waiting import BatchLimits

POISON = -1.0


def job(value: float, size: tuple[int, int] = (4, 4)) -> Job:
    plane = np.full(size, value, np.float32)
    return Job(plane, plane)


class Runner:
    """Stands in for a model: records each batch, fails on poison, waits for permission if told to."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.permits = threading.Semaphore(0)
        self.held = False
        self.broken = False
        self.restarts = 0
        self.runs: list[Run] = []
        self.beyond_repair = False

    def check(self):
        self.run([job(0.5)], Run())

    def reopen(self):
        self.restarts += 1
        if self.beyond_repair:
            raise RuntimeError("no session")
        self.broken = False

    def run(self, jobs, run):
        values = [float(job.a[0, 0]) for job in jobs]
        self.runs.append(run)
        self.batches.append(values)
        if self.held:
            assert self.permits.acquire(timeout=20)
        if self.broken or POISON in values:
            raise RuntimeError("poison")
        return [Fused(job.a, 0.0, 0.0) for job in jobs]


def limits(**changes) -> BatchLimits:
    values = {
        "max_queue": 8,
        "max_batch": 4,
        "max_pixels": 10_000,
        "max_wait_s": 0.0,
        "restart_pause_s": 0.01,
    }
    return BatchLimits(**(values | changes))


@asynccontextmanager
async def started(runner: Runner, **changes):
    telemetry = Telemetry()
    batcher = Batcher("test", runner, Device(), limits(**changes), telemetry)
    batcher.start()
    try:
        yield batcher, telemetry
    finally:
        runner.permits.release(100)
        await batcher.stop()


def run(scenario: Coroutine) -> None:
    asyncio.run(asyncio.wait_for(scenario, 30))


async def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition; the time limit of ``run`` bounds it."""
    while not condition():
        await asyncio.sleep(0.001)


def metric(telemetry: Telemetry, name: str) -> float:
    line = next(line for line in telemetry.render().decode().splitlines() if line.startswith(name))
    return float(line.split()[-1])


async def hold_one(batcher: Batcher, runner: Runner) -> asyncio.Task:
    """Submits a job and returns once its run has begun; jobs submitted from then on have to queue."""
    runner.held = True
    task = asyncio.create_task(batcher.submit(job(0)))
    await until(lambda: len(runner.batches) == 1)
    return task


def test_each_caller_gets_its_own_result():
    async def scenario():
        async with started(Runner()) as (batcher, _):
            results = await asyncio.gather(*(batcher.submit(job(value)) for value in range(1, 8)))
            assert [fused.luma[0, 0] for [(fused, _)] in results] == list(range(1, 8))
            assert all(waited >= 0 for [(_, waited)] in results)

    run(scenario())


def test_waiting_pairs_of_one_size_run_together_oldest_first():
    async def scenario():
        runner = Runner()
        async with started(runner) as (batcher, telemetry):
            first = await hold_one(batcher, runner)
            sizes = [(4, 4), (5, 4), (4, 4), (4, 4), (5, 4), (4, 4), (4, 4)]
            tasks = [asyncio.create_task(batcher.submit(job(i + 1, size))) for i, size in enumerate(sizes)]
            await until(lambda: batcher.depth == 7)
            assert metric(telemetry, "pairfuse_queue_depth") == 7
            runner.permits.release(10)
            await asyncio.gather(first, *tasks)
            assert runner.batches == [[0], [1, 3, 4, 6], [2, 5], [7]]
            assert metric(telemetry, "pairfuse_queue_depth") == 0

    run(scenario())


def test_a_batch_holds_no_more_pixels_than_allowed():
    async def scenario():
        runner = Runner()
        async with started(runner, max_pixels=40) as (batcher, _):
            first = await hold_one(batcher, runner)
            small = [asyncio.create_task(batcher.submit(job(value))) for value in (1, 2, 3)]
            large = [asyncio.create_task(batcher.submit(job(value, (50, 50)))) for value in (4, 5)]
            await until(lambda: batcher.depth == 5)
            runner.permits.release(10)
            await asyncio.gather(first, *small, *large)
            assert runner.batches == [[0], [1, 2], [3], [4], [5]]

    run(scenario())


def test_the_window_collects_late_pairs_and_closes_when_the_batch_is_full():
    async def scenario():
        runner = Runner()
        async with started(runner, max_wait_s=1000.0, max_batch=3) as (batcher, _):
            tasks = []
            for value in (1, 2, 3):
                tasks.append(asyncio.create_task(batcher.submit(job(value))))
                await until(lambda: batcher.depth in {0, len(tasks)})
            await asyncio.gather(*tasks)
            assert runner.batches == [[1, 2, 3]]

    run(scenario())


def test_the_window_closes_by_time():
    async def scenario():
        runner = Runner()
        async with started(runner, max_wait_s=0.01) as (batcher, _):
            await batcher.submit(job(1))
            assert runner.batches == [[1]]

    run(scenario())


def test_a_full_queue_turns_the_next_away_and_recovers():
    async def scenario():
        runner = Runner()
        async with started(runner, max_queue=2) as (batcher, _):
            first = await hold_one(batcher, runner)
            tasks = [asyncio.create_task(batcher.submit(job(value))) for value in (1, 2)]
            await until(lambda: batcher.depth == 2)
            with pytest.raises(OverloadedError, match="2 pairs wait"):
                await batcher.submit(job(3))
            runner.permits.release(10)
            await asyncio.gather(first, *tasks)
            assert (await batcher.submit(job(4)))[0][0].luma[0, 0] == 4

    run(scenario())


def test_a_poisonous_pair_fails_alone():
    async def scenario():
        runner = Runner()
        async with started(runner) as (batcher, telemetry):
            first = await hold_one(batcher, runner)
            tasks = [asyncio.create_task(batcher.submit(job(value))) for value in (1, POISON, 2)]
            await until(lambda: batcher.depth == 3)
            runner.permits.release(10)
            results = await asyncio.gather(first, *tasks, return_exceptions=True)
            assert isinstance(results[2], RunFailedError)
            assert [result[0][0].luma[0, 0] for index, result in enumerate(results) if index != 2] == [0, 1, 2]
            assert runner.batches == [[0], [1, POISON, 2], [1], [POISON], [2]]
            assert metric(telemetry, "pairfuse_run_failures_total") == 2
            assert batcher.healthy

    run(scenario())


def test_a_caller_that_left_costs_no_run():
    async def scenario():
        runner = Runner()
        async with started(runner) as (batcher, telemetry):
            first = await hold_one(batcher, runner)
            leaving, staying = (asyncio.create_task(batcher.submit(job(value))) for value in (1, 2))
            await until(lambda: batcher.depth == 2)
            leaving.cancel()
            await until(leaving.done)
            assert batcher.depth == 1
            assert metric(telemetry, "pairfuse_queue_depth") == 1
            runner.permits.release(10)
            await asyncio.gather(first, staying)
            assert runner.batches == [[0], [2]]

    run(scenario())


def test_a_caller_that_leaves_during_its_run_harms_nobody():
    async def scenario():
        runner = Runner()
        async with started(runner) as (batcher, _):
            first = await hold_one(batcher, runner)
            first.cancel()
            await until(lambda: runner.runs[0].ended)
            runner.permits.release(10)
            assert (await batcher.submit(job(7)))[0][0].luma[0, 0] == 7

    run(scenario())


def test_a_run_that_its_callers_left_may_end_early_and_is_no_failure():
    async def scenario():
        class Tiles(Runner):
            """A long run that looks up now and then, as one in tiles does."""

            ended = 0

            def run(self, jobs, run):
                fused = super().run(jobs, run)
                if run.ended:
                    self.ended += 1
                run.between_tiles()
                return fused

        runner = Tiles()
        async with started(runner) as (batcher, telemetry):
            for _ in range(4):
                runner.batches.clear()
                task = await hold_one(batcher, runner)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(task, 0.001)
                runner.permits.release()
            runner.held = False
            assert (await batcher.submit(job(7)))[0][0].luma[0, 0] == 7
            assert not runner.runs[-1].ended
            assert runner.ended == 4
            assert batcher.healthy
            assert "pairfuse_run_failures_total{" not in telemetry.render().decode()

    run(scenario())


def test_a_deadline_takes_the_job_out_of_the_queue():
    async def scenario():
        runner = Runner()
        async with started(runner) as (batcher, _):
            first = await hold_one(batcher, runner)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(batcher.submit(job(1)), 0.001)
            assert batcher.depth == 0
            runner.permits.release(10)
            await first
            assert runner.batches == [[0]]

    run(scenario())


def test_it_is_not_healthy_unless_its_worker_lives():
    async def scenario():
        batcher = Batcher("test", Runner(), Device(), limits(), Telemetry())
        assert not batcher.healthy
        batcher.start()
        assert batcher.healthy
        await batcher.stop()
        assert not batcher.healthy

    run(scenario())

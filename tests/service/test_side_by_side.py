"""Several runs of one model at once, in a real server process."""

from __future__ import annotations

import concurrent.futures
import signal

import pytest

# Rounds of the moody model's loop, in thousands: long enough that a test can act meanwhile.
LONG = 60
BUSY = "pairfuse_batch_size_count"


@pytest.fixture
def two_lanes(start_service):
    return start_service(threads=2, max_runs=2)


@pytest.fixture
def callers():
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        yield pool


def test_a_long_run_does_not_hold_up_short_ones(two_lanes, callers, pair):
    alone = two_lanes.fuse(*pair, model="moody").content
    before = two_lanes.metric(BUSY)
    long = callers.submit(two_lanes.fuse, *pair, model="moody", delay=20 * LONG)
    two_lanes.until(lambda: two_lanes.metric(BUSY) == before + 1)
    for _ in range(5):
        assert two_lanes.fuse(*pair, model="moody").content == alone
    assert not long.done()
    assert long.result().content == alone


def test_many_callers_get_the_picture_that_one_gets_alone(two_lanes, callers, pair):
    other = pair[::-1]
    models = ("plain", "coded", "moody")
    expected = {(name, files): two_lanes.fuse(*files, model=name).content for name in models for files in (pair, other)}
    asked = [*expected] * 6
    answers = callers.map(lambda key: two_lanes.fuse(*key[1], model=key[0]).content, asked)
    assert list(answers) == [expected[key] for key in asked]


def test_both_runs_end_well_when_the_service_is_stopped(two_lanes, callers, pair):
    running = [callers.submit(two_lanes.fuse, *pair, model="moody", delay=3 * LONG) for _ in range(3)]
    two_lanes.until(lambda: two_lanes.metric(BUSY) == 2 and two_lanes.metric("pairfuse_queue_depth") == 1)
    two_lanes.process.send_signal(signal.SIGTERM)
    assert [future.result().status_code for future in running] == [200] * 3
    assert two_lanes.process.wait(60) == 0


def test_a_failing_run_costs_the_one_beside_it_nothing(two_lanes, callers, pair):
    long = callers.submit(two_lanes.fuse, *pair, model="moody", delay=5 * LONG)
    two_lanes.until(lambda: two_lanes.metric(BUSY) == 1)
    assert two_lanes.fuse(*pair, model="moody", fault=1).status_code == 500
    assert two_lanes.fuse(*pair, model="moody").status_code == 200
    assert long.result().status_code == 200
    assert two_lanes.metric('pairfuse_run_failures_total{model="moody"}') == 1

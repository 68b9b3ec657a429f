from __future__ import annotations

import pytest

from app.pace import Pace, WorkTime, retry_after


def test_before_the_first_run_nothing_is_expected():
    assert Pace().usual_s(10**9) == Pace().least_s(10**9) == 0


def test_the_usual_pace_is_the_mean_and_the_least_time_that_of_the_fastest_run():
    pace = Pace()
    pace.note(1000, 1.0)
    pace.note(3000, 1.0)
    assert pace.usual_s(2000) == pytest.approx(1.0)
    assert pace.least_s(3000) == pytest.approx(1.0)


def test_only_the_last_eight_runs_count():
    pace = Pace()
    pace.note(10**9, 0.001)
    for _ in range(8):
        pace.note(100, 1.0)
    assert pace.usual_s(200) == pace.least_s(200) == pytest.approx(2.0)


@pytest.mark.parametrize(("seconds", "value"), [(-3.0, 1), (0.0, 1), (0.2, 1), (1.01, 2), (59.5, 60), (10**6, 60)])
def test_retry_after_is_whole_seconds_within_bounds(seconds, value):
    assert retry_after(seconds) == value


class Hands:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_time_of_all_lanes_adds_up_to_that_of_the_model():
    hands = Hands()
    time = WorkTime(hands)
    hands.now += 7.0  # Nothing is at work.
    time.begin()
    first = time.now()
    hands.now += 2.0
    time.begin()
    second = time.now()
    hands.now += 4.0
    taken = time.now() - first
    time.end()
    hands.now += 1.0
    taken += time.now() - second
    time.end()
    hands.now += 9.0
    assert taken == 7.0
    assert time.now() - first == 5.0

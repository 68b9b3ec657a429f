from __future__ import annotations

import pytest

from app.errors import DrainingError, OverloadedError
from app.gate import Gate
from app.telemetry import Telemetry


@pytest.fixture
def gate():
    return Gate(2, 1000, 5000, Telemetry().inflight)


def test_places_are_bounded_and_given_back(gate):
    with gate.admit(), gate.admit():
        assert not gate.idle
        with pytest.raises(OverloadedError), gate.admit():
            pass
    assert gate.idle
    with gate.admit():
        pass


def test_a_failed_request_gives_its_place_back(gate):
    with pytest.raises(ZeroDivisionError), gate.admit():
        raise ZeroDivisionError
    assert gate.idle


def test_pixels_are_bounded_but_one_pair_always_passes(gate):
    with gate.hold_pixels(5000), pytest.raises(OverloadedError, match="5000 pixels"), gate.hold_pixels(1):
        pass
    with gate.hold_pixels(600), gate.hold_pixels(400), pytest.raises(OverloadedError), gate.hold_pixels(1):
        pass


def test_draining_turns_new_requests_away_and_keeps_old_ones(gate):
    with gate.upload():
        gate.drain()
        with pytest.raises(DrainingError), gate.upload():
            pass
        with gate.admit():
            pass
        assert not gate.idle
    assert gate.idle
    assert gate.draining


def test_uploads_alone_take_no_places(gate):
    with gate.upload(), gate.upload(), gate.upload(), gate.admit(), gate.admit(), pytest.raises(OverloadedError):
        gate.upload().__enter__()


def test_all_bodies_together_are_bounded_but_one_always_passes(gate):
    with gate.upload() as first:
        first(9000)
        with gate.upload() as second, pytest.raises(OverloadedError, match="pass 5000 bytes"):
            second(1)
    with gate.upload() as third:
        third(4000)
        with gate.upload() as fourth:
            fourth(1000)
            with pytest.raises(OverloadedError):
                fourth(1)


def test_unsent_answers_count_with_the_bodies_but_are_never_refused(gate):
    with gate.answer(3000), gate.answer(4000), gate.upload() as first:
        with pytest.raises(OverloadedError, match="unsent answers"):
            first(1)
        with gate.answer(9000):
            pass
    with gate.upload() as second:
        second(5000)


@pytest.mark.parametrize(("wait_s", "header"), [(0.0, "1"), (2.4, "3"), (1e9, "60")])
def test_every_refusal_says_when_to_come_back(gate, wait_s, header):
    gate.ask_for_waits(lambda: wait_s)
    refusals = []
    with gate.admit(), gate.admit(), pytest.raises(OverloadedError) as places, gate.admit():
        pass
    refusals.append(places)
    with gate.hold_pixels(1), pytest.raises(OverloadedError) as pixels, gate.hold_pixels(1000):
        pass
    refusals.append(pixels)
    with gate.upload() as first:
        first(1)
        with gate.upload() as second, pytest.raises(OverloadedError) as body:
            second(5000)
    refusals.append(body)
    assert [refusal.value.headers for refusal in refusals] == [{"Retry-After": header}] * 3

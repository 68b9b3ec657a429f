"""Which pairs run next."""

from __future__ import annotations

import math

import numpy as np
import pytest

from app.engine import Job
from app.waiting import BatchLimits, Entry, Waiting

SMALL, LARGE = (4, 4), (20, 20)


def queue(*arrivals, **limits):
    """Returns a queue of pairs (arrival time, size)."""
    values = {"max_queue": 99, "max_batch": 3, "max_pixels": 400, "max_wait_s": 10.0}
    waiting = Waiting(BatchLimits(**(values | limits)))
    for at, size in arrivals:
        plane = np.zeros(size, np.float32)
        waiting.add(Entry(Job(plane, plane), None, "", at))
    return waiting


def due(waiting, now):
    return [entry.queued_at for entry in waiting.due(now)]


def test_nothing_is_due_without_pairs():
    assert due(queue(), 5.0) == []
    assert queue().closes_at == math.inf


def test_the_window_begins_with_the_first_pair():
    waiting = queue((5.0, SMALL), (9.0, SMALL))
    assert waiting.closes_at == 15.0
    assert due(waiting, 14.9) == []
    assert due(waiting, 15.0) == [5.0, 9.0]


def test_a_full_group_does_not_wait():
    assert due(queue((1.0, SMALL), (2.0, SMALL), (3.0, SMALL), (4.0, SMALL)), 4.0) == [1.0, 2.0, 3.0]
    assert due(queue((1.0, LARGE)), 1.0) == [1.0]


def test_a_full_group_goes_ahead_while_the_oldest_pair_waits_for_company():
    waiting = queue((0.0, (5, 5)), (1.0, SMALL), (2.0, SMALL), (3.0, SMALL))
    assert due(waiting, 9.9) == [1.0, 2.0, 3.0]
    # But not for ever, however many of them come.
    assert due(waiting, 10.0) == [0.0]


def test_of_full_groups_the_one_with_the_oldest_pair_goes_first():
    waiting = queue((0.0, SMALL), (1.0, LARGE), (2.0, SMALL), (3.0, SMALL))
    assert due(waiting, 3.0) == [0.0, 2.0, 3.0]
    for entry in waiting.due(3.0):
        waiting.remove(entry)
    assert due(waiting, 3.0) == [1.0]


def test_pixels_are_counted():
    waiting = queue((0.0, SMALL), (1.0, LARGE))
    assert (len(waiting), waiting.pixels) == (2, 416)
    waiting.remove(next(iter(waiting)))
    assert (len(waiting), waiting.pixels) == (1, 400)


@pytest.mark.parametrize(("size", "weight"), [((4, 4), 48 / 400), ((10, 15), 300 / 400), ((20, 20), 1), ((90, 90), 1)])
def test_a_run_weighs_its_part_of_the_largest_one(size, weight):
    plane = np.zeros(size, np.float32)
    assert BatchLimits(9, 3, 400, 0.0).weight(Job(plane, plane)) == pytest.approx(weight)

"""At which size the model sees a pair, and the reduced copies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.card import SizeLimits
from app.working import NATIVE, Size, fitting_side, is_max_side, reduce_plane, working_size

LIMITS = SizeLimits(multiple=1, min_side=32, max_pixels=2**24)


@pytest.mark.parametrize(
    ("native", "max_side", "expected"),
    [
        ((2160, 3840), 1024, (576, 1024)),
        ((3840, 2160), 1024, (1024, 576)),
        ((2160, 3840), NATIVE, (2160, 3840)),
        ((480, 640), 640, (480, 640)),
        ((480, 640), 641, (480, 640)),
        ((480, 641), 640, (479, 640)),
        ((999, 333), 100, (100, 33)),
        ((32, 5000), 64, (32, 5000)),  # Its shorter side must not fall below 32: there is nothing to reduce.
        ((64, 5000), 64, (32, 2500)),
    ],
)
def test_the_longer_side_is_reduced_and_the_aspect_kept(native, max_side, expected):
    assert working_size(Size(*native), max_side, LIMITS) == expected


def test_sides_are_multiples_of_what_the_card_says():
    limits = SizeLimits(multiple=16, min_side=40, max_pixels=2**24)
    assert working_size(Size(1080, 1920), 500, limits) == (288, 496)
    assert working_size(Size(100, 4000), 64, limits) == (48, 1600)


@given(st.integers(32, 4000), st.integers(32, 4000), st.integers(64, 4000), st.integers(1, 32))
def test_a_working_size_is_within_the_limits_and_no_larger_than_the_pair(height, width, max_side, multiple):
    limits = SizeLimits(multiple=multiple, min_side=32, max_pixels=2**24)
    native = Size(height, width)
    size = working_size(native, max_side, limits)
    if max(native) <= max_side:
        assert size == native
    else:
        assert min(size) >= 32
        assert all(side % multiple == 0 for side in size)
        least = 32 * max(native) / min(native)
        assert max(size) <= max(max_side, least, 32) + multiple


@pytest.mark.parametrize(
    ("value", "good"), [(0, True), (64, True), (65_535, True), (63, False), (1, False), (-64, False)]
)
def test_bounds(value, good):
    assert is_max_side(value) is good


@pytest.mark.parametrize("native", [(3000, 4000), (4000, 3000), (2001, 2003), (50, 60_000)])
def test_the_suggested_side_is_the_largest_that_fits(native):
    limits = SizeLimits(max_pixels=2_000_000)
    side = fitting_side(Size(*native), limits)
    assert working_size(Size(*native), side, limits).pixels <= 2_000_000
    assert working_size(Size(*native), side + 1, limits).pixels > 2_000_000 or side == max(native)


def test_no_side_is_suggested_where_none_fits():
    assert fitting_side(Size(40, 200_000), SizeLimits(max_pixels=100_000)) is None


@pytest.mark.parametrize("size", [(50, 60), (33, 37), (99, 119), (1, 1)])
def test_a_reduced_plane_keeps_mean_and_range(size):
    plane = np.random.default_rng(1).random((100, 120), dtype=np.float32)
    small = reduce_plane(plane, Size(*size))
    assert small.shape == size
    assert small.dtype == np.float32
    assert plane.min() <= small.min() <= small.max() <= plane.max()
    assert small.mean() == pytest.approx(plane.mean(), abs=0.01)


def test_a_constant_plane_stays_constant():
    np.testing.assert_allclose(reduce_plane(np.full((77, 91), 0.3, np.float32), Size(20, 31)), 0.3, atol=1e-6)

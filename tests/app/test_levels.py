from __future__ import annotations

import numpy as np
import pytest

from app.levels import scale_deep


def test_stretch_maps_the_percentiles_to_the_ends():
    values = np.arange(20_000, 30_001, dtype=np.uint16).reshape(1, -1)
    scaled = scale_deep(values, "stretch")
    np.testing.assert_allclose(scaled[0, 10], 0, atol=1e-6)
    np.testing.assert_allclose(scaled[0, 9_990], 1, atol=1e-6)
    np.testing.assert_allclose(scaled[0, 5_000], 0.5, atol=1e-6)
    assert scaled.min() == 0
    assert scaled.max() == 1


def test_stretch_keeps_more_than_256_levels():
    values = np.linspace(1000, 9000, 4096).astype(np.uint16).reshape(64, 64)
    assert len(np.unique(scale_deep(values, "stretch"))) > 3500


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, ">u2"])
def test_a_constant_image_becomes_middle_grey(dtype):
    np.testing.assert_array_equal(scale_deep(np.full((4, 5), 7, dtype), "stretch"), np.full((4, 5), 0.5))


def test_few_hot_pixels_in_a_constant_image_stay_visible():
    values = np.full((100, 100), 500, np.uint16)
    values[3, 4] = 900
    scaled = scale_deep(values, "stretch")
    assert scaled[3, 4] == 1
    assert scaled[0, 0] == 0


def test_full_divides_integers_by_their_range_and_clips():
    values = np.array([[0, 65535, 70_000, -3, 32768]], np.int32)
    np.testing.assert_allclose(scale_deep(values, "full"), [[0, 1, 1, 0, 32768 / 65535]], atol=1e-6)


def test_full_takes_floats_as_they_are():
    np.testing.assert_allclose(scale_deep(np.array([[-1, 0.25, 2]], np.float32), "full"), [[0, 0.25, 1]])


@pytest.mark.parametrize("rule", ["stretch", "full"])
def test_missing_float_pixels_become_black(rule):
    values = np.array([[np.nan, np.inf, 0.2, 0.8]], np.float32)
    scaled = scale_deep(values, rule)
    assert np.isfinite(scaled).all()
    np.testing.assert_array_equal(scaled[0, :2], 0)


def test_only_missing_pixels():
    np.testing.assert_array_equal(scale_deep(np.full((2, 2), np.nan, np.float32), "stretch"), 0)

"""The guided step, on pairs whose result at full size is known."""

from __future__ import annotations

import numpy as np
import pytest

from app import guided
from app.guided import enlarge
from app.working import Size, reduce_plane

# Full and reduced sizes: whole ratios, broken ones, odd numbers, long strips, and the smallest of all.
SIZES = [
    ((120, 160), (60, 80)),
    ((121, 163), (50, 67)),
    ((240, 321), (40, 53)),
    ((64, 3000), (32, 1500)),
    ((2999, 33), (900, 32)),
    ((33, 33), (32, 32)),
    ((3, 5), (1, 2)),
    ((1, 1), (1, 1)),
]


def through(a, b, size, fuse):
    """Fuses reduced copies with a function and brings the result to full size."""
    low_a, low_b = (reduce_plane(plane, Size(*size)) for plane in (a, b))
    return enlarge(a, b, low_a, low_b, np.asarray(fuse(low_a, low_b), np.float32))


def mean(a, b):
    return (a + b) / 2


def drawn(height, width, seed):
    """Waves of many lengths, down to two pixels, as one plane in [0, 1]."""
    y, x = np.mgrid[0:height, 0:width]
    phases = np.random.default_rng(seed).uniform(0, 6, (5, 3))
    waves = [np.sin(x / 2.0**k * (1 + p) / 2 + q) * np.cos(y / 2.0**k + r) for k, (p, q, r) in enumerate(phases)]
    return (0.5 + 0.09 * np.sum(waves, axis=0)).astype(np.float32)


@pytest.mark.parametrize(("full", "size"), SIZES)
def test_constant_sources_give_the_constant_that_the_model_made(full, size):
    a, b = np.full(full, 0.2, np.float32), np.full(full, 0.7, np.float32)
    fused = through(a, b, size, lambda low_a, low_b: np.full(size, 0.4))
    assert fused.shape == full
    assert fused.dtype == np.float32
    np.testing.assert_allclose(fused, 0.4, atol=1e-5)


@pytest.mark.parametrize(("full", "size"), SIZES[:5])
@pytest.mark.parametrize("gains", [(0.5, 0.5), (1, 0), (0, 1), (0.7, 0.4), (1.3, 0.2)])
def test_a_mixture_of_the_sources_is_the_same_mixture_at_full_size(full, size, gains):
    a, b = drawn(*full, 1), drawn(*full, 2)

    def mix(x, y):
        return gains[0] * x + gains[1] * y - 0.1

    difference = np.abs(through(a, b, size, mix) - np.clip(mix(a, b), 0, 1))
    assert difference.mean() <= 0.25 / 255
    assert np.percentile(difference, 99.9) <= 6 / 255


def test_detail_that_no_reduced_pixel_shows_comes_from_both_sources():
    stripes = np.zeros((128, 128), np.float32)
    stripes[:, ::2] = 0.2
    a, b = np.full((128, 128), 0.4, np.float32), np.full((128, 128), 0.4, np.float32)
    a[:, :64] += stripes[:, :64]
    b[:, 64:] += stripes[:, 64:]
    fused = through(a, b, (32, 32), mean)
    contrast = fused[:, 1::2] - fused[:, ::2]
    for half in (contrast[:, 5:27], contrast[:, 36:59]):  # Not at the borders, and not where the halves meet.
        np.testing.assert_allclose(half, -0.2, atol=0.01)


def test_of_a_focus_pair_the_sharp_source_is_taken_at_full_size():
    sharp = drawn(192, 256, 3)
    blurred = (sharp + np.roll(sharp, 1, 0) + np.roll(sharp, 1, 1) + np.roll(sharp, (1, 1), (0, 1))) / 4
    left = np.arange(256) < 128
    a, b = np.where(left, sharp, blurred), np.where(left, blurred, sharp)

    def choose(low_a, low_b):
        return np.where(np.arange(low_a.shape[1]) < low_a.shape[1] / 2, low_a, low_b)

    difference = np.abs(through(a, b, (48, 64), choose) - sharp)
    away = np.abs(np.arange(256) - 128) > 12
    assert difference[:, away].mean() < 0.1 * np.abs(mean(a, b) - sharp)[:, away].mean()


@pytest.mark.parametrize(("full", "size"), SIZES[:3])
@pytest.mark.parametrize(
    ("fuse", "most"),
    [(mean, 0.001), (lambda a, b: a, 0.005), (np.maximum, 0.17), (np.minimum, 0.17)],
    ids=["mean", "a", "max", "min"],
)
def test_a_step_does_not_overshoot_far(full, size, fuse, most):
    """What is no mixture, such as the larger source, may overshoot by less than a third of the step beside it."""
    height, width = full
    a, b = np.full(full, 0.2, np.float32), np.full(full, 0.5, np.float32)
    a[:, width // 2 :] = 0.8
    b[height // 3 :] = 0.3
    fused, expected = through(a, b, size, fuse), fuse(a, b)
    assert fused.max() - expected.max() <= most
    assert expected.min() - fused.min() <= most
    reach = 4 * -(-width // size[1])
    away = np.ones(full, bool)
    away[:, width // 2 - reach : width // 2 + reach] = False
    away[height // 3 - reach : height // 3 + reach] = False
    np.testing.assert_allclose(fused[away], expected[away], atol=1e-3)


def test_noise_in_flat_sources_is_not_amplified():
    generator = np.random.default_rng(5)
    a, b = (0.5 + generator.normal(0, 2 / 255, (200, 200)).astype(np.float32) for _ in "ab")
    fused = through(a, b, (50, 50), lambda low_a, low_b: np.full((50, 50), 0.5))
    assert fused.std() <= 1.05 * max(a.std(), b.std())


def test_results_stay_in_range():
    a = (np.indices((64, 64)).sum(0) % 2).astype(np.float32)
    fused = through(a, 1 - a, (32, 32), lambda low_a, low_b: np.full((32, 32), 1.0))
    assert 0 <= fused.min() <= fused.max() <= 1


def test_strips_do_not_show(monkeypatch):
    a, b = drawn(301, 203, 6), drawn(301, 203, 7)
    whole = through(a, b, (97, 65), mean)
    monkeypatch.setattr(guided, "STRIP_PIXELS", 700)
    np.testing.assert_allclose(through(a, b, (97, 65), mean), whole, atol=1e-6)


def test_turned_sources_give_the_turned_picture():
    a, b = drawn(120, 160, 8), drawn(120, 160, 9)
    turned = through(np.ascontiguousarray(a.T), np.ascontiguousarray(b.T), (80, 60), np.maximum)
    np.testing.assert_allclose(turned.T, through(a, b, (60, 80), np.maximum), atol=5e-4)


def test_the_sources_are_treated_alike():
    a, b = drawn(120, 160, 10), drawn(120, 160, 11)
    np.testing.assert_allclose(through(a, b, (40, 53), np.maximum), through(b, a, (40, 53), np.maximum), atol=1e-5)

from __future__ import annotations

import numpy as np
import pytest

from app.color import channel_plane, is_neutral, join_color, luminance, stack_channels, to_bytes


@pytest.fixture
def rgb():
    return np.random.default_rng(3).integers(0, 256, (2, 37, 53, 3), np.uint8)


def luma_of(rgb):
    return rgb.astype(np.float64) @ [0.299, 0.587, 0.114] / 255


def naive_auto(luma, rgb_a, rgb_b):
    """Returns float RGB of one pixel by the rule as documented, before any gamut reduction."""
    chroma = []
    for channel, scale in ((2, 1.772), (0, 1.402)):
        a = (rgb_a[channel] / 255 - luma_of(rgb_a)) / scale
        b = (rgb_b[channel] / 255 - luma_of(rgb_b)) / scale
        total = abs(a) + abs(b)
        chroma.append((a * abs(a) + b * abs(b)) / total if total > 1e-9 else 0.0)
    cb, cr = chroma
    red, blue = luma + 1.402 * cr, luma + 1.772 * cb
    return np.array([red, (luma - 0.299 * red - 0.114 * blue) / 0.587, blue])


def test_luminance_is_full_range_bt601(rgb):
    np.testing.assert_allclose(luminance(rgb[0]), luma_of(rgb[0]), atol=1e-6)
    white = luminance(np.full((2, 2, 3), 255, np.uint8))
    assert white.max() <= 1
    np.testing.assert_allclose(white, 1, atol=1e-6)


def test_joining_an_unchanged_luminance_gives_the_image_back(rgb):
    joined = join_color(luminance(rgb[0]), rgb[0], None, "auto")
    assert np.abs(joined.astype(int) - rgb[0]).max() <= 1


def test_auto_equals_the_rule_written_out_per_pixel(rgb):
    # Weak colours on a middle grey stay inside the gamut, so that only the rule itself is compared.
    weak = (128 + (rgb.astype(int) - 128) // 6).astype(np.uint8)
    luma = np.full(weak.shape[1:3], 0.5, np.float32)
    joined = join_color(luma, weak[0], weak[1], "auto")
    for row, column in ((0, 0), (5, 9), (36, 52), (20, 30)):
        expected = naive_auto(0.5, weak[0, row, column], weak[1, row, column]) * 255
        assert np.abs(joined[row, column] - expected).max() <= 0.51


@pytest.mark.parametrize("rule", ["auto", "a", "b"])
def test_luminance_is_kept_where_colours_leave_the_gamut(rgb, rule):
    luma = np.linspace(0, 1, 37 * 53, dtype=np.float32).reshape(37, 53)
    joined = join_color(luma, rgb[0], rgb[1], rule)
    assert np.abs(luma_of(joined) - luma).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("rule", ["auto", "a", "b"])
def test_every_pixel_is_that_of_the_rule_in_double_precision(rgb, rule):
    luma = np.random.default_rng(4).random((37, 53)).astype(np.float32)
    joined = join_color(luma, rgb[0], rgb[1], rule)
    assert np.abs(joined - exact(luma.astype(np.float64), *rgb, rule)).max() <= 0.5 + 1e-3


def exact(luma, rgb_a, rgb_b, rule):
    """Returns RGB (H, W, 3) in grey levels before rounding, by the rule as documented."""
    chroma = [(rgb / 255 - luma_of(rgb)[..., None]) / (1.402, 1, 1.772) for rgb in (rgb_a, rgb_b)]
    weights = [np.abs(each) * (name in {rule, "x"} or rule == "auto") for each, name in zip(chroma, "ab", strict=True)]
    cr, _, cb = np.moveaxis(sum(c * w for c, w in zip(chroma, weights, strict=True)) / sum(weights), 2, 0)
    difference = np.stack([1.402 * cr, -(0.299 * 1.402 * cr + 0.114 * 1.772 * cb) / 0.587, 1.772 * cb], axis=2)
    rooms = np.where(difference > 0, 1 - luma[..., None], luma[..., None]) / np.maximum(np.abs(difference), 1e-12)
    return (luma[..., None] + difference * np.minimum(rooms.min(axis=2, keepdims=True), 1)) * 255


def test_reduced_colours_keep_their_hue():
    red = np.full((1, 1, 3), (200, 20, 20), np.uint8)
    bright = join_color(np.full((1, 1), 0.9, np.float32), red, None, "auto")[0, 0].astype(int)
    assert bright[0] == 255
    assert bright[1] == bright[2] < 255


@pytest.mark.parametrize(
    ("has_a", "has_b", "rule"),
    [(False, False, "auto"), (True, True, "none"), (False, True, "a"), (True, False, "b")],
)
def test_without_chroma_the_result_is_one_grey_channel(rgb, has_a, has_b, rule):
    luma = luminance(rgb[0])
    joined = join_color(luma, rgb[0] if has_a else None, rgb[1] if has_b else None, rule)
    np.testing.assert_array_equal(joined, to_bytes(luma))


def test_a_grey_partner_weighs_nothing(rgb):
    luma = luminance(rgb[0])
    grey = np.repeat(rgb[1, ..., :1], 3, axis=2)
    np.testing.assert_array_equal(join_color(luma, rgb[0], grey, "auto"), join_color(luma, rgb[0], None, "auto"))


def test_neutral_images_are_recognised(rgb):
    assert is_neutral(np.repeat(rgb[0, ..., :1], 3, axis=2))
    assert not is_neutral(rgb[0])


def test_channels_taken_apart_and_stacked_are_the_image(rgb):
    planes = [channel_plane(rgb[0], index) for index in range(3)]
    np.testing.assert_array_equal(stack_channels(*planes), rgb[0])
    np.testing.assert_array_equal(stack_channels(*(plane * 3 - 1 for plane in planes))[rgb[0] > 170], 255)


def test_rounding_and_clipping():
    values = np.array([[-0.2, 0.0, 0.5, 1.0, 1.3, 127.4 / 255]], np.float32)
    np.testing.assert_array_equal(to_bytes(values), [[0, 0, 128, 255, 255, 127]])

"""Pairs of different focus made from single images, and the optics behind them."""

import numpy as np
import pytest
import torch

from tests.training.made_scenes import error, made, radius, scene, seeded
from training.synthesis.depth import masks_above, smooth_field, snap_to_edges
from training.synthesis.draws import Numbers
from training.synthesis.focus import FocusConfig
from training.synthesis.lens import Scene, continue_behind, disc_blur


def test_the_blur_of_a_point_is_a_disc_of_unit_sum():
    point = torch.zeros(2, 1, 41, 41)
    point[..., 20, 20] = 1
    spread = disc_blur(point, radius(3.0, 6.5))
    distance = torch.hypot(*(torch.meshgrid(torch.arange(41.0) - 20, torch.arange(41.0) - 20, indexing="ij")))
    for image, r in zip(spread[:, 0], (3.0, 6.5), strict=True):
        assert image.sum() == pytest.approx(1.0, abs=1e-5)
        assert image[distance > r + 0.5].abs().max() < 1e-6
        inside = image[distance < r - 0.5]
        torch.testing.assert_close(inside, inside.mean().expand_as(inside), atol=1e-6, rtol=1e-4)
        assert 1 / inside.mean() == pytest.approx(np.pi * r * r, rel=0.05)


def test_blur_keeps_place_constants_and_what_is_in_focus():
    ramp = torch.arange(30.0).expand(1, 2, 30, 30) / 30
    torch.testing.assert_close(disc_blur(ramp, radius(4.0))[..., 5:-5], ramp[..., 5:-5], atol=1e-5, rtol=0)
    flat = torch.full((1, 1, 12, 17), 0.7)
    torch.testing.assert_close(disc_blur(flat, radius(5.0)), flat, atol=1e-5, rtol=0)
    assert torch.equal(disc_blur(ramp, radius(0.5)), ramp)


def halves(value_far, value_near, size=48):
    """Far on the left, near on the right: light (1, 1, H, W) and the mask of what is near."""
    mask = torch.zeros(1, 1, size, size)
    mask[..., size // 2 :] = 1
    return torch.where(mask > 0, value_near, value_far), mask


def test_a_sharp_near_part_leaves_no_ghost_in_the_blurred_far_part():
    light, mask = halves(0.2, 0.9)
    seen = Scene(light, [mask], 6).photograph([radius(6.0), radius(0.0)])
    torch.testing.assert_close(seen, light, atol=1e-5, rtol=0)


def test_a_blurred_near_part_spreads_over_the_sharp_far_part():
    light, mask = halves(0.2, 0.9)
    seen = Scene(light, [mask], 6).photograph([radius(0.0), radius(6.0)])
    far = seen[0, 0, 24, :24]
    torch.testing.assert_close(far[:17], light[0, 0, 24, :17], atol=1e-5, rtol=0)
    assert far[23] > 0.45
    assert (far.diff() > -1e-6).all()


def test_a_scene_in_focus_is_the_image_itself():
    image = scene(2, 3)
    numbers = Numbers(2, image.device, seeded(1))
    z = smooth_field(numbers, *image.shape[2:], (2.0, 4.0))
    masks = masks_above(z, [radius(0.7), radius(0.5), radius(0.2)], radius(3.0))
    sharp = Scene(image, masks, 5).photograph([radius(0.0)] * 4)
    torch.testing.assert_close(sharp, image, atol=1e-6, rtol=0)


def test_hidden_parts_continue_what_lies_next_to_them():
    image = torch.zeros(1, 1, 9, 20)
    image[..., :5, :] = 0.3
    image[..., 5:, :] = 0.8
    image[..., 10:] = 0.0  # of what hides
    visible = (torch.arange(20) < 10).float().expand(1, 1, 9, 20)
    filled = continue_behind(image, visible, reach=3)
    assert torch.equal(filled[..., :10], image[..., :10])
    assert filled[0, 0, 0, 12] == pytest.approx(0.3)
    assert filled[0, 0, 8, 12] == pytest.approx(0.8)
    assert filled[0, 0, 0, 13] == 0


def test_masks_have_their_share_of_the_area_and_lie_within_each_other():
    z = smooth_field(Numbers(4, torch.device("cpu"), seeded(0)), 60, 90, (2.0, 5.0))
    large, small = masks_above(z, [radius(0.6, 0.6, 0.6, 0.6), radius(0.3, 0.3, 0.3, 0.3)], radius(2.0))
    torch.testing.assert_close(large.mean(dim=(1, 2, 3)), torch.full((4,), 0.6), atol=0.03, rtol=0)
    torch.testing.assert_close(small.mean(dim=(1, 2, 3)), torch.full((4,), 0.3), atol=0.03, rtol=0)
    assert (small <= large).all()
    soft = ((large > 0.01) & (large < 0.99)).float().mean(dim=(1, 2, 3))
    wide = masks_above(z, [radius(0.6)], radius(6.0))[0]
    assert (((wide > 0.01) & (wide < 0.99)).float().mean(dim=(1, 2, 3)) > 1.5 * soft).all()


def test_mask_edges_move_towards_edges_of_the_picture():
    guide, _ = halves(0.2, 0.8)
    for off, left in ((2, 0), (4, 2)):
        mask = (torch.arange(48) >= 24 + off).float().expand(1, 1, 48, 48)
        snapped = snap_to_edges(mask, guide, 8, radius(2.0))
        assert (snapped[0, 0, 24] < 0.5).sum() - 24 <= left
        flat = snap_to_edges(mask, torch.full_like(guide, 0.5), 8, radius(2.0))
        assert abs(int((flat[0, 0, 24] < 0.5).sum()) - 24 - off) <= 1


@pytest.mark.parametrize("layers", [(1, 1), (2, 2), (1, 3)])
def test_every_place_is_sharp_in_one_picture_but_for_the_rim_of_the_near_part(layers):
    image = scene(4, height=96, width=96)
    pair = made(image, FocusConfig(layers=layers, first="far", radius=(4.0, 4.0)))
    sharp = torch.minimum(error(pair.a, image), error(pair.b, image))
    assert (sharp.flatten(1) < 1 / 255 + 1e-6).float().mean(dim=1).min() > 0.75
    for picture in (pair.a, pair.b):
        blurred = (error(picture, image).flatten(1) > 8 / 255).float().mean(dim=1)
        assert (blurred > 0.05).all()
        assert (blurred < 0.9).all()


def test_first_says_which_picture_is_image_a():
    image = scene(3)
    far, near, either = (made(image, FocusConfig(first=first)) for first in ("far", "near", "random"))
    assert torch.equal(far.a, near.b)
    assert torch.equal(far.b, near.a)
    many = made(scene(16, height=32, width=32), FocusConfig(first="random"))
    fixed = made(scene(16, height=32, width=32), FocusConfig(first="far"))
    kept = (many.a == fixed.a).flatten(1).all(dim=1)
    assert 3 < kept.sum() < 13
    assert torch.equal(many.a[~kept], fixed.b[~kept])
    assert either.truth is image


def test_colours_are_blurred_alike():
    grey = scene(2)
    pair = made(grey.expand(-1, 3, -1, -1), FocusConfig())
    for picture in (pair.a, pair.b):
        assert torch.equal(picture[:, :1].expand(-1, 3, -1, -1), picture)


def test_noise_is_added_to_both_pictures_when_asked():
    image = scene(4, height=40, width=40)
    clean, noisy = made(image, FocusConfig(first="far")), made(image, FocusConfig(first="far", noise_sigma=0.1))
    for before, after in ((clean.a, noisy.a), (clean.b, noisy.b)):
        level = (after - before).std(dim=(1, 2, 3))
        assert 0.01 < level.max() < 0.11
        assert level.min() < 0.8 * level.max()


def test_the_margin_is_what_a_larger_picture_would_change():
    """Two pictures that differ outside a window only: within the margin of it, and nowhere else, blur shows it."""
    config = FocusConfig(radius=(5.0, 5.0), near_share=(0.0, 0.0), snap_probability=0.0, first="near")
    wide = scene(1, height=80, width=80)
    changed = wide.clone()
    changed[..., :20, :] = 0.0
    a, b = made(wide, config).a, made(changed, config).a
    rows = (a != b).any(dim=3).flatten().nonzero().flatten()
    assert 20 <= rows.max() < 20 + config.margin

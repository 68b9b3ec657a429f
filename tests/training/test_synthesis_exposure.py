"""Pairs of different exposure made from single images, and the camera behind them."""

import pytest
import torch

from tests.training.made_scenes import error, made, radius, scene, seeded
from training.synthesis.draws import Numbers
from training.synthesis.exposure import ExposureConfig
from training.synthesis.sensor import Curve, Noise, expose


def test_the_response_curve_can_be_inverted_and_ends_at_0_and_1():
    curve = Curve(radius(0.7, 1.0), radius(0.3, 0.8))
    values = torch.linspace(0, 1, 50).expand(2, 1, 1, 50)
    torch.testing.assert_close(curve.apply(curve.invert(values)), values, atol=1e-5, rtol=1e-4)
    assert (curve.apply(torch.linspace(0, 1, 50).expand(2, 1, 1, 50)).diff() > 0).all()


def test_noise_grows_with_light_as_photons_do():
    curve = Curve(radius(1.0), radius(1e6))  # a straight line
    numbers = Numbers(1, torch.device("cpu"), seeded(0))
    noise = Noise(radius(4e-4), radius(2e-3))
    for light in (0.0, 0.1, 0.6):
        picture = expose(torch.full((1, 1, 200, 200), light / 4), radius(2.0), noise, curve, numbers)
        expected = (4e-4 * light + 4e-6 + (1 / 255) ** 2 / 12) ** 0.5
        if light:  # darkness cuts the noise in half
            assert picture.std() == pytest.approx(expected, rel=0.05)
            assert picture.mean() == pytest.approx(light, abs=0.002)


def test_one_picture_is_far_too_bright_and_the_other_far_too_dark():
    image = scene(6)
    pair = made(image, ExposureConfig())
    over, truth, under = (x.flatten(1).mean(dim=1) for x in (pair.a, image, pair.b))
    assert (over > truth + 0.1).all()
    assert (under < truth - 0.1).all()
    assert (pair.a == 1).any()
    assert pair.b.max() < 1
    for picture in (pair.a, pair.b):
        levels = picture * 255
        torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)


def test_what_one_exposure_loses_the_other_keeps():
    """Rising steps of grey: where the bright picture is white the dark one still rises, and the other way round."""
    steps = torch.linspace(0.02, 0.98, 16)
    image = (steps.repeat_interleave(8).expand(1, 1, 32, 128) * 255).round() / 255
    quiet = {"gain": (1e-7, 1e-7), "read": (1e-6, 1e-6), "lighting": 0.0, "contrast": (1.0, 1.0)}
    pair = made(image, ExposureConfig(over=(3.0, 3.0), under=(-3.0, -3.0), **quiet))
    bright, dark = (x[0, 0].mean(dim=0).view(16, 8).mean(dim=1) for x in (pair.a, pair.b))
    assert bright[-1] == bright[-2] == 1
    assert (dark[-6:].diff() > 0.01).all()
    assert (bright[:4].diff() > 0.1).all()
    assert dark[0] < 2 / 255


def test_without_shift_curve_and_noise_the_scene_is_the_image():
    still = {"lighting": 0.0, "contrast": (1.0, 1.0), "exponent": (0.9, 0.9), "shoulder": (0.5, 0.5)}
    image = scene(2)
    config = ExposureConfig(over=(1e-6, 1e-6), under=(-1e-6, -1e-6), gain=(1e-9, 1e-9), read=(1e-9, 1e-9), **still)
    pair = made(image, config)
    for picture in (pair.a, pair.b):
        assert error(picture, image).max() < 1.01 / 255


def test_over_is_image_a_unless_asked():
    image = scene(2)
    over, under = made(image, ExposureConfig()), made(image, ExposureConfig(first="under"))
    assert torch.equal(over.a, under.b)
    assert over.a.mean() > over.b.mean()


def test_contrast_changes_no_hue():
    """Red stays twice as strong as green in linear light, whatever the contrast of the scene."""
    curve = {"exponent": (1.0, 1.0), "shoulder": (0.5, 0.5), "gain": (1e-9, 1e-9), "read": (1e-9, 1e-9)}
    straight = Curve(radius(1.0), radius(0.5))
    light = torch.tensor([0.4, 0.2, 0.1]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    image = (straight.apply(light) * 255).round() / 255
    config = ExposureConfig(over=(0.5, 0.5), contrast=(2.0, 2.0), lighting=0.0, **curve)
    red, green, _ = straight.invert(made(image, config).a)[0].mean(dim=(1, 2))
    assert red / green == pytest.approx(2.0, rel=0.02)

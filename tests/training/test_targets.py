"""What the edit strength asks for."""

import pytest
import torch

from models.tone import compress
from training.data.sampling import Frames
from training.targets import (
    TargetConfig,
    centred_sum,
    make_target,
    natural_tone,
    strongest_gradient,
    target_strength,
    tones,
)

CONFIG = TargetConfig()
MEDICAL = TargetConfig(tone="power", power=2.0)


def sources():
    torch.manual_seed(1)
    return torch.rand(2, 1, 40, 40), torch.rand(2, 1, 40, 40)


def target(sharpen, smooth, config=CONFIG):
    a, b = sources()
    return make_target(a, b, torch.tensor([[sharpen, smooth]] * 2), config)


def test_tone_runs_from_natural_to_the_centred_sum():
    a, b = sources()
    natural = compress(natural_tone(a, b, Frames(a, b), CONFIG.natural_share), CONFIG.knee)
    full = compress(centred_sum(a, b, Frames(a, b), CONFIG), CONFIG.knee)
    torch.testing.assert_close(target(0.0, 0.0).tone, natural)
    torch.testing.assert_close(target(1.0, 0.0).tone, full)
    torch.testing.assert_close(target(2.0, 0.0).tone, full)


@pytest.mark.parametrize("contrast", [0.0, 0.2])
def test_the_tone_of_a_crop_is_that_of_its_place_in_the_frame(contrast):
    config = TargetConfig(contrast=contrast, level_shift=0.1, natural_share=0.5)
    y, x = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
    a, b = (0.4 * y + 0.1 * x)[None, None], (0.5 - 0.3 * x)[None, None]
    frames = Frames(a, b, torch.tensor([[0.25, 0.5, 0.75, 1.0]]))
    for strength in (0.0, 1.0):
        edit = torch.tensor([[strength, 0.0]])
        whole = make_target(a, b, edit, config).tone[..., 16:48, 32:]
        crop = make_target(a[..., 16:48, 32:], b[..., 16:48, 32:], edit, config, frames).tone
        torch.testing.assert_close(crop, whole, atol=1e-3, rtol=0)
        alone = make_target(a[..., 16:48, 32:], b[..., 16:48, 32:], edit, config).tone
        assert (alone - whole).abs().mean() > 0.004


def test_frames_are_brought_to_one_contrast_within_the_gain():
    config = TargetConfig(contrast=0.2, contrast_gain=(0.8, 1.3), knee=0.0)
    a, b = sources()
    base, spread = a + b - 1.0, (a + b).std(dim=(1, 2, 3))
    for factor in (0.2 / spread.max(), 0.24 / spread.max()):
        x = 0.5 + 0.5 * factor * base
        tone = centred_sum(x, x, Frames(x, x), config)
        torch.testing.assert_close(tone.std(dim=(1, 2, 3)), torch.full((2,), 0.2), atol=2e-3, rtol=0)
    for factor, gain in ((0.05, 1.3), (1.5, 0.8)):
        x = 0.5 + 0.5 * factor * base
        ratio = centred_sum(x, x, Frames(x, x), config).std() / (x + x).std()
        assert float(ratio) == pytest.approx(gain, rel=1e-3)


def test_the_level_of_a_frame_moves_to_the_middle_by_a_bounded_step():
    config = TargetConfig(level=0.5, level_shift=0.1, knee=0.0)
    for level, wanted in ((0.1, 0.2), (0.45, 0.5), (0.5, 0.5), (0.9, 0.8)):
        x = torch.full((1, 1, 40, 40), level)
        assert float(centred_sum(x, x, Frames(x, x), config).mean()) == pytest.approx(wanted, abs=1e-6)


def test_compression_leaves_the_middle_and_ends_inside_the_range():
    x = torch.linspace(-2, 3, 501)
    y = compress(x, 0.15)
    middle = (x >= 0.15) & (x <= 0.85)
    assert torch.equal(y[middle], x[middle])
    assert (y.diff() >= 0).all()
    assert y.min() >= 0
    assert y.max() <= 1
    assert torch.equal(compress(x, 0.0), x)


def test_sharpen_scales_the_strongest_gradient():
    gx, gy = strongest_gradient(*sources())
    for strength in (0.0, 1.0, 2.0):
        gain = CONFIG.gradient_gain + CONFIG.sharpen_gain * (strength - 1)
        torch.testing.assert_close(target(strength, 0.0).gx, gain * gx)
        torch.testing.assert_close(target(strength, 0.0).gy, gain * gy)


def test_smooth_quietens_flat_areas_only():
    a = torch.full((1, 1, 40, 40), 0.5)
    a[..., 20:] = 0.9
    a = a + 0.004 * torch.randn(a.shape, generator=torch.Generator().manual_seed(0))
    b = torch.full_like(a, 0.3)
    off, on = (make_target(a, b, torch.tensor([[1.0, s]]), CONFIG) for s in (0.0, 2.0))
    ratio = on.gx.abs().sum(dim=(0, 1, 2)) / off.gx.abs().sum(dim=(0, 1, 2))
    assert ratio[2:10].mean() < 0.75
    assert ratio[19:21].min() > 0.95


def test_unconditioned_target_ignores_the_strength():
    config = TargetConfig(conditioned=False)
    for low, high in zip(target(0.0, 0.0, config), target(2.0, 2.0, config), strict=True):
        assert torch.equal(low, high)


def test_strongest_gradient_takes_the_larger_magnitude():
    a = torch.zeros(1, 1, 8, 8)
    a[..., 4:] = 1.0
    b = torch.zeros(1, 1, 8, 8)
    b[..., 4:, :] = -3.0
    gx, gy = strongest_gradient(a, b)
    assert gx[0, 0, 0, 4] == 4
    assert gy[0, 0, 4, 0] == -12
    assert gx[0, 0, 4, 4] == 0


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 2.0])
def test_power_keeps_black_black_at_every_strength(strength):
    a, b = sources()
    a[..., :20], b[..., :20] = 0.0, 0.0
    tone = make_target(a, b, torch.tensor([[strength, 0.0]] * 2), MEDICAL).tone
    assert (tone[..., :20] == 0).all()
    assert (tone[..., 20:] > 0).any()
    assert (tone <= 1).all()


def test_power_runs_from_the_brighter_source_to_the_root_of_the_squares():
    natural, full = tones(*sources(), Frames(*sources()), MEDICAL)
    a, b = sources()
    torch.testing.assert_close(natural, torch.maximum(a, b))
    wanted = torch.hypot(a, b)
    plain = wanted < 1 - MEDICAL.knee
    torch.testing.assert_close(full[plain], wanted[plain])
    assert (full[~plain] <= wanted[~plain] + 1e-6).all()
    assert full.max() <= 1


def test_power_grows_with_each_source():
    level = torch.linspace(0, 1, 101)
    a, b = (x[None, None] for x in torch.meshgrid(level, level, indexing="ij"))
    for tone in tones(a, b, Frames(a, b), MEDICAL):
        assert (tone.diff(dim=2) >= -1e-6).all()
        assert (tone.diff(dim=3) >= -1e-6).all()
    torch.testing.assert_close(tones(a, b, Frames(a, b), MEDICAL), tones(b, a, Frames(b, a), MEDICAL))


def test_strength_of_a_slot_that_a_model_lacks_is_one():
    edit = torch.tensor([[0.3, 0.7]])
    assert target_strength(edit, ("smooth", "sharpen")).tolist() == [pytest.approx([0.7, 0.3])]
    assert target_strength(edit[:, :1], ("smooth",)).tolist() == [pytest.approx([1.0, 0.3])]
    assert target_strength(edit[:, :0], ()).tolist() == [[1.0, 1.0]]

"""Losses against values computed by hand or by definition."""

import pytest
import torch
from torch.nn import functional as F

from training.evaluation.metrics.similarity import vif as metric_vif
from training.losses import (
    VIF_MIN_SIDE,
    decomposition_loss,
    gradient,
    out_of_range,
    pearson,
    scd,
    sobel,
    ssim,
    ssim_loss,
    vif,
)


def test_sobel_of_a_ramp():
    ramp = torch.arange(4.0).expand(4, 4)[None, None]
    gx, gy = sobel(ramp)
    assert torch.equal(gx[0, 0, 1], torch.tensor([4.0, 8.0, 8.0, 4.0]))
    assert torch.equal(gy, torch.zeros_like(gy))


def test_sobel_matches_a_convolution():
    x = torch.rand(2, 1, 9, 7)
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    gx, gy = sobel(x)
    torch.testing.assert_close(gx, F.conv2d(padded, kernel[None, None]))
    torch.testing.assert_close(gy, F.conv2d(padded, kernel.t()[None, None].contiguous()))
    torch.testing.assert_close(gradient(x), gx.abs() + gy.abs())


def test_ssim_of_identical_and_opposite_images():
    x = torch.rand(2, 1, 24, 24)
    torch.testing.assert_close(ssim(x, x), torch.ones(2))
    assert (ssim(x, 1 - x) < 0).all()
    assert ssim_loss(x, 1 - x) <= 1


def test_ssim_of_constants_is_the_luminance_term():
    a, b = torch.full((1, 1, 16, 16), 0.2), torch.full((1, 1, 16, 16), 0.6)
    c1 = 0.01**2
    expected = (2 * 0.2 * 0.6 + c1) / (0.2**2 + 0.6**2 + c1)
    assert ssim(a, b).item() == pytest.approx(expected, rel=1e-4)


def test_pearson_by_hand():
    x = torch.tensor([[1.0, 2], [3, 4]])[None, None]
    y = torch.tensor([[1.0, 3], [2, 4]])[None, None]
    assert pearson(x, y).item() == pytest.approx(0.8)
    assert pearson(x, -2 * x + 1).item() == pytest.approx(-1)
    assert pearson(x, torch.ones_like(x)).item() == 0


def test_decomposition_loss_by_hand():
    x = torch.rand(1, 2, 6, 6)
    assert decomposition_loss(x, x, x, x, 1.01).item() == pytest.approx(1 / 2.01, rel=1e-4)


def test_decomposition_refuses_a_small_delta():
    x = torch.rand(1, 1, 4, 4)
    with pytest.raises(ValueError, match="exceed 1"):
        decomposition_loss(x, x, x, x, 0.01)


def test_scd_of_the_sum_is_two():
    a, b = torch.rand(3, 1, 8, 8), torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(scd(a, b, a + b), torch.full((3,), 2.0))


def test_out_of_range_is_the_mean_distance():
    x = torch.tensor([[-0.2, 0.5], [1.4, 1.0]])[None, None]
    assert out_of_range(x, 0.0).item() == pytest.approx(0.6 / 4)
    assert out_of_range(x, 0.1).item() == pytest.approx((0.3 + 0.5 + 0.1) / 4)


def picture(seed=0, height=64, width=80):
    """A smooth scene with an edge, 8-bit levels in [0, 1], (1, 1, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    x = F.interpolate(torch.rand(1, 1, 8, 10, generator=generator), size=(height, width), mode="bicubic").clamp(0, 1)
    x[..., 20:40, 30:50] *= 0.4
    return (255 * x).round() / 255


FUSED = {
    "itself": lambda x: x,
    "noise": lambda x: x + 0.03 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)),
    "blur": lambda x: F.avg_pool2d(x, 5, 1, 2, count_include_pad=False),
    "contrast": lambda x: 0.25 + 0.5 * x,
    "another picture": lambda x: 0.6 * x + 0.4 * picture(7),
    "inverted": lambda x: 1.0 - x,
}


@pytest.mark.parametrize("change", FUSED.values(), ids=FUSED)
def test_vif_is_that_of_the_evaluation(change):
    x = picture()
    y = (255 * change(x)).round().clamp(0, 255) / 255
    levels = [(255 * image[0, 0].double()).round().numpy() for image in (x, y)]
    assert vif(x, y).item() == pytest.approx(metric_vif(*levels), rel=0.02, abs=1e-3)


def test_vif_of_each_image_of_a_batch_is_its_own():
    x = torch.cat([picture(0), picture(1)])
    y = torch.cat([FUSED["blur"](x[:1]), FUSED["contrast"](x[1:])])
    torch.testing.assert_close(vif(x, y), torch.cat([vif(x[:1], y[:1]), vif(x[1:], y[1:])]))


@pytest.mark.parametrize("flat", [(True, False), (False, True), (True, True)], ids=["source", "fused", "both"])
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_gradient_of_vif_is_finite_on_constant_images(flat, level):
    x, y = (torch.full((1, 1, 48, 48), level) if each else picture(2, 48, 48) for each in flat)
    y.requires_grad_()
    value = vif(x, y)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(y.grad).all()


def test_vif_rises_along_its_gradient():
    x = picture()
    y = FUSED["blur"](x).requires_grad_()
    before = vif(x, y)
    before.sum().backward()
    step = 1e-3 * y.grad / y.grad.abs().max()
    assert vif(x, y.detach() + step) > before


def test_vif_needs_the_documented_side():
    x = picture(0, VIF_MIN_SIDE, VIF_MIN_SIDE)
    assert torch.isfinite(vif(x, x)).all()
    with pytest.raises(RuntimeError, match="size"):
        vif(x[..., 1:], x[..., 1:])

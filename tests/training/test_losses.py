"""Losses against values computed by hand or by definition."""

import pytest
import torch
from torch.nn import functional as F

from training.losses import decomposition_loss, gradient, out_of_range, pearson, scd, sobel, ssim, ssim_loss


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

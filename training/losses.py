"""Losses for tokenizers and fusion networks. All inputs are (N, 1, H, W) float32 around [0, 1]."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F


@cache
def _gaussian(size: int, sigma: float, device: torch.device) -> Tensor:
    offsets = torch.arange(size, dtype=torch.float32, device=device) - (size - 1) / 2
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return weights / weights.sum()


def _window(x: Tensor, size: int = 11, sigma: float = 1.5) -> Tensor:
    """Gaussian window, full windows only: (N, C, H, W) -> (N, C, H - size + 1, W - size + 1)."""
    weights, C = _gaussian(size, sigma, x.device), x.shape[1]
    x = F.conv2d(x, weights.reshape(1, 1, size, 1).expand(C, 1, size, 1), groups=C)
    return F.conv2d(x, weights.reshape(1, 1, 1, size).expand(C, 1, 1, size), groups=C)


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Mean SSIM of each image, data range 1: -> (N,)."""
    moments = _window(torch.cat([x, y, x * x, y * y, x * y], dim=1))
    mx, my, xx, yy, xy = moments.split(1, dim=1)
    vx, vy, vxy = xx - mx * mx, yy - my * my, xy - mx * my
    c1, c2 = 0.01**2, 0.03**2
    value = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return value.mean(dim=(1, 2, 3))


def ssim_loss(x: Tensor, y: Tensor) -> Tensor:
    """(1 - SSIM) / 2, clamped to [0, 1], mean over the batch."""
    return ((1.0 - ssim(x, y)) / 2.0).clamp(0.0, 1.0).mean()


VIF_WINDOWS = (17, 9, 5, 3)
"""Window of each scale of VIF, sigma a fifth of it; every scale but the first halves the image."""

VIF_MIN_SIDE = 41
"""The shortest side that leaves a full window at the last scale."""


def vif(reference: Tensor, image: Tensor) -> Tensor:
    """Pixel-domain visual information fidelity of each image against its reference: -> (N,).

    The metric of the evaluation, made differentiable: variances are bounded away from 0 instead of being cut off.
    """
    shared, own = torch.zeros((), device=image.device), torch.zeros((), device=image.device)
    x, y = 255.0 * reference, 255.0 * image
    for scale, size in enumerate(VIF_WINDOWS):
        if scale:
            x, y = _window(torch.cat([x, y], dim=1), size, size / 5)[..., ::2, ::2].split(1, dim=1)
        mx, my, xx, yy, xy = _window(torch.cat([x, y, x * x, y * y, x * y], dim=1), size, size / 5).split(1, dim=1)
        vx, vy, vxy = (xx - mx * mx).clamp_min(0), (yy - my * my).clamp_min(0), xy - mx * my
        gain = F.relu(vxy / (vx + 1e-2))
        noise = (vy - gain * vxy).clamp_min(1e-3) + 2.0
        shared = shared + torch.log1p(gain.square() * vx / noise).sum(dim=(1, 2, 3))
        own = own + torch.log1p(vx / 2.0).sum(dim=(1, 2, 3))
    return shared / own.clamp_min(1e-3)


def sobel(x: Tensor) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical 3×3 Sobel responses, border replicated: two tensors of the input's shape."""
    p = F.pad(x, (1, 1, 1, 1), mode="replicate")
    rows = p[:, :, :-2] + 2 * p[:, :, 1:-1] + p[:, :, 2:]
    gx = rows[..., 2:] - rows[..., :-2]
    columns = p[..., :-2] + 2 * p[..., 1:-1] + p[..., 2:]
    gy = columns[:, :, 2:] - columns[:, :, :-2]
    return gx, gy


def gradient(x: Tensor) -> Tensor:
    """Gradient magnitude |Sobel_x| + |Sobel_y|, as in the fusion loss (eq. 17)."""
    gx, gy = sobel(x)
    return gx.abs() + gy.abs()


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation over pixels per image and channel: (N, C, H, W) twice -> (N, C); float32."""
    x, y = x.float().flatten(2), y.float().flatten(2)
    x, y = x - x.mean(dim=2, keepdim=True), y - y.mean(dim=2, keepdim=True)
    norm = (x.square().sum(2) * y.square().sum(2)).clamp_min(1e-12).sqrt()
    return ((x * y).sum(2) / norm).clamp(-1.0, 1.0)


def decomposition_loss(base_a: Tensor, base_b: Tensor, detail_a: Tensor, detail_b: Tensor, delta: float) -> Tensor:
    """cc(D_a, D_b)² / (δ + cc(B_a, B_b)) (eq. 16): details differ, bases agree.

    Args:
        base_a: Base features of the first image, (N, C, H, W).
        base_b: Base features of the second.
        detail_a: Detail features of the first, (N, C', H', W').
        detail_b: Detail features of the second.
        delta: Must exceed 1, because cc reaches -1.
    """
    if delta <= 1.0:
        raise ValueError(f"delta must exceed 1, got {delta}")
    return pearson(detail_a, detail_b).mean().square() / (delta + pearson(base_a, base_b).mean())


def scd(a: Tensor, b: Tensor, fused: Tensor) -> Tensor:
    """Sum of the correlations of differences r(F - B, A) + r(F - A, B) of each image: -> (N,)."""
    return (pearson(fused - b, a) + pearson(fused - a, b)).mean(dim=1)


def out_of_range(fused: Tensor, margin: float) -> Tensor:
    """Mean distance by which values leave [margin, 1 - margin]: what a clamp or a saturated display would lose."""
    return (F.relu(fused - (1.0 - margin)) + F.relu(margin - fused)).mean()

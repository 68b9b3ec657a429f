"""EI, AG, SF and SSIM of fused images as differentiable functions, and the score that the probe maximises (§3.2).

Definitions are those of ``training.evaluation.metrics``, but nothing is rounded or clamped, and every root has a small
number under it, so that gradients exist everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.losses import sobel, ssim

MEASURES = ("EI", "AG", "SF", "SSIM")
"""Order of the last axis of everything that ``measure`` returns."""

_ROOT = 1e-6
_FLOOR = 1e-3


def measure(a: Tensor, b: Tensor, fused: Tensor) -> Tensor:
    """EI, AG and SF in grey levels, and SSIM summed over both sources (at most 2), of each image.

    Args:
        a: First source, (N, 1, H, W) in [0, 1].
        b: Second source.
        fused: Fused image, un-clamped.

    Returns:
        (N, 4) in the order of ``MEASURES``.
    """
    levels = 255.0 * fused
    sx, sy = sobel(levels)
    edge_intensity = (sx.square() + sy.square() + _ROOT).sqrt().mean(dim=(1, 2, 3))
    down, across = torch.gradient(levels, dim=(2, 3))
    average_gradient = ((down.square() + across.square()) / 2.0 + _ROOT).sqrt().mean(dim=(1, 2, 3))
    rows, columns = levels.diff(dim=2).square(), levels.diff(dim=3).square()
    frequency = (rows.mean(dim=(1, 2, 3)) + columns.mean(dim=(1, 2, 3)) + _ROOT).sqrt()
    return torch.stack([edge_intensity, average_gradient, frequency, ssim(a, fused) + ssim(b, fused)], dim=1)


def score(measured: Tensor, unedited: Tensor, weights: Sequence[float]) -> Tensor:
    """J = w_EI ΔEI/EI₀ + w_AG ΔAG/AG₀ + w_SF ΔSF/SF₀ + w_SSIM ΔSSIM/SSIM₀ of each image.

    Args:
        measured: What ``measure`` returns with the edit, (..., 4).
        unedited: The same without, (..., 4).
        weights: One number for each measure.

    Returns:
        (...,). An edit that changes nothing scores 0.
    """
    gain = (measured - unedited) / unedited.abs().clamp_min(_FLOOR)
    return (gain * gain.new_tensor(weights)).sum(dim=-1)

"""Tone: the mean level of a pair, and compression towards black and white."""

from __future__ import annotations

import torch
from torch import Tensor


def compress(x: Tensor, knee: float) -> Tensor:
    """Identity in [knee, 1 - knee]; outside, a smooth curve that ends at 0 and 1.

    Args:
        x: Tones, any shape; values may lie outside [0, 1].
        knee: Width of the curve at both ends, 0 to 0.5; 0 switches it off.
    """
    if knee <= 0:
        return x
    inner = x.clamp(knee, 1.0 - knee)
    return inner + knee * torch.tanh((x - inner) / knee)


def compress_white(x: Tensor, knee: float) -> Tensor:
    """``compress`` at the bright end only, so that black stays black."""
    return torch.where(x > 0.5, compress(x, knee), x)


def mean_level(a: Tensor, b: Tensor) -> Tensor:
    """Mean grey of both images together: two (N, 1, H, W) -> (N, 1, 1, 1)."""
    return 0.5 * (a + b).mean(dim=(1, 2, 3), keepdim=True)

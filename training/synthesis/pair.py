"""What every synthesis takes and gives."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""BT.601 weights of red, green and blue."""


class SynthesisedPair(NamedTuple):
    """A pair and what a perfect fusion of it would be, each (N, C, H, W) in [0, 1] with values of 8 bits.

    Attributes:
        a: First source.
        b: Second source.
        truth: The image that both were made from.
    """

    a: Tensor
    b: Tensor
    truth: Tensor


def check_image(image: Tensor) -> None:
    """Whether a synthesis can work with it.

    Raises:
        ValueError: It is not (N, 1, H, W) or (N, 3, H, W) floating point in [0, 1].
    """
    if image.ndim != 4 or image.shape[1] not in {1, 3} or not image.is_floating_point():
        raise ValueError(f"expected (N, 1 or 3, H, W) floats, got {tuple(image.shape)} {image.dtype}")
    if not bool(((image >= 0) & (image <= 1)).all()):
        raise ValueError("values must lie in [0, 1]: divide 8-bit values by 255")


def to_8_bits(image: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to what 8 bits can hold."""
    return (image.clamp(0, 1) * 255).round() / 255


def luminance(image: Tensor) -> Tensor:
    """(N, 1 or 3, H, W) -> (N, 1, H, W)."""
    if image.shape[1] == 1:
        return image
    return (image * torch.tensor(LUMA, device=image.device, dtype=image.dtype).view(1, 3, 1, 1)).sum(1, keepdim=True)


def ordered(first: Tensor, second: Tensor, swap: Tensor) -> tuple[Tensor, Tensor]:
    """Exchange two images where ``swap`` (N, 1, 1, 1) is true."""
    return torch.where(swap, second, first), torch.where(swap, first, second)

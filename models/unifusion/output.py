"""How the last maps of the network become the fused image, and the mean that its inputs are shifted by.

Shape letters: N batch, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.tita.output import BlendOutput
from models.unifusion.config import UniFusionConfig

_MEAN = (0.4488, 0.4371, 0.4040)
"""Of natural RGB images in [0, 1], as in the authors' code."""

_LUMINANCE = (0.299, 0.587, 0.114)
"""BT.601."""


class ImageOutput(nn.Module):
    """The maps are the RGB image but for the mean, as in the paper: the sources have no part in it."""

    maps = 3
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", pixel_mean(3), persistent=False)

    def forward(self, maps: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W)."""
        return maps + self.mean


class ResidualOutput(nn.Module):
    """The map is what the mean of the sources lacks."""

    maps = 1

    def forward(self, maps: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Map and sources (N, 1, H, W) -> (N, 1, H, W)."""
        return (a + b) / 2 + maps


def make_output(config: UniFusionConfig) -> ImageOutput | ResidualOutput | BlendOutput:
    """What the configuration names."""
    made = {"image": ImageOutput, "residual": ResidualOutput, "blend": BlendOutput}[config.output]
    return made()


def pixel_mean(channels: int) -> Tensor:
    """What images are shifted by: (3, 1, 1) for RGB, (1, 1, 1) for luminance."""
    mean = torch.tensor(_MEAN).reshape(1, 3, 1, 1)
    return (mean if channels == 3 else luminance(mean))[0]


def luminance(image: Tensor) -> Tensor:
    """RGB to luminance: (N, 3, H, W) -> (N, 1, H, W)."""
    red, green, blue = image.split(1, dim=1)
    return _LUMINANCE[0] * red + _LUMINANCE[1] * green + _LUMINANCE[2] * blue

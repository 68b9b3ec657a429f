"""How the last maps of the network become the fused image.

Shape letters: N batch, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.tita.config import TITAConfig


class ImageOutput(nn.Module):
    """The one map is the image, as in the paper: everything, flat areas too, has to pass through the network."""

    maps = 1

    def forward(self, maps: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """(N, 1, H, W) -> (N, 1, H, W); the sources have no part in it."""
        return maps


class BlendOutput(nn.Module):
    """Three maps say how the sources make the image: which to choose, how much of the other to add, and a rest.

    With choice c in 0 to 1, gain g and rest r, and x - 1/2 the contrast of a pixel x::

        chosen = c · a + (1 - c) · b,  other = (1 - c) · a + c · b
        fused = chosen + g · (other - 1/2) + r

    Of two images in focus at different depths, c alone makes the fused one; g = 1 adds up the contrasts of two
    modalities. A network that is hardly trained already passes on sharp pixels.
    """

    maps = 3

    def forward(self, maps: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Maps (N, 3, H, W) and sources (N, 1, H, W) -> (N, 1, H, W)."""
        choice, gain, rest = maps.float().split(1, dim=1)
        chosen = torch.lerp(b, a, choice.sigmoid())
        return chosen + gain * (a + b - chosen - 0.5) + rest


def make_output(config: TITAConfig) -> ImageOutput | BlendOutput:
    """What the configuration names."""
    return BlendOutput() if config.output == "blend" else ImageOutput()

"""How the last maps of the network become the fused image.

Shape letters: N batch, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.tita.config import TITAConfig

WINDOWS = (3, 7, 15)
"""Sides in pixels of the squares over which sharpness is compared."""

LOCAL_REACH = WINDOWS[-1] // 2 + 1 + 3
"""Pixels that the blend looks beyond its own: the largest window, the Laplacian inside it, three convolutions."""

_FLOOR = 1e-3
"""Squared Laplacian of sensor noise of two grey levels, which is no sign of sharpness."""

_TRUST = 5.0
"""How much an untrained network trusts the comparison of sharpness."""


class ImageOutput(nn.Module):
    """The one map is the image, as in the paper: everything, flat areas too, has to pass through the network."""

    maps = 1

    def forward(self, maps: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """(N, 1, H, W) -> (N, 1, H, W); the sources have no part in it."""
        return maps


class BlendOutput(nn.Module):
    """Four maps say how the sources make the image; our own way to a useful network after a short training.

    With s the sharpness of a against that of b, and the maps choice c, trust t, gain g and rest r::

        share = sigmoid(c + t · s)
        chosen = share · a + (1 - share) · b,  other = a + b - chosen
        fused = chosen + g · (other - 1/2) + r

    Of two images that are in focus at different depths, the share alone makes the fused one; a gain of 1 adds up the
    contrasts of two modalities. Three convolutions on local statistics of the sources correct the maps of the network,
    which sees farther but only squares of pixels.
    """

    maps = 4

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        last = nn.Conv2d(channels, self.maps, 3, padding=1)
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.copy_(torch.tensor([0.0, _TRUST, 0.0, 0.0]))  # type: ignore[union-attr]
        first, second = (nn.Conv2d(n, channels, 3, padding=1) for n in (len(WINDOWS) + 6, channels))
        self.local = nn.Sequential(first, nn.LeakyReLU(0.2), second, nn.LeakyReLU(0.2), last)

    def forward(self, maps: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Maps (N, 4, H, W) and sources (N, 1, H, W) -> (N, 1, H, W)."""
        sharpness = _sharpness(a, b)
        corrected = maps + self.local(_statistics(a, b, sharpness))
        choice, trust, gain, rest = corrected.float().split(1, dim=1)
        share = (choice + trust * sharpness.mean(dim=1, keepdim=True)).sigmoid()
        chosen = torch.lerp(b, a, share)
        return chosen + gain * (a + b - chosen - 0.5) + rest


def _sharpness(a: Tensor, b: Tensor) -> Tensor:
    """Logarithm of the ratio of both images' squared Laplacians over each window: -> (N, 3, H, W)."""
    energies = [_laplacian(image).square() for image in (a, b)]
    means = ([_mean(energy, side) + _FLOOR for energy in energies] for side in WINDOWS)
    return torch.cat([torch.log(of_a / of_b) for of_a, of_b in means], dim=1)


def _statistics(a: Tensor, b: Tensor, sharpness: Tensor) -> Tensor:
    """What the correction sees: values, local means and contrasts of the sources, and their sharpness: (N, 9, H, W)."""
    mean_a, mean_b = (_mean(image, WINDOWS[-1]) for image in (a, b))
    apart = mean_a - mean_b
    return torch.cat([sharpness / 4, a - 0.5, b - 0.5, apart, apart.abs(), a - mean_a, b - mean_b], dim=1)


def _laplacian(image: Tensor) -> Tensor:
    p = F.pad(image, (1, 1, 1, 1), mode="replicate")
    return 4 * image - p[..., 1:-1, 2:] - p[..., 1:-1, :-2] - p[..., 2:, 1:-1] - p[..., :-2, 1:-1]


def _mean(image: Tensor, side: int) -> Tensor:
    return F.avg_pool2d(image, side, stride=1, padding=side // 2, count_include_pad=False)


def make_output(config: TITAConfig) -> ImageOutput | BlendOutput:
    """What the configuration names."""
    return BlendOutput() if config.output == "blend" else ImageOutput()

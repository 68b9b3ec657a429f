"""From the taps of a backbone to features at the resolution where they are fused (the paper's hierarchical adapter).

Shape letters: N batch, H and W padded sides of the image, h = H / 16, w = W / 16, f fold, E channels of a tap, C width
of the features. With Z = (N, C, H / f, W / f).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.unifusion.config import NORM_GROUPS, STRIDE, AdapterNorm, UniFusionConfig


class UpConv(nn.Module):
    """Twice the size, bilinear, then 3 × 3 convolution, norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, norm: AdapterNorm) -> None:
        super().__init__()
        self.layers = _conv(inputs, outputs, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) -> (N, outputs, 2 · h, 2 · w)."""
        return self.layers(_enlarge(x, 2))


class ImageSkip(nn.Module):
    """Detail finer than a patch, straight from the image: squares of f × f pixels become channels."""

    def __init__(self, config: UniFusionConfig) -> None:
        super().__init__()
        self.unshuffle = nn.PixelUnshuffle(config.fold)
        self.layers = _conv(config.channels * config.fold**2, config.adapted_dim, config.norm)

    def forward(self, image: Tensor, keep: Tensor | None) -> Tensor:
        """(N, 1 or 3, H, W) -> (N, E · f / 16, H / f, W / f); zero for samples whose ``keep``, (N,), is 0."""
        detail = self.layers(self.unshuffle(image))
        return detail if keep is None else detail * keep.to(detail.dtype).reshape(-1, 1, 1, 1)


class Adapter(nn.Module):
    """The hierarchical adapter of one image: 2,379,784 parameters in the published form.

    The two deepest taps join first, then the second, then the first, then the image itself.

    Args:
        config: The architecture.
    """

    def __init__(self, config: UniFusionConfig) -> None:
        super().__init__()
        E, norm = config.embed_dim, config.norm
        self.up1, self.up2, self.up3 = (UpConv(E, E // 2, norm) for _ in range(3))
        self.up4, self.up5 = (UpConv(E // 2, E // 4, norm) for _ in range(2))
        widths = [width for width in (E // 4, E // 8, E // 16) if width >= config.adapted_dim]
        self.finer = nn.Sequential(*(UpConv(n, n // 2, norm) for n in widths[:-1]))  # up6 and up7; none with fold 4
        self.skip = ImageSkip(config) if config.skip else None
        joined = config.adapted_dim * (2 if config.skip else 1)
        self.mix = nn.Conv2d(joined, config.width, 1)

    def forward(self, image: Tensor, taps: Sequence[Tensor], keep_skip: Tensor | None = None) -> Tensor:
        """Features of one image.

        Args:
            image: (N, 1 or 3, H, W), shifted by its mean.
            taps: Four maps (N, E, h, w), shallow to deep.
            keep_skip: 0 for samples that have to do without the image skip, else 1, (N,); ``None`` keeps all.

        Returns:
            Z.
        """
        first, second, third, fourth = taps
        deep = self.up4(self.up1(third + fourth) + self.up2(second))  # (N, E / 4, 4 · h, 4 · w)
        fine = self.finer(deep + self.up5(self.up3(first)))
        if self.skip is not None:
            fine = torch.cat([fine, self.skip(image, keep_skip)], dim=1)
        return self.mix(fine)


class AdapterFree(nn.Module):
    """Row "w/o Adapter" of the paper's ablation, which it does not define: the last tap alone, enlarged.

    Projecting before enlarging is the same as after it and costs a fraction.

    Args:
        config: The architecture.
    """

    def __init__(self, config: UniFusionConfig) -> None:
        super().__init__()
        self.times = STRIDE // config.fold
        self.project = nn.Conv2d(config.embed_dim, config.width, 1)
        self.skip = ImageSkip(config) if config.skip else None
        self.mix = nn.Conv2d(config.adapted_dim, config.width, 1, bias=False) if config.skip else None

    def forward(self, image: Tensor, taps: Sequence[Tensor], keep_skip: Tensor | None = None) -> Tensor:
        """Features of one image; see ``Adapter.forward``."""
        z = _enlarge(self.project(taps[-1]), self.times)
        if self.skip is None or self.mix is None:
            return z
        return z + self.mix(self.skip(image, keep_skip))


def make_adapter(config: UniFusionConfig) -> Adapter | AdapterFree:
    """What the configuration names."""
    return Adapter(config) if config.adapter == "hierarchical" else AdapterFree(config)


def _conv(inputs: int, outputs: int, norm: AdapterNorm) -> nn.Sequential:
    layer = nn.BatchNorm2d(outputs) if norm == "batch" else nn.GroupNorm(NORM_GROUPS, outputs)
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), layer, nn.ReLU())


def _enlarge(x: Tensor, times: int) -> Tensor:
    # By size, not by factor: an exporter rounds products with a factor, and no longer sees that sizes agree.
    size = (times * x.shape[2], times * x.shape[3])
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)

"""Measures of a tokenizer's reconstructions and codes. Images are (M, 1, S, S) in [0, 1]."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from training.losses import ssim

THUMBNAILS = (1, 2, 4, 8)
"""Sides of the thumbnails that a reconstruction is held against."""

BEST_PSNR = 100.0
"""dB at which PSNR is cut, so that a perfect copy has a mean."""


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, data range 1, in dB, at most 100: -> (M,)."""
    return (-10.0 * (x - y).square().mean(dim=(1, 2, 3)).log10()).clamp_max(BEST_PSNR)


def thumbnail(x: Tensor, side: int) -> Tensor:
    """What a side × side thumbnail keeps of an image: area means, enlarged again bicubically."""
    small = F.adaptive_avg_pool2d(x, side)
    return F.interpolate(small, size=x.shape[-2:], mode="bicubic", align_corners=False).clamp(0, 1)


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (of the sample; 0 for one image) over images."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: Tensor) -> Spread:
        """Of one value per image, (M,)."""
        x = values.double()
        return cls(float(x.mean()), float(x.std()) if len(x) > 1 else 0.0)


@dataclass(frozen=True)
class Fidelity:
    """How like the images of a folder their reconstructions are.

    Attributes:
        images: How many.
        psnr: dB.
        ssim: -1 to 1.
        mse: Of values in [0, 1].
        brightness_correlation: Pearson correlation over the images between the mean of an image and that of its
            reconstruction; None if either hardly varies.
        contrast_correlation: The same of their standard deviations.
        contrast_kept: Mean standard deviation of the reconstructions over that of the images.
        thumbnail_psnr: PSNR that thumbnails of each side reach on the same images, dB.
    """

    images: int
    psnr: Spread
    ssim: Spread
    mse: Spread
    brightness_correlation: float | None
    contrast_correlation: float | None
    contrast_kept: float | None
    thumbnail_psnr: dict[int, float]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def measure_fidelity(x: Tensor, y: Tensor) -> Fidelity:
    """Compare images with their reconstructions, both (M, 1, S, S) with S of 11 or more."""
    contrast_x, contrast_y = (z.flatten(1).std(dim=1) for z in (x, y))
    return Fidelity(
        images=len(x),
        psnr=Spread.of(psnr(x, y)),
        ssim=Spread.of(ssim(x, y)),
        mse=Spread.of((x - y).square().mean(dim=(1, 2, 3))),
        brightness_correlation=correlation(x.mean(dim=(1, 2, 3)), y.mean(dim=(1, 2, 3))),
        contrast_correlation=correlation(contrast_x, contrast_y),
        contrast_kept=float(contrast_y.mean() / contrast_x.mean()) if float(contrast_x.mean()) > 0 else None,
        thumbnail_psnr={side: float(psnr(x, thumbnail(x, side)).mean()) for side in THUMBNAILS},
    )


def correlation(a: Tensor, b: Tensor) -> float | None:
    """Pearson correlation of two (M,); None for fewer than three values, or if either hardly varies."""
    a, b = a.double(), b.double()
    if len(a) < 3 or float(a.std()) < 1e-6 or float(b.std()) < 1e-6:
        return None
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


@dataclass(frozen=True)
class CodeUse:
    """How a set of images uses the codebook.

    Attributes:
        tokens: Tokens of all images together; more codes than that cannot be chosen.
        codebook: Codes there are.
        used: Codes chosen at least once.
        perplexity: 2 to the entropy of the code frequencies: how many equally frequent codes would be as varied.
        position_used: Distinct codes at each position, K.
        position_entropy: Entropy of the codes at each position, K, in bits; at most log2 of the number of images.
    """

    tokens: int
    codebook: int
    used: int
    perplexity: float
    position_used: list[int]
    position_entropy: list[float]

    @property
    def share(self) -> float:
        """Share of the codebook that is used, 0 to 1."""
        return self.used / self.codebook

    def to_json(self) -> dict[str, Any]:
        """As plain values, with the share."""
        return {**asdict(self), "share": self.share}


def measure_codes(indices: Tensor, codebook: int) -> CodeUse:
    """Count the codes of M images, (M, K)."""
    counts = torch.bincount(indices.flatten(), minlength=codebook)
    per_position = [torch.bincount(column, minlength=codebook) for column in indices.T]
    return CodeUse(
        tokens=indices.numel(),
        codebook=codebook,
        used=int((counts > 0).sum()),
        perplexity=2.0 ** entropy(counts),
        position_used=[int((c > 0).sum()) for c in per_position],
        position_entropy=[entropy(c) for c in per_position],
    )


def entropy(counts: Tensor) -> float:
    """Entropy of a histogram, in bits."""
    p = counts[counts > 0].double() / float(counts.sum())
    return max(0.0, float(-(p * p.log2()).sum()))


def bits_per_image(num_tokens: int, codebook: int) -> float:
    """What the codes of one image take: K log2(codebook)."""
    return num_tokens * math.log2(codebook)

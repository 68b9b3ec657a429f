"""MS_SSIM: structural similarity from fine to coarse.

Own code: torchmetrics pads its windows (0.07 off on a 192×256 image), piq and pytorch-msssim run in float32 and
piq needs torchvision; the moments for it are here anyway.
"""

from __future__ import annotations

import numpy as np

from training.evaluation.metrics.common import Image, Triple, require_side
from training.evaluation.metrics.similarity import contrast_structure, ssim, ssim_moments

EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MS_SSIM_MIN_SIDE = 161  # the smallest side that leaves a full 11-pixel window after four halvings


def halve(image: Image) -> Image:
    """Means of disjoint 2×2 blocks, (H, W) -> (⌈H / 2⌉, ⌈W / 2⌉); an odd last row or column is repeated."""
    height, width = image.shape
    even = np.pad(image, ((0, height % 2), (0, width % 2)), mode="edge")
    means: Image = (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4.0
    return means


def ms_ssim(x: Image, y: Image) -> float:
    """MS-SSIM of two images, 0..1: Π over four scales of the mean contrast-structure term, and SSIM at the fifth.

    Each term is raised to its exponent of Wang's paper (2003); a negative one counts as 0.

    Raises:
        ValueError: A side is below 161.
    """
    require_side(x, MS_SSIM_MIN_SIDE, "MS_SSIM")
    product = 1.0
    for exponent in EXPONENTS[:-1]:
        product *= max(float(contrast_structure(ssim_moments(x, y)).mean()), 0.0) ** exponent
        x, y = halve(x), halve(y)
    return product * max(ssim(x, y), 0.0) ** EXPONENTS[-1]


def total_ms_ssim(t: Triple) -> float:
    """MS_SSIM(a, f) + MS_SSIM(b, f), 0..2."""
    return ms_ssim(t.a, t.f) + ms_ssim(t.b, t.f)

"""MEF_SSIM: f against the patch that an ideal fusion of two exposures would hold at each place."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from training.evaluation.metrics.common import Image, Moments, Triple, gaussian, moments, require_side

PATCH = 11
_EPS = float(np.finfo(np.float64).eps)
_MIN_CONTRAST = 0.001  # keeps the structure of a flat patch, contrast 0, defined
_MAX_POWER = 10.0
_CONSTANT = (0.03 * 255.0) ** 2


class _Gains(NamedTuple):
    """The wanted patch is a (x_a - mean) + b (x_b - mean); both (H', W')."""

    a: Image
    b: Image


def _norm(squared: Image) -> Image:
    """Root of a sum of squares that rounding may have left below 0."""
    root: Image = np.sqrt(np.maximum(squared, 0.0))
    return root


def _wanted(m: Moments) -> _Gains:
    """Gains of the wanted patch from the plain moments of both sources in every patch (Ma, Zeng, Wang 2015).

    Its contrast is the larger of both; its structure weighs the sources the more by their contrast, the better
    their structures agree.
    """
    pixels = float(PATCH * PATCH)
    square_a, square_b, product = pixels * m.var_x, pixels * m.var_y, pixels * m.cov
    norm_a, norm_b = _norm(square_a), _norm(square_b)
    agreement = (_norm(square_a + square_b + 2.0 * product) + _EPS) / (norm_a + norm_b + _EPS)
    power = np.minimum(np.tan(np.minimum(agreement, 1.0 - _EPS) * math.pi / 2.0), _MAX_POWER)
    contrast_a, contrast_b = norm_a + _MIN_CONTRAST, norm_b + _MIN_CONTRAST
    weight_a, weight_b = ((c / PATCH) ** power + _EPS for c in (contrast_a, contrast_b))
    gain_a = weight_a / (weight_a + weight_b) / contrast_a
    gain_b = weight_b / (weight_a + weight_b) / contrast_b
    norm = _norm(gain_a**2 * square_a + gain_b**2 * square_b + 2.0 * gain_a * gain_b * product)
    larger = np.maximum(contrast_a, contrast_b)
    scale = np.divide(larger, norm, out=np.zeros_like(norm), where=norm > 0.0)
    return _Gains(gain_a * scale, gain_b * scale)


def mef_ssim(t: Triple) -> float:
    """MEF_SSIM, -1..1: mean of (2 s_wf + C) / (s_w + s_f + C) over all full 11×11 patches, C = (0.03 · 255)².

    One scale, no luminance term; s are moments of the wanted patch w and of f's, weighted by a Gaussian, sigma 1.5.
    (The MEFB benchmark prints the variant with three scales under this name.)

    Raises:
        ValueError: A side is below 11.
    """
    require_side(t.f, PATCH, "MEF_SSIM")
    gain = _wanted(moments(t.a, t.b, np.full(PATCH, 1.0 / PATCH)))
    # w is a linear blend of the sources in each patch, so its moments follow from theirs
    window = gaussian(PATCH, 1.5)
    with_a, with_b, sources = (moments(x, y, window) for x, y in ((t.a, t.f), (t.b, t.f), (t.a, t.b)))
    variance = gain.a**2 * with_a.var_x + gain.b**2 * with_b.var_x + 2.0 * gain.a * gain.b * sources.cov
    covariance = gain.a * with_a.cov + gain.b * with_b.cov
    return float(((2.0 * covariance + _CONSTANT) / (variance + with_a.var_y + _CONSTANT)).mean())

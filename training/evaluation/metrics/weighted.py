"""Qw and Qy: SSIM with each source, joined by local weights from where a source holds more contrast."""

from __future__ import annotations

import math

import numpy as np

from training.evaluation.metrics.common import Image, Moments, Triple, gaussian, moments, require_side, share
from training.evaluation.metrics.similarity import SSIM_WINDOW, ssim_map, ssim_moments

YANG_WINDOW = 7
YANG_SIMILAR = 0.75
_YANG_CONSTANT = 2e-16
# Grey levels are whole, so a window that is not flat has a variance above 1e-6; what is below is rounding.
_FLAT_BELOW = 1e-9


def _settled(m: Moments) -> Moments:
    """Moments whose variances and covariance are exactly 0 in flat windows."""
    var_x, var_y = (np.where(var < _FLAT_BELOW, 0.0, var) for var in (m.var_x, m.var_y))
    return m._replace(var_x=var_x, var_y=var_y, cov=np.where((var_x > 0.0) & (var_y > 0.0), m.cov, 0.0))


def piella(t: Triple) -> float:
    """Qw = Σ w (λ S_a + (1 - λ) S_b) / Σ w, -1..1, of Piella and Heijmans (2003), with SSIM's window and constants.

    S is the SSIM of f with a source, λ = var_a / (var_a + var_b), and w = max(var_a, var_b).

    Returns:
        The value; NaN where both sources are constant.

    Raises:
        ValueError: A side is below 11.
    """
    require_side(t.f, SSIM_WINDOW, "Qw")
    with_a, with_b = (_settled(ssim_moments(source, t.f)) for source in (t.a, t.b))
    part_a = share(with_a.var_x, with_b.var_x)
    weight = np.maximum(with_a.var_x, with_b.var_x)
    local = part_a * ssim_map(with_a) + (1.0 - part_a) * ssim_map(with_b)
    total = float(weight.sum())
    return float((weight * local).sum()) / total if total > 0.0 else math.nan


def yang(t: Triple) -> float:
    """Qy, -1..1, of Yang and others (2008): Gaussian window 7, sigma 1.5, full windows only, no constants.

    Where SSIM(a, b) >= 0.75 the local value is λ S_a + (1 - λ) S_b as in ``piella``; elsewhere max(S_a, S_b).

    Raises:
        ValueError: A side is below 7.
    """
    require_side(t.f, YANG_WINDOW, "Qy")
    weights = gaussian(YANG_WINDOW, 1.5)
    with_a, with_b, sources = (_settled(moments(x, y, weights)) for x, y in ((t.a, t.f), (t.b, t.f), (t.a, t.b)))
    s_a, s_b, s_ab = (_bare_ssim(m) for m in (with_a, with_b, sources))
    part_a = share(sources.var_x, sources.var_y)
    local = np.where(s_ab >= YANG_SIMILAR, part_a * s_a + (1.0 - part_a) * s_b, np.maximum(s_a, s_b))
    return float(local.mean())


def _bare_ssim(m: Moments) -> Image:
    """SSIM whose constants only turn 0 / 0 into 1: two flat windows, or two black ones, are alike."""
    return ssim_map(m, _YANG_CONSTANT, _YANG_CONSTANT)

"""SSIM and VIF: how much of each source's local structure the fused image keeps."""

from __future__ import annotations

import numpy as np

from training.evaluation.metrics.common import Image, Moments, Triple, gaussian, moments, require_side, window_mean

SSIM_WINDOW = 11
SSIM_C1, SSIM_C2 = (0.01 * 255.0) ** 2, (0.03 * 255.0) ** 2
VIF_WINDOWS = (17, 9, 5, 3)
VIF_MIN_SIDE = 41  # the smallest side that leaves a full 3-pixel window at the fourth scale
VIF_NOISE = 2.0
_TINY = 1e-10


def ssim_moments(x: Image, y: Image) -> Moments:
    """Moments in SSIM's window: Gaussian 11, sigma 1.5, full windows only, (H - 10, W - 10)."""
    return moments(x, y, gaussian(SSIM_WINDOW, 1.5))


def contrast_structure(m: Moments, c2: float = SSIM_C2) -> Image:
    """(2 s_xy + C2) / (s_x + s_y + C2) in every window."""
    return (2.0 * m.cov + c2) / (m.var_x + m.var_y + c2)


def ssim_map(m: Moments, c1: float = SSIM_C1, c2: float = SSIM_C2) -> Image:
    """SSIM in every window, -1..1: (2 m_x m_y + C1) / (m_x² + m_y² + C1) times ``contrast_structure``."""
    return (2.0 * m.mean_x * m.mean_y + c1) / (m.mean_x**2 + m.mean_y**2 + c1) * contrast_structure(m, c2)


def ssim(x: Image, y: Image) -> float:
    """Mean SSIM of two images, -1..1, with C1 = (0.01 · 255)² and C2 = (0.03 · 255)².

    Raises:
        ValueError: A side is below 11.
    """
    require_side(x, SSIM_WINDOW, "SSIM")
    return float(ssim_map(ssim_moments(x, y)).mean())


def total_ssim(t: Triple) -> float:
    """SSIM(a, f) + SSIM(b, f), -2..2: the sum, not the mean that some papers report."""
    return ssim(t.a, t.f) + ssim(t.b, t.f)


def total_zoo_ssim(t: Triple) -> float:
    """SSIM_zoo, -2..2: as ``total_ssim``, but with both constants 255² times smaller.

    The IVIF-ZOO benchmark scales levels 0..255 by 255 once more and leaves L at 255; the paper's tables are of
    that kind. Noise in flat areas then counts almost in full.

    Raises:
        ValueError: A side is below 11.
    """
    require_side(t.f, SSIM_WINDOW, "SSIM_zoo")
    maps = (ssim_map(ssim_moments(x, t.f), SSIM_C1 / 255.0**2, SSIM_C2 / 255.0**2) for x in (t.a, t.b))
    return float(sum(values.mean() for values in maps))


def _vif_scale(reference: Image, image: Image, weights: Image) -> tuple[float, float]:
    """Information that the image shares with the reference at one scale, and that of the reference itself."""
    m = moments(reference, image, weights)
    var_x, var_y = np.maximum(m.var_x, 0.0), np.maximum(m.var_y, 0.0)
    gain = m.cov / (var_x + _TINY)
    noise = var_y - gain * m.cov
    flat = var_x < _TINY
    gain, noise, var_x = np.where(flat, 0.0, gain), np.where(flat, var_y, noise), np.where(flat, 0.0, var_x)
    flat = var_y < _TINY
    gain, noise = np.where(flat, 0.0, gain), np.where(flat, 0.0, noise)
    inverted = gain < 0.0
    gain, noise = np.where(inverted, 0.0, gain), np.where(inverted, var_y, noise)
    noise = np.maximum(noise, _TINY)
    shared = np.log1p(gain * gain * var_x / (noise + VIF_NOISE)).sum()
    return float(shared), float(np.log1p(var_x / VIF_NOISE).sum())


def vif(reference: Image, image: Image) -> float:
    """Pixel-domain VIF of an image against its reference, 0 or more; NaN where the reference is constant.

    Scales 1..4 with windows of N = 17, 9, 5, 3 and sigma N / 5, full windows only; from scale 2 on both
    images are first filtered with that window and halved. Σ log(1 + g² s_x / (s_v + 2)) / Σ log(1 + s_x / 2).
    """
    require_side(reference, VIF_MIN_SIDE, "VIF")
    shared = own = 0.0
    for size in VIF_WINDOWS:
        weights = gaussian(size, size / 5.0)
        if size != VIF_WINDOWS[0]:
            reference = window_mean(reference, weights)[::2, ::2]
            image = window_mean(image, weights)[::2, ::2]
        scale_shared, scale_own = _vif_scale(reference, image, weights)
        shared, own = shared + scale_shared, own + scale_own
    return shared / own if own > 0.0 else float("nan")


def total_vif(t: Triple) -> float:
    """VIF(a -> f) + VIF(b -> f) with the source as reference; NaN where a source is constant."""
    return vif(t.a, t.f) + vif(t.b, t.f)

"""Qcb: local contrasts of the sources kept in f, as an eye at a fixed distance would see them."""

from __future__ import annotations

import math

import numpy as np
from scipy.fft import irfft2, rfft2
from scipy.ndimage import correlate1d

from training.evaluation.metrics.common import Image, Triple, share, smaller_to_larger

_RADIUS = 15  # of the Gaussian windows
_CENTRE, _SURROUND = 2.0, 4.0  # their sigmas


def _stretch(image: Image) -> Image:
    """Linear stretch to 0..255, rounded with halves upward; the image must not be constant."""
    low, high = image.min(), image.max()
    levels: Image = np.floor((image - low) / (high - low) * 255.0 + 0.5)
    return levels


def _filter_like_the_eye(image: Image) -> Image:
    """Contrast sensitivity: exp(-(r / 15.387)²) - 0.7622 exp(-(r / 1.3456)²), r = cycles per image / 15."""
    height, width = image.shape
    r = np.hypot(np.fft.fftfreq(height, 1.0 / height)[:, None], np.fft.rfftfreq(width, 1.0 / width)) / 15.0
    sensitivity = np.exp(-((r / 15.387) ** 2)) - 0.7622 * np.exp(-((r / 1.3456) ** 2))
    filtered: Image = irfft2(rfft2(image) * sensitivity, s=image.shape)
    return filtered


def _blur(image: Image, sigma: float) -> Image:
    """31×31 Gaussian of unit volume, cut off without renormalising, zero border."""
    offsets = np.arange(-_RADIUS, _RADIUS + 1, dtype=np.float64)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2) / (math.sqrt(2.0 * math.pi) * sigma)
    blurred: Image = correlate1d(correlate1d(image, weights, axis=0, mode="constant"), weights, mode="constant")
    return blurred


def _contrast(image: Image) -> Image:
    """Masked local contrast C³ / (C² + 1e-4) with C = |centre / surround - 1|, (H, W), 0 or more."""
    seen = _filter_like_the_eye(_stretch(image))
    contrast = np.abs(_blur(seen, _CENTRE) / _blur(seen, _SURROUND) - 1.0)
    masked: Image = contrast**3 / (contrast**2 + 1e-4)
    return masked


def chen_blum(t: Triple) -> float:
    """Qcb, 0..1, of Chen and Blum (2009): mean of λ_a Q_a + λ_b Q_b.

    Q is the smaller / the larger masked contrast of a source and f, λ the source's share of the squared
    contrasts. Every image is stretched to 0..255 first, so brightness and contrast changes of f go unseen.

    Returns:
        The value; NaN where an image is constant.
    """
    if any(image.min() == image.max() for image in t):
        return math.nan
    a, b, f = (_contrast(image) for image in t)
    part_a = share(a * a, b * b)
    return float((part_a * smaller_to_larger(a, f) + (1.0 - part_a) * smaller_to_larger(b, f)).mean())

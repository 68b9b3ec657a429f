"""Metrics of single pixels: contrast, activity, error and correlation."""

from __future__ import annotations

import math

import numpy as np

from training.evaluation.metrics.common import Image, Triple, sobel


def standard_deviation(t: Triple) -> float:
    """SD = sqrt(mean (f - mean f)²), grey levels."""
    return float(t.f.std())


def spatial_frequency(t: Triple) -> float:
    """SF = sqrt(mean dx² + mean dy²) with the differences of neighbours, each mean over those that exist."""
    across, down = np.diff(t.f, axis=1), np.diff(t.f, axis=0)
    return math.sqrt(float((across * across).mean()) + float((down * down).mean()))


def average_gradient(t: Triple) -> float:
    """AG = mean sqrt((gx² + gy²) / 2), central differences, one-sided at the border."""
    down, across = np.gradient(t.f)
    return float(np.sqrt((across * across + down * down) / 2.0).mean())


def edge_intensity(t: Triple) -> float:
    """EI = mean sqrt(sx² + sy²), 3×3 Sobel, not normalised, border replicated."""
    return float(np.hypot(*sobel(t.f, "nearest")).mean())


def pearson(x: Image, y: Image) -> float:
    """Pearson correlation r(x, y) in -1..1; NaN where one image is constant."""
    x, y = x - x.mean(), y - y.mean()
    norm = math.sqrt(float((x * x).sum()) * float((y * y).sum()))
    return float((x * y).sum()) / norm if norm > 0.0 else math.nan


def correlation(t: Triple) -> float:
    """CC = (r(a, f) + r(b, f)) / 2, -1..1; NaN where an image is constant."""
    return (pearson(t.a, t.f) + pearson(t.b, t.f)) / 2.0


def difference_correlation(t: Triple) -> float:
    """SCD = r(a, f - b) + r(b, f - a), -2..2; NaN where f equals a source or a source is constant."""
    return pearson(t.a, t.f - t.b) + pearson(t.b, t.f - t.a)


def mean_squared_error(t: Triple) -> float:
    """MSE = (mean (a - f)² + mean (b - f)²) / 2, squared grey levels."""
    return (float(((t.a - t.f) ** 2).mean()) + float(((t.b - t.f) ** 2).mean())) / 2.0


def peak_signal_to_noise(t: Triple) -> float:
    """PSNR = 10 log10(255² / MSE) of the mean MSE of both sources, dB; infinite if f equals both."""
    error = mean_squared_error(t)
    return 10.0 * math.log10(255.0**2 / error) if error > 0.0 else math.inf

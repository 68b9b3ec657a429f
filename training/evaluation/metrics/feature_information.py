"""FMI: mutual information of a feature between f and each source, window by window.

Haghighat's fast version (2014): the joint distribution of two windows is not counted but modelled, from their
correlation, between independence and the strongest dependence that their distributions allow.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import xlogy

from training.evaluation.metrics import features
from training.evaluation.metrics.common import Image, Triple, require_side

WINDOW = 3
BINS = WINDOW * WINDOW
_BLOCK = 2048  # windows at a time: arrays of 81 numbers each that stay in the cache
_POSITIONS = np.arange(BINS, dtype=np.float64)


def _windows(image: Image) -> Image:
    """All full 3×3 windows, each read column by column: (H, W) -> (N, 9)."""
    views = sliding_window_view(image, (WINDOW, WINDOW)).swapaxes(-1, -2)
    return views.reshape(-1, BINS)


def _distributions(windows: Image) -> Image:
    """Each window as a distribution over its 9 positions, (N, 9): stretched to 0..1, divided by its sum."""
    low, high = windows.min(axis=1, keepdims=True), windows.max(axis=1, keepdims=True)
    stretched = np.divide(windows - low, high - low, out=np.ones_like(windows), where=high > low)
    distributions: Image = stretched / stretched.sum(axis=1, keepdims=True)
    return distributions


def _entropy(p: Image) -> Image:
    """-Σ p ln |p| over all but the first axis; the model of the joint distribution may go below 0."""
    return -xlogy(p, np.abs(p)).reshape(len(p), -1).sum(axis=1)


def _correlation(p: Image, q: Image) -> Image:
    """Pearson correlation of two distributions over their bins, (N,); 0 where one is uniform."""
    p, q = p - 1.0 / BINS, q - 1.0 / BINS
    norm = np.sqrt((p * p).sum(axis=1) * (q * q).sum(axis=1))
    return np.divide((p * q).sum(axis=1), norm, out=np.zeros(len(p)), where=norm > 1e-12)


def _spread(p: Image) -> Image:
    """Standard deviation of the position under each distribution, (N,), in bins."""
    mean = p @ _POSITIONS
    return np.sqrt((p * (_POSITIONS - mean[:, None]) ** 2).sum(axis=1))


def _joint(p: Image, q: Image) -> Image:
    """Model of the joint distribution, (N, 9, 9): φ times the Fréchet bound's, 1 - φ times the independent one.

    The bound of the cumulated distribution is min(P, Q) where the correlation c of p and q is positive, else
    max(P + Q - 1, 0); φ = c / the correlation of the positions under that bound.
    """
    correlation = _correlation(p, q)
    cumulated_p, cumulated_q = p.cumsum(axis=1)[:, :, None], q.cumsum(axis=1)[:, None, :]
    upper = np.minimum(cumulated_p, cumulated_q)
    lower = np.maximum(cumulated_p + cumulated_q - 1.0, 0.0)
    bound = np.where(correlation[:, None, None] >= 0.0, upper, lower)
    # Hoeffding: the covariance is the sum of what the cumulated joint has beyond the independent one
    covariance = (bound - cumulated_p * cumulated_q).sum(axis=(1, 2))
    scaled = correlation * _spread(p) * _spread(q)
    share = np.divide(scaled, covariance, out=np.zeros_like(scaled), where=scaled != 0.0)[:, None, None]
    density = np.diff(np.diff(bound, axis=1, prepend=0.0), axis=2, prepend=0.0)
    return share * density + (1.0 - share) * p[:, :, None] * q[:, None, :]


def _window_information(x: Image, y: Image) -> Image:
    """2 I / (H_x + H_y) of pairs of windows (N, 9): -> (N,); 1 where they are equal, 0 if one is constant."""
    p, q = _distributions(x), _distributions(y)
    entropies = _entropy(p) + _entropy(q)
    shared = entropies - _entropy(_joint(p, q))
    value = np.divide(2.0 * shared, entropies, out=np.zeros_like(shared), where=entropies > 0.0)
    return np.where((x == y).all(axis=1), 1.0, value)


def _feature_information(t: Triple, feature: Callable[[Image], Image]) -> float:
    """Mean over both sources and all 3×3 windows of the information that f shares with the source, up to 1."""
    require_side(t.f, WINDOW, "FMI")
    a, b, f = (_windows(feature(image)) for image in t)
    total = 0.0
    for start in range(0, len(f), _BLOCK):
        block = slice(start, start + _BLOCK)
        total += sum(float(_window_information(source[block], f[block]).sum()) for source in (a, b))
    return total / (2.0 * len(f))


def edge_information(t: Triple) -> float:
    """FMI of thin Sobel edges, the measure's default feature."""
    return _feature_information(t, features.edge_map)


def pixel_information(t: Triple) -> float:
    """FMI of the grey levels."""
    return _feature_information(t, features.pixels)


def gradient_information(t: Triple) -> float:
    """FMI of the horizontal gradient."""
    return _feature_information(t, features.horizontal_gradient)


def cosine_information(t: Triple) -> float:
    """FMI of the image's cosine coefficients."""
    return _feature_information(t, features.cosine_coefficients)

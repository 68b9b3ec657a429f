"""Metrics of 256-bin histograms: one bin per grey level, base 2."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from training.evaluation.metrics.common import Image, Triple


def _bits(counts: NDArray[np.intp]) -> float:
    """Entropy -Σ p log2 p of a histogram, bits."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum())


def _levels(image: Image) -> NDArray[np.intp]:
    return image.astype(np.intp).ravel()


def mutual_information(x: Image, y: Image) -> float:
    """I(x, y) = H(x) + H(y) - H(x, y), 0..8 bits."""
    levels_x, levels_y = _levels(x), _levels(y)
    joint = np.bincount(levels_x * 256 + levels_y, minlength=65536).reshape(256, 256)
    return max(0.0, _bits(joint.sum(axis=1)) + _bits(joint.sum(axis=0)) - _bits(joint.ravel()))


def image_entropy(image: Image) -> float:
    """H = -Σ p log2 p, 0..8 bits."""
    return _bits(np.bincount(_levels(image), minlength=256))


def entropy(t: Triple) -> float:
    """EN = H(f), 0..8 bits."""
    return image_entropy(t.f)


def total_information(t: Triple) -> float:
    """MI = I(a, f) + I(b, f), 0..16 bits."""
    return mutual_information(t.a, t.f) + mutual_information(t.b, t.f)


def normalised_information(t: Triple) -> float:
    """NMI = 2 (I(a, f) / (H(a) + H(f)) + I(b, f) / (H(b) + H(f))), 0..2, of Hossny and others (2008).

    Returns:
        The value; NaN where f and a source are constant.
    """
    entropies = [image_entropy(source) + image_entropy(t.f) for source in (t.a, t.b)]
    if min(entropies) == 0.0:
        return math.nan
    return 2.0 * (mutual_information(t.a, t.f) / entropies[0] + mutual_information(t.b, t.f) / entropies[1])

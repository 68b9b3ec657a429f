"""Watch columns: what the usual metrics reward although nobody wants it. All three are better when lower.

They have no reference values elsewhere; each is defined here and is 0 where nothing is wrong.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter, uniform_filter

from training.evaluation.metrics.common import Image, Triple, sobel

NEIGHBOURHOOD = 7
FLAT_BELOW = 30.0  # mean |sx| + |sy| in grey levels: about 4 levels from pixel to pixel


def clipped(t: Triple) -> float:
    """clip: share of pixels, in percent, where f is 0 (or 255) and neither source is 0 (or 255)."""
    lost = np.zeros(t.f.shape, np.bool_)
    for level in (0.0, 255.0):
        lost |= (t.f == level) & (t.a != level) & (t.b != level)
    return 100.0 * float(lost.mean())


def outside(t: Triple) -> float:
    """outside: mean distance, in grey levels, of f from the range of both sources in the 7×7 neighbourhood.

    Counts halos along strong edges, and tones such as a sky that is darker than in either source.
    """
    low = minimum_filter(np.minimum(t.a, t.b), NEIGHBOURHOOD, mode="nearest")
    high = maximum_filter(np.maximum(t.a, t.b), NEIGHBOURHOOD, mode="nearest")
    return float((np.maximum(t.f - high, 0.0) + np.maximum(low - t.f, 0.0)).mean())


def flat_areas(a: Image, b: Image) -> NDArray[np.bool_]:
    """Where neither source has structure: the 7×7 mean of the larger |sx| + |sy| is below ``FLAT_BELOW``."""
    strengths = [np.abs(sx) + np.abs(sy) for sx, sy in (sobel(image, "nearest") for image in (a, b))]
    activity = uniform_filter(np.maximum(*strengths), NEIGHBOURHOOD, mode="nearest")
    flat: NDArray[np.bool_] = activity < FLAT_BELOW
    return flat


def flat_gradient(t: Triple) -> float:
    """flat_noise: AG of f, in grey levels, over what is flat in both sources; NaN if nothing is."""
    flat = flat_areas(t.a, t.b)
    if not flat.any():
        return math.nan
    down, across = np.gradient(t.f)
    return float(np.sqrt((across * across + down * down) / 2.0)[flat].mean())

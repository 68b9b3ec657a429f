"""What several metrics share: the input check, the Gaussian window, moments, and Sobel gradients.

Every image is float64, (H, W), with whole grey levels in 0..255: a and b are the sources, f is fused.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import correlate1d

Image = NDArray[np.float64]


class Triple(NamedTuple):
    """Both sources and the fused image, checked: equal shapes (H, W), float64, whole levels in 0..255."""

    a: Image
    b: Image
    f: Image


def check_triple(a: ArrayLike, b: ArrayLike, f: ArrayLike) -> Triple:
    """Convert three grey images to float64 and check them.

    Args:
        a: First source, (H, W), whole grey levels in 0..255 of any real type.
        b: Second source.
        f: Fused image, rounded to 8 bit as it would be saved.

    Raises:
        ValueError: An array is not a grey image, its values are no whole levels in 0..255, or shapes differ.
    """
    triple = Triple(_check_image("a", a), _check_image("b", b), _check_image("f", f))
    if not triple.a.shape == triple.b.shape == triple.f.shape:
        shapes = ", ".join(f"{name} {x.shape}" for name, x in zip("abf", triple, strict=True))
        raise ValueError(f"the images must have one shape, but are {shapes}")
    return triple


def check_truth(truth: ArrayLike, f: ArrayLike) -> tuple[Image, Image]:
    """Convert the truth of a pair and the fused image to float64 and check them as ``check_triple`` does.

    Raises:
        ValueError: As there.
    """
    images = _check_image("truth", truth), _check_image("f", f)
    if images[0].shape != images[1].shape:
        raise ValueError(f"the truth is {images[0].shape}, but f is {images[1].shape}")
    return images


def _check_image(name: str, image: ArrayLike) -> Image:
    values = np.asarray(image)
    if values.ndim != 2 or min(values.shape) < 2:
        raise ValueError(f"image {name} must be (H, W) with sides of 2 or more, not {values.shape}")
    if values.dtype == np.uint8:
        return values.astype(np.float64)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"image {name} must hold real numbers, not {values.dtype}")
    levels = values.astype(np.float64)
    if not np.isfinite(levels).all():
        raise ValueError(f"image {name} holds values that are not finite")
    low, high = float(levels.min()), float(levels.max())
    if low < 0.0 or high > 255.0:
        raise ValueError(f"image {name} must lie in 0..255, but spans {low:g}..{high:g}")
    if not np.array_equal(levels, np.rint(levels)):
        raise ValueError(f"image {name} must hold whole grey levels: scale and round it to 8 bit first")
    return levels


def require_side(image: Image, side: int, metric: str) -> None:
    """Raise ``ValueError`` if the shorter side of an image is below what a metric's windows need."""
    if min(image.shape) < side:
        raise ValueError(f"{metric} needs sides of at least {side} pixels, not {image.shape}")


@cache
def gaussian(size: int, sigma: float) -> Image:
    """One axis of the normalised Gaussian window G(size, sigma): (size,), sum 1."""
    offsets = np.arange(size, dtype=np.float64) - (size - 1) / 2
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    window: Image = weights / weights.sum()
    return window


def window_mean(image: Image, weights: Image) -> Image:
    """Mean of each full window of a separable window: (H, W) -> (H - n + 1, W - n + 1) for n odd weights."""
    margin = len(weights) // 2
    rows: Image = correlate1d(image, weights, axis=0, mode="nearest")[margin : image.shape[0] - margin]
    means: Image = correlate1d(rows, weights, axis=1, mode="nearest")[:, margin : image.shape[1] - margin]
    return means


class Moments(NamedTuple):
    """Local moments of two images, each (H', W'): means, population variances and covariance."""

    mean_x: Image
    mean_y: Image
    var_x: Image
    var_y: Image
    cov: Image


def moments(x: Image, y: Image, weights: Image) -> Moments:
    """Weighted population moments of x and y in every full window; variances can be below 0 by rounding."""
    mean_x, mean_y = window_mean(x, weights), window_mean(y, weights)
    var_x = window_mean(x * x, weights) - mean_x * mean_x
    var_y = window_mean(y * y, weights) - mean_y * mean_y
    return Moments(mean_x, mean_y, var_x, var_y, window_mean(x * y, weights) - mean_x * mean_y)


def sobel(image: Image, mode: str) -> tuple[Image, Image]:
    """3×3 Sobel derivatives, not normalised: horizontal (right - left) and vertical (below - above).

    Args:
        image: (H, W).
        mode: Border as ``scipy.ndimage`` names it: "nearest" replicates, "constant" is zero, "mirror"
            reflects without repeating the edge pixel.
    """
    smooth, slope = np.array([1.0, 2.0, 1.0]), np.array([-1.0, 0.0, 1.0])
    horizontal: Image = correlate1d(correlate1d(image, smooth, axis=0, mode=mode), slope, axis=1, mode=mode)
    vertical: Image = correlate1d(correlate1d(image, smooth, axis=1, mode=mode), slope, axis=0, mode=mode)
    return horizontal, vertical


def share(x: Image, y: Image) -> Image:
    """Share x / (x + y) of two maps that are 0 or more; 1/2 where both are 0."""
    total = x + y
    return np.divide(x, total, out=np.full_like(total, 0.5), where=total > 0.0)


def smaller_to_larger(x: Image, y: Image) -> Image:
    """Smaller / larger of two maps that are 0 or more, 0..1; 0 where both are 0."""
    larger = np.maximum(x, y)
    return np.divide(np.minimum(x, y), larger, out=np.zeros_like(larger), where=larger > 0.0)

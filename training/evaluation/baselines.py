"""Fusion without learning, to hold every model against. All take and return images (H, W) in [0, 1].

Baselines return float64 that may leave [0, 1] a little; the caller clips when it rounds to 8 bit.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from training.evaluation.methods import Method, Real

Array = NDArray[np.float64]
_BINOMIAL = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16.0


def average(a: Real, b: Real) -> Array:
    """(a + b) / 2."""
    return (a.astype(np.float64) + b) / 2.0


def maximum(a: Real, b: Real) -> Array:
    """max(a, b) of each pixel."""
    return np.maximum(a.astype(np.float64), b)


def centred_sum(a: Real, b: Real) -> Array:
    """Full contrast of both: a + b - (mean a + mean b) / 2, clipped to [0, 1]."""
    both = a.astype(np.float64) + b
    fused: Array = np.clip(both - both.mean() / 2.0, 0.0, 1.0)
    return fused


def _blur(image: Array) -> Array:
    rows = correlate1d(image, _BINOMIAL, axis=0, mode="mirror")
    blurred: Array = correlate1d(rows, _BINOMIAL, axis=1, mode="mirror")
    return blurred


def _expand(image: Array, shape: tuple[int, ...]) -> Array:
    spread = np.zeros(shape)
    spread[::2, ::2] = image
    return 4.0 * _blur(spread)


def _larger(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    return np.where(np.abs(a) >= np.abs(b), a, b)


def laplacian(a: Real, b: Real, levels: int = 5) -> Array:
    """Laplacian pyramid (1 4 6 4 1, mirrored border): the larger-magnitude detail wins, the base is the mean.

    Args:
        a: First image.
        b: Second image.
        levels: Levels of detail; the base has 1 / 2^levels of the side.
    """
    low_a, low_b = a.astype(np.float64), b.astype(np.float64)
    details = []
    for _ in range(levels):
        next_a, next_b = _blur(low_a)[::2, ::2], _blur(low_b)[::2, ::2]
        details.append(_larger(low_a - _expand(next_a, low_a.shape), low_b - _expand(next_b, low_b.shape)))
        low_a, low_b = next_a, next_b
    fused = (low_a + low_b) / 2.0
    for detail in reversed(details):
        fused = _expand(fused, detail.shape) + detail
    return fused


def dual_tree(a: Real, b: Real, levels: int = 4) -> Array:
    """Dual-tree complex wavelets: the larger-magnitude coefficient wins, the low-pass is the mean.

    Odd sides are extended by replicating the last row or column, which is cut off again.
    """
    transforms = importlib.import_module("dtcwt")
    H, W = a.shape
    padded = [np.pad(x.astype(np.float64), ((0, H % 2), (0, W % 2)), mode="edge") for x in (a, b)]
    transform = transforms.Transform2d()
    first, second = (transform.forward(x, nlevels=levels) for x in padded)
    details = tuple(_larger(x, y) for x, y in zip(first.highpasses, second.highpasses, strict=True))
    base = (first.lowpass + second.lowpass) / 2.0
    fused: Array = transform.inverse(transforms.Pyramid(base, details))
    return fused[:H, :W]


def mertens(a: Real, b: Real) -> Array:
    """Exposure fusion of Mertens, Kautz and Van Reeth (2007) as OpenCV has it: well-lit, sharp pixels win.

    Both weights that grey images have, contrast and well-exposedness, count with exponent 1 as in the paper
    (OpenCV leaves out the second unless told); they blend the images in a Laplacian pyramid.
    """
    cv2 = importlib.import_module("cv2")
    merge = cv2.createMergeMertens(contrast_weight=1.0, saturation_weight=1.0, exposure_weight=1.0)
    levels = [x.astype(np.float32) * 255.0 for x in (a, b)]  # it divides by 255, whatever the type
    fused: Array = merge.process(levels).astype(np.float64)
    return fused


def first_source(a: Real, b: Real) -> Real:
    """``a`` as it is."""
    return a


def second_source(a: Real, b: Real) -> Real:
    """``b`` as it is."""
    return b


SOURCES: dict[str, Method] = {"image a": first_source, "image b": second_source}
"""Doing nothing, by name: where the truth is known, fusion must come closer to it than either source."""

BASELINES: dict[str, Method] = {
    "average": average,
    "maximum": maximum,
    "laplacian": laplacian,
    "centred sum": centred_sum,
}
"""For any pair, by name."""
if importlib.util.find_spec("dtcwt"):  # needs NumPy 1, so there is none for Python 3.13 and newer
    BASELINES["dtcwt"] = dual_tree

EXPOSURE_BASELINES: dict[str, Method] = {}
"""Only for an over- and an under-exposed image of one scene; empty without OpenCV."""
if importlib.util.find_spec("cv2"):
    EXPOSURE_BASELINES["mertens"] = mertens

TASKS = ("general", "exposure")
"""What ``baselines_for`` knows."""


def baselines_for(task: str) -> dict[str, Method]:
    """The baselines that are meant for a kind of image pair, by name; a new dictionary.

    Args:
        task: "general" for any pair; "exposure" for an over- and an under-exposed image: all, and Mertens.

    Raises:
        ValueError: The task is none of ``TASKS``.
    """
    if task not in TASKS:
        raise ValueError(f"no baselines for {task!r}; known: {', '.join(TASKS)}")
    return {**BASELINES, **EXPOSURE_BASELINES} if task == "exposure" else dict(BASELINES)

"""The working size: how many pixels the network sees of a large pair, and the reduced copies of its planes."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from app.card import SizeLimits
from app.color import Plane

NATIVE = 0  # As a ``max_side``: the network sees every pixel.
LEAST_SIDE, MOST_SIDE = 64, 65_535


class Size(NamedTuple):
    """Height and width in pixels."""

    height: int
    width: int

    @property
    def pixels(self) -> int:
        """How many there are in all."""
        return self.height * self.width

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def is_max_side(value: int) -> bool:
    """Whether a number is a working resolution: ``NATIVE``, or a longest side within its bounds."""
    return value == NATIVE or LEAST_SIDE <= value <= MOST_SIDE


def working_size(native: Size, max_side: int, limits: SizeLimits) -> Size:
    """Returns the size at which the network sees a pair.

    Args:
        native: Size of the pair, no side below ``limits.min_side``.
        max_side: Longest side of the reduced copy. ``NATIVE``, or no less than the longest side of the pair, keeps
            the pair as it is.
        limits: What the model takes.

    Returns:
        A size of the same aspect, but for rounding to ``limits.multiple``. It is larger than ``max_side`` where the
        shorter side would fall below ``limits.min_side``.
    """
    if max_side == NATIVE or max(native) <= max_side:
        return native
    scale = max(max_side / max(native), limits.min_side / min(native))
    step = limits.multiple
    least = math.ceil(limits.min_side / step)
    height, width = (max(least, round(side * scale / step)) * step for side in native)
    return Size(height, width)


def fitting_side(native: Size, limits: SizeLimits) -> int | None:
    """Returns the largest ``max_side`` that brings a too large pair within ``limits``; None: none does."""
    side = min(math.isqrt(limits.max_pixels * max(native) // min(native)), MOST_SIDE)
    # Rounding may add a few pixels, and a very long pair keeps more than ``max_side`` for its shorter side.
    fitting = (
        s for s in range(side, LEAST_SIDE - 1, -1) if working_size(native, s, limits).pixels <= limits.max_pixels
    )
    return next(fitting, None)


def reduce_plane(plane: Plane, size: Size) -> Plane:
    """Returns a smaller copy of a plane (H, W), each value a weighted mean of the pixels around its place.

    The weights have no negative parts, so values stay within the range of the plane.
    """
    # Not BOX: at a ratio that is no whole number it takes n pixels here and n + 1 there, which shows as ripples.
    image = Image.fromarray(np.ascontiguousarray(plane))
    return np.asarray(image.resize((size.width, size.height), Image.Resampling.HAMMING))

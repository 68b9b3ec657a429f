"""Splits images into luminance and chroma, puts chroma back on the fused luminance, or stacks fused channels.

Luminance is full-range BT.601: Y = 0.299 R + 0.587 G + 0.114 B. Chroma is Cb = (B - Y) / 1.772 and Cr = (R
- Y) / 1.402, 0 is neutral; it stays at the size of the source. The code computes with B - Y and R - Y: weighing
two of them by their distance from neutral does the same at any scale.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

ColorRule = Literal["auto", "a", "b", "none", "rgb"]
Plane = NDArray[np.float32]
Pixels = NDArray[np.uint8]

KR, KG, KB = 0.299, 0.587, 0.114
CHANNELS = 3  # Planes that the rule "rgb" fuses of each image.
STRIP_PIXELS = 32_768  # One strip of about ten float planes stays inside a core's cache.
WHITE = np.float32(255)
TINY = np.float32(1e-3)  # Of a grey level.


def luminance(rgb: Pixels) -> Plane:
    """Returns the luminance (H, W) in [0, 1] of 8-bit RGB pixels (H, W, 3)."""
    # Not as a matrix product: it would copy all of rgb to float, and wake threads of the algebra library.
    plane: Plane = np.multiply(rgb[..., 1], np.float32(KG / 255), dtype=np.float32)
    for channel, weight in ((0, KR), (2, KB)):
        plane += np.multiply(rgb[..., channel], np.float32(weight / 255), dtype=np.float32)
    return np.minimum(plane, np.float32(1), out=plane)


def is_neutral(rgb: Pixels) -> bool:
    """Tells whether every pixel of (H, W, 3) is grey."""
    green = rgb[..., 1]
    return bool((rgb[..., 0] == green).all() and (rgb[..., 2] == green).all())


def join_color(fused: Plane, rgb_a: Pixels | None, rgb_b: Pixels | None, rule: ColorRule) -> Pixels:
    """Puts the chroma of the source images on the fused luminance.

    Where luminance and chroma together leave the RGB cube, the chroma of that pixel is scaled towards
    neutral just enough to come back in: the luminance is kept, up to rounding.

    Args:
        fused: Fused luminance (H, W) in [0, 1].
        rgb_a: Colour pixels (H, W, 3) of image_a, or None if it is grey.
        rgb_b: Colour pixels (H, W, 3) of image_b, or None if it is grey.
        rule: ``a`` or ``b`` takes the chroma of that image, ``none`` takes none, ``auto`` weighs both per
            pixel and channel by their distance from neutral, so that a grey image weighs nothing. ``rgb`` takes
            none either: colour that is fused itself goes to ``stack_channels``.

    Returns:
        Pixels (H, W, 3), or (H, W) if there is no chroma.
    """
    chosen = [rgb_a if rule in {"auto", "a"} else None, rgb_b if rule in {"auto", "b"} else None]
    sources = [rgb for rgb in chosen if rgb is not None]
    if not sources:
        return to_bytes(fused)
    height, width = fused.shape
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        strip = slice(top, top + rows)
        blue, red = _mix([_chroma(rgb[strip]) for rgb in sources])
        _paint(fused[strip] * WHITE, blue, red, out=pixels[strip])
    return pixels


def channel_plane(rgb: Pixels, index: int) -> Plane:
    """Returns one channel (H, W) in [0, 1] of 8-bit pixels (H, W, 3): 0 is red, 1 green, 2 blue."""
    return unit_range(rgb[..., index])


def stack_channels(red: Plane, green: Plane, blue: Plane) -> Pixels:
    """Joins fused channels (H, W) in [0, 1] to pixels (H, W, 3); values outside are clipped."""
    pixels = np.empty((*red.shape, CHANNELS), np.uint8)
    for channel, plane in enumerate((red, green, blue)):
        _round(plane * WHITE, out=pixels[..., channel])
    return pixels


def unit_range(values: Pixels) -> Plane:
    """Brings 8-bit values of any shape to [0, 1]."""
    return np.multiply(values, np.float32(1 / 255), dtype=np.float32)


def to_bytes(plane: Plane) -> Pixels:
    """Rounds values in [0, 1] to 8 bits; values outside are clipped."""
    return _round(plane * WHITE, out=np.empty(plane.shape, np.uint8))


def _round(levels: Plane, *, out: Pixels) -> Pixels:
    """Rounds grey levels into ``out`` of the same shape, those outside 0…255 clipped; ``levels`` are lost."""
    levels += np.float32(0.5)
    out[...] = np.clip(levels, 0, 255, out=levels)
    return out


def _chroma(rgb: Pixels) -> tuple[Plane, Plane]:
    """Returns B - Y and R - Y (H, W) in grey levels."""
    red, green, blue = (rgb[..., channel].astype(np.float32) for channel in range(CHANNELS))
    luma = red * np.float32(KR)
    green *= np.float32(KG)
    luma += green
    luma += np.multiply(blue, np.float32(KB), out=green)
    blue -= luma
    red -= luma
    return blue, red


def _mix(sources: list[tuple[Plane, Plane]]) -> tuple[Plane, Plane]:
    """Weighs the chroma of one or two sources by its distance from neutral."""
    if len(sources) == 1:
        return sources[0]
    (blue_a, red_a), (blue_b, red_b) = sources
    return _weigh(blue_a, blue_b), _weigh(red_a, red_b)


def _weigh(first: Plane, second: Plane) -> Plane:
    weight_first, weight_second = np.abs(first), np.abs(second)
    mixed: Plane = first * weight_first
    mixed += second * weight_second
    weight_first += weight_second
    mixed /= np.maximum(weight_first, TINY, out=weight_first)
    return mixed


def _paint(luma: Plane, blue: Plane, red: Plane, *, out: Pixels) -> None:
    """Writes RGB of one strip into ``out`` (H, W, 3), chroma reduced where it leaves the gamut.

    Args:
        luma: Luminance Y (H, W) in grey levels.
        blue: B - Y in grey levels; lost.
        red: R - Y in grey levels; lost.
        out: Receives the pixels.
    """
    green = red * np.float32(-KR / KG)  # G - Y, from KR·red + KG·green + KB·blue = 0
    green -= blue * np.float32(KB / KG)
    # The weighted sum of the three is 0, so the largest is never below 0 and the smallest never above.
    highest, lowest = np.maximum(red, green), np.minimum(red, green)
    np.maximum(np.maximum(highest, blue, out=highest), TINY, out=highest)
    np.minimum(np.minimum(lowest, blue, out=lowest), -TINY, out=lowest)
    room = WHITE - luma
    room /= highest
    np.minimum(room, np.negative(np.divide(luma, lowest, out=lowest), out=lowest), out=room)
    np.clip(room, 0, 1, out=room)
    for channel, difference in enumerate((red, green, blue)):
        _round(np.add(np.multiply(difference, room, out=difference), luma, out=difference), out=out[..., channel])

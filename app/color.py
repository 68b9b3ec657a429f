"""Splits images into luminance and chroma, puts chroma back on the fused luminance, or stacks fused channels.

Luminance is full-range BT.601: Y = 0.299 R + 0.587 G + 0.114 B. Chroma is Cb = (B - Y) / 1.772 and Cr = (R
- Y) / 1.402, both in [-0.5, 0.5] with 0 as neutral; it stays at the size of the source.
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
CB_SCALE, CR_SCALE = 2 * (1 - KB), 2 * (1 - KR)
STRIP_PIXELS = 32_768  # One strip of about ten float planes stays inside a core's cache.
TINY = np.float32(1e-6)


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
        cb, cr = _mix([_chroma(rgb[strip]) for rgb in sources])
        _paint(fused[strip], cb, cr, out=pixels[strip])
    return pixels


def channel_plane(rgb: Pixels, index: int) -> Plane:
    """Returns one channel (H, W) in [0, 1] of 8-bit pixels (H, W, 3): 0 is red, 1 green, 2 blue."""
    return unit_range(rgb[..., index])


def stack_channels(red: Plane, green: Plane, blue: Plane) -> Pixels:
    """Joins fused channels (H, W) in [0, 1] to pixels (H, W, 3); values outside are clipped."""
    return np.stack([to_bytes(plane) for plane in (red, green, blue)], axis=-1)


def unit_range(values: Pixels) -> Plane:
    """Brings 8-bit values of any shape to [0, 1]."""
    return np.multiply(values, np.float32(1 / 255), dtype=np.float32)


def to_bytes(plane: Plane) -> Pixels:
    """Rounds values in [0, 1] to 8 bits; values outside are clipped."""
    scaled = plane * np.float32(255)
    scaled += np.float32(0.5)
    return np.clip(scaled, 0, 255, out=scaled).astype(np.uint8)


def _chroma(rgb: Pixels) -> tuple[Plane, Plane]:
    """Returns Cb and Cr (H, W), each in [-0.5, 0.5]."""
    luma = luminance(rgb)
    cb, cr = (channel_plane(rgb, index) for index in (2, 0))
    return (cb - luma) * np.float32(1 / CB_SCALE), (cr - luma) * np.float32(1 / CR_SCALE)


def _mix(sources: list[tuple[Plane, Plane]]) -> tuple[Plane, Plane]:
    """Weighs the chroma of one or two sources by its distance from neutral."""
    if len(sources) == 1:
        return sources[0]
    (cb_a, cr_a), (cb_b, cr_b) = sources
    return _weigh(cb_a, cb_b), _weigh(cr_a, cr_b)


def _weigh(first: Plane, second: Plane) -> Plane:
    weight_first, weight_second = np.abs(first), np.abs(second)
    total = weight_first + weight_second
    mixed: Plane = first * weight_first + second * weight_second
    return np.divide(mixed, total, out=np.zeros_like(mixed), where=total > 0)


def _paint(luma: Plane, cb: Plane, cr: Plane, *, out: Pixels) -> None:
    """Writes RGB of one strip into ``out`` (H, W, 3), chroma reduced where it leaves the gamut."""
    red = cr * np.float32(CR_SCALE)  # R - Y
    blue = cb * np.float32(CB_SCALE)  # B - Y
    green = red * np.float32(-KR / KG) - blue * np.float32(KB / KG)  # G - Y, from KR·red + KG·green + KB·blue = 0
    # The weighted sum of the three is 0, so the largest is never below 0 and the smallest never above.
    highest = np.maximum(np.maximum(red, green), blue)
    lowest = np.minimum(np.minimum(red, green), blue)
    room = np.minimum((1 - luma) / np.maximum(highest, TINY), luma / np.maximum(-lowest, TINY))
    room = np.clip(room, 0, 1, out=room)
    for channel, difference in enumerate((red, green, blue)):
        out[..., channel] = to_bytes(difference * room + luma)

"""Brings the fused picture of a reduced pair to full size, with the detail of both full-size sources.

Around each place of the reduced pair the fused picture F is described as a mixture of the sources,

    F = gain_a · A + gain_b · B + rest

with gains that vary smoothly and a rest for what no mixture explains. All three are enlarged, and the same mixture
of the full-size sources is the result: what is coarse comes from the network, what is fine from the sources, weighed
as the network weighed them.

The gains are a least-squares fit in a small window. Where the reduced sources do not tell how they were weighed
(both flat, or both alike, as two focus settings are once the blur is smaller than a reduced pixel) the fit falls
back on a guess: of the detail that the reduction has lost, the source that has more of it counts.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from app.color import STRIP_PIXELS, Plane

RADIUS = 1  # The window of the fit is a square of 2 · RADIUS + 1 reduced pixels.
# Variances, for a range of 0 to 1. That of a window below which the fit has nothing to go by: 0.8 of 255 levels.
NOISE = np.float32(1e-5)
DOUBT = np.float32(10)  # How many times the variance that a first fit leaves unexplained counts as such noise too.
# What is lost in the reduction and yet no detail: the rounding to 255 levels.
ROUNDING = np.float32(1 / 12 / 255**2)
LARGEST_GAIN = np.float32(2)  # Beyond it a fit has followed noise.


def enlarge(a: Plane, b: Plane, low_a: Plane, low_b: Plane, low_fused: Plane) -> Plane:
    """Returns the fused picture at the size of the sources.

    Args:
        a: Full-size plane (H, W) in [0, 1] of image_a.
        b: The same of image_b.
        low_a: Reduced copy (h, w) of ``a``.
        low_b: Reduced copy of ``b``.
        low_fused: Fused picture (h, w) of the two reduced copies.

    Returns:
        Fused plane (H, W) in [0, 1].
    """
    guess_a, guess_b = _guess(_lost(a, low_a), _lost(b, low_b))
    gain_a, gain_b = _fit(low_a, low_b, low_fused, guess_a, guess_b)
    rest = low_fused - gain_a * low_a - gain_b * low_b
    return _mix(a, b, gain_a, gain_b, rest)


def _lost(plane: Plane, low: Plane) -> Plane:
    """Returns the variance (h, w) of the full-size pixels around each reduced one."""
    (height, width), (low_height, low_width) = plane.shape, low.shape
    lost = np.empty_like(low)
    rows = max(1, STRIP_PIXELS * low_height // (width * height))
    for top in range(0, low_height, rows):
        bottom = min(top + rows, low_height)
        first, last = top * height / low_height, bottom * height / low_height
        part = plane[math.floor(first) : math.ceil(last)]
        box = (0, first - math.floor(first), width, last - math.floor(first))
        size = (low_width, bottom - top)
        squares, means = (
            np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BOX, box))
            for values in (part * part, part)
        )
        np.maximum(squares - means * means, 0, out=lost[top:bottom])
    return _window_mean(lost, 1)


def _guess(lost_a: Plane, lost_b: Plane) -> tuple[Plane, Plane]:
    """Returns gains of both sources that add up to 1: close to 1 for the one that has lost clearly more, else 1/2."""
    share = 1 / (1 + np.square(np.square((lost_b + ROUNDING) / (lost_a + ROUNDING))))
    return share, 1 - share


def _fit(a: Plane, b: Plane, fused: Plane, guess_a: Plane, guess_b: Plane) -> tuple[Plane, Plane]:
    """Returns the gains (h, w) that explain ``fused`` best in the window around each pixel, drawn to the guess.

    A first fit hardly looks at the guess. How much it leaves unexplained says how far the second is drawn to it.
    """
    mean_a, mean_b, mean_f = (_window_mean(plane, RADIUS) for plane in (a, b, fused))
    aa = _window_mean(a * a, RADIUS) - mean_a * mean_a
    bb = _window_mean(b * b, RADIUS) - mean_b * mean_b
    ab = _window_mean(a * b, RADIUS) - mean_a * mean_b
    af = _window_mean(a * fused, RADIUS) - mean_a * mean_f
    bf = _window_mean(b * fused, RADIUS) - mean_b * mean_f
    ff = _window_mean(fused * fused, RADIUS) - mean_f * mean_f

    def solve(pull: Plane | np.float32) -> tuple[Plane, Plane]:
        # Least squares, with ``pull`` times the squared distance of the gains from the guess added.
        in_a, in_b = aa + pull, bb + pull
        with_a, with_b = af + pull * guess_a, bf + pull * guess_b
        determinant: Plane = in_a * in_b - ab * ab
        return (with_a * in_b - with_b * ab) / determinant, (with_b * in_a - with_a * ab) / determinant

    gain_a, gain_b = solve(NOISE)
    explained = 2 * (gain_a * af + gain_b * bf - gain_a * gain_b * ab) - gain_a**2 * aa - gain_b**2 * bb
    gain_a, gain_b = solve(NOISE + DOUBT * np.maximum(ff - explained, 0))
    return np.clip(gain_a, 0, LARGEST_GAIN), np.clip(gain_b, 0, LARGEST_GAIN)


def _window_mean(plane: Plane, radius: int) -> Plane:
    """Returns the mean of the square of 2 · radius + 1 pixels around each, mirrored at the borders."""
    side = 2 * radius + 1
    padded = np.pad(plane, radius, mode="symmetric")
    height, width = plane.shape
    # Sums of few shifted copies, not of a running total: a total of a whole line has lost the digits that a
    # variance needs.
    rows = sum((padded[shift : shift + height] for shift in range(1, side)), start=padded[:height])
    total = sum((rows[:, shift : shift + width] for shift in range(1, side)), start=rows[:, :width])
    mean: Plane = total * np.float32(1 / side**2)
    return mean


def _mix(a: Plane, b: Plane, gain_a: Plane, gain_b: Plane, rest: Plane) -> Plane:
    """Returns the mixture (H, W) of the full-size planes, with gains and rest (h, w) enlarged strip by strip."""
    (height, width), (low_height, low_width) = a.shape, rest.shape
    maps = [Image.fromarray(np.ascontiguousarray(plane)) for plane in (gain_a, gain_b, rest)]
    fused = np.empty((height, width), np.float32)
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        box = (0, top * low_height / height, low_width, bottom * low_height / height)
        large_a, large_b, large_rest = (
            np.asarray(image.resize((width, bottom - top), Image.Resampling.BILINEAR, box)) for image in maps
        )
        strip = fused[top:bottom]
        np.multiply(large_a, a[top:bottom], out=strip)
        strip += large_b * b[top:bottom]
        strip += large_rest
        np.clip(strip, 0, 1, out=strip)
    return fused

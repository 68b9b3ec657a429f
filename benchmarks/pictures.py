"""Draws a visible and an infrared picture of one scene by formula, and writes them as PNG."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Plane = NDArray[np.float32]
NOISE = 2.5  # Standard deviation in grey levels, as of a camera in daylight.


class Scene:
    """An aligned pair without noise; each call of ``files`` adds noise that no other scene or call had.

    Args:
        height: Height in pixels.
        width: Width in pixels.
    """

    def __init__(self, height: int, width: int) -> None:
        self._visible, self._infrared = _draw(height, width)
        # Never seeded: two scenes of one size would draw the same files, and the service would know them.
        self._generator = np.random.default_rng()

    def files(self) -> tuple[bytes, bytes]:
        """Returns a colour PNG and a grey PNG that no call returned before."""
        return _png(self._noisy(self._visible)), _png(self._noisy(self._infrared))

    def planes(self) -> tuple[Plane, Plane]:
        """Returns both pictures with noise as luminance (1, 1, H, W) in [0, 1]."""
        visible = self._noisy(self._visible).astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
        infrared = self._noisy(self._infrared).astype(np.float32)
        return visible[None, None] / np.float32(255), infrared[None, None] / np.float32(255)

    def _noisy(self, picture: Plane) -> NDArray[np.uint8]:
        noise = self._generator.standard_normal(picture.shape, dtype=np.float32)
        return np.clip(picture + NOISE * noise, 0, 255).astype(np.uint8)


def _draw(height: int, width: int) -> tuple[Plane, Plane]:
    """Returns grey levels (H, W, 3) and (H, W): sky, ground with texture, houses, and two warm bodies."""
    y, x = (axis.astype(np.float32) for axis in np.mgrid[0:height, 0:width])
    y, x = y / height, x / width
    ground = (y > 0.55).astype(np.float32)
    texture = 12 * np.sin(97 * x + 31 * y * y) * np.cos(71 * y - 13 * x) + 6 * np.sin(400 * x * y)
    light = 205 - 150 * y + 25 * np.cos(3 * x) + ground * texture
    heat = 40 + 60 * y + 12 * np.sin(4 * x) + ground * 0.4 * texture
    for number, (left, top, right) in enumerate(((0.05, 0.2, 0.25), (0.4, 0.3, 0.52), (0.7, 0.1, 0.9))):
        house = (x > left) & (x < right) & (y > top) & (y < 0.65)
        windows = (np.sin(120 * x) > 0.3) & (np.sin(90 * y) > 0.2)
        light = np.where(house, np.where(windows, 45, 110 + 25 * number), light)
        heat = np.where(house, np.where(windows, 120, 85 - 10 * number), heat)
    for middle, size in ((0.33, 0.05), (0.62, 0.03)):
        body = ((x - middle) / size) ** 2 + ((y - 0.72) / (3 * size)) ** 2
        heat += 170 * np.exp(-(body**2))
        light = np.where(body < 1, 60, light)
    tint = np.stack([1 + 0.15 * ground, np.ones_like(x), 1.1 - 0.25 * ground], axis=2)
    return light[..., None].astype(np.float32) * tint, heat.astype(np.float32)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()

"""One ray per sample, what it meets, and the textures and shapes that things are made of.

Units: metres, degrees Celsius. Axes: x right, y up, z forward; the camera stands at x = z = 0.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Color = tuple[float, float, float]


@dataclass(frozen=True)
class Camera:
    """Size and view of the pictures.

    Attributes:
        width: Of the picture in pixels; ``height`` likewise.
        samples: Rays per pixel and axis.
        focal: Focal length in pixels.
        centre: Column that looks straight ahead; ``horizon`` is that row.
        eye: Height above the road in metres.
    """

    width: int
    height: int
    samples: int
    focal: float
    centre: float
    horizon: float
    eye: float = 1.5


class Street:
    """What each ray meets: colour, own light, temperature, place and the way that the surface faces."""

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        rows, columns = camera.height * camera.samples, camera.width * camera.samples
        v, u = np.mgrid[0:rows, 0:columns]
        self.dx: Array = ((u + 0.5) / camera.samples - camera.centre) / camera.focal
        self.dy: Array = (camera.horizon - (v + 0.5) / camera.samples) / camera.focal
        self.color: Array = np.zeros((rows, columns, 3))
        self.light: Array = np.zeros((rows, columns, 3))
        self.heat: Array = np.zeros((rows, columns))
        self.z: Array = np.full((rows, columns), 1e4)
        self.facing: NDArray[np.int8] = np.zeros((rows, columns), np.int8)  # 0 sky, 1 up, 2 sideways, 3 to the camera

    def put(
        self, mask: Mask, z: Array | float, facing: int, color: Array, heat: Array, light: Array | None = None
    ) -> None:
        """Lay a surface over what lies behind it; the arrays cover the whole picture."""
        mask = mask & (z < self.z)
        self.z[mask] = np.broadcast_to(z, mask.shape)[mask]
        self.facing[mask] = facing
        self.color[mask] = np.broadcast_to(color, (*mask.shape, 3))[mask]
        self.heat[mask] = np.broadcast_to(heat, mask.shape)[mask]
        self.light[mask] = 0.0 if light is None else np.broadcast_to(light, (*mask.shape, 3))[mask]

    def part(self, x0: float, x1: float, top: float, near: float, far: float) -> Street:
        """The rays of the whole picture that can meet something between x0 and x1, up to ``top``; shares its arrays."""
        c = self.camera
        us = [c.centre + c.focal * x / z for x in (x0, x1) for z in (near, far)]
        vs = [c.horizon + c.focal * (c.eye - y) / z for y in (0.0, top) for z in (near, far)]
        rows, columns = (
            slice(max(0, int(c.samples * min(e) - 4)), max(0, int(c.samples * max(e) + 4))) for e in (vs, us)
        )
        return self.window(rows, columns)

    def window(self, rows: slice, columns: slice) -> Street:
        """The rays of some rows and columns; shares this street's arrays."""
        window = copy(self)
        for name in ("dx", "dy", "color", "light", "heat", "z", "facing"):
            setattr(window, name, getattr(self, name)[rows, columns])
        return window

    def at(self, z: float) -> tuple[Array, Array]:
        """Where the rays meet the plane z: x and y."""
        return self.dx * z, self.camera.eye + self.dy * z


def noise(x: Array, y: Array, seed: int, octaves: int = 3) -> Array:
    """Smooth noise around 0, about -1 to 1, each octave twice as fine and half as strong."""
    table = np.random.default_rng(seed).random((256, 256)) * 2 - 1
    total: Array = np.zeros(np.broadcast(x, y).shape)
    for k in range(octaves):
        px, py = x * 2**k + 17.3 * k, y * 2**k + 5.9 * k
        ix, iy = np.floor(px).astype(np.int64), np.floor(py).astype(np.int64)
        fx, fy = px - ix, py - iy
        fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
        top = table[iy & 255, ix & 255] * (1 - fx) + table[iy & 255, (ix + 1) & 255] * fx
        low = table[(iy + 1) & 255, ix & 255] * (1 - fx) + table[(iy + 1) & 255, (ix + 1) & 255] * fx
        total += (top * (1 - fy) + low * fy) / 2**k
    return total


def dice(a: Array, b: Array, seed: int) -> Array:
    """A random number in [0, 1) for each pair of whole numbers."""
    table = np.random.default_rng(seed).random((64, 64))
    picked: Array = table[a.astype(np.int64) & 63, b.astype(np.int64) & 63]
    return picked


def rgb(color: Color, *shades: Array | Mask | float) -> Array:
    """A colour times some shades: (..., 3)."""
    product: Array = np.asarray(1.0)
    for shade in shades:
        product = product * np.asarray(shade)
    shaded: Array = product[..., None] * np.asarray(color)
    return shaded


def box(x: Array, y: Array, x0: float, y0: float, x1: float, y1: float, r: float = 0.0) -> Array:
    """Signed distance to a box with rounded corners."""
    px, py = np.abs(x - (x0 + x1) / 2) - (x1 - x0) / 2 + r, np.abs(y - (y0 + y1) / 2) - (y1 - y0) / 2 + r
    distance: Array = np.hypot(np.maximum(px, 0), np.maximum(py, 0)) + np.minimum(np.maximum(px, py), 0) - r
    return distance


def bone(x: Array, y: Array, start: tuple[float, float], end: tuple[float, float], r: float) -> Array:
    """Signed distance to a thick line with round ends."""
    ax, ay = end[0] - start[0], end[1] - start[1]
    t = np.clip(((x - start[0]) * ax + (y - start[1]) * ay) / (ax * ax + ay * ay), 0, 1)
    distance: Array = np.hypot(x - start[0] - t * ax, y - start[1] - t * ay) - r
    return distance


def blur(image: Array, sigma: float, *, across: float | None = None) -> Array:
    """Gaussian blur of (H, W, ...), border repeated; ``across`` sets another horizontal sigma."""
    margin = int(3 * max(sigma, across or 0)) + 1
    image = np.pad(image, [(margin, margin)] * 2 + [(0, 0)] * (image.ndim - 2), mode="edge")
    fy, fx = np.fft.fftfreq(image.shape[0])[:, None], np.fft.rfftfreq(image.shape[1])[None]
    gain = np.exp(-2 * np.pi**2 * ((sigma * fy) ** 2 + ((sigma if across is None else across) * fx) ** 2))
    gain = gain.reshape(gain.shape + (1,) * (image.ndim - 2))
    out: Array = np.fft.irfft2(np.fft.rfft2(image, axes=(0, 1)) * gain, s=image.shape[:2], axes=(0, 1))
    return out[margin:-margin, margin:-margin]

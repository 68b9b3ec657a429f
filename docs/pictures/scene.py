"""Draws the sample pair of the README: one street at dusk, seen by a colour camera and by a thermal camera.

Nothing is photographed. A ray per sample meets the surfaces of a small street (``street.py``), each of which has a
colour, a light of its own and a temperature. Lamps and head-lights make the visible picture from the first two, the
temperature makes the infrared one. Both cameras stand in one place, so the pictures are aligned to the pixel. What one
cannot see, the other shows: people in the shade of a tree and behind the glare of head-lights are warm, while lit
windows and road marks are bright but not warm.

    python docs/pictures/scene.py OUTDIR      writes OUTDIR/visible.png and OUTDIR/infrared.png
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from canvas import CENTRE, EYE, FOCAL, HEIGHT, HORIZON, SAMPLES, WIDTH, Array, Street, blur, noise, rgb
from numpy.typing import NDArray
from PIL import Image
from street import BEAM_COLOR, BEAMS, LAMP_COLOR, LAMPS, build_street

Pixels = NDArray[np.uint8]

GREY_OF_CELSIUS = (
    (-34.0, 0.0, 8.0, 11.0, 14.0, 18.0, 24.0, 32.0, 50.0),
    (10.0, 34.0, 52.0, 76.0, 108.0, 152.0, 196.0, 236.0, 252.0),
)
"""How the thermal camera turns temperature into grey levels."""


def shine(s: Street) -> Array:
    """Light that comes from every surface: its own and what it throws back, (rows, columns, 3)."""
    x, y = s.dx * s.z, EYE + s.dy * s.z
    shelter = 1 - 0.93 * np.exp(-((np.maximum(4.6 - x, 0) / 2.0) ** 2) - ((s.z - 12.5) / 7.5) ** 4)
    got = rgb((0.11, 0.145, 0.24), shelter * (0.55 + 0.45 * (s.facing == 1)))
    for lx, ly, lz in LAMPS:
        ex, ey, ez = lx + (0.75 if lx < 0 else -0.75) - x, ly - y, lz - s.z
        far = ex * ex + ey * ey + ez * ez
        slant = np.choose(s.facing, (0.0 * x, ey, np.abs(ex), 0.55 * np.abs(ez) + 0.6)) / np.sqrt(far)
        got += rgb(LAMP_COLOR, 34 * np.clip(slant, 0, 1) / (far + 1.5) * (ey > -0.3) * shelter)
    for lx, ly, lz in BEAMS:  # towards the camera and a little down
        ex, ey, ez = x - lx, y - ly, lz - s.z
        ahead = np.clip(ez, 0, None)
        cone = np.exp(-((ex / (0.28 * ahead + 0.3)) ** 2) - ((ey + 0.05 * ahead) / (0.10 * ahead + 0.25)) ** 2)
        got += rgb(BEAM_COLOR, 6.0 * cone / (1 + 0.04 * ahead**2) * (ez > 0.05))
    own = np.exp(-(((x + 0.3) / (0.13 * s.z + 0.7)) ** 2) - ((y + 0.1) / (0.03 * s.z + 0.6)) ** 2) / (
        1 + 0.006 * s.z**2
    )
    got += rgb(BEAM_COLOR, 1.25 * own * np.clip((s.z - 2.6) / 7, 0, 1) * shelter)
    haze = np.where(s.facing > 0, 1 - np.exp(-s.z / 240), 0)[..., None]
    radiance: Array = (s.color * got + s.light) * (1 - haze) + haze * np.array((0.17, 0.12, 0.11))
    mirror = blur(radiance[::-1], 34.0, across=2.5)
    mirror = np.roll(mirror, round(2 * HORIZON * SAMPLES) - radiance.shape[0], axis=0)
    damp = (s.facing == 1) * np.clip(0.55 + 0.6 * noise(x * 0.6, s.z * 0.25, 81, 4), 0, 1) * np.exp(-s.z / 70)
    damp = damp * np.clip((HORIZON + s.dy * FOCAL) / 50, 0, 1)  # what lies above the picture is not there to mirror
    seen: Array = radiance + mirror * (0.20 * damp * shelter)[..., None]
    return seen


def halve(image: Array) -> Array:
    """Mean of the rays of each pixel."""
    rows, columns = image.shape[0] // SAMPLES, image.shape[1] // SAMPLES
    out: Array = image.reshape(rows, SAMPLES, columns, SAMPLES, *image.shape[2:]).mean(axis=(1, 3))
    return out


def glare() -> Array:
    """What the head-lights do inside the lens: a bright core, a wide veil and six thin rays."""
    v, u = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    total: Array = np.zeros((HEIGHT, WIDTH))
    for x, y, z in BEAMS:
        du, dv = u - CENTRE - FOCAL * x / z, v - HORIZON - FOCAL * (EYE - y) / z
        r, angle = np.hypot(du, dv), np.arctan2(dv, du)
        ray = np.abs(np.cos(3 * angle + 0.35)) ** 60
        total += (
            2.6 * np.exp(-((r / 11) ** 2)) + 26 / (r * r + 60) + 0.30 * np.exp(-r / 38) + 0.7 * ray * np.exp(-r / 26)
        )
    return total


def to_bytes(image: Array) -> Pixels:
    """Grey levels or colours, rounded and clipped to 8 bits."""
    pixels: Pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return pixels


def visible_image(s: Street) -> Pixels:
    """The colour camera: glow of bright lights, film curve, sensor noise that is stronger in the dark."""
    light = halve(np.minimum(shine(s), 12.0))
    bright = np.minimum(np.maximum(light - 0.9, 0), 6)
    light = light + 0.10 * blur(bright, 3.0) + 0.09 * blur(bright, 14.0) + rgb(BEAM_COLOR, glare())
    shown = (1 - np.exp(-1.55 * np.maximum(light, 0))) ** (1 / 2.1)
    rng = np.random.default_rng(91)
    grain = rng.standard_normal((HEIGHT, WIDTH, 1)) + 0.35 * rng.standard_normal((HEIGHT, WIDTH, 3))
    shown = shown + grain * (0.0042 + 0.006 * np.exp(-shown * 6))
    return to_bytes(255 * shown)


def infrared_image(s: Street) -> Pixels:
    """The thermal camera: a softer lens, uneven columns and white noise."""
    celsius = blur(halve(s.heat), 0.75)
    rng = np.random.default_rng(92)
    grey = np.interp(celsius, *GREY_OF_CELSIUS)
    grey = grey + 1.7 * rng.standard_normal((HEIGHT, WIDTH)) + 0.7 * rng.standard_normal((1, WIDTH))
    return to_bytes(grey)


def draw() -> tuple[Pixels, Pixels]:
    """The visible picture (480, 640, 3) and the infrared one (480, 640)."""
    street = build_street()
    return visible_image(street), infrared_image(street)


def main(arguments: Sequence[str]) -> None:
    """Write both pictures into a folder."""
    if len(arguments) != 1:
        sys.exit("usage: python docs/pictures/scene.py OUTDIR")
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels in zip(("visible", "infrared"), draw(), strict=True):
        Image.fromarray(pixels).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])

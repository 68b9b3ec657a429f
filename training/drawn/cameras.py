"""What the two cameras see of a street: light, film curve, lens and noise; temperature, lens and noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.drawn.canvas import Array, Camera, Street, blur, noise, rgb
from training.drawn.plan import BEAM_COLOR, CAR_LENGTH, LAMP_COLOR, SUN_COLOR, Plan, Sun

Pixels = NDArray[np.uint8]
Curve = tuple[Sequence[float], Sequence[float]]
"""Degrees Celsius, rising, and the grey level of each."""


def visible_image(s: Street, plan: Plan) -> Pixels:
    """The colour camera: glow of bright lights, film curve, sensor noise that is stronger in the dark.

    Returns:
        (H, W, 3).
    """
    c = s.camera
    light = _mean_of_samples(np.minimum(shine(s, plan), 12.0), c.samples)
    bright = np.minimum(np.maximum(light - 0.9, 0), 6)
    scale = c.width / 640
    light = (
        light
        + 0.10 * blur(bright, 3.0 * scale)
        + 0.09 * blur(bright, 14.0 * scale)
        + rgb(BEAM_COLOR, plan.light.glare * glare(c, plan))
    )
    shown = (1 - np.exp(-1.55 * np.maximum(light, 0))) ** (1 / 2.1)
    rng = np.random.default_rng(plan.seed + 91)
    grain = rng.standard_normal((c.height, c.width, 1)) + 0.35 * rng.standard_normal((c.height, c.width, 3))
    shown = shown + grain * (0.0042 + 0.006 * np.exp(-shown * 6))
    return _to_bytes(255 * shown)


def infrared_image(s: Street, plan: Plan, curve: Curve) -> Pixels:
    """The thermal camera: a softer lens, uneven columns and white noise.

    Returns:
        (H, W).
    """
    c = s.camera
    celsius = blur(_mean_of_samples(temperature(s, plan), c.samples), 0.75)
    rng = np.random.default_rng(plan.seed + 92)
    grey = np.interp(celsius, *curve)
    grey = grey + 1.7 * rng.standard_normal((c.height, c.width)) + 0.7 * rng.standard_normal((1, c.width))
    return _to_bytes(grey)


def temperature(s: Street, plan: Plan) -> Array:
    """Degrees Celsius of what each ray meets, (rows, columns): its own, and what the sun has added."""
    if plan.light.sun is None:
        return s.heat
    return s.heat + 4.0 * plan.light.sun.strength * _sunlight(s, plan, plan.light.sun) * (1 - s.color.mean(axis=2))


def shine(s: Street, plan: Plan) -> Array:
    """Light that comes from every surface: its own and what it throws back, (rows, columns, 3)."""
    x, y = s.dx * s.z, s.camera.eye + s.dy * s.z
    shelter = np.ones(x.shape)
    for dark_x, dark_z in plan.shades:
        inward = np.maximum(dark_x - x if dark_x > 0 else x - dark_x, 0)
        shelter = shelter * (1 - 0.93 * np.exp(-((inward / 2.0) ** 2) - ((s.z - dark_z) / 7.5) ** 4))
    got = rgb(plan.light.ambient, shelter * (0.55 + 0.45 * (s.facing == 1)))
    if plan.light.sun is not None:
        got += rgb(SUN_COLOR, plan.light.sun.strength * _sunlight(s, plan, plan.light.sun))
    got += _lamplight(s, plan, x, y, shelter)
    haze = np.where(s.facing > 0, 1 - np.exp(-s.z / 240), 0)[..., None]
    radiance: Array = (s.color * got + s.light) * (1 - haze) + haze * np.array(plan.light.haze)
    return radiance + _mirrored(s, radiance, x, plan.seed) * shelter[..., None]


def _lamplight(s: Street, plan: Plan, x: Array, y: Array, shelter: Array) -> Array:
    """Light of the lamps and of all head-lights."""
    got: Array = np.zeros((*x.shape, 3))
    for lx, ly, lz in plan.lamps if plan.light.lamps else ():
        ex, ey, ez = lx + (0.75 if lx < 0 else -0.75) - x, ly - y, lz - s.z
        far = ex * ex + ey * ey + ez * ez
        slant = np.choose(s.facing, (0.0 * x, ey, np.abs(ex), 0.55 * np.abs(ez) + 0.6)) / np.sqrt(far)
        got += rgb(LAMP_COLOR, 34 * np.clip(slant, 0, 1) / (far + 1.5) * (ey > -0.3) * shelter)
    for lx, ly, lz in plan.beams:  # towards the camera and a little down
        ex, ey, ez = x - lx, y - ly, lz - s.z
        ahead = np.clip(ez, 0, None)
        cone = np.exp(-((ex / (0.28 * ahead + 0.3)) ** 2) - ((ey + 0.05 * ahead) / (0.10 * ahead + 0.25)) ** 2)
        got += rgb(BEAM_COLOR, 6.0 * cone / (1 + 0.04 * ahead**2) * (ez > 0.05))
    reach = ((x + 0.3) / (0.13 * s.z + 0.7)) ** 2 + ((y + 0.1) / (0.03 * s.z + 0.6)) ** 2
    own = np.exp(-reach) / (1 + 0.006 * s.z**2)
    return got + rgb(BEAM_COLOR, plan.light.beam * own * np.clip((s.z - 2.6) / 7, 0, 1) * shelter)


def _sunlight(s: Street, plan: Plan, sun: Sun) -> Array:
    """How much sunlight falls on what each ray meets, 0 to 1, (rows, columns): its slant, and shadows."""
    x, y = s.dx * s.z, s.camera.eye + s.dy * s.z
    wall, row = plan.walls[sun.side > 0], plan.rows[sun.side > 0]
    tops = np.array(row.tops)[np.clip(np.searchsorted(row.starts, s.z) - 1, 0, len(row.tops) - 1)]
    shadow = y + np.abs(x - wall) * sun.slope < tops
    across = -sun.side * x
    cars = [(car.x, car.z, CAR_LENGTH, 1.8, 1.3) for car in plan.cars]
    people = [(person.x, person.z, 0.4, 0.4, 1.6) for person in plan.people]
    for thing_x, thing_z, length, width, height in cars + people:
        reach = height / sun.slope
        within = np.abs(across + sun.side * thing_x - reach / 2) < (width + reach) / 2
        shadow |= (s.facing == 1) & within & (np.abs(s.z - thing_z - length / 2) < length / 2)
    for tree in plan.trees:
        beyond = (across + sun.side * tree.x - tree.height / sun.slope) * sun.slope
        shadow |= (s.facing == 1) & (np.hypot(beyond, s.z - tree.z) < tree.radius)
    rise = sun.slope / np.hypot(1, sun.slope)
    sideways = np.where(across > 0, np.sqrt(1 - rise**2), 0.0)
    slant = np.where(s.facing == 1, rise, np.where(s.facing == 2, sideways, 0.5 * (s.facing == 3)))
    light: Array = np.where(shadow, 0.0, slant)
    return light


def _mirrored(s: Street, radiance: Array, x: Array, seed: int) -> Array:
    """What a damp road mirrors: the picture above the horizon, smeared downwards."""
    c = s.camera
    scale = c.height * c.samples / 960
    mirror = blur(radiance[::-1], 34.0 * scale, across=2.5 * scale)
    mirror = np.roll(mirror, round(2 * c.horizon * c.samples) - radiance.shape[0], axis=0)
    damp = (s.facing == 1) * np.clip(0.55 + 0.6 * noise(x * 0.6, s.z * 0.25, seed + 81, 4), 0, 1) * np.exp(-s.z / 70)
    damp = damp * np.clip((c.horizon + s.dy * c.focal) / 50, 0, 1)  # what lies above the picture cannot be mirrored
    return mirror * (0.20 * damp)[..., None]


def glare(camera: Camera, plan: Plan) -> Array:
    """What head-lights do inside the lens: a bright core, a wide veil and six thin rays; (H, W)."""
    v, u = np.mgrid[0 : camera.height, 0 : camera.width] + 0.5
    total: Array = np.zeros((camera.height, camera.width))
    for x, y, z in plan.beams:
        du = u - camera.centre - camera.focal * x / z
        dv = v - camera.horizon - camera.focal * (camera.eye - y) / z
        r, angle = np.hypot(du, dv) * 640 / camera.width, np.arctan2(dv, du)
        ray = np.abs(np.cos(3 * angle + 0.35)) ** 60
        total += (
            2.6 * np.exp(-((r / 11) ** 2)) + 26 / (r * r + 60) + 0.30 * np.exp(-r / 38) + 0.7 * ray * np.exp(-r / 26)
        )
    return total


def _mean_of_samples(image: Array, samples: int) -> Array:
    rows, columns = image.shape[0] // samples, image.shape[1] // samples
    out: Array = image.reshape(rows, samples, columns, samples, *image.shape[2:]).mean(axis=(1, 3))
    return out


def _to_bytes(image: Array) -> Pixels:
    """Grey levels or colours, rounded and clipped to 8 bits."""
    pixels: Pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return pixels

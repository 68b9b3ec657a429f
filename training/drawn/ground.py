"""What a street lies in: sky, road and pavements, and the roofs at its end."""

from __future__ import annotations

import numpy as np

from training.drawn.canvas import Array, Street, dice, noise, rgb
from training.drawn.plan import Plan

KERB, END = 0.35, 150.0
"""Width of the kerb, end of the street."""
TRACKS = (-3.55, -2.05, -0.75, 0.75, 2.3)
"""Where wheels have polished the road."""


def add_sky(s: Street, plan: Plan) -> None:
    """Its colours with thin clouds; cold, and colder the higher one looks."""
    sky = plan.light.sky
    s = s.window(slice(0, int((s.dy[:, 0] > -0.03).sum())), slice(None))
    up = np.clip(s.dy / 0.38, 0, 1)
    stops = (0.0, 0.10, 0.28, 0.6, 1.0)
    color = np.stack([np.interp(up, stops, values) for values in sky[:3]], axis=-1)
    reach = 1.2 / (s.dy + 0.12)
    cloud = np.clip(noise(s.dx * reach * 2.2, reach * 3.0, plan.seed + 3, 5) + 0.05, 0, 1) * np.clip(s.dy * 9, 0, 1)
    color = color * (1 - 0.35 * cloud[..., None]) + rgb(sky.cloud, cloud)
    s.put(
        s.dy > -1, 9e3, 0, np.zeros(3), -30 + 33 * np.exp(-np.clip(s.dy, 0, 1) * 7) + 9 * cloud, sky.brightness * color
    )


def add_ground(s: Street, plan: Plan) -> None:
    """Road with wheel tracks and marks, kerbs, pavements of slabs."""
    left, right = plan.road
    s = s.window(slice(int((s.dy[:, 0] >= 0).sum()), None), slice(None))
    z: Array = np.where(s.dy < -1e-3, -s.camera.eye / np.minimum(s.dy, -1e-3), 1e5)
    x = s.dx * z
    fade = np.clip(14 / z, 0, 1)
    grain = noise(x * 31, z * 17, plan.seed + 5, 3) * np.clip(6 / z, 0, 1)
    stain = noise(x * 0.5, z * 0.16, plan.seed + 6, 4)
    track = np.exp(-(((x[..., None] - np.array(TRACKS)) / 0.33) ** 2)).sum(axis=-1)
    road = (x > left) & (x < right)
    kerb = ~road & (x > left - KERB) & (x < right + KERB)
    joint = (np.abs(z % 0.9 - 0.45) > 0.42) | (np.abs(x % 0.9 - 0.45) > 0.42)
    asphalt = 0.066 + 0.015 * grain + 0.016 * stain - 0.014 * track
    slab = 0.20 + 0.03 * grain + 0.025 * stain - 0.06 * joint * fade
    dash = (np.abs(x + 1.35) < 0.07) & (z % 6 < 3) & (z > plan.dashes)
    edge = (np.abs(x - (right - 0.4)) < 0.06) | (np.abs(x - (left + 0.35)) < 0.06)
    zebra = (z > plan.zebra) & (z < plan.zebra + 3.0) & ((x + 0.2) % 1.0 < 0.5)
    paint = road & (dash | edge | zebra) * (noise(x * 6, z * 3, plan.seed + 8) > -0.75)
    shade = np.where(road, asphalt, np.where(kerb, 0.30 + 0.03 * grain, slab))
    shade = np.where(paint, 0.42 + 0.05 * stain, shade)
    heat = np.where(
        road, 14.6 + 1.3 * track + 0.5 * stain, np.where(kerb, 13.2, 12.6 + 0.5 * stain - 0.7 * joint * fade)
    )
    heat = heat + 0.35 * grain - 1.3 * paint
    s.put((s.dy < 0) & (z < END), z, 1, rgb((1.0, 0.98, 0.95), shade), heat)


def add_end(s: Street, plan: Plan) -> None:
    """Roofs at the end of the street, in the haze."""
    x, y = s.at(END)
    top = (
        9
        + 5 * np.floor(3 * dice(np.floor(x / 7) + 40, x * 0, plan.seed + 41)) / 2
        + 2.2 * np.clip(1 - np.abs(x % 7 - 3.5) / 3.5, 0, 1)
    )
    lit = (dice(np.floor(x / 1.6) + 64, np.floor(y / 2.4) + 8, plan.seed + 42) < 0.53 * plan.light.lit) & (y > 1.5)
    light = rgb(plan.light.distance, 0.55 + 0.012 * y) + rgb(
        (0.55, 0.38, 0.18), lit * (np.abs(x / 1.6 % 1 - 0.5) < 0.25)
    )
    s.put((y < top) & (y > 0), END, 0, np.zeros(3), 10.5 + 1.2 * noise(x / 7, y / 9, plan.seed + 43), light)

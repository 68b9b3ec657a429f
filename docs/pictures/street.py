"""The street: ground, two rows of houses, trees, lamps, cars and people, each with colour, light and temperature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from canvas import EYE, Array, Color, Street, bone, box, dice, noise, rgb

ROAD, KERB, WALLS, END = (-5.2, 3.4), 0.35, (-8.2, 6.4), 150.0
"""Edges of the road, width of the kerb, positions of the two façades, end of the street."""
LAMPS = ((-6.0, 5.6, 13.0), (-6.0, 5.6, 29.0), (4.6, 5.6, 37.0), (-6.0, 5.6, 47.0), (4.6, 5.6, 60.0))
BEAMS = ((-3.42, 0.72, 19.0), (-2.18, 0.72, 19.0))
"""Head-lights of the car that comes towards the camera."""
LAMP_COLOR: Color = (1.0, 0.72, 0.40)
BEAM_COLOR: Color = (1.0, 0.96, 0.86)


class Person(NamedTuple):
    """Where somebody walks, the length of the step (left is negative), the height, and the colours of coat and legs."""

    x: float
    z: float
    step: float
    tall: float
    coat: Color
    legs: Color


PEOPLE = (
    Person(-6.4, 16.5, 0.20, 1.0, (0.32, 0.10, 0.08), (0.05, 0.06, 0.10)),  # under a lamp
    Person(-1.45, 18.2, 0.26, 1.0, (0.12, 0.12, 0.13), (0.05, 0.05, 0.06)),  # beside the head-lights, in their glare
    Person(-4.35, 18.4, -0.18, 0.94, (0.16, 0.12, 0.08), (0.04, 0.05, 0.07)),
    Person(4.35, 11.6, 0.17, 1.0, (0.05, 0.06, 0.08), (0.03, 0.03, 0.04)),  # in the shade of a tree
    Person(4.95, 12.1, -0.14, 0.93, (0.08, 0.05, 0.05), (0.04, 0.04, 0.05)),  # in the shade of a tree
    Person(4.1, 31.0, 0.2, 1.0, (0.10, 0.10, 0.09), (0.05, 0.05, 0.06)),
)


def add_sky(s: Street) -> None:
    """Dusk: orange low in the sky, blue above, thin clouds; cold, and colder the higher one looks."""
    up = np.clip(s.dy / 0.38, 0, 1)
    stops = (0.0, 0.10, 0.28, 0.6, 1.0)
    color = np.stack(
        [
            np.interp(up, stops, values)
            for values in (
                (0.95, 0.72, 0.34, 0.12, 0.05),
                (0.50, 0.42, 0.29, 0.16, 0.08),
                (0.26, 0.36, 0.40, 0.30, 0.20),
            )
        ],
        axis=-1,
    )
    reach = 1.2 / (s.dy + 0.12)
    cloud = np.clip(noise(s.dx * reach * 2.2, reach * 3.0, 3, 5) + 0.05, 0, 1) * np.clip(s.dy * 9, 0, 1)
    color = color * (1 - 0.35 * cloud[..., None]) + rgb((0.30, 0.17, 0.15), cloud)
    s.put(s.dy > -1, 9e3, 0, np.zeros(3), -30 + 33 * np.exp(-np.clip(s.dy, 0, 1) * 7) + 9 * cloud, 0.62 * color)


def add_ground(s: Street) -> None:
    """Road with wheel tracks and marks, kerbs, pavements of slabs."""
    z: Array = np.where(s.dy < -1e-3, -EYE / np.minimum(s.dy, -1e-3), 1e5)
    x = s.dx * z
    fade = np.clip(14 / z, 0, 1)
    grain = noise(x * 31, z * 17, 5, 3) * np.clip(6 / z, 0, 1)
    stain = noise(x * 0.5, z * 0.16, 6, 4)
    track = np.exp(-(((x[..., None] - (-3.55, -2.05, -0.75, 0.75, 2.3)) / 0.33) ** 2)).sum(axis=-1)
    road = (x > ROAD[0]) & (x < ROAD[1])
    kerb = ~road & (x > ROAD[0] - KERB) & (x < ROAD[1] + KERB)
    joint = (np.abs(z % 0.9 - 0.45) > 0.42) | (np.abs(x % 0.9 - 0.45) > 0.42)
    asphalt = 0.066 + 0.015 * grain + 0.016 * stain - 0.014 * track
    slab = 0.20 + 0.03 * grain + 0.025 * stain - 0.06 * joint * fade
    dash = (np.abs(x + 1.35) < 0.07) & (z % 6 < 3) & (z > 17.8)
    edge = (np.abs(x - 3.0) < 0.06) | (np.abs(x + 4.85) < 0.06)
    zebra = (z > 12.6) & (z < 15.6) & ((x + 0.2) % 1.0 < 0.5)
    paint = road & (dash | edge | zebra) * (noise(x * 6, z * 3, 8) > -0.75)
    shade = np.where(road, asphalt, np.where(kerb, 0.30 + 0.03 * grain, slab))
    shade = np.where(paint, 0.42 + 0.05 * stain, shade)
    heat = np.where(
        road, 14.6 + 1.3 * track + 0.5 * stain, np.where(kerb, 13.2, 12.6 + 0.5 * stain - 0.7 * joint * fade)
    )
    heat = heat + 0.35 * grain - 1.3 * paint
    s.put((s.dy < 0) & (z < END), z, 1, rgb((1.0, 0.98, 0.95), shade), heat)


def add_facade(s: Street, side: int) -> None:
    """A row of houses along the street; ``side`` is 0 for the left one, which the sun has warmed."""
    wall = WALLS[side]
    with np.errstate(divide="ignore"):
        z = np.where(s.dx * wall > 0, wall / s.dx, 1e5)
    y = EYE + s.dy * z
    starts = np.array(
        ((-9.0, 11.0, 22.0, 36.0, 47.0, 63.0, 84.0, 110.0), (-9.0, 9.0, 20.5, 34.0, 50.0, 66.0, 90.0, 118.0))[side]
    )
    tops = np.array(
        ((12.5, 9.4, 15.8, 11.0, 9.2, 14.0, 10.0, 13.0), (15.0, 12.2, 9.0, 14.8, 10.6, 12.0, 9.0, 14.0))[side]
    )
    tints = np.array([(0.34, 0.24, 0.19), (0.36, 0.33, 0.27), (0.27, 0.17, 0.14), (0.33, 0.30, 0.29)])
    house = np.clip(np.searchsorted(starts, z) - 1, 0, len(starts) - 1)
    along = z - starts[house]
    fade = np.clip(22 / z, 0, 1)
    rough = noise(z * 1.1, y * 1.1, 11 + side, 4)
    brick = ((y * 6 % 1 < 0.14) | ((z * 2.2 + np.floor(y * 6) * 0.5) % 1 < 0.06)) & (house % 2 == side)
    ledge = (np.abs(y - 3.55) < 0.14) | (y > tops[house] - 0.45)
    shade = (1 + 0.16 * rough - 0.25 * brick * fade) * np.where(ledge, 1.25, 1.0)
    color = tints[(house * 3 + side) % 4] * shade[..., None]
    heat = (16.2, 13.4)[side] + (house * 5 % 3 - 1) * 0.9 + 0.6 * rough + 0.7 * ledge - 0.3 * brick * fade
    light = np.zeros(color.shape)
    _windows(color, heat, light, along, y, house, tops[house], side)
    _shops(color, heat, light, along, y, house, side)
    s.put((y > 0) & (y < tops[house]) & (z < END) & (z > 2), z, 2, color, heat, light)
    for begin, top, tint in zip(starts[1:], tops[1:], tints[(np.arange(1, len(tops)) * 3 + side) % 4], strict=True):
        bare = s.part(min(wall, 3 * wall), max(wall, 3 * wall), top + 1, begin, begin)
        x, y = bare.at(begin)
        rough = noise(x * 0.8, y * 0.8, 15 + side, 4)
        bare.put((np.abs(x) > abs(wall)) & (y < top), begin, 3, 0.8 * rgb(tint, 1 + 0.2 * rough), 12.8 + 0.7 * rough)


def _windows(
    color: Array, heat: Array, light: Array, along: Array, y: Array, house: Array, top: Array, side: int
) -> None:
    column, floor = along / 2.35, (y - 3.75) / 3.0
    fu, fv = column % 1, floor % 1
    inside = (y > 3.75) & (np.floor(floor) * 3.0 + 6.5 < top)
    frame = inside & (np.abs(fu - 0.5) < 0.30) & (np.abs(fv - 0.47) < 0.31)
    glass = inside & (np.abs(fu - 0.5) < 0.245) & (np.abs(fv - 0.48) < 0.265) & (np.abs(fu - 0.5) > 0.014)
    chance = dice(np.floor(column) + 7 * house, np.floor(floor) + 11 * side, 21)
    lit = glass & (chance < 0.30)
    curtain = 0.45 + 0.55 * np.clip(np.abs(fu - 0.5) * 9 - 0.5, 0, 1) * (chance * 37 % 1) + 0.35 * (fv < 0.45)
    warm = np.stack([np.ones_like(y), 0.62 + 0.25 * (chance * 53 % 1), 0.24 + 0.45 * (chance * 91 % 1)], axis=-1)
    color[frame] *= 1.35
    color[glass] = (0.035, 0.045, 0.06)
    light[lit] = (warm * (curtain * (0.35 + 2.0 * chance))[..., None])[lit]
    light[glass & ~lit] = (0.012, 0.016, 0.026)
    heat += 0.9 * np.exp(-(((fv - 0.10) / 0.07) ** 2)) * inside * (np.abs(fu - 0.5) < 0.25) * (chance < 0.5)
    heat[glass] = 9.2 + 2.2 * lit[glass] + 0.8 * fv[glass]
    heat[frame & ~glass] -= 1.0


def _shops(color: Array, heat: Array, light: Array, along: Array, y: Array, house: Array, side: int) -> None:
    panel = along / 2.9
    fu = panel % 1
    kind = dice(np.floor(panel) + 5 * house, house + 9.0 * side, 33)
    pane = (y > 0.55) & (y < 2.75) & (np.abs(fu - 0.5) < 0.42) & (np.abs(fu - 0.5) > 0.01)
    door = (y < 2.6) & (np.abs(fu - 0.5) < 0.2) & (kind > 0.8)
    is_open = pane & (house == (1, 4)[side]) & ~door
    shelf = (y - 0.55) / 0.44
    item = dice(np.floor(along * 4.3), np.floor(shelf) + 3 * house, 35) * (np.abs(along * 4.3 % 1 - 0.5) < 0.38)
    goods = 0.42 + 0.65 * item * (shelf % 1 < 0.25 + 0.6 * item) + 0.5 * (y > 2.3) - 0.25 * (shelf % 1 > 0.92)
    sign = (y > 2.85) & (y < 3.32) & (np.abs(along - 5.4) < 4.3) & (house == (1, 4)[side])
    letters = sign & (noise(along * 4.2, y * 2.5, 36, 2) > 0.1) & (np.abs(y - 3.08) < 0.13)
    color[pane | door] = (0.05, 0.05, 0.055)
    light[is_open] = rgb((1.0, 0.80, 0.52), np.clip(goods, 0.1, 2) * 1.25)[is_open]
    light[sign] = (0.02, 0.10, 0.12)
    light[letters] = (0.25, 1.15, 1.25)
    heat[pane & ~door] = 10.6
    heat[is_open] = 12.4
    heat[door] = 11.8


def add_end(s: Street) -> None:
    """Roofs at the end of the street, in the haze."""
    x, y = s.at(END)
    top = (
        9
        + 5 * np.floor(3 * dice(np.floor(x / 7) + 40, x * 0, 41)) / 2
        + 2.2 * np.clip(1 - np.abs(x % 7 - 3.5) / 3.5, 0, 1)
    )
    lit = (dice(np.floor(x / 1.6) + 64, np.floor(y / 2.4) + 8, 42) < 0.16) & (y > 1.5)
    light = rgb((0.20, 0.135, 0.12), 0.55 + 0.012 * y) + rgb(
        (0.55, 0.38, 0.18), lit * (np.abs(x / 1.6 % 1 - 0.5) < 0.25)
    )
    s.put((y < top) & (y > 0), END, 0, np.zeros(3), 10.5 + 1.2 * noise(x / 7, y / 9, 43), light)


def add_tree(s: Street, x0: float, z: float, height: float, radius: float, seed: int) -> None:
    """A trunk and a ragged crown; leaves are near the temperature of the air."""
    s = s.part(x0 - 1.4 * radius, x0 + 1.4 * radius, height + 1.3 * radius, z, z)
    x, y = s.at(z)
    x = x - x0
    trunk = bone(x + 0.12 * np.sin(y), y, (0.0, 0.0), (0.1, height), 0.17) < 0
    s.put(trunk, z, 3, rgb((0.16, 0.12, 0.09), 1 + 0.4 * noise(x * 9, y * 2, seed)), 12.2 + 0.6 * noise(x * 5, y, seed))
    reach = np.hypot(x / radius, (y - height) / (0.82 * radius))
    leaf = noise(x * 1.1, y * 1.1, seed + 1, 5)
    fine = noise(x * 7, y * 7, seed + 2, 3)
    crown = (reach + 0.36 * leaf + 0.09 * fine < 0.95) & (fine + 0.5 * leaf > -1.15 + 0.5 * reach)
    shade = np.clip(0.55 + 0.5 * leaf + 0.45 * fine + 0.25 * (y - height) / radius, 0.12, 1.6)
    s.put(crown, z - 0.3, 3, rgb((0.075, 0.095, 0.05), shade), 10.6 + 0.9 * leaf + 0.7 * fine)


def add_lamp(s: Street, place: Sequence[float]) -> None:
    """A lamp post with a bright head that hangs over the road."""
    x0, top, z = place
    s = s.part(x0 - 1.5, x0 + 1.5, top + 1, z, z)
    x, y = s.at(z)
    inward = 1.0 if x0 < 0 else -1.0
    post = np.minimum(
        bone(x, y, (x0, 0.0), (x0, top + 0.3), 0.06), bone(x, y, (x0, top + 0.3), (x0 + inward, top + 0.42), 0.045)
    )
    head = box(x, y, x0 + 0.75 * inward - 0.32, top + 0.28, x0 + 0.75 * inward + 0.32, top + 0.42, 0.06)
    s.put(post < 0, z, 3, np.full(3, 0.10), np.asarray(11.4))
    s.put(head < 0, z - 0.02, 3, np.full(3, 0.2), np.asarray(24.0), rgb(LAMP_COLOR, 9.0))


def add_person(s: Street, person: Person) -> None:
    """A walking person: face and hands warmest, the coat keeps some warmth in."""
    x0, z, step, tall, coat, legs = person
    s = s.part(x0 - 0.7, x0 + 0.7, 2.0, z, z)
    x, y = s.at(z)
    x, y = (x - x0) / tall, y / tall
    hip, sway = (0.0, 0.88), 0.05 * np.sign(step)
    shins = [bone(x, y, (0.55 * d * step, 0.48), (d * step - 0.04, 0.07), 0.062) for d in (1, -1)]
    thighs = [bone(x, y, hip, (0.55 * d * step, 0.48), 0.095) for d in (1, -1)]
    arms = [bone(x, y, (0.10 * d, 1.38), (-0.8 * d * step + 0.14 * d, 0.98), 0.058) for d in (1, -1)]
    hands = [np.hypot(x + 0.8 * d * step - 0.15 * d, y - 0.90) - 0.05 for d in (1, -1)]
    torso = np.minimum(
        box(x, y, -0.20 + sway, 0.86, 0.20 + sway, 1.46, 0.13), bone(x, y, (0.0, 0.92), (0.0, 1.3), 0.19)
    )
    head = np.hypot((x - sway) / 0.88, y - 1.63) - 0.115
    neck = bone(x, y, (sway, 1.42), (sway, 1.55), 0.06)
    hair = (head < 0) & (y > 1.66 + 0.35 * (x - sway) * np.sign(step))
    fold = noise(x * 9, y * 6, 51, 3)
    lower = np.minimum.reduce([*shins, *thighs])
    upper = np.minimum.reduce([torso, *arms])
    s.put(lower < 0, z, 3, rgb(legs, 1 + 0.3 * fold), 21.5 + 2.2 * (y - 0.5) + 0.9 * fold)
    s.put(upper < 0, z - 0.01, 3, rgb(coat, 1 + 0.3 * fold), 23.4 + 1.6 * fold + 14 * np.clip(-torso, 0, 0.12))
    s.put(np.minimum.reduce([head, neck, *hands]) < 0, z - 0.02, 3, rgb((0.40, 0.27, 0.20), 1.0), 31.5 + 0.6 * fold)
    s.put(hair, z - 0.03, 3, rgb((0.05, 0.04, 0.03), 1.0), 26.5 + 0.8 * fold)


def add_car(s: Street, x0: float, z: float, *, paint: Color, front: bool, running: bool, length: float = 4.2) -> None:
    """A car from its front or back, with the flank that faces the camera's lane."""
    s = s.part(x0 - 1.0, x0 + 1.0, 1.6, z - 0.2, z + length + 0.2)
    x, y = s.at(z)
    x = x - x0
    glow = noise(x * 3, y * 3, 61, 3)
    warm = 9.0 if running else 0.0
    _flank(s, x0 + (0.86 if x0 < 0 else -0.86), z, length, paint, front=front, warm=warm)
    cabin = np.maximum(box(x * (1 + 0.14 * (y - 0.9)), y, -0.82, 0.7, 0.82, 1.46, 0.22), 0.85 - y)
    body = box(x, y, -0.87, 0.22, 0.87, 1.0, 0.14)
    glass = np.maximum(box(x * (1 + 0.16 * (y - 0.9)), y, -0.70, 0.92, 0.70, 1.37, 0.10), 0.93 - y)
    tyres = np.minimum(box(x, y, -0.84, 0.0, -0.62, 0.4, 0.04), box(x, y, 0.62, 0.0, 0.84, 0.4, 0.04))
    engine = warm * np.exp(-((x / 0.55) ** 2) - ((y - 0.55) / 0.28) ** 2) * (1.5 if front else 0.25)
    s.put(tyres < 0, z, 3, np.full(3, 0.03), np.asarray(12.5 + 1.7 * warm))
    s.put(
        np.minimum(cabin, body) < 0,
        z - 0.01,
        3,
        rgb(paint, 1 + 0.35 * (y - 0.8)),
        11.3 + 0.3 * warm + 0.5 * glow + engine,
    )
    s.put(glass < 0, z - 0.02, 3, np.full(3, 0.04), 9.0 + 0.25 * warm + 0.6 * glow, rgb((0.02, 0.024, 0.03), 1.0))
    grille = np.maximum(box(x, y, -0.50, 0.40, 0.50, 0.62, 0.05), 0.02 - np.abs(y % 0.07 - 0.035)) < 0
    plate = box(x, y, -0.26, 0.30 if front else 0.62, 0.26, 0.40 if front else 0.73, 0.01) < 0
    s.put(grille & front, z - 0.02, 3, np.full(3, 0.03), 13.5 + 1.6 * warm + 0 * x)
    s.put(plate, z - 0.03, 3, np.full(3, 0.55), np.asarray(12.0 + 0.2 * warm))
    for d in (-1, 1):
        lamp = box(x, y, min(0.50 * d, 0.76 * d), 0.66, max(0.50 * d, 0.76 * d), 0.80, 0.05) < 0
        power = (14.0 if front else 1.5) * running
        s.put(
            lamp,
            z - 0.03,
            3,
            np.full(3, 0.2),
            np.asarray(12.5 + 0.9 * warm),
            rgb(BEAM_COLOR if front else (1.0, 0.07, 0.04), power),
        )
    if running and not front:
        s.put(np.hypot(x - 0.5, y - 0.27) < 0.05, z - 0.03, 3, np.full(3, 0.05), np.asarray(48.0))


def _flank(s: Street, x: float, z0: float, length: float, paint: Color, *, front: bool, warm: float) -> None:
    with np.errstate(divide="ignore"):
        z = np.where(s.dx * x > 0, x / s.dx, 1e5)
    y = EYE + s.dy * z
    t = (z - z0) / length if front else 1 - (z - z0) / length  # 0 at the bonnet, 1 at the boot
    roof = np.interp(t, (0.0, 0.06, 0.26, 0.42, 0.80, 0.95, 1.0), (0.7, 0.86, 0.98, 1.44, 1.42, 1.02, 0.85))
    inside = (t > 0) & (t < 1) & (y > 0.24) & (y < roof)
    glass = inside & (y > 0.97) & (y < roof - 0.08) & (t > 0.34) & (t < 0.86) & (np.abs(t - 0.6) > 0.015)
    wheels = np.minimum(*(np.hypot((t - c) * length, y - 0.32) for c in (0.19, 0.81)))
    line = np.abs(y - 0.78) < 0.02
    s.put(
        inside,
        z,
        2,
        rgb(paint, 0.8 + 0.25 * y - 0.3 * line),
        11.2 + warm * 0.7 * np.exp(-(((t - 0.12) / 0.16) ** 2)) - 0.4 * line,
    )
    s.put(glass, z - 0.01, 2, np.full(3, 0.04), np.full(z.shape, 8.8), rgb((0.016, 0.02, 0.026), 1.0))
    tyre = (wheels < 0.33) & (t > -0.05) & (t < 1.05)
    s.put(
        tyre,
        z - 0.02,
        2,
        rgb((0.03, 0.03, 0.03), 1 + 2.0 * (wheels < 0.19)),
        12.0 + warm * np.clip(wheels * 5, 0.5, 1.7),
    )


def build_street() -> Street:
    """Everything, from far to near."""
    s = Street()
    add_sky(s)
    add_end(s)
    add_ground(s)
    add_facade(s, 0)
    add_facade(s, 1)
    for lamp in LAMPS:
        add_lamp(s, lamp)
    for place in (
        (4.9, 46.0, 4.6, 2.3),
        (-6.6, 38.0, 4.9, 2.2),
        (-6.6, 21.0, 4.4, 1.9),
        (5.0, 24.0, 4.6, 2.2),
        (5.0, 9.6, 3.9, 2.1),
    ):
        add_tree(s, *place, seed=70 + int(place[1]))
    add_car(s, 2.45, 29.0, paint=(0.25, 0.26, 0.28), front=False, running=False)
    add_car(s, 0.55, 33.0, paint=(0.30, 0.05, 0.05), front=False, running=True)
    add_car(s, -2.8, 19.0, paint=(0.16, 0.18, 0.22), front=True, running=True)
    add_car(s, 2.45, 8.6, paint=(0.07, 0.09, 0.13), front=False, running=False)
    for person in PEOPLE:
        add_person(s, person)
    return s

"""Things in a street, each with colour, light and temperature: trees, lamps, people, cars."""

from __future__ import annotations

import numpy as np

from training.drawn.canvas import Street, bone, box, noise, rgb
from training.drawn.plan import BEAM_COLOR, CAR_LENGTH, LAMP_COLOR, Car, Lamp, Person, Tree


def add_tree(s: Street, tree: Tree, seed: int) -> None:
    """A trunk and a ragged crown; leaves are near the temperature of the air."""
    x0, z, height, radius = tree
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


def add_lamp(s: Street, lamp: Lamp, *, burns: bool) -> None:
    """A lamp post with a head that hangs over the road, bright and warm if it burns."""
    x0, top, z = lamp
    s = s.part(x0 - 1.5, x0 + 1.5, top + 1, z, z)
    x, y = s.at(z)
    inward = 1.0 if x0 < 0 else -1.0
    post = np.minimum(
        bone(x, y, (x0, 0.0), (x0, top + 0.3), 0.06), bone(x, y, (x0, top + 0.3), (x0 + inward, top + 0.42), 0.045)
    )
    head = box(x, y, x0 + 0.75 * inward - 0.32, top + 0.28, x0 + 0.75 * inward + 0.32, top + 0.42, 0.06)
    s.put(post < 0, z, 3, np.full(3, 0.10), np.asarray(11.4))
    s.put(head < 0, z - 0.02, 3, np.full(3, 0.2), np.asarray(24.0 if burns else 12.0), rgb(LAMP_COLOR, 9.0 * burns))


def add_person(s: Street, person: Person, seed: int) -> None:
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
    fold = noise(x * 9, y * 6, seed, 3)
    lower = np.minimum.reduce([*shins, *thighs])
    upper = np.minimum.reduce([torso, *arms])
    s.put(lower < 0, z, 3, rgb(legs, 1 + 0.3 * fold), 21.5 + 2.2 * (y - 0.5) + 0.9 * fold)
    s.put(upper < 0, z - 0.01, 3, rgb(coat, 1 + 0.3 * fold), 23.4 + 1.6 * fold + 14 * np.clip(-torso, 0, 0.12))
    s.put(np.minimum.reduce([head, neck, *hands]) < 0, z - 0.02, 3, rgb((0.40, 0.27, 0.20), 1.0), 31.5 + 0.6 * fold)
    s.put(hair, z - 0.03, 3, rgb((0.05, 0.04, 0.03), 1.0), 26.5 + 0.8 * fold)


def add_car(s: Street, car: Car, seed: int) -> None:
    """A car from its front or back, with the flank that faces the camera's lane."""
    x0, z, paint, front, running = car
    s = s.part(x0 - 1.0, x0 + 1.0, 1.6, z - 0.2, z + CAR_LENGTH + 0.2)
    x, y = s.at(z)
    x = x - x0
    glow = noise(x * 3, y * 3, seed, 3)
    warm = 9.0 if running else 0.0
    _add_flank(s, x0 + (0.86 if x0 < 0 else -0.86), car, warm)
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


def _add_flank(s: Street, x: float, car: Car, warm: float) -> None:
    with np.errstate(divide="ignore"):
        z = np.where(s.dx * x > 0, x / s.dx, 1e5)
    y = s.camera.eye + s.dy * z
    t = (z - car.z) / CAR_LENGTH if car.front else 1 - (z - car.z) / CAR_LENGTH  # 0 at the bonnet, 1 at the boot
    roof = np.interp(t, (0.0, 0.06, 0.26, 0.42, 0.80, 0.95, 1.0), (0.7, 0.86, 0.98, 1.44, 1.42, 1.02, 0.85))
    inside = (t > 0) & (t < 1) & (y > 0.24) & (y < roof)
    glass = inside & (y > 0.97) & (y < roof - 0.08) & (t > 0.34) & (t < 0.86) & (np.abs(t - 0.6) > 0.015)
    wheels = np.minimum(*(np.hypot((t - c) * CAR_LENGTH, y - 0.32) for c in (0.19, 0.81)))
    line = np.abs(y - 0.78) < 0.02
    s.put(
        inside,
        z,
        2,
        rgb(car.paint, 0.8 + 0.25 * y - 0.3 * line),
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

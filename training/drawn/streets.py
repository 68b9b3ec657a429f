"""Random streets by day, at dusk and at night: one for every seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from training.drawn.cameras import Curve, Pixels, infrared_image, temperature, visible_image
from training.drawn.canvas import Array, Camera, Color
from training.drawn.draw import build_street
from training.drawn.plan import Car, Lamp, Light, Person, Plan, Row, Sky, Sun, Tree

Rng = np.random.Generator

DAY = Light(
    sky=Sky(
        red=(0.95, 0.80, 0.55, 0.36, 0.28),
        green=(0.98, 0.88, 0.70, 0.55, 0.45),
        blue=(1.0, 0.97, 0.92, 0.86, 0.78),
        brightness=1.1,
        cloud=(1.0, 1.0, 1.0),
    ),
    ambient=(0.55, 0.66, 0.85),
    haze=(0.80, 0.87, 0.95),
    distance=(0.50, 0.55, 0.62),
    glass=(0.10, 0.12, 0.15),
    lit=0.02,
    lamps=False,
    sun=None,
    beam=0.0,
    glare=0.1,
)
CLOUDS = Light(
    sky=Sky(
        red=(0.80, 0.78, 0.72, 0.66, 0.60),
        green=(0.83, 0.81, 0.75, 0.69, 0.64),
        blue=(0.86, 0.85, 0.80, 0.75, 0.70),
        brightness=0.9,
        cloud=(0.50, 0.50, 0.52),
    ),
    ambient=(0.95, 1.0, 1.05),
    haze=(0.70, 0.72, 0.75),
    distance=(0.45, 0.46, 0.48),
    glass=(0.12, 0.12, 0.13),
    lit=0.08,
    lamps=False,
    sun=None,
    beam=0.0,
    glare=0.2,
)
DUSK = Light(
    sky=Sky(
        red=(0.95, 0.72, 0.34, 0.12, 0.05),
        green=(0.50, 0.42, 0.29, 0.16, 0.08),
        blue=(0.26, 0.36, 0.40, 0.30, 0.20),
        brightness=0.62,
        cloud=(0.30, 0.17, 0.15),
    ),
    ambient=(0.11, 0.145, 0.24),
    haze=(0.17, 0.12, 0.11),
    distance=(0.20, 0.135, 0.12),
    glass=(0.012, 0.016, 0.026),
    lit=0.30,
    lamps=True,
    sun=None,
    beam=1.25,
)
NIGHT = Light(
    sky=Sky(
        red=(0.12, 0.06, 0.03, 0.02, 0.01),
        green=(0.08, 0.05, 0.03, 0.02, 0.01),
        blue=(0.06, 0.05, 0.05, 0.04, 0.03),
        brightness=0.5,
        cloud=(0.06, 0.05, 0.05),
    ),
    ambient=(0.02, 0.025, 0.045),
    haze=(0.03, 0.025, 0.03),
    distance=(0.035, 0.03, 0.03),
    glass=(0.003, 0.004, 0.006),
    lit=0.2,
    lamps=True,
    sun=None,
    beam=1.5,
)


def draw_street(seed: int, height: int, width: int, samples: int = 2) -> tuple[Pixels, Pixels]:
    """The street of a seed: an aligned visible (H, W, 3) and infrared (H, W) picture, 8 bit.

    Args:
        seed: Another seed is another street.
        height: Of the pictures, in pixels.
        width: Likewise.
        samples: Rays per pixel and axis; 1 is fast and a little ragged.
    """
    rng = np.random.default_rng(seed)
    plan = random_plan(rng)
    street = build_street(plan, _random_camera(rng, height, width, samples))
    curve = _random_curve(rng, temperature(street, plan))
    return visible_image(street, plan), infrared_image(street, plan, curve)


def random_plan(rng: Rng) -> Plan:
    """A street with two rows of houses, lamps, trees, cars and people."""
    road = (-rng.uniform(4.0, 6.0), rng.uniform(3.2, 5.0))
    zebra = rng.uniform(9.0, 30.0)
    walls = (road[0] - rng.uniform(2.2, 4.5), road[1] + rng.uniform(2.2, 4.5))
    return Plan(
        seed=100 * int(rng.integers(1, 10_000_000)),
        light=_random_light(rng),
        road=road,
        walls=walls,
        rows=(_random_row(rng), _random_row(rng)),
        lamps=tuple(_random_lamps(rng, road)),
        trees=tuple(_random_trees(rng, road, walls)),
        cars=tuple(_random_cars(rng, road)),
        people=tuple(_random_people(rng, road, walls)),
        zebra=zebra,
        dashes=zebra + 5.2,
    )


def _random_camera(rng: Rng, height: int, width: int, samples: int) -> Camera:
    focal, centre, horizon = (
        width * rng.uniform(0.7, 1.05),
        width * rng.uniform(0.42, 0.58),
        height * rng.uniform(0.38, 0.5),
    )
    return Camera(width, height, samples, focal, centre, horizon, eye=rng.uniform(1.3, 2.2))


def _random_curve(rng: Rng, celsius: Array) -> Curve:
    """Gain of the thermal camera, set by the scene as such cameras do."""
    low, middle, high = np.percentile(celsius, (2.0, 50.0, 99.7))
    stops = (low, max(middle, low + 1.0), max(high, low + 5.0, middle + 2.0))
    return stops, (rng.uniform(8, 40), rng.uniform(60, 115), rng.uniform(215, 245))


def _random_light(rng: Rng) -> Light:
    light: Light = rng.choice(np.array((DAY, CLOUDS, DUSK, NIGHT), object), p=(0.3, 0.2, 0.2, 0.3))
    if light is DAY:
        return replace(light, sun=Sun(int(rng.choice((-1, 1))), rng.uniform(0.5, 1.6), rng.uniform(1.6, 2.6)))
    if light is NIGHT:
        return replace(light, lit=rng.uniform(0.1, 0.35), lamps=bool(rng.random() < 0.85), beam=rng.uniform(0.8, 2.0))
    return light


def _random_row(rng: Rng) -> Row:
    starts = -9.0 + np.concatenate([[0.0], np.cumsum(rng.uniform(9.0, 21.0, 9))])
    tops = np.where(rng.random(10) < 0.15, rng.uniform(2.5, 5.0, 10), rng.uniform(7.0, 16.0, 10))
    return Row(tuple(starts.tolist()), tuple(tops.tolist()), shop=int(rng.integers(0, 6)))


def _random_lamps(rng: Rng, road: tuple[float, float]) -> list[Lamp]:
    return [
        Lamp(edge, rng.uniform(4.8, 6.5), z)
        for edge in (road[0] - 0.8, road[1] + 0.8)
        for z in np.arange(rng.uniform(9, 24), 75, rng.uniform(15, 26)).tolist()
    ]


def _random_trees(rng: Rng, road: tuple[float, float], walls: tuple[float, float]) -> list[Tree]:
    trees = []
    for _ in range(rng.integers(1, 7)):
        side = int(rng.integers(2))
        place = road[side] + rng.uniform(0.3, 0.7) * (walls[side] - road[side])
        trees.append(Tree(place, rng.uniform(11, 60), rng.uniform(3.6, 5.5), rng.uniform(1.5, 2.6)))
    return trees


def _random_cars(rng: Rng, road: tuple[float, float]) -> list[Car]:
    parked = [Car(road[1] - 1.0, z, _paint(rng), front=False, running=False) for z in _places(rng, 3, 8, 45)]
    ahead = [Car(road[1] - 3.1, z, _paint(rng), front=False, running=True) for z in _places(rng, 1, 10, 40)]
    towards = [
        Car(road[0] + rng.uniform(1.6, 2.4), z, _paint(rng), front=True, running=True) for z in _places(rng, 2, 10, 50)
    ]
    return parked + ahead + towards


def _places(rng: Rng, most: int, near: float, far: float) -> list[float]:
    """Up to ``most`` distances, at least seven metres apart."""
    places: list[float] = []
    for z in rng.uniform(near, far, int(rng.integers(most + 1))):
        if all(abs(z - other) > 7 for other in places):
            places.append(float(z))
    return places


def _paint(rng: Rng) -> Color:
    shade = rng.choice((0.05, 0.15, 0.35, 0.6))
    red, green, blue = shade * rng.uniform(0.7, 1.0, 3) if rng.random() < 0.6 else rng.uniform(0.03, 0.5, 3)
    return float(red), float(green), float(blue)


def _random_people(rng: Rng, road: tuple[float, float], walls: tuple[float, float]) -> list[Person]:
    people = []
    for _ in range(rng.integers(2, 9)):
        side = int(rng.integers(2))
        kerb, wall = road[side], walls[side]
        place = rng.uniform(*road) if rng.random() < 0.3 else kerb + rng.uniform(0.15, 0.85) * (wall - kerb)
        step = rng.choice((-1, 1)) * rng.uniform(0.1, 0.28)
        people.append(
            Person(place, 7 + 33 * rng.random() ** 1.5, step, rng.uniform(0.8, 1.06), _paint(rng), _paint(rng))
        )
    return people

"""What stands in a street, and in which light: everything that a picture is drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from training.drawn.canvas import Color

LAMP_COLOR: Color = (1.0, 0.72, 0.40)
BEAM_COLOR: Color = (1.0, 0.96, 0.86)
SUN_COLOR: Color = (1.0, 0.95, 0.86)
CAR_LENGTH = 4.2


class Row(NamedTuple):
    """The houses along one side: where each begins along z, how high it is, and which one is an open shop."""

    starts: tuple[float, ...]
    tops: tuple[float, ...]
    shop: int


class Tree(NamedTuple):
    """Place, height of the crown's middle, its radius."""

    x: float
    z: float
    height: float
    radius: float


class Lamp(NamedTuple):
    """Place of a street lamp; ``y`` is the height of its head."""

    x: float
    y: float
    z: float


class Car(NamedTuple):
    """Place of the end that one sees, the paint, which end it is, and whether the engine runs (and the lights burn)."""

    x: float
    z: float
    paint: Color
    front: bool
    running: bool


class Person(NamedTuple):
    """Where somebody walks, the length of the step (left is negative), the height, and the colours of coat and legs."""

    x: float
    z: float
    step: float
    tall: float
    coat: Color
    legs: Color


class Shade(NamedTuple):
    """Where lamps do not reach: beyond ``x`` (away from the road), around ``z``."""

    x: float
    z: float


class Sky(NamedTuple):
    """Red, green and blue from the horizon up, how bright it is, and the colour of its clouds."""

    red: tuple[float, float, float, float, float]
    green: tuple[float, float, float, float, float]
    blue: tuple[float, float, float, float, float]
    brightness: float
    cloud: Color


class Sun(NamedTuple):
    """Direction of the sunlight: side that it comes from (-1 left, 1 right), slope over the street, and strength."""

    side: int
    slope: float
    strength: float


@dataclass(frozen=True)
class Light:
    """Hour and weather.

    Attributes:
        sky: Its colours.
        ambient: Light from all over the sky.
        haze: Colour of far air; ``distance`` that of the roofs in it.
        glass: What dark windows mirror.
        lit: Share of the windows that are lit.
        lamps: Whether the street lamps burn.
        sun: None at night and under clouds.
        beam: Brightness of the camera car's own head-lights.
        glare: How much head-lights dazzle.
    """

    sky: Sky
    ambient: Color
    haze: Color
    distance: Color
    glass: Color
    lit: float
    lamps: bool
    sun: Sun | None
    beam: float
    glare: float = 1.0


@dataclass(frozen=True)
class Plan:
    """A street.

    Attributes:
        seed: Of all its textures.
        light: Hour and weather.
        road: Left and right edge of the road.
        walls: Left and right façade.
        rows: Houses of both.
        zebra: Where the crossing begins along z; it is three metres deep.
        dashes: Where the dashes between the lanes begin along z.
        shades: Dark places, for lamps.
    """

    seed: int
    light: Light
    road: tuple[float, float]
    walls: tuple[float, float]
    rows: tuple[Row, Row]
    lamps: tuple[Lamp, ...]
    trees: tuple[Tree, ...]
    cars: tuple[Car, ...]
    people: tuple[Person, ...]
    zebra: float
    dashes: float
    shades: tuple[Shade, ...] = ()

    @property
    def beams(self) -> tuple[Lamp, ...]:
        """Head-lights of the cars that come towards the camera."""
        places = ((car.x + d, car.z) for car in self.cars if car.front and car.running for d in (-0.62, 0.62))
        return tuple(Lamp(x, 0.72, z) for x, z in places)

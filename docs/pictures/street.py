"""The street of the sample pair: what stands where, at dusk. ``training/drawn`` knows how each thing looks."""

from __future__ import annotations

from training.drawn.canvas import Camera
from training.drawn.plan import Car, Lamp, Person, Plan, Row, Shade, Tree
from training.drawn.streets import DUSK

CAMERA = Camera(width=640, height=480, samples=2, focal=560.0, centre=312.0, horizon=212.0)

GREY_OF_CELSIUS = (
    (-34.0, 0.0, 8.0, 11.0, 14.0, 18.0, 24.0, 32.0, 50.0),
    (10.0, 34.0, 52.0, 76.0, 108.0, 152.0, 196.0, 236.0, 252.0),
)
"""How the thermal camera turns temperature into grey levels."""

PEOPLE = (
    Person(-6.4, 16.5, 0.20, 1.0, (0.32, 0.10, 0.08), (0.05, 0.06, 0.10)),  # under a lamp
    Person(-1.45, 18.2, 0.26, 1.0, (0.12, 0.12, 0.13), (0.05, 0.05, 0.06)),  # beside the head-lights, in their glare
    Person(-4.35, 18.4, -0.18, 0.94, (0.16, 0.12, 0.08), (0.04, 0.05, 0.07)),
    Person(4.35, 11.6, 0.17, 1.0, (0.05, 0.06, 0.08), (0.03, 0.03, 0.04)),  # in the shade of a tree
    Person(4.95, 12.1, -0.14, 0.93, (0.08, 0.05, 0.05), (0.04, 0.04, 0.05)),  # in the shade of a tree
    Person(4.1, 31.0, 0.2, 1.0, (0.10, 0.10, 0.09), (0.05, 0.05, 0.06)),
)

STREET = Plan(
    seed=0,
    light=DUSK,
    road=(-5.2, 3.4),
    walls=(-8.2, 6.4),
    rows=(
        Row((-9.0, 11.0, 22.0, 36.0, 47.0, 63.0, 84.0, 110.0), (12.5, 9.4, 15.8, 11.0, 9.2, 14.0, 10.0, 13.0), shop=1),
        Row((-9.0, 9.0, 20.5, 34.0, 50.0, 66.0, 90.0, 118.0), (15.0, 12.2, 9.0, 14.8, 10.6, 12.0, 9.0, 14.0), shop=4),
    ),
    lamps=(
        Lamp(-6.0, 5.6, 13.0),
        Lamp(-6.0, 5.6, 29.0),
        Lamp(4.6, 5.6, 37.0),
        Lamp(-6.0, 5.6, 47.0),
        Lamp(4.6, 5.6, 60.0),
    ),
    trees=(
        Tree(4.9, 46.0, 4.6, 2.3),
        Tree(-6.6, 38.0, 4.9, 2.2),
        Tree(-6.6, 21.0, 4.4, 1.9),
        Tree(5.0, 24.0, 4.6, 2.2),
        Tree(5.0, 9.6, 3.9, 2.1),
    ),
    cars=(
        Car(2.45, 29.0, (0.25, 0.26, 0.28), front=False, running=False),
        Car(0.55, 33.0, (0.30, 0.05, 0.05), front=False, running=True),
        Car(-2.8, 19.0, (0.16, 0.18, 0.22), front=True, running=True),
        Car(2.45, 8.6, (0.07, 0.09, 0.13), front=False, running=False),
    ),
    people=PEOPLE,
    zebra=12.6,
    dashes=17.8,
    shades=(Shade(4.6, 12.5),),
)

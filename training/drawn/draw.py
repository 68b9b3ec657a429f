"""From a plan to an aligned pair."""

from __future__ import annotations

from training.drawn.cameras import Curve, Pixels, infrared_image, visible_image
from training.drawn.canvas import Camera, Street
from training.drawn.ground import add_end, add_ground, add_sky
from training.drawn.houses import add_facade
from training.drawn.plan import Plan
from training.drawn.things import add_car, add_lamp, add_person, add_tree


def build_street(plan: Plan, camera: Camera) -> Street:
    """What each ray meets, laid from far to near."""
    s = Street(camera)
    add_sky(s, plan)
    add_end(s, plan)
    add_ground(s, plan)
    for side in (0, 1):
        add_facade(s, plan, side)
    for lamp in plan.lamps:
        add_lamp(s, lamp, burns=plan.light.lamps)
    for tree in plan.trees:
        add_tree(s, tree, seed=plan.seed + 70 + int(tree.z))
    for car in plan.cars:
        add_car(s, car, seed=plan.seed + 61)
    for person in plan.people:
        add_person(s, person, seed=plan.seed + 51)
    return s


def draw_pair(plan: Plan, camera: Camera, curve: Curve) -> tuple[Pixels, Pixels]:
    """The visible picture (H, W, 3) and the infrared one (H, W); both cameras stand in one place.

    Args:
        plan: The street.
        camera: Where from, and how large.
        curve: How the thermal camera turns temperature into grey levels.
    """
    street = build_street(plan, camera)
    return visible_image(street, plan), infrared_image(street, plan, curve)

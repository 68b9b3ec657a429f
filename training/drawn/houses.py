"""Rows of houses with windows and shops."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from training.drawn.canvas import Array, Color, Street, dice, noise, rgb
from training.drawn.ground import END
from training.drawn.plan import Plan

TINTS: tuple[Color, ...] = ((0.34, 0.24, 0.19), (0.36, 0.33, 0.27), (0.27, 0.17, 0.14), (0.33, 0.30, 0.29))


class _Surface(NamedTuple):
    """A façade: what it shows, and where each ray meets it."""

    color: Array
    heat: Array
    light: Array
    along: Array
    y: Array
    house: Array
    top: Array


def add_facade(s: Street, plan: Plan, side: int) -> None:
    """A row of houses along the street; ``side`` is 0 for the left one, which the sun has warmed."""
    wall, row = plan.walls[side], plan.rows[side]
    ahead = int((s.dx[0] < 0).sum())
    half = s.window(slice(None), slice(0, ahead) if wall < 0 else slice(ahead, None))
    with np.errstate(divide="ignore"):
        z = np.where(half.dx * wall > 0, wall / half.dx, 1e5)
    y = s.camera.eye + half.dy * z
    starts, tops = np.array(row.starts), np.array(row.tops)
    tints = np.array(TINTS)
    house = np.clip(np.searchsorted(starts, z) - 1, 0, len(starts) - 1)
    along = z - starts[house]
    fade = np.clip(22 / z, 0, 1)
    rough = noise(z * 1.1, y * 1.1, plan.seed + 11 + side, 4)
    brick = ((y * 6 % 1 < 0.14) | ((z * 2.2 + np.floor(y * 6) * 0.5) % 1 < 0.06)) & (house % 2 == side)
    ledge = (np.abs(y - 3.55) < 0.14) | (y > tops[house] - 0.45)
    shade = (1 + 0.16 * rough - 0.25 * brick * fade) * np.where(ledge, 1.25, 1.0)
    color = tints[(house * 3 + side) % 4] * shade[..., None]
    heat = (16.2, 13.4)[side] + (house * 5 % 3 - 1) * 0.9 + 0.6 * rough + 0.7 * ledge - 0.3 * brick * fade
    light = np.zeros(color.shape)
    surface = _Surface(color, heat, light, along, y, house, tops[house])
    _add_windows(surface, plan, side)
    _add_shops(surface, plan, side)
    half.put((y > 0) & (y < tops[house]) & (z < END) & (z > 2), z, 2, color, heat, light)
    for begin, top, tint in zip(starts[1:], tops[1:], tints[(np.arange(1, len(tops)) * 3 + side) % 4], strict=True):
        bare = s.part(min(wall, 3 * wall), max(wall, 3 * wall), top + 1, begin, begin)
        x, y = bare.at(begin)
        rough = noise(x * 0.8, y * 0.8, plan.seed + 15 + side, 4)
        bare.put((np.abs(x) > abs(wall)) & (y < top), begin, 3, 0.8 * rgb(tint, 1 + 0.2 * rough), 12.8 + 0.7 * rough)


def _add_windows(surface: _Surface, plan: Plan, side: int) -> None:
    color, heat, light, along, y, house, top = surface
    column, floor = along / 2.35, (y - 3.75) / 3.0
    fu, fv = column % 1, floor % 1
    inside = (y > 3.75) & (np.floor(floor) * 3.0 + 6.5 < top)
    frame = inside & (np.abs(fu - 0.5) < 0.30) & (np.abs(fv - 0.47) < 0.31)
    glass = inside & (np.abs(fu - 0.5) < 0.245) & (np.abs(fv - 0.48) < 0.265) & (np.abs(fu - 0.5) > 0.014)
    chance = dice(np.floor(column) + 7 * house, np.floor(floor) + 11 * side, plan.seed + 21)
    lit = glass & (chance < plan.light.lit)
    curtain = 0.45 + 0.55 * np.clip(np.abs(fu - 0.5) * 9 - 0.5, 0, 1) * (chance * 37 % 1) + 0.35 * (fv < 0.45)
    warm = np.stack([np.ones_like(y), 0.62 + 0.25 * (chance * 53 % 1), 0.24 + 0.45 * (chance * 91 % 1)], axis=-1)
    color[frame] *= 1.35
    color[glass] = (0.035, 0.045, 0.06)
    light[lit] = (warm * (curtain * (0.35 + 2.0 * chance))[..., None])[lit]
    light[glass & ~lit] = plan.light.glass
    heat += 0.9 * np.exp(-(((fv - 0.10) / 0.07) ** 2)) * inside * (np.abs(fu - 0.5) < 0.25) * (chance < 0.5)
    heat[glass] = 9.2 + 2.2 * lit[glass] + 0.8 * fv[glass]
    heat[frame & ~glass] -= 1.0


def _add_shops(surface: _Surface, plan: Plan, side: int) -> None:
    color, heat, light, along, y, house, _ = surface
    shop = house == plan.rows[side].shop
    panel = along / 2.9
    fu = panel % 1
    kind = dice(np.floor(panel) + 5 * house, house + 9.0 * side, plan.seed + 33)
    pane = (y > 0.55) & (y < 2.75) & (np.abs(fu - 0.5) < 0.42) & (np.abs(fu - 0.5) > 0.01)
    door = (y < 2.6) & (np.abs(fu - 0.5) < 0.2) & (kind > 0.8)
    is_open = pane & shop & ~door
    shelf = (y - 0.55) / 0.44
    item = dice(np.floor(along * 4.3), np.floor(shelf) + 3 * house, plan.seed + 35) * (
        np.abs(along * 4.3 % 1 - 0.5) < 0.38
    )
    goods = 0.42 + 0.65 * item * (shelf % 1 < 0.25 + 0.6 * item) + 0.5 * (y > 2.3) - 0.25 * (shelf % 1 > 0.92)
    sign = (y > 2.85) & (y < 3.32) & (np.abs(along - 5.4) < 4.3) & shop
    letters = sign & (noise(along * 4.2, y * 2.5, plan.seed + 36, 2) > 0.1) & (np.abs(y - 3.08) < 0.13)
    color[pane | door] = (0.05, 0.05, 0.055)
    light[is_open] = rgb((1.0, 0.80, 0.52), np.clip(goods, 0.1, 2) * 1.25)[is_open]
    light[sign] = (0.02, 0.10, 0.12)
    light[letters] = (0.25, 1.15, 1.25)
    heat[pane & ~door] = 10.6
    heat[is_open] = 12.4
    heat[door] = 11.8

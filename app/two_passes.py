"""Fuses a large pair tile by tile, with the result of the whole, in memory that a tile bounds.

Two things tie a pixel to the rest of its image. Layers look at neighbours, a bounded distance all together: each tile
computes a halo of that width and throws it away. And a network may weigh what it does by the mean of its features
over the whole image: a first pass gathers it, counting each pixel once, a second fuses with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from app.backend import Tensor
from app.card import Tiling
from app.tiles import Plan, Span, mirrored, plan_tiles

GraphRun = Callable[[Mapping[str, Tensor]], Tensor]
NextTile = Callable[[], None]
Tile = tuple[Span, Span, dict[str, Tensor]]


def fuse_in_two_passes(
    a: Tensor, b: Tensor, tiling: Tiling, *, sums: GraphRun, given: GraphRun, next_tile: NextTile
) -> Tensor:
    """Fuses one pair like the fusion graph, but for rounding.

    Args:
        a: First source image, (1, 1, H, W) in [0, 1].
        b: Second source image, same shape.
        tiling: How to cut it.
        sums: Runs the first graph on a tile: ``a``, ``b``, ``counted`` (1, 1, h, w) -> (1, C).
        given: Runs the second: ``a``, ``b`` (1, 1, h, w), ``mean`` (1, C) -> (1, 1, h, w).
        next_tile: Called before each tile; what it raises ends the run.

    Returns:
        Fused luminance (1, 1, H, W) in [0, 1].

    Raises:
        RuntimeError: A graph returned a tile of another shape.
    """
    mean = _mean(a, b, tiling, sums, next_tile)
    fused = np.empty_like(a)
    for rows, columns, tile in _tiles(a, b, _plan(a, tiling, tiling.halo), next_tile):
        part = given(tile | {"mean": mean})
        if part.shape != tile["a"].shape:
            raise RuntimeError(f"{tiling.given.file} returned {part.shape} for a tile of {tile['a'].shape}")
        place = fused[..., rows.own, columns.own]  # Ends with the image, where the tile has padding.
        place[...] = part[..., rows.inside, columns.inside][..., : place.shape[2], : place.shape[3]]
    return fused


def _mean(a: Tensor, b: Tensor, tiling: Tiling, sums: GraphRun, next_tile: NextTile) -> Tensor:
    """First pass: the mean of the features over the padded image, (1, C)."""
    plan = _plan(a, tiling, tiling.halo_sums)
    total = np.zeros(1)  # In float64, as the sums of many tiles together have more digits than float32 holds.
    for rows, columns, tile in _tiles(a, b, plan, next_tile):
        counted = np.zeros_like(tile["a"])
        counted[..., rows.inside, columns.inside] = 1.0
        total = total + sums(tile | {"counted": counted})
    return (total / plan.padded_pixels).astype(np.float32)


def _plan(image: Tensor, tiling: Tiling, halo: int) -> Plan:
    height, width = image.shape[2:]
    return plan_tiles(height, width, tile=tiling.tile, halo=halo, multiple=tiling.multiple)


def _tiles(a: Tensor, b: Tensor, plan: Plan, next_tile: NextTile) -> Iterator[Tile]:
    """Yields rows and columns of each tile, and both images there, (1, 1, h, w) each."""
    height, width = a.shape[2:]
    for rows, columns in plan:
        next_tile()
        here = (..., mirrored(rows, height)[:, None], mirrored(columns, width))
        yield rows, columns, {"a": a[here], "b": b[here]}

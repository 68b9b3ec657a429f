"""Fuse an image of any size tile by tile, in bounded memory and without seams.

Two things tie a pixel to the rest of the image. Layers look at neighbours, a bounded distance all together: each tile
is computed with a halo of that width, which is thrown away. And OAF weighs its operations by the mean of the features
over the whole image: a first pass gathers it, counting each pixel once, a second fuses with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, product
from typing import NamedTuple

import torch
from torch import Tensor

from models.base import check_sources
from models.tita.config import TITAConfig
from models.tita.network import TITA
from models.tita.output import LOCAL_REACH

_SHALLOW_CONVS, _HEAD_CONVS = 2, 3


class Span(NamedTuple):
    """Part of one side of an image that a tile covers, in pixels.

    Attributes:
        start: Where the tile begins.
        first: Where the part begins that the tile answers for.
        last: Where that part ends.
        stop: Where the tile ends.
    """

    start: int
    first: int
    last: int
    stop: int

    @property
    def whole(self) -> slice:
        """The tile in the image."""
        return slice(self.start, self.stop)

    @property
    def own(self) -> slice:
        """What the tile answers for, in the image."""
        return slice(self.first, self.last)

    @property
    def inside(self) -> slice:
        """What the tile answers for, in the tile."""
        return slice(self.first - self.start, self.last - self.start)


def exact_halo(config: TITAConfig, *, features: bool = False) -> int:
    """Width of the halo with which a tile equals the same part of the whole image, in pixels.

    A layer of windows reaches to the next border of its grid, and the grids of two layers in a row are half a window
    apart. So a layer adds half a window, not a whole one.

    Args:
        config: The architecture.
        features: Up to the features only, for the first pass.

    Returns:
        A multiple of a window's side in pixels: 72 for the published network, 56 for its features.
    """
    reach = 0 if features else 1 + _through(_HEAD_CONVS, config.rebuild_depth, config.window)  # OAF looks one pixel far
    for depth in reversed(config.fusion_depths):
        reach = _through(reach, depth, config.window)
    tokens = _ceil(_through(reach, config.extract_depth, config.window) + _SHALLOW_CONVS, config.window)
    pixels = tokens * config.fold
    return pixels if features or config.output == "image" else max(pixels, _ceil(LOCAL_REACH, config.multiple))


def _through(reach: int, depth: int, window: int) -> int:
    """Pixels beyond a window border that matter before ``depth`` layers, if ``reach`` of them do after."""
    for layer in reversed(range(depth)):
        offset = layer % 2 * window // 2
        reach = offset + _ceil(max(0, reach - offset), window)
    return reach


def _ceil(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def spans(size: int, *, tile: int, halo: int, window: int) -> list[Span]:
    """Cut one side of a padded image into equal tiles.

    Args:
        size: Of the side, a multiple of the window.
        tile: Largest side of a tile, halo included.
        halo: Rows that a tile computes beyond those it answers for, except where the image ends.
        window: All borders are multiples of it.

    Raises:
        ValueError: A tile would consist of nothing but its halo.
    """
    tile, halo = tile // window * window, _ceil(halo, window)
    if size <= tile:
        return [Span(0, 0, size, size)]
    if tile <= 2 * halo:
        raise ValueError(f"a tile of {tile} pixels has no room beside a halo of {halo} on both sides: enlarge the tile")
    count = -(-(size - 2 * halo) // (tile - 2 * halo))
    tile = _ceil(-(-(size - 2 * halo) // count), window) + 2 * halo  # no larger than it has to be for that many
    starts = [min(i * (tile - 2 * halo), size - tile) for i in range(count)]
    borders = [0, *(start + halo for start in starts[1:]), size]
    owned = pairwise(borders)
    return [Span(start, first, last, start + tile) for start, (first, last) in zip(starts, owned, strict=True)]


def _tiles(image: Tensor, *, tile: int, halo: int, window: int) -> Iterator[tuple[Span, Span]]:
    rows, columns = (spans(size, tile=tile, halo=halo, window=window) for size in image.shape[-2:])
    return product(rows, columns)


@torch.no_grad()
def fuse_tiled(model: TITA, a: Tensor, b: Tensor, *, tile: int = 512, halo: int | None = None) -> Tensor:
    """Fuse like ``model(a, b)``, holding the features of one tile at a time.

    Args:
        model: In eval mode.
        a: First source image, (N, 1, H, W) in [0, 1].
        b: Second source image, same shape.
        tile: Largest side of a tile, halo included; memory grows with its square.
        halo: Rows that a tile computes around its own part and throws away; ``None`` for as many as make the result
            equal to that of the whole image but for rounding. Fewer are faster and nearly as good.

    Returns:
        (N, 1, H, W) in [0, 1].

    Raises:
        ValueError: The images do not fit together, or the tile has no room beside its halo.
    """
    check_sources(a, b)
    padded_a, padded_b = model.pad(a), model.pad(b)
    mean = mean_features(model, padded_a, padded_b, tile=tile, halo=halo)
    halo = exact_halo(model.config) if halo is None else halo
    fused = torch.empty_like(padded_a)
    for rows, columns in _tiles(fused, tile=tile, halo=halo, window=model.config.multiple):
        here = (..., rows.whole, columns.whole)
        part = model.fuse_given(padded_a[here], padded_b[here], mean)
        fused[..., rows.own, columns.own] = part[..., rows.inside, columns.inside]
    return fused[..., : a.shape[2], : a.shape[3]]


@torch.no_grad()
def mean_features(model: TITA, a: Tensor, b: Tensor, *, tile: int = 512, halo: int | None = None) -> Tensor:
    """Mean of the features over a whole pair, gathered tile by tile.

    Args:
        model: In eval mode.
        a: First source image, padded, (N, 1, H', W').
        b: Second source image, padded.
        tile: As in ``fuse_tiled``.
        halo: As in ``fuse_tiled``.

    Returns:
        (N, 2 · D).
    """
    halo = exact_halo(model.config, features=True) if halo is None else halo
    total = a.new_zeros(a.shape[0], 2 * model.config.dim, dtype=torch.float64)
    for rows, columns in _tiles(a, tile=tile, halo=halo, window=model.config.multiple):
        here = (..., rows.whole, columns.whole)
        counted = torch.zeros_like(a[here])
        counted[..., rows.inside, columns.inside] = 1.0
        total += model.feature_sums(a[here], b[here], counted)
    return (total / (a.shape[2] * a.shape[3])).to(a.dtype)

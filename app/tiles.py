"""Plans how an image is cut into tiles; which tiles there are depends on nothing but sizes.

A tile computes a margin of pixels around those that it answers for, its halo, and throws it away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.intp]


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
    def own(self) -> slice:
        """What the tile answers for, in the image."""
        return slice(self.first, self.last)

    @property
    def inside(self) -> slice:
        """What the tile answers for, in the tile."""
        return slice(self.first - self.start, self.last - self.start)


@dataclass(frozen=True)
class Plan:
    """How an image is cut.

    Attributes:
        rows: Spans of the padded height, from top to bottom.
        columns: Spans of the padded width, from left to right.
    """

    rows: list[Span]
    columns: list[Span]

    def __iter__(self) -> Iterator[tuple[Span, Span]]:
        """Yields rows and columns of each tile."""
        return product(self.rows, self.columns)

    @property
    def padded_pixels(self) -> int:
        """Pixels of the padded image; each belongs to exactly one tile."""
        return self.rows[-1].stop * self.columns[-1].stop


def plan_tiles(height: int, width: int, *, tile: int, halo: int, multiple: int) -> Plan:
    """Cuts an image, padded at the bottom and right, into equal tiles.

    Args:
        height: Of the image, in pixels, before padding.
        width: Likewise.
        tile: Largest side of a tile in pixels, halo included; a multiple of ``multiple``.
        halo: Pixels that a tile computes beyond its own on each side, except where the image ends; a multiple of
            ``multiple``.
        multiple: Sides are padded to it, and all borders are multiples of it.

    Raises:
        ValueError: ``tile`` or ``halo`` is no multiple, or a tile has no room beside its halo.
    """
    if tile % multiple or halo % multiple or tile <= 2 * halo:
        raise ValueError(
            f"tiles of {tile} with a halo of {halo} are not multiples of {multiple} with room of their own"
        )
    rows, columns = (
        _spans(-(-side // multiple) * multiple, tile=tile, halo=halo, multiple=multiple) for side in (height, width)
    )
    return Plan(rows, columns)


def mirrored(span: Span, size: int) -> Indices:
    """Returns which rows of the image the rows of a tile hold, (stop - start,).

    Beyond the image's last row its rows repeat backwards, the last one first (NumPy's ``symmetric``). So a tile of
    the padded image is cut without a padded copy of the whole.

    Args:
        span: The tile.
        size: Rows of the image, without padding.
    """
    place = np.arange(span.start, span.stop) % (2 * size)
    return np.minimum(place, 2 * size - 1 - place)


def _spans(size: int, *, tile: int, halo: int, multiple: int) -> list[Span]:
    """Cuts one padded side; the tiles are no larger than they have to be for that many."""
    if size <= tile:
        return [Span(0, 0, size, size)]
    # Beside the two ends of the side, which need no halo, each tile adds its inner part.
    count = -(-(size - 2 * halo) // (tile - 2 * halo))
    inner = -(-(size - 2 * halo) // (count * multiple)) * multiple
    starts = [min(number * inner, size - inner - 2 * halo) for number in range(count)]
    borders = [0, *(start + halo for start in starts[1:]), size]
    return [
        Span(start, first, last, start + inner + 2 * halo)
        for start, (first, last) in zip(starts, pairwise(borders), strict=True)
    ]

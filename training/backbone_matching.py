"""How well patches of one image are found again in another, aligned image by their features alone.

Features that only tell where a patch lies in the image would find all of them, without knowing what is there. So two
parts of the pair are compared that do not begin at the same place: then such features find none.

Shape letters: E channels, h and w the patch grid, Q patches of the first image that the second shows too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from models.unifusion.config import STRIDE
from training.data.images import DataError

Shift = tuple[int, int]
"""Rows and columns of patches by which the second part begins later than the first."""


@dataclass(frozen=True)
class Matches:
    """Nearest neighbours.

    Attributes:
        found: Place in the second image of the best match of each patch, (Q, 2): row and column.
        wanted: Place of the patch that shows the same thing, (Q, 2).
        chance: Hit rate of a random choice.
    """

    found: Tensor
    wanted: Tensor
    chance: float

    @property
    def distances(self) -> Tensor:
        """Between found and wanted, in patches, (Q,)."""
        return (self.found - self.wanted).float().norm(dim=1)

    @property
    def steps(self) -> Tensor:
        """Rows or columns between found and wanted, whichever are more, (Q,)."""
        return (self.found - self.wanted).abs().amax(dim=1)


@dataclass(frozen=True)
class Rates:
    """How good matches are, as means over all patches of some pairs.

    Attributes:
        hit: Share at the right place.
        near: Share at most one patch away, diagonals included.
        distance: In patches.
        chance: Hit rate of a random choice.
    """

    hit: float
    near: float
    distance: float
    chance: float

    @classmethod
    def of(cls, matches: Sequence[Matches]) -> Self:
        """Over pairs, each weighing the same."""
        rows = torch.tensor(
            [
                [float((m.steps == 0).float().mean()), float((m.steps <= 1).float().mean()), float(m.distances.mean())]
                for m in matches
            ]
        )
        chance = sum(m.chance for m in matches) / len(matches)
        hit, near, distance = rows.mean(dim=0).tolist()
        return cls(hit, near, distance, chance)


def usual_shift(image: Tensor) -> Shift:
    """About a sixth of the rows and a fifth of the columns of an image (..., H, W), so most of both parts is shared."""
    h, w = (length // STRIDE for length in image.shape[-2:])
    return max(1, h // 6), max(1, w // 5)


def shifted_parts(a: Tensor, b: Tensor, shift: Shift) -> tuple[Tensor, Tensor]:
    """Two parts of an aligned pair, the second beginning further down and right.

    Args:
        a: (N, C, H, W), H and W multiples of 16.
        b: The same size.
        shift: By how much; (0, 0) leaves both as they are.

    Raises:
        DataError: The parts share no patch.
    """
    down, across = (STRIDE * s for s in shift)
    H, W = a.shape[-2:]
    if min(H - 2 * down, W - 2 * across) < STRIDE:
        raise DataError(
            f"a pair of {W}×{H} pixels is too small to be compared by shifted parts: take pairs of at least "
            f"{3 * STRIDE} pixels a side"
        )
    return a[..., : H - down, : W - across], b[..., down:, across:]


def match(a: Tensor, b: Tensor, shift: Shift) -> Matches:
    """Nearest neighbour by cosine of every patch of the first map that the second image shows too.

    Args:
        a: Features of the first part, (E, h, w).
        b: Of the second, the same size.
        shift: Of ``shifted_parts``.
    """
    (down, across), (h, w) = shift, a.shape[1:]
    unit_a, unit_b = (F.normalize(x.float().flatten(1), dim=0) for x in (a, b))  # (E, h · w)
    best = (unit_a.T @ unit_b).argmax(dim=1).reshape(h, w)[down:, across:].flatten()  # (Q,)
    rows, columns = torch.meshgrid(torch.arange(h - down), torch.arange(w - across), indexing="ij")
    found = torch.stack([best.cpu() // w, best.cpu() % w], dim=1)
    return Matches(found, torch.stack([rows.flatten(), columns.flatten()], dim=1), 1 / (h * w))


def centre_multiple(image: Tensor, limit: int | None = None) -> Tensor:
    """The central part whose sides are the largest multiples of 16, and at most ``limit``: (..., H, W)."""
    for axis in (-2, -1):
        length = image.shape[axis]
        kept = min(length, limit or length) // STRIDE * STRIDE
        image = image.narrow(axis, (length - kept) // 2, kept)
    return image

"""Patch tokens of a frozen vision transformer, brought to the shape of TiTok's tokens (table 6 of the paper).

The paper only says that fusion is set up the same way. Here the patch tokens are averaged over the cells of a coarse
grid, projected to C channels by a frozen random orthogonal matrix and brought to norm 1, so that shape, scale and the
number of trained parameters are those of the TiTok row.

Shape letters: N batch, P patches on a p × p grid, W backbone width, K tokens, C token channels, S side of the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from models.interface.square import StandIn, StandInConfig

Backbone = Callable[[Tensor], Tensor]
"""Patch tokens of normalised RGB images, row by row and without class tokens: (N, 3, S, S) -> (N, P, W)."""

SEED = 0
"""Of the projection: one seed for everybody, so that runs can be repeated."""


def grid_of(num_tokens: int) -> tuple[int, int]:
    """Rows and columns of the coarse grid, as square as possible and never higher than wide: 32 -> (4, 8)."""
    rows = next(n for n in range(math.isqrt(num_tokens), 0, -1) if num_tokens % n == 0)
    return rows, num_tokens // rows


def orthogonal(width: int, token_dim: int, seed: int) -> Tensor:
    """A random matrix with orthonormal columns, (W, C), the same for the same seed.

    Raises:
        ValueError: There are more columns than rows.
    """
    if token_dim > width:
        raise ValueError(f"{width} features cannot be projected to {token_dim} orthogonal channels")
    random = torch.randn(width, token_dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q, r = torch.linalg.qr(random)
    return (q * r.diagonal().sign()).float()  # the sign of a factorisation is the library's choice: undo it


class PatchFeatures(StandIn):
    """Frozen features of a vision transformer in the place of tokens.

    Args:
        name: Of the backbone; part of the identity.
        backbone: Any callable; a module is frozen, put into eval mode and counted in the checksum.
        width: W.
        image_size: S.
        num_tokens: K.
        token_dim: C.
        mean: Of the three channels, subtracted from images in [0, 1].
        std: Of the three channels.
        seed: Of the projection.

    Raises:
        ValueError: A size is below 1, or C exceeds W.
    """

    projection: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        backbone: Backbone,
        *,
        width: int,
        image_size: int,
        num_tokens: int = 32,
        token_dim: int = 12,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        seed: int = SEED,
    ) -> None:
        super().__init__(StandInConfig(name, image_size, num_tokens, token_dim))
        self.backbone = backbone
        self.register_buffer("projection", orthogonal(width, token_dim, seed))  # (W, C)
        self.register_buffer("mean", torch.tensor(tuple(mean)).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor(tuple(std)).reshape(3, 1, 1))
        self.eval().requires_grad_(False)

    @property
    def tokenizer_id(self) -> str:
        """Backbone's name and start of the checksum."""
        return f"{self.config.name}:{self.weights_sha256[:16]}"

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Tokens of norm 1: (N, 1, H, W) in [0, 1] -> (N, K, C).

        Raises:
            ValueError: The backbone's patches form no square, or have another width.
        """
        patches = self.backbone((self.prepare(image) - self.mean) / self.std)  # (N, P, W)
        side = math.isqrt(patches.shape[1])
        if side * side != patches.shape[1] or patches.shape[2] != len(self.projection):
            raise ValueError(
                f"{self.config.name} must give (N, P, {len(self.projection)}) with P a square number, "
                f"not {tuple(patches.shape)}; class tokens must be left out"
            )
        plane = patches.transpose(1, 2).unflatten(2, (side, side))  # (N, W, p, p)
        cells = F.adaptive_avg_pool2d(plane, grid_of(self.num_tokens)).flatten(2).transpose(1, 2)  # (N, K, W)
        return F.normalize(cells.float() @ self.projection, dim=-1)

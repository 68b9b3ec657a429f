"""Rotary positions along both axes of a patch grid, as in DINOv3.

Shape letters: N batch, M heads, T tokens, h and w the patch grid, P = h · w patches, C channels of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class AxialRotation(nn.Module):
    """Turns queries and keys by angles that say where their patch is.

    Patch centres are mapped to [-1, 1] along each axis by itself, so a grid of any size spans the same angles. Tokens
    ahead of the patches are not turned. There is no randomness, in training neither.

    Args:
        head_dim: Channels C of a head, a multiple of 4.
        prefix: Tokens ahead of the patches.
        base: Ratio of the longest to the shortest period, but for the last step.
    """

    periods: Tensor

    def __init__(self, head_dim: int, *, prefix: int, base: float = 100.0) -> None:
        super().__init__()
        self.prefix = prefix
        exponents = torch.arange(head_dim // 4) / (head_dim // 4)  # 2k / (C / 2)
        self.register_buffer("periods", base**exponents, persistent=False)  # (C / 4)

    def tables(self, h: int, w: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine of all angles of a grid: (T, C) each, T = prefix + h · w, float32."""
        rows, columns = (
            (torch.arange(n, device=self.periods.device) + 0.5) / n * 2 - 1 for n in (h, w)
        )  # (h), (w), centres in [-1, 1]
        angles = [2 * math.pi * axis[:, None] / self.periods for axis in (rows, columns)]  # (h, C / 4), (w, C / 4)
        C = 2 * angles[0].shape[1]
        down = angles[0][:, None].expand(h, w, C // 2)
        across = angles[1][None].expand(h, w, C // 2)
        half = torch.cat([down, across], dim=-1).reshape(h * w, C)  # (P, C / 2)
        turn = torch.cat([half, half], dim=-1)  # (P, C)
        still = turn.new_zeros(self.prefix, turn.shape[1])
        turn = torch.cat([still, turn])
        return turn.cos(), turn.sin()


def rotate(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each channel of the first half together with its partner in the second: (N, M, T, C) -> (N, M, T, C)."""
    cos, sin = (table.to(x.dtype) for table in tables)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin

"""Windows: how a map is cut into them, attention inside them, and the masks of shifted windows.

Between two shifts every layer works on the tokens of a window or on single tokens, so tokens stay sorted by windows
from layer to layer, and only a shift sorts them anew.

Shape letters: N batch, H height, W width, w side of a window, R and C rows and columns of windows, P = R · C windows,
S = w² tokens of a window, D channels, M heads, d = D / M.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from models.tita.layers import linear

_APART = -100.0
"""Added to the logit of two tokens that a shift brought into one window from opposite ends of the image."""


class Grid(NamedTuple):
    """The windows of a map of one size.

    Shifting moves the map up and left by half a window, the first rows and columns around to the end. There, and only
    there, a window holds tokens from both ends of the image, which must not see each other. So the masks need memory
    for R + C windows, not for R · C. A pair of tokens that is apart in both gets -200, which a softmax cannot tell from
    -100.

    Attributes:
        side: Of a window, w.
        rows: R.
        columns: C.
        order: Places of tokens that are sorted by windows, in the order of shifted windows, (P · S,).
        back: The inverse of ``order``.
        row_masks: What shifted windows add to their logits, (R, 1, 1, S, S); 0 in all but the last row.
        column_masks: The same by columns, (C, 1, S, S).
    """

    side: int
    rows: int
    columns: int
    order: Tensor
    back: Tensor
    row_masks: Tensor
    column_masks: Tensor

    @classmethod
    def of(cls, x: Tensor, side: int) -> Self:
        """The grid of a map (N, H, W, D) whose sides are multiples of ``side``."""
        rows, columns = x.shape[1] // side, x.shape[2] // side
        places = torch.arange(rows * columns * side**2, device=x.device).reshape(1, -1, side**2, 1)
        places = _join(places, rows, columns, side)  # (1, H, W, 1)
        order, back = (_split(_roll(places, by), rows, columns, side).flatten() for by in (side // 2, -side // 2))
        inside = torch.arange(side, device=x.device)
        row_masks = _apart(rows, side, inside.repeat_interleave(side))[:, None, None].to(x.dtype)
        column_masks = _apart(columns, side, inside.repeat(side))[:, None].to(x.dtype)
        return cls(side, rows, columns, order, back, row_masks, column_masks)

    def split(self, x: Tensor) -> Tensor:
        """Sort the tokens of a map by windows: (N, H, W, D) -> (N, P, S, D)."""
        return _split(x, self.rows, self.columns, self.side)

    def join(self, x: Tensor) -> Tensor:
        """Undo ``split``: (N, P, S, D) -> (N, H, W, D)."""
        return _join(x, self.rows, self.columns, self.side)

    def shift(self, x: Tensor) -> Tensor:
        """Sort tokens by shifted windows instead of windows: (N, P, S, D) -> (N, P, S, D)."""
        return x.flatten(1, 2).index_select(1, self.order).reshape(x.shape)

    def unshift(self, x: Tensor) -> Tensor:
        """Undo ``shift``: (N, P, S, D) -> (N, P, S, D)."""
        return x.flatten(1, 2).index_select(1, self.back).reshape(x.shape)


def _split(x: Tensor, rows: int, columns: int, side: int) -> Tensor:
    cut = x.reshape(-1, rows, side, columns, side, x.shape[-1]).transpose(2, 3)  # (N, R, C, w, w, D)
    return cut.reshape(-1, rows * columns, side * side, x.shape[-1])


def _join(x: Tensor, rows: int, columns: int, side: int) -> Tensor:
    cut = x.reshape(-1, rows, columns, side, side, x.shape[-1]).transpose(2, 3)  # (N, R, w, C, w, D)
    return cut.reshape(-1, rows * side, columns * side, x.shape[-1])


def _roll(x: Tensor, by: int) -> Tensor:
    """Move a map (N, H, W, D) up and left, around to the other end; torch.roll exports to more nodes."""
    x = torch.cat([x[:, by:], x[:, :by]], dim=1)
    return torch.cat([x[:, :, by:], x[:, :, :by]], dim=2)


def _apart(count: int, side: int, place: Tensor) -> Tensor:
    """(count, S, S): -100 where two tokens of a shifted window come from different ends of the image, else 0."""
    starts = torch.arange(count, device=place.device) * side
    wrapped = starts[:, None] + place >= count * side - side // 2  # (count, S)
    return _APART * (wrapped[:, :, None] != wrapped[:, None, :])


class WindowAttention(nn.Module):
    """Attention from the tokens of a window to those of the same window, of this stream or the other.

    15,990 parameters for 60 channels, 6 heads and windows of 8 × 8.

    Args:
        dim: Channels D.
        heads: Heads M; must divide ``dim``.
        window: Side of a window.
    """

    relative: Tensor

    def __init__(self, dim: int, *, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = linear(dim, dim)
        self.key_value = linear(dim, 2 * dim)
        self.out = linear(dim, dim)
        self.bias = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.bias, std=0.02)
        self.register_buffer("relative", _relative_positions(window), persistent=False)

    def forward(self, x: Tensor, context: Tensor, shifted: Grid | None) -> Tensor:
        """Attend from ``x`` to ``context``.

        Args:
            x: (N, P, S, D).
            context: Same shape.
            shifted: The grid if both are sorted by its shifted windows.

        Returns:
            (N, P, S, D).
        """
        q = self._split_heads(self.query(x)) * (x.shape[-1] // self.heads) ** -0.5  # (N, P, M, S, d)
        k, v = (self._split_heads(half) for half in self.key_value(context).chunk(2, dim=-1))
        bias = self.bias[self.relative].permute(2, 0, 1)  # (M, S, S)
        logits = q @ k.transpose(-2, -1)  # (N, P, M, S, S): by far the largest tensor, so it is added to in place
        if shifted is None:
            logits += bias
        else:
            by_place = logits.unflatten(1, (shifted.rows, shifted.columns))  # (N, R, C, M, S, S), the same memory
            by_place += bias + shifted.row_masks
            by_place += shifted.column_masks
        mixed = logits.softmax(dim=-1) @ v  # (N, P, M, S, d)
        out: Tensor = self.out(mixed.transpose(2, 3).flatten(3))
        return out

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(2, 3)  # (N, P, M, S, d)


def _relative_positions(window: int) -> Tensor:
    """Row of the bias table for each pair of tokens of a window: (S, S)."""
    place = torch.arange(window)
    down, right = place.repeat_interleave(window), place.repeat(window)  # (S,)
    row_gap = down[:, None] - down + window - 1
    column_gap = right[:, None] - right + window - 1
    return row_gap * (2 * window - 1) + column_gap

"""Padding whose amount is a run-time size."""

from __future__ import annotations

import torch
from torch import Tensor


def replicate_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until both sides are multiples: (N, C, H, W) -> (N, C, H', W').

    Written as two gathers because padding by a run-time amount does not export with dynamic sizes.
    """
    H, W = x.shape[-2:]
    rows = torch.arange((H + multiple - 1) // multiple * multiple, device=x.device).clamp(max=H - 1)
    columns = torch.arange((W + multiple - 1) // multiple * multiple, device=x.device).clamp(max=W - 1)
    return x.index_select(2, rows).index_select(3, columns)


def mirror_to_multiple(x: Tensor, multiple: int, *, at_least: int = 0) -> Tensor:
    """Mirror the last rows and columns until both sides are multiples: (N, C, H, W) -> (N, C, H', W').

    The edge pixel is repeated. A side must be at least as long as what is added to it.

    Args:
        x: (N, C, H, W).
        multiple: What both sides become a multiple of.
        at_least: Rows and columns to add in any case.
    """
    H, W = x.shape[-2:]
    return x.index_select(2, _mirrored(x, H, multiple, at_least)).index_select(3, _mirrored(x, W, multiple, at_least))


def _mirrored(x: Tensor, size: int, multiple: int, at_least: int) -> Tensor:
    """Which row of the image each row of the padded image repeats."""
    place = torch.arange((size + at_least + multiple - 1) // multiple * multiple, device=x.device)
    return torch.minimum(place, 2 * size - 1 - place)

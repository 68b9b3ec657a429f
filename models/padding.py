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

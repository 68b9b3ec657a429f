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


def reflect_to(x: Tensor, height: int, width: int) -> Tensor:
    """Reflect the last rows and columns up to a size: (N, C, H, W) -> (N, C, height, width).

    The edge pixel is not repeated, as in PyTorch's ``reflect``. A side that is too short for this, not longer than what
    is added to it, repeats its last row or column instead.

    Args:
        x: (N, C, H, W).
        height: At least H.
        width: At least W.
    """
    H, W = x.shape[-2:]
    return x.index_select(2, _reflected(x, H, height)).index_select(3, _reflected(x, W, width))


def _reflected(x: Tensor, size: int, padded: int) -> Tensor:
    """Which row of the image each row of the padded image repeats; a choice by tensors, so that it exports."""
    place = torch.arange(padded, device=x.device)
    edge = place.clamp(max=size - 1)
    reflected = torch.minimum(place, 2 * (size - 1) - place)
    return torch.where(reflected.amin(dim=0) >= 0, reflected, edge)


def crop_to(x: Tensor, height: int, width: int) -> Tensor:
    """The upper left part: (N, C, H, W) -> (N, C, height, width).

    Written as two gathers: an exporter takes a slice of one run-time size up to another for the smaller of both.

    Args:
        x: (N, C, H, W).
        height: At most H.
        width: At most W.
    """
    rows, columns = (torch.arange(size, device=x.device) for size in (height, width))
    return x.index_select(2, rows).index_select(3, columns)

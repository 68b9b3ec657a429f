"""Depth that a single image does not tell: smooth random surfaces cut into layers with soft edges."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from training.synthesis.draws import Numbers, Range

CELLS = 24
"""Side of the random grid that a surface is read from."""


def smooth_field(numbers: Numbers, height: int, width: int, cells: Range) -> Tensor:
    """A smooth random surface of mean 0 and standard deviation 1 for each image, (N, 1, H, W).

    Args:
        numbers: Source.
        height: H.
        width: W.
        cells: How many hills or valleys the shorter side has, at most ``CELLS`` - 4 over the longer side.
    """
    grid = numbers.normal(1, CELLS, CELLS)
    span = numbers.uniform(*cells) * torch.tensor([width, height], device=numbers.device) / min(height, width)
    span = span.clamp_max(CELLS - 4).flatten(1) / CELLS  # (N, 2) part of the grid that the image covers
    theta = torch.zeros(numbers.count, 2, 3, device=numbers.device)
    theta[:, 0, 0], theta[:, 1, 1] = span[:, 0], span[:, 1]
    places = F.affine_grid(theta, [numbers.count, 1, height, width], align_corners=False)
    z = F.grid_sample(grid, places, mode="bicubic", padding_mode="reflection", align_corners=False)
    z = z - z.mean(dim=(2, 3), keepdim=True)
    return z / z.square().mean(dim=(2, 3), keepdim=True).sqrt().clamp_min(1e-6)


def downward_ramp(height: int, width: int, device: torch.device) -> Tensor:
    """Nearer at the bottom, as the ground is: -1 to 1 over the rows, (1, 1, H, W)."""
    return torch.linspace(-1, 1, height, device=device).view(1, 1, height, 1).expand(1, 1, height, width)


def masks_above(z: Tensor, shares: Sequence[Tensor], edge_width: Tensor) -> list[Tensor]:
    """Masks of the highest parts of a surface, each within the one before it.

    Args:
        z: (N, 1, H, W).
        shares: Falling shares of the image's area, (N, 1, 1, 1) each.
        edge_width: Pixels over which a mask goes from 0 to 1, (N, 1, 1, 1).

    Returns:
        One (N, 1, H, W) in [0, 1] for each share.
    """
    rows, columns = torch.gradient(z, dim=(2, 3))
    slope = torch.hypot(rows, columns).clamp_min(1e-6)
    ranked = z.flatten(1).sort(dim=1, descending=True).values  # (N, HW)
    last = ranked.shape[1] - 1
    masks = []
    for share in shares:
        place = (share.flatten(1).clamp(0, 1) * last).round().long()
        threshold = ranked.gather(1, place).view(-1, 1, 1, 1)
        masks.append((0.5 + (z - threshold) / (slope * edge_width)).clamp(0, 1))
    return masks


def snap_to_edges(mask: Tensor, guide: Tensor, radius: int, edge_width: Tensor) -> Tensor:
    """Move the edge of a mask towards edges of the image (guided filter of He and others, made steep again).

    Args:
        mask: (N, 1, H, W) in [0, 1].
        guide: Luminance, (N, 1, H, W).
        radius: Of the windows, in pixels; half of it is about as far as an edge can move.
        edge_width: The mask stays about as soft as this many pixels, (N, 1, 1, 1).
    """
    moments = _box(torch.cat([guide, mask, guide * guide, guide * mask], dim=1), radius)
    g, m, gg, gm = moments.split(1, dim=1)
    slope = (gm - g * m) / (gg - g * g + 1e-3)
    slope, offset = _box(torch.cat([slope, m - slope * g], dim=1), radius).split(1, dim=1)
    soft = slope * guide + offset
    # the filter's ramp is about as wide as its window
    return (0.5 + (soft - 0.5) * 2 * radius / edge_width).clamp(0, 1)


def _box(x: Tensor, radius: int) -> Tensor:
    side = 2 * radius + 1
    y = F.avg_pool2d(F.pad(x, (radius, radius, radius, radius), mode="replicate"), (side, 1), stride=1)
    return F.avg_pool2d(y, (1, side), stride=1)  # twice in one direction: the sums of a square would be far slower

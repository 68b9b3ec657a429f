"""Directions of the edges in a patch: a target that no sensor's tone changes.

A network that begins from nothing has a teacher that knows nothing; for the first thousand steps these targets say what
the teacher cannot. A direction counts modulo 180°, so a dark thing before a light ground and a light one before a dark
ground have the same edges, and only shares within a patch count, so contrast does not matter either.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from models.unifusion.config import STRIDE
from training.losses import sobel

BINS = 8
CELLS = 2
"""Cells per side of a patch."""

EDGE_VALUES = BINS * CELLS * CELLS
"""Values D that tell the edges of a patch."""

_NOISE = 0.05
"""Length of a histogram that noise alone may reach: shorter ones fade to 0 instead of being normalised."""


def edge_directions(image: Tensor) -> Tensor:
    """Histograms over 8 directions in 2 × 2 cells of each patch, together of length 1, or less in flat patches.

    Args:
        image: (N, 1, H, W) in [0, 1], H and W multiples of 16.

    Returns:
        (N, P, 32), row by row.
    """
    gx, gy = sobel(image)
    strength = (gx.square() + gy.square() + 1e-12).sqrt()
    doubled = 2 * torch.atan2(gy, gx)  # both ends of a direction fall together
    centres = torch.arange(BINS, device=image.device) * (2 * math.pi / BINS)
    near = (doubled - centres.view(1, -1, 1, 1)).cos().clamp_min(0) ** 4  # (N, 8, H, W), about two bins wide
    cells = F.avg_pool2d(strength * near, STRIDE // CELLS)  # (N, 8, 2h, 2w)
    patches = F.pixel_unshuffle(cells, CELLS).flatten(2).transpose(1, 2)  # (N, P, 32)
    return patches / (patches.square().sum(dim=2, keepdim=True) + _NOISE**2).sqrt()

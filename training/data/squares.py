"""Single images for tokenizer training, squashed to squares and held in memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training.config import ImageFolder
from training.data.folders import find_images
from training.data.images import read_squares


class SquareImages:
    """All images of some folders as one uint8 tensor, with the row of each image's partner (or its own).

    Attributes:
        images: (M, side, side) uint8.
        partner: (M,) row of the other modality of the same scene; a row's own number when it has none.
        weights: (M,) how often each image is to be drawn.
        counts: Images per folder.

    Raises:
        DataError: A folder, a partner or a case is not what the recipe asks for, or an image cannot be read.
    """

    def __init__(self, root: Path, folders: Sequence[ImageFolder], side: int) -> None:
        squares, partners, weights = [], [], []
        self.counts: dict[str, int] = {}
        offset = 0
        for folder in folders:
            found = find_images(root, folder)
            files = list(chain.from_iterable(zip(*found, strict=True)))  # all first images, then all partners
            squares.append(read_squares(files, side))
            partners.append(np.roll(np.arange(len(files)), len(found)) + offset)
            weights.append(np.full(len(files), folder.weight, np.float32))
            offset += len(files)
            self.counts[folder.path] = len(files)
        self.images = torch.from_numpy(np.concatenate(squares))
        self.partner = torch.from_numpy(np.concatenate(partners))
        self.weights = torch.from_numpy(np.concatenate(weights))

    def __len__(self) -> int:
        return len(self.images)

    def draw(self, count: int) -> Tensor:
        """Random rows by weight, with repetition: (count,)."""
        return torch.multinomial(self.weights, count, replacement=True)

    def batch(self, rows: Tensor, *, mix_probability: float = 0.0) -> Tensor:
        """Images of some rows, (N, 1, side, side) in [0, 1]; a share of them blended with their partner."""
        x = self.images[rows].unsqueeze(1).float() / 255.0
        if mix_probability == 0.0:  # validation must not draw random numbers: it would change the training run
            return x
        other = self.images[self.partner[rows]].unsqueeze(1).float() / 255.0
        weight = torch.rand(len(rows), 1, 1, 1) * (torch.rand(len(rows), 1, 1, 1) < mix_probability)
        return torch.lerp(x, other, weight)


def random_resized_crop(x: Tensor, side: int, min_area: float) -> Tensor:
    """One random crop and flip per image, resampled bilinearly.

    Args:
        x: (N, 1, H, W).
        side: Output side; at least half the input's, so that bilinear sampling does not alias.
        min_area: Smallest share of the image's area that a crop keeps.

    Returns:
        (N, 1, side, side).
    """
    N = x.shape[0]
    scale = torch.empty(N, 2, device=x.device).uniform_(min_area**0.5, 1.0)
    shift = (torch.rand(N, 2, device=x.device) * 2 - 1) * (1 - scale)
    flip = torch.where(torch.rand(N, 2, device=x.device) < torch.tensor([0.5, 0.1], device=x.device), -1.0, 1.0)
    theta = torch.zeros(N, 2, 3, device=x.device)
    theta[:, 0, 0], theta[:, 1, 1] = scale[:, 0] * flip[:, 0], scale[:, 1] * flip[:, 1]
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, [N, 1, side, side], align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

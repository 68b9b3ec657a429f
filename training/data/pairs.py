"""Image pairs held in memory, and random square samples of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from training.config import PairFolder
from training.data.images import DataError, match_pairs, read_luminance


class ImagePairs:
    """Luminance of all pairs of some folders, 8 bit, at native size.

    Attributes:
        pairs: (a, b) arrays of equal shape (H, W).
        names: File stem of each pair.
        counts: Pairs per folder.

    Raises:
        DataError: Names do not match, a pair's sizes differ, or a file cannot be read.
    """

    def __init__(self, root: Path, folders: Sequence[PairFolder]) -> None:
        self.pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = []
        self.names: list[str] = []
        self.counts: dict[str, int] = {}
        for folder in folders:
            matched = match_pairs(root / folder.a, root / folder.b)
            for path_a, path_b in matched:
                a, b = read_luminance(path_a), read_luminance(path_b)
                if a.shape != b.shape:
                    raise DataError(f"{path_a} is {a.shape} but {path_b} is {b.shape}: pairs must be aligned")
                self.pairs.append((a, b))
                self.names.append(path_a.stem)
            self.counts[f"{folder.a} + {folder.b}"] = len(matched)

    def __len__(self) -> int:
        return len(self.pairs)

    def full(self, row: int) -> tuple[Tensor, Tensor]:
        """One whole pair, two (1, 1, H, W) tensors in [0, 1]."""
        a, b = (torch.from_numpy(image.astype(np.float32))[None, None] / 255.0 for image in self.pairs[row])
        return a, b

    def sample(self, row: int, side: int, *, crop: bool, zoom: float) -> Tensor:
        """A random square of one pair.

        Args:
            row: Which pair.
            side: Output side in pixels.
            crop: Cut a native-size window (resized by up to ``zoom`` either way); otherwise squash the whole frame.
            zoom: Largest factor of the random resize of a crop, at least 1.

        Returns:
            (2, side, side) in [0, 1], randomly flipped.
        """
        a, b = self.pairs[row]
        if crop:
            H, W = a.shape
            factor = zoom ** float(torch.empty(()).uniform_(-1.0, 1.0))
            cut = min(H, W, max(32, round(side * factor)))
            top = int(torch.randint(H - cut + 1, ()))
            left = int(torch.randint(W - cut + 1, ()))
            a, b = (x[top : top + cut, left : left + cut] for x in (a, b))
        pair = torch.from_numpy(np.stack([a, b]))[None].float() / 255.0
        if pair.shape[-2:] != (side, side):
            pair = F.interpolate(pair, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
        if bool(torch.rand(()) < 0.5):
            pair = pair.flip(3)
        return pair[0]

    def batch(self, rows: Sequence[int], side: int, *, crop_share: float, zoom: float) -> tuple[Tensor, Tensor]:
        """Random squares of some pairs: a and b, each (N, 1, side, side)."""
        crops = torch.rand(len(rows)) < crop_share
        samples = [self.sample(row, side, crop=bool(c), zoom=zoom) for row, c in zip(rows, crops, strict=True)]
        a, b = torch.stack(samples).split(1, dim=1)
        return a.contiguous(), b.contiguous()

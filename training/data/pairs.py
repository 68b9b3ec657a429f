"""Image pairs held in memory, and random square samples of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training.config import PairFolder
from training.data.folders import find_pairs
from training.data.images import DataError, check_pairs, read_all


class ImagePairs:
    """Luminance of all pairs of some folders, 8 bit, at native size.

    Attributes:
        pairs: (a, b) arrays of equal shape (H, W).
        names: File stem of each pair.
        counts: Pairs per entry of the recipe, by its two folders.
        megabytes: Memory that the images take, 1 MB = 10⁶ bytes.

    Raises:
        DataError: The images are not what the recipe asks for, a file cannot be read, or all together exceed
            ``max_cache_mb``.
    """

    def __init__(self, root: Path, folders: Sequence[PairFolder], *, max_cache_mb: float = 8000.0) -> None:
        entries = [find_pairs(root, folder) for folder in folders]
        files = [pair for entry in entries for pair in entry.files]
        self.names = [path_a.stem for path_a, _ in files]
        self.counts: dict[str, int] = {}
        for entry in entries:
            self.counts[entry.label] = self.counts.get(entry.label, 0) + len(entry.files)
        self.megabytes = 2e-6 * sum(height * width for height, width in check_pairs(files))
        if self.megabytes > max_cache_mb:
            raise DataError(
                f"{len(files)} pairs need {self.megabytes:.0f} MB of memory, the limit is {max_cache_mb:.0f} MB: "
                "set `limit` in the recipe's folders, use smaller images, or raise `max_cache_mb`"
            )
        images = iter(read_all(list(chain.from_iterable(files))))
        self.pairs = list(zip(images, images, strict=True))

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

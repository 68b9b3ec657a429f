"""Image pairs held in memory at native size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

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

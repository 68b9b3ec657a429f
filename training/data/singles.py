"""Single images held in memory at native size, to make pairs of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.config import ImageFolder
from training.data.folders import find_images
from training.data.images import DataError, image_size, read_all


class SingleImages:
    """Luminance of all images of some folders, 8 bit, at native size.

    Attributes:
        images: Arrays (H, W).
        names: File stem of each.
        weights: (M,) how often each is to be drawn.
        counts: Images per folder.
        left_out: How many were too small.
        megabytes: Memory that the images take, 1 MB = 10⁶ bytes.

    Args:
        root: Data root.
        folders: Where the images lie.
        min_side: Images that are shorter on a side are left out.
        max_cache_mb: Most memory.

    Raises:
        DataError: A folder is missing, a file cannot be read, all images are too small, or together they exceed
            ``max_cache_mb``.
    """

    def __init__(
        self, root: Path, folders: Sequence[ImageFolder], *, min_side: int, max_cache_mb: float = 8000.0
    ) -> None:
        files: list[Path] = []
        weights: list[float] = []
        self.counts: dict[str, int] = {}
        self.left_out, self.megabytes = 0, 0.0
        for folder in folders:
            found = [*chain.from_iterable(find_images(root, folder))]
            sizes = [image_size(path) for path in found]
            large = [path for path, size in zip(found, sizes, strict=True) if min(size) >= min_side]
            self.left_out += len(found) - len(large)
            self.megabytes += 1e-6 * sum(height * width for height, width in sizes if min(height, width) >= min_side)
            self.counts[folder.path] = len(large)
            files += large
            weights += [folder.weight] * len(large)
        self._check(min_side, max_cache_mb)
        self.names = [path.stem for path in files]
        self.weights = torch.tensor(weights)
        self.images: list[NDArray[np.uint8]] = read_all(files)

    def __len__(self) -> int:
        return len(self.images)

    def draw(self, count: int) -> Tensor:
        """Random rows by weight, with repetition: (count,)."""
        return torch.multinomial(self.weights, count, replacement=True)

    def _check(self, min_side: int, max_cache_mb: float) -> None:
        folders = ", ".join(self.counts)
        if not sum(self.counts.values()):
            raise DataError(
                f"none of the {self.left_out} images in {folders} has {min_side} pixels on its shorter side: take "
                "larger images, smaller crops, or a smaller blur radius"
            )
        if self.megabytes > max_cache_mb:
            raise DataError(
                f"the images in {folders} need {self.megabytes:.0f} MB of memory, the limit is {max_cache_mb:.0f} MB: "
                "take fewer or smaller ones, or raise `max_cache_mb`"
            )

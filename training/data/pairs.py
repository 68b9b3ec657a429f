"""Image pairs held in memory at native size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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

"""Aligned image pairs of a folder with two sub-folders, read as 8-bit luminance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.images import DataError, match_pairs, read_luminance

Grey = NDArray[np.uint8]


@dataclass(frozen=True)
class Pair:
    """One aligned pair.

    Attributes:
        name: File stem that both images share.
        a: First image, (H, W), 8-bit luminance.
        b: Second image, same shape.
    """

    name: str
    a: Grey
    b: Grey


def load_pairs(folder: Path, a: str, b: str, *, size: int | None = None, limit: int | None = None) -> list[Pair]:
    """Read all pairs of ``folder/a`` and ``folder/b`` as training does, matched by file stem and sorted by it.

    Args:
        folder: The data folder.
        a: Sub-folder of the first images, such as visible, over or ct.
        b: Sub-folder of the second images, such as infrared, under or mri.
        size: Resize both images to size × size, bicubic, whatever their aspect; None keeps the native size.
        limit: Only the first pairs.

    Raises:
        DataError: A folder or a partner is missing, a file cannot be read, or a pair's sizes differ.
    """
    pairs = []
    for path_a, path_b in match_pairs(folder / a, folder / b)[:limit]:
        image_a, image_b = read_luminance(path_a), read_luminance(path_b)
        if image_a.shape != image_b.shape:
            raise DataError(
                f"pair {path_a.stem!r}: {path_a} is {_size(image_a)} but {path_b} is {_size(image_b)}; "
                "a pair must be aligned and of one size"
            )
        if size is not None:
            image_a, image_b = _squash(image_a, size), _squash(image_b, size)
        pairs.append(Pair(path_a.stem, image_a, image_b))
    return pairs


def _size(image: Grey) -> str:
    return f"{image.shape[1]}×{image.shape[0]}"


def _squash(image: Grey, size: int) -> Grey:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))

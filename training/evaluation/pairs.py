"""Aligned image pairs of a folder with two sub-folders, and their truth where it is known, as 8-bit luminance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.images import DataError, list_images, match_pairs, read_luminance

Grey = NDArray[np.uint8]


@dataclass(frozen=True)
class Pair:
    """One aligned pair.

    Attributes:
        name: File stem that both images share.
        a: First image, (H, W), 8-bit luminance.
        b: Second image, same shape.
        truth: The picture that both were made from, same shape; None if it is not known.
    """

    name: str
    a: Grey
    b: Grey
    truth: Grey | None = None


def load_pairs(
    folder: Path, a: str, b: str, *, truth: str | None = None, size: int | None = None, limit: int | None = None
) -> list[Pair]:
    """Read all pairs of ``folder/a`` and ``folder/b`` as training does, matched by file stem and sorted by it.

    Args:
        folder: The data folder.
        a: Sub-folder of the first images, such as visible, over or ct.
        b: Sub-folder of the second images, such as infrared, under or mri.
        truth: Sub-folder of the truths; it may hold those of other pairs too. None reads none.
        size: Resize all images to size × size, bicubic, whatever their aspect; None keeps the native size.
        limit: Only the first pairs.

    Raises:
        DataError: A folder, a partner or a truth is missing, a file cannot be read, or the sizes of a pair differ.
    """
    paths = match_pairs(folder / a, folder / b)[:limit]
    truths = _find_truths(folder / truth, paths) if truth is not None else {}
    pairs = []
    for path_a, path_b in paths:
        image_a, image_b = read_luminance(path_a), read_luminance(path_b)
        if image_a.shape != image_b.shape:
            raise DataError(
                f"pair {path_a.stem!r}: {path_a} is {_size(image_a)} but {path_b} is {_size(image_b)}; "
                "a pair must be aligned and of one size"
            )
        images = [image_a, image_b]
        if truths:
            images.append(_read_truth(truths[path_a.stem], path_a, image_a))
        if size is not None:
            images = [_squash(image, size) for image in images]
        pairs.append(Pair(path_a.stem, *images))
    return pairs


def _find_truths(folder: Path, pairs: Sequence[tuple[Path, Path]]) -> dict[str, Path]:
    """The file of every pair's truth by the pair's name."""
    found: dict[str, Path] = {}
    for path in list_images(folder):
        if path.stem in found:
            raise DataError(f"{found[path.stem]} and {path.name} share the name {path.stem!r}: remove one of them")
        found[path.stem] = path
    missing = [a.stem for a, _ in pairs if a.stem not in found]
    if missing:
        raise DataError(
            f"{folder} holds no truth of {len(missing)} pairs, e.g. no {missing[0]}.png: "
            "put it there, or evaluate without --truth"
        )
    return found


def _read_truth(path: Path, source: Path, image: Grey) -> Grey:
    try:
        truth = read_luminance(path)
    except DataError as error:
        raise DataError(f"{error}; replace it, or evaluate without --truth") from error
    if truth.shape != image.shape:
        raise DataError(
            f"{path} is {_size(truth)} but {source} is {_size(image)}: the truth must be of the pair's size; "
            "make both anew, or evaluate without --truth"
        )
    return truth


def _size(image: Grey) -> str:
    return f"{image.shape[1]}×{image.shape[0]}"


def _squash(image: Grey, size: int) -> Grey:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))

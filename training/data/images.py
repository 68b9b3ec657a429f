"""Find image files and read them as luminance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


class DataError(ValueError):
    """The data on disk is not what the recipe asks for."""


def list_images(folder: Path) -> list[Path]:
    """All image files directly in a folder, sorted by name.

    Raises:
        DataError: The folder is missing or holds no image.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: check the data root (--data) and the recipe's folder names")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{folder} holds no image ({', '.join(sorted(SUFFIXES))})")
    return files


def read_luminance(path: Path) -> NDArray[np.uint8]:
    """Full-range BT.601 luminance of an image, (H, W), rounded to 8 bit.

    Raises:
        DataError: The file cannot be read as an image.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error


def match_pairs(folder_a: Path, folder_b: Path) -> list[tuple[Path, Path]]:
    """Pair the images of two folders by file stem.

    Raises:
        DataError: A name has no partner, or no name matches.
    """
    a = {path.stem: path for path in list_images(folder_a)}
    b = {path.stem: path for path in list_images(folder_b)}
    alone = sorted(a.keys() ^ b.keys())
    if alone:
        raise DataError(f"{len(alone)} names are in only one of {folder_a} and {folder_b}, e.g. {alone[0]}")
    return [(a[stem], b[stem]) for stem in sorted(a)]


def read_squares(files: Sequence[Path], side: int) -> NDArray[np.uint8]:
    """Read images as luminance, squashed to a square of ``side`` pixels: (M, side, side)."""
    squares = np.empty((len(files), side, side), np.uint8)
    for row, path in enumerate(files):
        image = Image.fromarray(read_luminance(path))
        squares[row] = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
    return squares

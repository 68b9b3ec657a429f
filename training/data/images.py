"""Find image files, check them by their headers and read them as 8-bit luminance, many at once."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
MIN_SIDE = 32
"""Shortest side in pixels that the networks take."""
DEEP_MODES = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
"""Pillow's names for grey values that do not fit 8 bits."""

DeepRule = Literal["stretch", "full"]
_FULL_SCALE = 65535.0

_GREY_MODES = frozenset({"1", "L", "LA", "La"})
_ORIENTATION_TAG = 0x0112
_SIDEWAYS = range(5, 9)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to what turns the stored pixels upright."""
_READERS = min(8, os.cpu_count() or 1)
_DAMAGE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
"""What Pillow raises on files that are damaged, truncated, or no images."""

Size = tuple[int, int]
"""Height and width."""
T = TypeVar("T")


class DataError(ValueError):
    """The data on disk is not what the recipe asks for."""


def list_images(folder: Path) -> list[Path]:
    """All image files directly in a folder, sorted by name; hidden ones are left out.

    Raises:
        DataError: The folder is missing, is a file, or holds no image.
    """
    if folder.is_file():
        raise DataError(f"{folder} is a file, not a folder: name the folder that the images lie in")
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: check the data root (--data) and the recipe's folder names")
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not files:
        raise DataError(f"{folder} holds no image ({', '.join(sorted(SUFFIXES))})")
    return files


def match_pairs(folder_a: Path, folder_b: Path) -> list[tuple[Path, Path]]:
    """Pair the images of two folders by file stem, sorted by it.

    Raises:
        DataError: A name has no partner, or stands for two files.
    """
    a, b = _by_stem(list_images(folder_a)), _by_stem(list_images(folder_b))
    lonely = [(folder_a, sorted(a.keys() - b.keys())), (folder_b, sorted(b.keys() - a.keys()))]
    if any(stems for _, stems in lonely):
        parts = [f"{len(stems)} only in {folder} (e.g. {stems[0]})" for folder, stems in lonely if stems]
        raise DataError(f"names without a partner: {', '.join(parts)}: give both images of a pair the same name")
    return [(a[stem], b[stem]) for stem in sorted(a)]


def _by_stem(files: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in files:
        if path.stem in found:
            raise DataError(f"{found[path.stem]} and {path.name} share the name {path.stem!r}: remove one of them")
        found[path.stem] = path
    return found


def image_size(path: Path) -> Size:
    """Height and width of an image, upright by its EXIF orientation; only the header is read.

    Raises:
        DataError: The file is no image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = _orientation(image) in _SIDEWAYS
    except _DAMAGE as error:
        raise _unreadable(path, error) from error
    return (width, height) if turned else (height, width)


def read_luminance(path: Path, *, deep: DeepRule = "stretch") -> NDArray[np.uint8]:
    """Full-range BT.601 luminance of an image, rounded to 8 bits: what training and evaluation see of a file.

    Upright by EXIF; alpha is ignored; palettes are looked up.

    Args:
        path: The image file.
        deep: How grey values deeper than 8 bits (thermal cameras) are scaled, see ``scale_deep``.

    Returns:
        (H, W).

    Raises:
        DataError: The file is no image, truncated or damaged.
    """
    return _read(path, deep, colored=False)


def read_picture(path: Path) -> NDArray[np.uint8]:
    """An image in 8 bits with its colours, otherwise read as ``read_luminance`` does.

    Returns:
        (H, W, 3), or (H, W) if the file holds grey values.

    Raises:
        DataError: The file is no image, truncated or damaged.
    """
    return _read(path, "stretch", colored=True)


def _read(path: Path, deep: DeepRule, *, colored: bool) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            turn = _UPRIGHT.get(_orientation(image))
            upright = image if turn is None else image.transpose(turn)
            if upright.mode in DEEP_MODES:
                return scale_deep(np.asarray(upright), deep)
            upright.info.pop("transparency", None)  # it would only make Pillow warn
            return np.asarray(upright.convert("RGB" if colored and upright.mode not in _GREY_MODES else "L"))
    except _DAMAGE as error:
        raise _unreadable(path, error) from error


def scale_deep(values: NDArray[np.generic], rule: DeepRule = "stretch") -> NDArray[np.uint8]:
    """Scale grey values of any range to 8 bits, by the rules that the service has.

    ``stretch`` makes the 0.1th percentile 0 and the 99.9th 255. Where these two are equal, minimum and maximum take
    their place; a constant image becomes 128. ``full`` makes 65535 of integers, and 1.0 of floats, 255. Values that
    are not finite mean "no data": they are not counted and become 0.

    Args:
        values: (H, W) of any integer or float type.
        rule: Which of the two.
    """
    x = values.astype(np.float64)
    finite = np.isfinite(x)
    if rule == "full":
        low, high = 0.0, _FULL_SCALE if np.issubdtype(values.dtype, np.integer) else 1.0
    else:
        low, high = _stretch_limits(x[finite])
    scaled = (x - low) / (high - low) if high > low else np.full(x.shape, 0.5)
    return np.rint(255 * np.clip(np.where(finite, scaled, 0.0), 0.0, 1.0)).astype(np.uint8)


def _stretch_limits(known: NDArray[np.float64]) -> tuple[float, float]:
    if known.size == 0:
        return 0.0, 0.0
    low, high = np.percentile(known, (0.1, 99.9))
    return (low, high) if high > low else (known.min(), known.max())


def check_pairs(pairs: Sequence[tuple[Path, Path]]) -> list[Size]:
    """The size of every pair, from the headers alone.

    Raises:
        DataError: A file is no image, a side is shorter than 32 pixels, or the two sizes of a pair differ.
    """
    sizes = iter(_in_threads(image_size, chain.from_iterable(pairs), 2 * len(pairs), "checking images"))
    found = []
    for (path_a, path_b), a, b in zip(pairs, sizes, sizes, strict=True):
        if a != b:
            raise DataError(
                f"{path_a} is {_text(a)} but {path_b} is {_text(b)}: a pair must be aligned and of one size"
            )
        if min(a) < MIN_SIDE:
            raise DataError(f"{path_a} is {_text(a)}: every side must have at least {MIN_SIDE} pixels")
        found.append(a)
    return found


def read_all(files: Sequence[Path]) -> list[NDArray[np.uint8]]:
    """Luminance of many images, (H, W) each; threads decode them, a bar shows when that takes long.

    Raises:
        DataError: A file is no image, truncated or damaged.
    """
    return _in_threads(read_luminance, files, len(files), "reading images")


def read_squares(files: Sequence[Path], side: int) -> NDArray[np.uint8]:
    """Read images as luminance, squashed to a square of ``side`` pixels: (M, side, side)."""

    def read(path: Path) -> NDArray[np.uint8]:
        image = Image.fromarray(read_luminance(path))
        return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))

    return np.stack(_in_threads(read, files, len(files), "reading images"))


def _orientation(image: Image.Image) -> int:
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # Pillow would decode the whole file to look for it behind the pixels
    value = image.getexif().get(_ORIENTATION_TAG, 1)
    return value if isinstance(value, int) else 1


def _in_threads(function: Callable[[Path], T], files: Iterable[Path], total: int, what: str) -> list[T]:
    with ThreadPoolExecutor(_READERS) as pool:
        results = pool.map(function, files)
        return list(tqdm(results, desc=what, total=total, unit="image", delay=3.0, leave=False, dynamic_ncols=True))


def _text(size: Size) -> str:
    return f"{size[1]}×{size[0]}"


def _unreadable(path: Path, error: Exception) -> DataError:
    if isinstance(error, UnidentifiedImageError):
        return DataError(f"cannot read {path}: no image, or its header is damaged")
    reason = str(error).split("\n", maxsplit=1)[0] or type(error).__name__
    return DataError(f"cannot read {path}: {reason}")

"""Writes TIFF files with numpy: one compressed strip of horizontal differences, far faster than libtiff."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from app.deflate import Effort, compress

SHORT, LONG = 3, 4
ZLIB, HORIZONTAL_DIFFERENCES = 8, 2
MIN_IS_BLACK, RGB = 1, 2
HEADER = struct.Struct("<2sHI")
ENTRY = struct.Struct("<HHII")


def write_tiff(pixels: NDArray[np.uint8], effort: Effort = "fast") -> bytes:
    """Encodes 8-bit pixels as TIFF without loss.

    Args:
        pixels: Grey (H, W) or RGB (H, W, 3), at least one pixel.
        effort: See ``compress``.

    Returns:
        The file's bytes.
    """
    height, width = pixels.shape[:2]
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    differences = pixels.copy()
    differences[:, 1:] -= pixels[:, :-1]
    data = compress(differences, effort)
    depths = struct.pack("<3H", 8, 8, 8)
    start = HEADER.size + len(depths)
    directory = start + len(data) + len(data) % 2  # TIFF wants it at an even place.
    tags = [
        (256, LONG, 1, width),
        (257, LONG, 1, height),
        (258, SHORT, samples, HEADER.size if samples == 3 else 8),  # One value stands here, three stand elsewhere.
        (259, SHORT, 1, ZLIB),
        (262, SHORT, 1, RGB if samples == 3 else MIN_IS_BLACK),
        (273, LONG, 1, start),
        (277, SHORT, 1, samples),
        (278, LONG, 1, height),  # Rows of the only strip.
        (279, LONG, 1, len(data)),
        (317, SHORT, 1, HORIZONTAL_DIFFERENCES),
    ]
    entries = b"".join(ENTRY.pack(*tag) for tag in tags)
    padding = bytes(directory - start - len(data))
    end = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return HEADER.pack(b"II", 42, directory) + depths + data + padding + end

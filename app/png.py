"""Writes PNG files with numpy (filter "up") and ISA-L (deflate), far faster than Pillow's default."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB = 0, 2
FILTER_UP = 2
LEVEL = 1


def write_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encodes 8-bit pixels as PNG without loss.

    Args:
        pixels: Grey (H, W) or RGB (H, W, 3).

    Returns:
        The file's bytes.

    Raises:
        ValueError: The array has another shape or is empty.
    """
    if pixels.size == 0 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise ValueError(f"PNG takes (H, W) or (H, W, 3) with at least one pixel, not {pixels.shape}")
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    filtered = np.empty((height, rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = FILTER_UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, GREY if pixels.ndim == 2 else RGB, 0, 0, 0)
    data = isal_zlib.compress(filtered, LEVEL)
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(data, zlib.crc32(kind))
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

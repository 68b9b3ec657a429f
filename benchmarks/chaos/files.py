"""Small valid images of every kind that the service takes, and files that only look like images. Seeded."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

KINDS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
SIZES = ((32, 32), (48, 64), (97, 61), (120, 160))  # Height, width.
LARGE = (600, 800)
TOO_SMALL = (16, 16)
BOMB_SIDE = 50_000
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Pair:
    """Two files of one size."""

    a: bytes
    b: bytes


def valid_pair(random: Random) -> Pair:
    """Returns a colour and a grey image, each of any kind."""
    size = random.choice(SIZES)
    return Pair(picture(size, random.choice(KINDS), deep=False), picture(size, *random.choice(_GREY)))


def large_pair() -> Pair:
    """Returns a pair whose result does not fit into one segment of a connection."""
    return Pair(picture(LARGE, "JPEG", deep=False), picture(LARGE, "JPEG", deep=False))


def pair_of_two_sizes(random: Random) -> Pair:
    """Returns two valid images that do not belong together."""
    first, second = random.sample(SIZES, 2)
    return Pair(picture(first, "PNG", deep=False), picture(second, "PNG", deep=False))


@cache
def picture(size: tuple[int, int], kind: str, deep: bool) -> bytes:
    """Returns a file of noise on a gradient: RGB with 8 bits a channel, or (``deep``) grey with 16."""
    height, width = size
    levels = np.linspace(0, 200, height * width).reshape(height, width, 1)
    levels = levels + np.random.default_rng(height * width).uniform(0, 55, (height, width, 3))
    return encode((levels[..., 0] * 257).astype(np.uint16) if deep else levels.astype(np.uint8), kind)


def encode(pixels: NDArray[np.uint8] | NDArray[np.uint16], kind: str) -> bytes:
    """Returns pixels as a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def png_bomb() -> bytes:
    """Returns a PNG of a few bytes that says it has 2.5 thousand million pixels."""
    header = struct.pack(">IIBBBBB", BOMB_SIDE, BOMB_SIDE, 8, 2, 0, 0, 0)
    chunks = b"".join(_png_chunk(name, data) for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(99)))))
    return PNG_SIGNATURE + chunks


def bmp_bomb() -> bytes:
    """Returns a BMP that says the same."""
    sizes = struct.pack("<IiiHHIIiiII", 40, BOMB_SIDE, BOMB_SIDE, 1, 24, 0, 0, 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 154, 0, 0, 54) + sizes + bytes(100)


def tiff_bomb() -> bytes:
    """Returns a TIFF that says the same."""
    entries = ((256, BOMB_SIDE), (257, BOMB_SIDE), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (279, 100))
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + struct.pack("<I", 0) + bytes(100)


def repair_checksums(data: bytes) -> bytes:
    """Returns a PNG in which the checksum of every chunk fits, up to where its chunks cannot be told apart."""
    repaired, place = bytearray(data), len(PNG_SIGNATURE)
    while place + 12 <= len(repaired):
        end = place + 8 + int.from_bytes(repaired[place : place + 4])
        if end + 4 > len(repaired):
            break
        repaired[end : end + 4] = struct.pack(">I", zlib.crc32(repaired[place + 4 : end]))
        place = end + 4
    return bytes(repaired)


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


_GREY = (*((kind, False) for kind in KINDS), ("PNG", True), ("TIFF", True))

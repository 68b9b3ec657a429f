"""The ways to write and read pictures that ``benchmarks.codecs`` compares; packages that are missing are left out."""

from __future__ import annotations

import importlib
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import packages_distributions, version
from typing import Any, get_args

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import Image

from app.codec import OutputFormat, decode, encode, open_image
from app.deflate import Effort
from app.png import write_png

Pixels = NDArray[np.uint8]
Write = Callable[[Pixels], bytes]
Pack = Callable[[bytes], bytes]
Read = Callable[[bytes], object]

QUALITY = 90
NO_LIMIT = 2**62
LOSSLESS = ("png", "tiff")


@dataclass
class Ways:
    """What is compared.

    Attributes:
        write: Writers by file format and name.
        pack: Compressors of the filtered rows of a PNG, by name.
        read: Readers by file format and name.
        versions: Version of each optional package that is there.
        missing: Names of those that are not.
    """

    write: dict[tuple[str, str], Write] = field(default_factory=dict)
    pack: dict[str, Pack] = field(default_factory=dict)
    read: dict[tuple[str, str], Read] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @contextmanager
    def using(self, name: str) -> Iterator[Any]:
        """Yields an optional package, or None and notes that it is missing."""
        try:
            package = importlib.import_module(name)
        except ImportError:
            self.missing.append(name)
            yield None
        else:
            distribution = packages_distributions()[name.partition(".")[0]][0]
            self.versions[distribution] = version(distribution)
            yield package


def all_ways() -> Ways:
    """Returns all ways for which there are packages, single-threaded."""
    ways = Ways()
    _add_own(ways)
    _add_pillow(ways)
    _add_opencv(ways)
    _add_others(ways)
    return ways


def filtered_rows(pixels: Pixels) -> bytes:
    """Returns what the service compresses for a PNG of effort ``small``: rows with the best filter of each."""
    data = write_png(pixels, "small")
    start = data.index(b"IDAT") + 4
    return zlib.decompress(data[start:-16])


def _add_own(ways: Ways) -> None:
    for output in get_args(OutputFormat):
        for effort in get_args(Effort):
            ways.write[output, f"service, {effort}"] = partial(encode, output=output, quality=QUALITY, effort=effort)
    ways.pack["ISA-L 1: service, fast"] = partial(isal_zlib.compress, level=1)
    ways.pack["ISA-L 3"] = partial(isal_zlib.compress, level=3)
    ways.pack["zlib, runs only: service, small"] = _runs_only
    for level in (6, 9):
        name = f"zlib {level}" + ": service, smallest" * (level == 6)
        ways.pack[name] = partial(zlib.compress, level=level)
    for kind in ("png", "jpeg"):
        ways.read[kind, "service, luminance and checks included"] = _read_as_service


def _add_pillow(ways: Ways) -> None:
    for level in (1, 3, 6, 9):
        ways.write["png", f"Pillow {level}"] = partial(_save, kind="PNG", compress_level=level)
    ways.write["tiff", "Pillow, deflate"] = partial(_save, kind="TIFF", compression="tiff_adobe_deflate")
    ways.write["tiff", "Pillow, LZW"] = partial(_save, kind="TIFF", compression="tiff_lzw")
    for kind in ("png", "jpeg"):
        ways.read[kind, "Pillow"] = _read_as_pillow


def _add_opencv(ways: Ways) -> None:
    with ways.using("cv2") as cv2:
        if cv2 is None:
            return
        cv2.setNumThreads(1)

        def write(pixels: Pixels, suffix: str, options: tuple[int, ...]) -> bytes:
            # OpenCV takes blue first: whoever holds RGB pays for the exchange.
            ordered = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
            data: bytes = cv2.imencode(suffix, ordered, options)[1].tobytes()
            return data

        flags = {
            ("png", "OpenCV, no flags"): (".png", ()),
            ("jpeg", "OpenCV"): (".jpg", (cv2.IMWRITE_JPEG_QUALITY, QUALITY)),
            ("webp", "OpenCV"): (".webp", (cv2.IMWRITE_WEBP_QUALITY, QUALITY)),
        }
        flags |= {("png", f"OpenCV {n}"): (".png", (cv2.IMWRITE_PNG_COMPRESSION, n)) for n in (1, 3, 6)}
        for way, (suffix, options) in flags.items():
            ways.write[way] = partial(write, suffix=suffix, options=options)
        for kind in ("png", "jpeg"):
            ways.read[kind, "OpenCV"] = lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def _add_others(ways: Ways) -> None:
    with ways.using("imagecodecs") as imagecodecs:
        if imagecodecs is not None:
            for level in (1, 6):
                ways.write["png", f"imagecodecs (libpng) {level}"] = partial(imagecodecs.png_encode, level=level)
            ways.read["png", "imagecodecs (libpng)"] = imagecodecs.png_decode
            ways.read["jpeg", "imagecodecs (libjpeg-turbo)"] = imagecodecs.jpeg_decode
    with ways.using("fpng_py") as fpng:
        if fpng is not None:

            def write(pixels: Pixels, flag: int) -> bytes:
                height, width, channels = pixels.shape
                return bytes(fpng.fpng_encode_image_to_memory(pixels.tobytes(), width, height, channels, flag))

            ways.write["png", "fpng"] = partial(write, flag=0)
            ways.write["png", "fpng, slower"] = partial(write, flag=1)
    with ways.using("pyspng") as pyspng:
        if pyspng is not None:
            ways.read["png", "pyspng"] = pyspng.load
    with ways.using("zlib_ng.zlib_ng") as zlib_ng:
        if zlib_ng is not None:
            for level in (6, 9):
                ways.pack[f"zlib-ng {level}"] = partial(zlib_ng.compress, level=level)
    with ways.using("deflate") as libdeflate:
        if libdeflate is not None:
            for level in (6, 12):
                ways.pack[f"libdeflate {level}"] = partial(libdeflate.zlib_compress, compresslevel=level)


def _runs_only(rows: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    return packer.compress(rows) + packer.flush()


def _save(pixels: Pixels, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def _read_as_pillow(data: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(data)))


def _read_as_service(data: bytes) -> object:
    return decode(open_image(data, "image", NO_LIMIT), "image", "stretch").luma

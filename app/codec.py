"""Reads uploaded images into luminance and colour, and writes the fused image.

An image passes two steps: ``open_image`` parses the header only and refuses what is too large before a
pixel is decoded; ``decode`` reads the pixels. Both blame the form field by name.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from app.color import Pixels, Plane, channel_plane, is_neutral, luminance, unit_range
from app.deflate import Effort
from app.errors import BadFieldError, NotAnImageError, TooLargeError, UnsupportedTypeError
from app.levels import RangeRule, scale_deep
from app.png import write_png
from app.tiff import write_tiff

OutputFormat = Literal["png", "jpeg", "webp", "tiff"]

ACCEPTED = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
ACCEPTED_TEXT = ", ".join(ACCEPTED)
MEDIA_TYPES: dict[OutputFormat, str] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "tiff": "image/tiff",
}
LONGEST_SIDE: dict[OutputFormat, int] = {"jpeg": 65_500, "webp": 16_383}
DEFAULT_QUALITY = 90
JPEG_EFFORT: dict[Effort, dict[str, int]] = {
    "fast": {},
    "small": {"optimize": True},
    "smallest": {"optimize": True, "progressive": True},
}
WEBP_METHOD: dict[Effort, int] = {"fast": 2, "small": 4, "smallest": 6}
DEEP_MODES = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I", "F"})
ORIENTATION_TAG = 0x0112
# EXIF orientation -> what turns the stored pixels upright; 1 and unknown values leave them as they are.
UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels, 1),
}

# open_image compares the header's size with the service's own limit; Pillow's guard would only get in its
# way.
Image.MAX_IMAGE_PIXELS = None
Image.init()  # Otherwise the first damaged upload would wait for every plug-in to be imported.


@dataclass(frozen=True)
class GreyImage:
    """A decoded image without colour.

    Attributes:
        luma: Luminance (H, W) in [0, 1].
        rgb: None.
    """

    luma: Plane
    rgb: None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.luma.shape
        return height, width

    def channel(self, index: int) -> Plane:
        """Returns the luminance, not a copy: red, green and blue are the same."""
        return self.luma


@dataclass(frozen=True)
class ColorImage:
    """A decoded image with colour.

    Attributes:
        rgb: 8-bit pixels (H, W, 3).
    """

    rgb: Pixels

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width, _ = self.rgb.shape
        return height, width

    @cached_property
    def luma(self) -> Plane:
        """Luminance (H, W) in [0, 1]; computed by whoever asks first, and not for channels fused on their own."""
        return luminance(self.rgb)

    def channel(self, index: int) -> Plane:
        """Returns red (0), green (1) or blue (2), (H, W) in [0, 1]."""
        return channel_plane(self.rgb, index)


Decoded = GreyImage | ColorImage


def open_image(data: bytes, field: str, max_pixels: int) -> Image.Image:
    """Parses the header of an image.

    Args:
        data: The uploaded file.
        field: Form field to name in errors.
        max_pixels: Most pixels allowed.

    Raises:
        NotAnImageError: The data is empty, damaged or no image.
        UnsupportedTypeError: It is an image of a type that is not accepted.
        TooLargeError: It has more pixels than allowed.
    """
    if not data:
        raise NotAnImageError(f"{field} is empty. Send an image file, with curl: -F {field}=@FILE.")
    try:
        image = Image.open(io.BytesIO(data), formats=ACCEPTED)
    except UnidentifiedImageError:
        raise _unidentified(data, field) from None
    except Exception as error:  # Pillow's parsers raise almost anything on damaged headers.
        raise _damaged(field, error) from None
    width, height = image.size
    if width * height > max_pixels:
        raise TooLargeError(
            f"{field} is {width}×{height} = {width * height} pixels; this service takes "
            f"at most {max_pixels}. Send a smaller image, or raise PAIRFUSE_MAX_PIXELS.",
            pixels=width * height,
            max_pixels=max_pixels,
        )
    return image


def decode(image: Image.Image, field: str, range16: RangeRule) -> Decoded:
    """Reads the pixels of an opened image, upright according to EXIF.

    Alpha is ignored; of several frames, the first counts.

    Args:
        image: What ``open_image`` returned.
        field: Form field to name in errors.
        range16: How values deeper than 8 bits are scaled.

    Raises:
        NotAnImageError: The pixel data is truncated or damaged.
        UnsupportedTypeError: The pixels are of a kind that cannot become RGB.
    """
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise almost anything on damaged data.
        raise _damaged(field, error) from None
    turn = UPRIGHT.get(_orientation(image))
    mode = image.mode
    if mode in {"L", "RGB"} or mode in DEEP_MODES:
        pixels: NDArray[Any] = np.asarray(image)
    else:
        pixels = _convert(image, "L" if mode in {"1", "LA"} else "RGB", field)
    if turn is not None:
        pixels = np.ascontiguousarray(turn(pixels))
    if mode in DEEP_MODES:
        return GreyImage(scale_deep(pixels, range16))
    if pixels.ndim == 2 or is_neutral(pixels):
        grey = pixels if pixels.ndim == 2 else pixels[..., 1]
        return GreyImage(unit_range(grey))
    return ColorImage(pixels)


def check_output_size(output: OutputFormat, width: int, height: int) -> None:
    """Refuses a format that cannot hold an image of this size.

    Raises:
        BadFieldError: A side is too long for the format.
    """
    longest = LONGEST_SIDE.get(output)
    if longest is not None and max(width, height) > longest:
        raise BadFieldError(
            "format",
            f"{output} holds at most {longest} pixels a side, the images are {width}×{height}.",
            allowed="png, tiff",
        )


def encode(pixels: Pixels, output: OutputFormat, quality: int, effort: Effort = "fast") -> bytes:
    """Encodes 8-bit pixels.

    Args:
        pixels: Grey (H, W) or RGB (H, W, 3).
        output: File format.
        quality: 1–100, for jpeg and webp only.
        effort: How much time fewer bytes are worth. The pixels are the same for all three, but for webp, whose
            encoder chooses otherwise when it looks longer.
    """
    if output == "png":
        return write_png(pixels, effort)
    if output == "tiff":
        return write_tiff(pixels, effort)
    if output == "webp":
        return _save(pixels, "WEBP", quality=quality, method=WEBP_METHOD[effort])
    try:
        return _save(pixels, "JPEG", quality=quality, **JPEG_EFFORT[effort])
    except OSError:
        # Both greater efforts need the whole file in one buffer, and Pillow's has a byte a pixel, two from quality
        # 95 on. Of a picture of mere noise the file can be larger.
        return _save(pixels, "JPEG", quality=quality)


def _save(pixels: Pixels, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def _convert(image: Image.Image, mode: str, field: str) -> NDArray[Any]:
    # Alpha is ignored, and a palette's transparency would only make Pillow warn.
    image.info.pop("transparency", None)
    try:
        return np.asarray(image.convert(mode))
    except ValueError:
        raise UnsupportedTypeError(
            f"{field} has pixels of kind {image.mode}, which do not convert to RGB. Save it as RGB or grey."
        ) from None


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # Damaged EXIF raises almost anything, and the picture is fine without it.
        return 1
    return value if isinstance(value, int) else 1


def _unidentified(data: bytes, field: str) -> NotAnImageError | UnsupportedTypeError:
    """Tells an image of another type from what is no image, by the signatures only."""
    prefix = data[:16].ljust(16, b"\0")  # Some plug-ins read beyond the end of less.
    for name in Image.ID:
        accepts = Image.OPEN[name][1]
        if name not in ACCEPTED and accepts is not None and accepts(prefix) is True:
            return UnsupportedTypeError(f"{field} looks like {name}. Send one of: {ACCEPTED_TEXT}.")
    return NotAnImageError(f"{field} is not an image, or its header is damaged. Send one of: {ACCEPTED_TEXT}.")


def _damaged(field: str, error: Exception) -> NotAnImageError:
    reason = str(error).split("\n", maxsplit=1)[0][:120] or type(error).__name__
    return NotAnImageError(f"{field} is truncated or damaged ({reason}). Send the complete file.")

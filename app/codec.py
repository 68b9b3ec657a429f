"""Reads uploaded images into luminance and colour, and writes the fused image.

An image passes two steps: ``open_image`` parses the header only and refuses what is too large before a
pixel is decoded; ``decode`` reads the pixels. Both blame the form field by name.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from app.color import Pixels, Plane, channel_plane, is_neutral, luminance, unit_range
from app.errors import BadFieldError, NotAnImageError, TooLargeError, UnsupportedTypeError
from app.levels import RangeRule, scale_deep
from app.png import write_png

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
class Decoded:
    """A decoded image.

    Attributes:
        luma: Luminance (H, W) in [0, 1].
        rgb: 8-bit pixels (H, W, 3) if the image has colour, else None.
    """

    luma: Plane
    rgb: Pixels | None

    def channel(self, index: int) -> Plane:
        """Returns red (0), green (1) or blue (2), (H, W) in [0, 1]; of a grey image its luminance, not a copy."""
        return self.luma if self.rgb is None else channel_plane(self.rgb, index)


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
    if mode == "L" or mode in DEEP_MODES:
        pixels: NDArray[Any] = np.asarray(image)
    else:
        pixels = _convert(image, "L" if mode in {"1", "LA"} else "RGB", field)
    if turn is not None:
        pixels = np.ascontiguousarray(turn(pixels))
    if mode in DEEP_MODES:
        return Decoded(scale_deep(pixels, range16), None)
    if pixels.ndim == 2 or is_neutral(pixels):
        grey = pixels if pixels.ndim == 2 else pixels[..., 1]
        return Decoded(unit_range(grey), None)
    return Decoded(luminance(pixels), pixels)


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


def encode(pixels: Pixels, output: OutputFormat, quality: int) -> bytes:
    """Encodes 8-bit pixels (H, W) or (H, W, 3); ``quality`` 1–100 counts for jpeg and webp only."""
    if output == "png":
        return write_png(pixels)
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if output == "tiff":
        image.save(buffer, "TIFF", compression="tiff_adobe_deflate")
    elif output == "webp":
        # Method 2 takes a third of the default's time for a few per cent more bytes.
        image.save(buffer, "WEBP", quality=quality, method=2)
    else:
        image.save(buffer, "JPEG", quality=quality)
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

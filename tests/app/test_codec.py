from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from app import codec
from app.codec import ACCEPTED, ColorImage, check_output_size, decode, encode, open_image
from app.errors import BadFieldError, NotAnImageError, TooLargeError, UnsupportedTypeError

LIMIT = 10_000_000


@pytest.fixture
def noisy(picture):
    """Returns a function that makes a picture with the noise of a camera."""

    def make(*, color):
        pixels = picture(200, 300, 3, color=color)
        return np.clip(pixels + np.random.default_rng(0).normal(0, 2.5, pixels.shape), 0, 255).astype(np.uint8)

    return make


# Pillow warns about damaged metadata that it then skips.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def read(data, rule="stretch"):
    return decode(open_image(data, "image_a", LIMIT), "image_a", rule)


@pytest.mark.parametrize("kind", ACCEPTED)
def test_every_accepted_type_is_read(picture, to_file, kind):
    pixels = picture(40, 50, 1, color=True)
    decoded = read(to_file(pixels, kind))
    assert decoded.shape == decoded.luma.shape == (40, 50)
    assert decoded.luma.dtype == np.float32
    assert decoded.rgb is not None
    assert np.abs(decoded.rgb.astype(int) - pixels).mean() < 6


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_of_8_bits_has_the_luminance_of_its_picture(picture, to_file, mode):
    image = Image.fromarray(picture(40, 50, 2, color=True)).convert(mode)
    expected = image.convert("RGB").convert("L") if mode != "LA" else image.convert("L")
    decoded = read(to_file(image, "TIFF" if mode in {"CMYK", "YCbCr", "PA"} else "PNG"))
    assert np.abs(decoded.luma * 255 - np.asarray(expected, np.float32)).max() < 1.01
    assert (decoded.rgb is None) == (mode in {"1", "L", "LA"})


def test_alpha_is_ignored(picture, to_file):
    pixels = picture(40, 50, 2, color=True)
    clear = Image.fromarray(pixels)
    clear.putalpha(Image.new("L", clear.size, 0))
    np.testing.assert_array_equal(read(to_file(clear)).rgb, pixels)


def test_palette_with_transparency(picture, to_file):
    image = Image.fromarray(picture(40, 50, 2, color=True)).quantize(16)
    decoded = read(to_file(image, transparency=bytes(range(16))))
    np.testing.assert_array_equal(decoded.rgb, np.asarray(image.convert("RGB")))


def test_colour_file_with_grey_pixels_counts_as_grey(picture, to_file):
    grey = picture(40, 50, 2, color=False)
    decoded = read(to_file(np.repeat(grey[..., None], 3, axis=2)))
    assert decoded.rgb is None
    np.testing.assert_allclose(decoded.luma * 255, grey, atol=1e-4)


def test_the_luminance_of_colour_is_computed_once_and_only_if_asked_for(picture, monkeypatch):
    asked = []
    monkeypatch.setattr(codec, "luminance", lambda rgb: asked.append(rgb.shape) or rgb[..., 1] / 255)
    image = ColorImage(picture(40, 50, 2, color=True))
    assert image.shape == (40, 50)
    np.testing.assert_allclose(image.channel(2) * 255, image.rgb[..., 2], atol=1e-4)
    assert asked == []
    assert image.luma is image.luma
    assert asked == [(40, 50, 3)]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_read_at_full_depth(to_file, kind):
    values = np.linspace(7000, 9000, 2000).astype(np.uint16).reshape(40, 50)
    np.testing.assert_allclose(read(to_file(values, kind), "full").luma * 65535, values, atol=0.01)
    stretched = read(to_file(values, kind)).luma
    assert len(np.unique(stretched)) > 1900
    assert (stretched.min(), stretched.max()) == (0, 1)


def test_big_endian_tiff_of_16_bits():
    values = np.arange(2000, dtype=np.uint16).reshape(40, 50)
    data = big_endian_tiff(values)
    assert open_image(data, "image_a", LIMIT).mode == "I;16B"
    np.testing.assert_allclose(read(data, "full").luma * 65535, values, atol=0.01)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bit_tiff(to_file, dtype):
    values = np.arange(2000, dtype=dtype).reshape(40, 50)
    luma = read(to_file(values, "TIFF")).luma
    assert np.all(np.diff(luma.ravel()) >= 0)
    assert (luma.min(), luma.max()) == (0, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_applied(picture, to_file, orientation, kind):
    image = Image.fromarray(picture(40, 56, 3, color=False))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = to_file(image, kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_allclose(read(data).luma * 255, np.asarray(expected), atol=1e-3)
    assert read(data).luma.flags.c_contiguous


def test_damaged_exif_is_ignored(picture, to_file):
    assert read(to_file(picture(40, 50, 1, color=False), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")).luma.size


@pytest.mark.parametrize("data", [b"", b"plain text, no picture", b"\x89PNG\r\n\x1a\n", bytes(1000), b"\xff\xd8\xff"])
def test_no_image(data):
    with pytest.raises(NotAnImageError, match="image_b"):
        decode(open_image(data, "image_b", LIMIT), "image_b", "stretch")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
def test_truncated_image(picture, to_file, kind):
    data = to_file(np.random.default_rng(0).integers(0, 256, (60, 70, 3), np.uint8), kind)
    with pytest.raises(NotAnImageError, match="damaged"):
        read(data[: len(data) // 2])


def test_flipped_bytes_never_raise_anything_else(picture, to_file):
    rng = np.random.default_rng(5)
    sources = [to_file(picture(40, 50, 1, color=True), kind) for kind in ACCEPTED]
    for trial in range(200):
        data = bytearray(sources[trial % len(sources)])
        for position in rng.integers(0, min(len(data), 200), 4):
            data[position] = rng.integers(0, 256)
        try:
            read(bytes(data))
        except (NotAnImageError, TooLargeError, UnsupportedTypeError):
            continue


@pytest.mark.parametrize("kind", ["GIF", "PPM", "ICO", "AVIF"])
def test_other_types_are_named(picture, to_file, kind):
    with pytest.raises(UnsupportedTypeError, match=kind):
        read(to_file(picture(40, 50, 1, color=True), kind))


def test_header_with_too_many_pixels_is_refused_before_decoding():
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with pytest.raises(TooLargeError, match=r"2500000000 pixels.*at most 10000000"):
        open_image(data, "image_a", LIMIT)


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3)])
@pytest.mark.parametrize(("output", "kind"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP"), ("tiff", "TIFF")])
def test_every_output_format(picture, shape, output, kind):
    pixels = picture(40, 50, 4, color=len(shape) == 3)
    image = Image.open(io.BytesIO(encode(pixels, output, 90)))
    assert (image.format, image.size) == (kind, (50, 40))
    written = np.asarray(image.convert("RGB" if len(shape) == 3 else "L")).astype(int)
    assert np.abs(written - pixels).mean() <= (0 if output in {"png", "tiff"} else 5)


def test_quality_counts():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    for output in ("jpeg", "webp"):
        assert len(encode(pixels, output, 20)) < len(encode(pixels, output, 95))


@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("output", ["png", "jpeg", "tiff"])
def test_more_effort_makes_fewer_bytes_of_the_same_picture(noisy, output, color):
    pixels = noisy(color=color)
    fast, *smaller = (encode(pixels, output, 90, effort) for effort in ("fast", "small", "smallest"))
    assert encode(pixels, output, 90) == fast
    expected = np.asarray(Image.open(io.BytesIO(fast)))
    for data in smaller:
        assert len(data) < len(fast)
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), expected)


@pytest.mark.parametrize("color", [False, True])
def test_more_effort_makes_fewer_bytes_or_less_error_of_webp(noisy, color):
    pixels = noisy(color=color)
    sizes, errors = [], []
    for effort in ("fast", "small", "smallest"):
        data = encode(pixels, "webp", 90, effort)
        found = np.asarray(Image.open(io.BytesIO(data)).convert("RGB" if color else "L"))
        sizes.append(len(data))
        errors.append(np.square(found.astype(int) - pixels).mean())
    assert sizes[2] < min(sizes[:2])
    assert errors[1] < errors[0]


@pytest.mark.parametrize("effort", ["fast", "small", "smallest"])
@pytest.mark.parametrize("quality", [1, 90, 94, 95, 100])
@pytest.mark.parametrize("shape", [(300, 700), (300, 700, 3)])
def test_mere_noise_becomes_a_jpeg_as_well(shape, quality, effort):
    pixels = np.random.default_rng(0).integers(0, 2, shape, np.uint8) * 255
    image = Image.open(io.BytesIO(encode(pixels, "jpeg", quality, effort)))
    image.load()
    assert (image.format, image.size) == ("JPEG", (700, 300))


def test_a_format_that_cannot_hold_the_size_is_refused():
    check_output_size("png", 400_000, 32)
    check_output_size("webp", 16_383, 32)
    with pytest.raises(BadFieldError, match="webp holds at most 16383"):
        check_output_size("webp", 16_384, 32)


def big_endian_tiff(values: np.ndarray) -> bytes:
    """Writes an uncompressed big-endian TIFF (H, W), uint16; Pillow itself writes little-endian only."""
    height, width = values.shape
    short, long = 3, 4
    tags = [
        (256, long, width),
        (257, long, height),
        (258, short, 16),
        (259, short, 1),
        (262, short, 1),
        (273, long, 8 + 2 + 9 * 12 + 4),
        (277, short, 1),
        (278, long, height),
        (279, long, values.size * 2),
    ]
    entries = b"".join(
        struct.pack(">HHI", tag, kind, 1)
        + (struct.pack(">HH", value, 0) if kind == short else struct.pack(">I", value))
        for tag, kind, value in tags
    )
    directory = struct.pack(">H", len(tags)) + entries + struct.pack(">I", 0)
    return b"MM\x00*" + struct.pack(">I", 8) + directory + values.astype(">u2").tobytes()

from __future__ import annotations

import io
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from app.deflate import Effort
from app.tiff import write_tiff

SHAPES = st.one_of(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3)),
)
EFFORTS = get_args(Effort)

# Pillow's warning about a wrong directory is what a strict reader would refuse.
pytestmark = pytest.mark.filterwarnings("error")


@given(arrays(np.uint8, SHAPES), st.sampled_from(EFFORTS))
@settings(max_examples=90, deadline=None)
def test_pillow_reads_the_same_pixels(pixels, effort):
    image = Image.open(io.BytesIO(write_tiff(pixels, effort)))
    assert (image.mode, getattr(image, "n_frames", 0)) == ("L" if pixels.ndim == 2 else "RGB", 1)
    np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("color", [False, True])
def test_more_effort_makes_fewer_bytes(picture, color):
    pixels = picture(200, 300, 3, color=color)
    pixels = np.clip(pixels + np.random.default_rng(0).normal(0, 2.5, pixels.shape), 0, 255).astype(np.uint8)
    sizes = [len(write_tiff(pixels, effort)) for effort in EFFORTS]
    assert sizes[0] > sizes[1] >= sizes[2]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "TIFF", compression="tiff_adobe_deflate")
    assert sizes[0] < buffer.tell()


def test_the_directory_lies_at_an_even_place_and_the_strip_before_it():
    for width in range(1, 20):  # Some of these strips have an odd number of bytes.
        pixels = np.random.default_rng(width).integers(0, 256, (3, width), np.uint8)
        data = write_tiff(pixels)
        place = int.from_bytes(data[4:8], "little")
        tags = Image.open(io.BytesIO(data)).tag_v2
        assert place % 2 == 0
        assert tags[273][0] + tags[279][0] in {place, place - 1}

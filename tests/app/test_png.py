from __future__ import annotations

import io
import zlib
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from app.deflate import Effort
from app.png import STRIP_BYTES, write_png

SHAPES = st.one_of(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3)),
)
EFFORTS = get_args(Effort)


def assert_read(pixels, effort):
    data = write_png(pixels, effort)
    Image.open(io.BytesIO(data)).verify()
    image = Image.open(io.BytesIO(data))
    assert image.mode == ("L" if pixels.ndim == 2 else "RGB")
    np.testing.assert_array_equal(np.asarray(image), pixels)


@given(arrays(np.uint8, SHAPES), st.sampled_from(EFFORTS))
@settings(max_examples=90, deadline=None)
def test_pillow_reads_the_same_pixels(pixels, effort):
    assert_read(pixels, effort)


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("shape", [(1, STRIP_BYTES + 3), (STRIP_BYTES + 3, 1), (9, STRIP_BYTES // 4, 3)])
def test_rows_that_do_not_fill_a_strip_or_do_not_fit_into_one(shape, effort):
    assert_read(np.random.default_rng(1).integers(0, 256, shape, np.uint8), effort)


@pytest.mark.parametrize("shape", [(0, 4), (4, 4, 4), (4,), (2, 2, 1)])
@pytest.mark.parametrize("effort", EFFORTS)
def test_other_shapes_are_refused(shape, effort):
    with pytest.raises(ValueError, match="PNG takes"):
        write_png(np.zeros(shape, np.uint8), effort)


def expected_rows(row, above, step):
    """Returns the differences of one row (n,) by each filter, value by value as the PNG specification has them."""
    candidates = [[] for _ in range(5)]
    for index, value in enumerate(row):
        left, corner = (line[index - step] if index >= step else 0 for line in (row, above))
        up = above[index]
        aim = left + up - corner
        closest = min((left, up, corner), key=lambda neighbour: abs(aim - neighbour))  # The first of equals.
        for candidate, guess in zip(candidates, (0, left, up, (left + up) // 2, closest), strict=True):
            candidate.append((value - guess) % 256)
    return candidates


@pytest.mark.parametrize("color", [False, True])
def test_each_row_has_the_filter_of_the_smallest_differences(picture, color):
    pixels = picture(24, 30, 1, color=color).copy()
    pixels[::5] = np.random.default_rng(2).integers(0, 256, pixels[::5].shape)
    pixels[7, 1::2] = 0  # Values that no neighbour tells of.
    data = write_png(pixels, "small")
    start = data.index(b"IDAT") + 4
    stored = np.frombuffer(zlib.decompress(data[start : data.index(b"IEND") - 8]), np.uint8).reshape(24, -1)
    rows = pixels.reshape(24, -1).tolist()
    for found, row, above in zip(stored.tolist(), rows, [[0] * len(rows[0]), *rows], strict=False):
        candidates = expected_rows(row, above, 3 if color else 1)
        assert found[1:] == candidates[found[0]]
        costs = [sum(min(value, 256 - value) for value in candidate) for candidate in candidates]
        assert costs[found[0]] == min(costs)
    assert len(set(stored[:, 0])) >= 3


@pytest.mark.parametrize("color", [False, True])
def test_more_effort_makes_fewer_bytes(picture, color):
    pixels = picture(200, 300, 3, color=color)
    pixels = np.clip(pixels + np.random.default_rng(0).normal(0, 2.5, pixels.shape), 0, 255).astype(np.uint8)
    sizes = [len(write_png(pixels, effort)) for effort in EFFORTS]
    assert sizes[0] > 1.05 * sizes[1] >= 1.05 * sizes[2]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    assert sizes[2] < buffer.tell()

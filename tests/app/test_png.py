from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from app.png import write_png

SHAPES = st.one_of(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3)),
)


@given(arrays(np.uint8, SHAPES))
@settings(max_examples=60, deadline=None)
def test_pillow_reads_the_same_pixels(pixels):
    image = Image.open(io.BytesIO(write_png(pixels)))
    image.verify()
    image = Image.open(io.BytesIO(write_png(pixels)))
    assert image.mode == ("L" if pixels.ndim == 2 else "RGB")
    np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("shape", [(0, 4), (4, 4, 4), (4,), (2, 2, 1)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="PNG takes"):
        write_png(np.zeros(shape, np.uint8))

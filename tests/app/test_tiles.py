"""The plan of tiles: which pixels each computes and which it answers for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.tiles import Span, mirrored, plan_tiles


@st.composite
def plans(draw):
    """Any image with any tiles that have room."""
    multiple = draw(st.sampled_from([1, 2, 8, 16]))
    halo = multiple * draw(st.integers(0, 8))
    tile = 2 * halo + multiple * draw(st.integers(1, 40))
    height, width = draw(st.integers(1, 600)), draw(st.integers(1, 600))
    return height, width, {"tile": tile, "halo": halo, "multiple": multiple}


@settings(deadline=None)  # Thousands of tiles take a while.
@given(plans())
def test_each_pixel_of_the_padded_image_belongs_to_one_tile(case):
    height, width, options = case
    plan = plan_tiles(height, width, **options)
    padded = [-(-side // options["multiple"]) * options["multiple"] for side in (height, width)]
    owners = np.zeros(padded, np.uint8)
    for rows, columns in plan:
        owners[rows.own, columns.own] += 1
    assert (owners == 1).all()
    assert plan.padded_pixels == owners.size


@settings(deadline=None)  # Thousands of tiles take a while.
@given(plans())
def test_tiles_keep_to_the_card(case):
    height, width, options = case
    plan = plan_tiles(height, width, **options)
    for side in (plan.rows, plan.columns):
        end = side[-1].stop
        for span in side:
            assert 0 <= span.start <= span.first < span.last <= span.stop <= end
            assert span.stop - span.start == side[0].stop <= options["tile"]
            assert all(border % options["multiple"] == 0 for border in span)
            assert span.start == 0 or span.first - span.start >= options["halo"]
            assert span.stop == end or span.stop - span.last >= options["halo"]
            assert span.inside == slice(span.first - span.start, span.last - span.start)


def test_a_small_image_is_one_tile_and_a_narrow_one_a_row_of_them():
    options = {"tile": 96, "halo": 16, "multiple": 16}
    assert list(plan_tiles(90, 96, **options)) == [(Span(0, 0, 96, 96), Span(0, 0, 96, 96))]
    narrow = plan_tiles(33, 400, **options)
    assert narrow.rows == [Span(0, 0, 48, 48)]
    assert len(narrow.columns) == 6


@pytest.mark.parametrize(
    ("tile", "halo"),
    [(32, 16), (16, 16), (40, 8), (48, 12)],
    ids=["nothing but halo", "less than halo", "odd tile", "odd halo"],
)
def test_tiles_without_room_or_off_the_grid_are_refused(tile, halo):
    with pytest.raises(ValueError, match=f"tiles of {tile} with a halo of {halo}"):
        plan_tiles(100, 100, tile=tile, halo=halo, multiple=16)


@given(size=st.integers(1, 60), start=st.integers(0, 50), extra=st.integers(1, 50))
def test_rows_beyond_the_image_are_mirrored_as_numpy_does(size, start, extra):
    padded = np.pad(np.arange(size), (0, 200), mode="symmetric")
    stop = start + extra
    np.testing.assert_array_equal(mirrored(Span(start, start, stop, stop), size), padded[start:stop])

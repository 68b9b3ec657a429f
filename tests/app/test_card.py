"""Entries of a card as the service reads them: the evaluation, and how large images are tiled."""

import pytest
from pydantic import ValidationError

from app.card import Evaluation, ModelCard, Tiling
from tests.app.tiled_bundle import GEOMETRY, blur_graphs
from tests.conftest import describe, make_card

ENTRY = {
    "dataset": "ivf/val",
    "pairs": 2,
    "size": "native",
    "ranked_by": ["EN"],
    "mean_rank": {"net": 1.0},
    "metrics": {"net": {"EN": 7.5}},
}


def test_intervals_are_optional():
    assert Evaluation.model_validate(ENTRY).intervals is None
    read = Evaluation.model_validate(ENTRY | {"intervals": {"net": {"EN": [7.4, 7.6]}}})
    assert read.intervals == {"net": {"EN": (7.4, 7.6)}}


@pytest.mark.parametrize("ends", [[7.4], [7.4, 7.5, 7.6], ["low", "high"], None])
def test_an_interval_is_two_numbers(ends):
    with pytest.raises(ValidationError, match="intervals"):
        Evaluation.model_validate(ENTRY | {"intervals": {"net": {"EN": ends}}})


@pytest.fixture(scope="module")
def tiling():
    """A valid entry."""
    graphs = blur_graphs()
    return GEOMETRY | {part: describe(graphs[part], f"{part}.onnx") for part in ("sums", "given")}


@pytest.fixture
def card(tiling):
    """A valid card with that entry."""
    graphs = blur_graphs()
    made = make_card("blur", graphs["fusion"], None, [])
    record = made["files"]["fusion.onnx"]
    return made | {"files": {f"{part}.onnx": record for part in graphs}, "tiling": tiling}


def test_a_card_may_offer_tiles_or_not(card):
    read = ModelCard.model_validate(card)
    assert [graph.file for graph in read.graphs] == ["fusion.onnx", "sums.onnx", "given.onnx"]
    without = ModelCard.model_validate({key: value for key, value in card.items() if key != "tiling"})
    assert without.tiling is None
    assert [graph.file for graph in without.graphs] == ["fusion.onnx"]


@pytest.mark.parametrize("file", ["sums.onnx", "given.onnx"])
def test_graphs_for_tiles_need_a_checksum(card, file):
    del card["files"][file]
    with pytest.raises(ValidationError, match=f"'{file}' has no checksum"):
        ModelCard.model_validate(card)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"halo": 24}, "a tile of 48 has no room beside a halo of 24"),
        ({"halo_sums": 32}, "a tile of 48 has no room beside a halo of 32"),
        ({"tile": 50}, "tile 50 is no multiple of 8"),
        ({"halo": 12}, "halo 12 is no multiple of 8"),
        ({"halo_sums": 4}, "halo_sums 4 is no multiple of 8"),
        ({"multiple": 0}, "multiple"),
        ({"halo": -8}, "halo"),
        ({"above_pixels": 0}, "above_pixels"),
        ({"tile": "large"}, "tile"),
        ({"overlap": 8}, "overlap"),
        ({"sums": None}, "sums"),
    ],
)
def test_tiles_that_cannot_be_are_refused(tiling, changes, reason):
    assert Tiling.model_validate(tiling).tile == 48
    with pytest.raises(ValidationError, match=reason):
        Tiling.model_validate(tiling | changes)


@pytest.mark.parametrize("field", ["multiple", "above_pixels", "tile", "halo_sums", "halo", "sums", "given"])
def test_every_field_of_the_tiles_is_required(tiling, field):
    with pytest.raises(ValidationError, match=field):
        Tiling.model_validate({key: value for key, value in tiling.items() if key != field})

"""The evaluation entry of a card, as the service reads it."""

import pytest
from pydantic import ValidationError

from app.card import Evaluation

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

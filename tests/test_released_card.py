"""The released lite model keeps its promises by its own card, whose numbers the commands wrote."""

import json
from pathlib import Path

import pytest

CARD = json.loads((Path(__file__).resolve().parent.parent / "weights/titok-ste-lite/card.json").read_text())
EVALUATION = next(e for e in CARD["evaluation"] if e["dataset"] == "ivf/val" and e["size"] == "native")
OURS = EVALUATION["metrics"][CARD["name"]]


def study(slot):
    return next(s for s in EVALUATION["strength"] if s["slot"] == slot)


def test_first_by_mean_rank_over_the_eight_metrics():
    assert EVALUATION["ranked_by"] == ["EN", "SD", "SCD", "SSIM", "MI", "VIF", "Qabf", "CC"]
    assert len(EVALUATION["mean_rank"]) == 6
    assert min(EVALUATION["mean_rank"], key=EVALUATION["mean_rank"].get) == CARD["name"]


def test_strength_is_visible():
    everything = study("all")
    change = dict(zip(everything["strengths"], everything["change"], strict=True))
    assert change[1.0] >= 2
    assert change[2.0] >= 2


def test_sharpen_raises_edge_intensity_on_nine_pairs_of_ten():
    assert study("sharpen")["edge_intensity_rises"] >= 0.9


def test_clips_less_than_the_centred_sum():
    assert OURS["clip"] < 0.5 * EVALUATION["metrics"]["centred sum"]["clip"]


@pytest.mark.parametrize(("what", "limit"), [("fuse_per_pixel", 20e3), ("encode_per_image", 1.5e9)])
def test_operations_stay_in_budget(what, limit):
    assert CARD["macs"][what] <= limit


def test_onnx_equals_pytorch():
    cases = {name.split()[1] for name in CARD["parity"]}
    assert {"1x256x256", "3x256x256", "1x130x77", "3x130x77", "1x480x640"} <= cases
    assert max(CARD["parity"].values()) <= 1e-4


def test_smooth_lowers_the_gradient_in_flat_areas():
    smooth = study("smooth")
    assert smooth["flat_gradient_falls"] >= 0.9
    assert smooth["change"][-1] > 0

"""The released TITA keeps its promises by its own card, whose numbers the commands wrote."""

import json
from pathlib import Path

import pytest

CARD = json.loads((Path(__file__).resolve().parent.parent / "weights/tita/card.json").read_text())
EVALUATIONS = {evaluation["dataset"]: evaluation for evaluation in CARD["evaluation"] if evaluation["size"] == "native"}
CONTRAST = ["EN", "SD", "SCD", "SSIM", "MI", "VIF", "Qabf", "CC"]


def test_it_serves_the_four_kinds_of_pairs():
    tasks = {task["name"]: (task["image_a"], task["image_b"]) for task in CARD["tasks"]}
    assert tasks.keys() == {"infrared-visible", "multi-exposure", "multi-focus", "medical"}
    assert "visible" in tasks["infrared-visible"][0]
    assert "over-exposed" in tasks["multi-exposure"][0]
    assert CARD["edit_slots"] == []


@pytest.mark.parametrize("dataset", ["mif-ct/val", "mif-pet/val", "mif-spect/val"])
def test_unseen_medical_pairs_rank_above_average_and_pyramid(dataset):
    rank = EVALUATIONS[dataset]["mean_rank"]
    assert EVALUATIONS[dataset]["ranked_by"] == CONTRAST
    assert rank["tita"] < min(rank["average"], rank["laplacian"])
    assert not any(use["name"].startswith("mif") for use in CARD["training"]["data"])


def test_focus_pairs_come_closer_to_the_truth_than_sources_and_pyramid():
    table = EVALUATIONS["made/focus"]["metrics"]
    others = ("image a", "image b", "average", "maximum", "laplacian")
    for metric in ("PSNR_truth", "SSIM_truth"):
        assert table["tita"][metric] > max(table[name][metric] for name in others)
    assert table["tita"]["PSNR_truth"] >= table["laplacian"]["PSNR_truth"] + 2
    assert table["tita"]["Qabf"] > table["laplacian"]["Qabf"]


def test_infrared_visible_is_first():
    evaluation = EVALUATIONS["ivf/val"]
    assert evaluation["ranked_by"] == CONTRAST
    assert min(evaluation["mean_rank"], key=evaluation["mean_rank"].get) == "tita"


def test_exposure_is_first_among_average_maximum_pyramid_and_mertens():
    evaluation = EVALUATIONS["mef/val"]
    metrics = ["MI", "VIF", "Qabf", "SSIM", "CC", "EN"]
    assert evaluation["ranked_by"] == metrics
    table = {name: evaluation["metrics"][name] for name in ("tita", "average", "maximum", "laplacian", "mertens")}
    places = {
        name: sum(1 + sum(other[metric] > row[metric] for other in table.values()) for metric in metrics)
        for name, row in table.items()
    }
    assert places["tita"] < min(place for name, place in places.items() if name != "tita")


def test_onnx_equals_pytorch_whole_and_in_tiles():
    sizes = [f"{batch}x{size}" for batch in (1, 2, 5) for size in ("64x64", "37x53", "200x312", "480x640")]
    assert {*CARD["parity"]} == {f"fusion {size}" for size in sizes} | {"tiled 1x768x1024"}
    assert max(CARD["parity"].values()) <= 1e-4

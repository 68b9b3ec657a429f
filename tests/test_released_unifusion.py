"""The released UniFusion keeps its promises by its own card, whose numbers the commands wrote."""

import json
from pathlib import Path

import pytest

CARD = json.loads((Path(__file__).resolve().parent.parent / "weights/unifusion/card.json").read_text())
EVALUATIONS = {evaluation["dataset"]: evaluation for evaluation in CARD["evaluation"] if evaluation["size"] == "native"}
CONTRAST = ["EN", "SD", "SCD", "SSIM", "MI", "VIF", "Qabf", "CC"]
VALIDATION = CARD["extra"]["validation"]
TASKS = {"infrared-visible", "multi-exposure", "multi-focus", "medical"}


def test_it_serves_the_four_kinds_of_pairs():
    tasks = {task["name"]: (task["image_a"], task["image_b"]) for task in CARD["tasks"]}
    assert tasks.keys() == TASKS
    assert "visible" in tasks["infrared-visible"][0]
    assert "over-exposed" in tasks["multi-exposure"][0]
    assert "MRI" in tasks["medical"][1]
    assert CARD["edit_slots"] == []


@pytest.mark.parametrize("dataset", ["ivf/val", "mef/val", "mif-ct/val", "mif-pet/val", "mif-spect/val"])
def test_first_by_mean_rank_over_the_eight_metrics(dataset):
    evaluation = EVALUATIONS[dataset]
    assert evaluation["ranked_by"] == CONTRAST
    others = {"average", "maximum", "laplacian", "dtcwt", "centred sum"}
    rivals = others | {"mertens"} if dataset == "mef/val" else others
    assert evaluation["mean_rank"].keys() == {"unifusion"} | rivals
    assert min(evaluation["mean_rank"], key=evaluation["mean_rank"].get) == "unifusion"


def test_focus_pairs_come_closer_to_the_truth_than_sources_and_pyramid():
    table = EVALUATIONS["made/focus"]["metrics"]
    others = ("image a", "image b", "average", "maximum", "laplacian", "dtcwt")
    for metric in ("PSNR_truth", "SSIM_truth"):
        assert table["unifusion"][metric] > max(table[name][metric] for name in others)
    assert table["unifusion"]["Qabf"] > table["laplacian"]["Qabf"]


def test_the_backbone_is_used():
    assert VALIDATION.keys() == TASKS | {"side", "pairs"}
    for task in TASKS:
        assert VALIDATION[task]["fused_without_taps"] > 0.5
        assert VALIDATION[task]["rec_without_taps"] > 5


def test_adapters_keep_both_images():
    for task in TASKS:
        assert min(VALIDATION[task]["PSNR_rebuilt_a"], VALIDATION[task]["PSNR_rebuilt_b"]) > 24


def test_onnx_equals_pytorch():
    sizes = [f"{batch}x{size}" for batch in (1, 3) for size in ("64x64", "37x53", "200x312", "480x640")]
    assert {f"{graph} {size}" for graph in ("encoder", "fusion") for size in sizes} <= {*CARD["parity"]}
    assert max(CARD["parity"].values()) <= 1e-4


def test_no_file_holds_a_reconstruction_head_or_weights_of_others():
    assert {*CARD["files"]} == {"encoder.onnx", "fusion.onnx", "fusion.safetensors", "backbone.safetensors"}
    assert CARD["extra"]["backbone"]["name"] == "small-vit"
    commands = [run["command"] for run in CARD["training"]["runs"]]
    assert commands[0] == "python -m training backbone"
    assert {*commands[1:]} == {"python -m training unifusion"}

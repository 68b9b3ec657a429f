"""The benchmark of the working size, on small bundles; no test here looks at a time."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import working_size
from benchmarks.working_size import COLUMNS, FULL, NOT_YET, WAYS, as_markdown, main


@pytest.fixture
def focus(tmp_path, picture):
    for side, seed in (("a", 1), ("b", 2), ("truth", 3)):
        folder = tmp_path / "focus" / side
        folder.mkdir(parents=True)
        for number in range(2):
            noisy = picture(96, 128, seed, color=False) // 2 + (np.indices((96, 128)).sum(0) % 2) * 40 + number
            Image.fromarray(noisy.astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "focus"


@pytest.fixture
def weights_for_focus(tmp_path, bundle_writers):
    folder = bundle_writers["plain"](tmp_path / "weights")
    card = json.loads((folder / "card.json").read_text())
    card["tasks"][0]["name"] = "multi-focus"
    (folder / "card.json").write_text(json.dumps(card))
    return tmp_path / "weights"


def run(weights, out, *arguments):
    code = main([*map(str, ["--weights", weights, "--models", "plain", "--threads", "1", "--out", out, *arguments])])
    assert code == 0


def test_every_way_is_compared_with_the_full_size(focus, weights_for_focus, tmp_path, capsys):
    run(weights_for_focus, tmp_path / "out", "--focus", focus)
    rows = json.loads((tmp_path / "out" / "working-size.json").read_text())
    assert [(row["side"], row["way"]) for row in rows] == [
        ("full", FULL),
        *((side, way) for side in ("1/2", "1/4") for way in (NOT_YET, *WAYS)),
    ]
    assert all(row["pairs"] == "focus (2)" and row["model"] == "plain" for row in rows)
    assert rows[0]["PSNR to full, dB"] is None
    guided, enlarged = (
        row for way in ("guided", "enlarged") for row in rows if (row["side"], row["way"]) == ("1/2", way)
    )
    assert guided["PSNR to full, dB"] > enlarged["PSNR to full, dB"] + 5
    assert guided["Qabf"] > enlarged["Qabf"]
    text = (tmp_path / "out" / "working-size.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert all(name in text for name in COLUMNS)


def test_times_of_every_side(weights_for_focus, tmp_path):
    run(weights_for_focus, tmp_path, "--times", "--size", "96", "128", "--sides", "0", "64", "--rounds", "1")
    rows = json.loads((tmp_path / "times.json").read_text())
    assert [(row["working size"], row["step"]) for row in rows] == [
        ("128x96", "model"),
        ("64x48", "model"),
        ("64x48", "guide"),
    ]
    assert all(row["low, CPU s"] <= row["median, CPU s"] <= row["high, CPU s"] for row in rows)


def test_pairs_for_which_no_model_is_are_an_error(weights, focus, tmp_path, capsys):
    arguments = ["--weights", weights, "--models", "plain", "--focus", focus, "--out", tmp_path]
    assert main([*map(str, arguments)]) == working_size.FAILED
    assert "no pairs for the tasks of plain" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--times", "--rounds", "0"], ["--times", "--shares", "1"]])
def test_bad_arguments_end_with_usage(arguments):
    with pytest.raises(SystemExit, match="2"):
        main(["--models", "plain", *arguments])


def test_a_missing_bundle_or_folder_is_named(weights_for_focus, tmp_path, capsys):
    assert main(["--weights", str(tmp_path), "--models", "none", "--times"]) == working_size.FAILED
    assert "none" in capsys.readouterr().err
    arguments = ["--weights", str(weights_for_focus), "--models", "plain", "--focus", str(tmp_path / "gone")]
    assert main(arguments) == working_size.FAILED
    assert "gone" in capsys.readouterr().err


def test_cells():
    assert as_markdown([{"a": None, "b": 0.12345, "c": 34.567}]).splitlines()[-1] == "| – | 0.123 | 34.57 |"

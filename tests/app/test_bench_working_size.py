"""The benchmark of the working size, on small bundles; no test here looks at a time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import working_size
from benchmarks.working_report import ALONE, FULL, PSNR, as_markdown, fidelity_table, times_table, ways_table
from benchmarks.working_size import COLUMNS, main
from benchmarks.working_ways import WAYS

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "docs/benchmarks/working-size/working-size.json"
SHOWN = ("full", "1/2", "1/4")  # The sides that the documentation shows, the last only in its first table.


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
    small = ["--size", "96", "128", "--shares", "3/4", "1/2", "--rounds", "1", "--threads", "1"]
    code = main([*map(str, ["--weights", weights, "--models", "plain", "--out", out, *small, *arguments])])
    assert code == 0
    return json.loads((out / "working-size.json").read_text())


def test_every_way_is_compared_with_the_full_size(focus, weights_for_focus, tmp_path, capsys):
    rows = run(weights_for_focus, tmp_path / "out", "--focus", focus)["fidelity"]
    assert [(row["side"], row["way"]) for row in rows] == [
        ("full", FULL),
        *((side, way) for side in ("3/4", "1/2") for way in (ALONE, *WAYS)),
    ]
    assert all(list(row) == list(COLUMNS) for row in rows)
    assert all(row["pairs"] == "focus (2)" and row["model"] == "plain" for row in rows)
    assert rows[0][PSNR] is None
    guided, enlarged = (
        row for way in ("guided", "enlarged") for row in rows if (row["side"], row["way"]) == ("1/2", way)
    )
    assert guided[PSNR] > enlarged[PSNR] + 5
    assert guided["Qabf"] > enlarged["Qabf"]
    text = (tmp_path / "out" / "working-size.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert f"| focus (2) | `plain` | 1/2 | {enlarged[PSNR]:.1f} |" in text
    assert "svg" in (tmp_path / "out" / "working-size.svg").read_text()[:500]


def test_ways_differ_from_the_guided_step_and_leave_it_as_it_is(focus, weights_for_focus, tmp_path):
    rows = run(weights_for_focus, tmp_path, "--focus", focus)["fidelity"]
    found = {row["way"]: row[PSNR] for row in rows if row["side"] == "1/2"}
    assert len(set(found.values())) == len(found)
    again = run(weights_for_focus, tmp_path, "--focus", focus)["fidelity"]
    assert again == rows


def test_times_of_every_side(weights_for_focus, tmp_path):
    rows = run(weights_for_focus, tmp_path)["times"]
    assert [(row["max_side"], row["working size"], row["share"]) for row in rows] == [
        (0, "128x96", 1),
        (96, "96x72", 0.75),
        (64, "64x48", 0.5),
    ]
    native, *reduced = rows
    assert native["guide s"] is None
    assert native[PSNR] is None
    assert all(row["guide s"] > 0 and row[PSNR] > 20 for row in reduced)


def test_only_the_bundles_asked_for_are_timed(focus, weights_for_focus, tmp_path):
    record = run(weights_for_focus, tmp_path, "--focus", focus, "--timed")
    assert record["times"] == []
    assert "Times" not in as_markdown(record)


def test_pairs_for_which_no_model_is_are_an_error(weights, focus, tmp_path, capsys):
    arguments = ["--weights", weights, "--models", "plain", "--focus", focus, "--out", tmp_path]
    assert main([*map(str, arguments)]) == working_size.FAILED
    assert "no pairs for the tasks of plain" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--rounds", "0"], ["--threads", "0"], ["--timed", "other"], *(["--shares", s] for s in ("1", "0", "-1/2", "a"))],
)
def test_bad_arguments_end_with_usage(arguments):
    with pytest.raises(SystemExit, match="2"):
        main(["--models", "plain", *arguments])


def test_a_missing_bundle_or_folder_is_named(weights_for_focus, tmp_path, capsys):
    assert main(["--weights", str(tmp_path), "--models", "none"]) == working_size.FAILED
    assert "none" in capsys.readouterr().err
    arguments = ["--weights", str(weights_for_focus), "--models", "plain", "--focus", str(tmp_path / "gone")]
    assert main(arguments) == working_size.FAILED
    assert "gone" in capsys.readouterr().err


def test_the_documentation_shows_the_tables_of_its_record():
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    page = (ROOT / "docs/experiments.md").read_text(encoding="utf-8")
    half, quarter = ([row for row in record["fidelity"] if row["side"] in shown] for shown in (SHOWN[:2], SHOWN))
    for table in (fidelity_table(quarter), ways_table(half), times_table(record["times"])):
        assert table
        assert f"\n\n{table}\n\n" in page
    assert as_markdown(record) + "\n" == RECORD.with_suffix(".md").read_text(encoding="utf-8")

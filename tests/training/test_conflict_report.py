"""The command ``conflict``: angles and weights of runs under different weightings, side by side."""

import json

import matplotlib.figure
import numpy as np
import pytest
from PIL import Image

from tests.training.tiny_runs import command
from tests.training.tiny_tita_runs import recipe, tita_words
from training.tita_recipe import TITARecipe

PAIR = "angle/infrared-visible/multi-focus"
TASKS = ("infrared-visible", "multi-focus")


def write_run(folder, angles, *, weights=(0.5, 0.6), score=1.25, last=4, **changes):
    """A run folder as training leaves it: an angle every step, weights at steps 0 and 2, a last validation."""
    folder.mkdir()
    changes = {"validation": {**recipe()["validation"], "angles_every": 1}, **changes}
    values = TITARecipe.model_validate(recipe(**changes))
    (folder / "recipe.json").write_text(values.model_dump_json())
    rows = [{"step": 2 * i, f"weight/{TASKS[0]}": w, f"weight/{TASKS[1]}": 1 - w} for i, w in enumerate(weights)]
    rows += [{"step": step, PAIR: angle} for step, angle in enumerate(angles)]
    rows += [{"step": step, "val/multi-focus/PSNR": value} for step, value in ((2, 0.5), (last, score))]
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"time": "now", **row}) + "\n" for row in rows))
    return folder


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved."""
    saved = []
    save = matplotlib.figure.Figure.savefig

    def keep(self, *args, **options):
        saved.append(self)
        save(self, *args, **options)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    return saved


def conflict(out, **runs):
    command(
        "conflict", *(word for name, folder in runs.items() for word in ("--run", f"{name}={folder}")), "--out", out
    )


def cells(text):
    """Rows of all tables by their first two cells."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {tuple(row[:2]): row[2:] for row in rows}


def test_means_and_shares_are_those_of_the_measurements(tmp_path, figures):
    measured = [80.0, 100.0, 95.0, float("nan")]
    famo = write_run(tmp_path / "a", measured, score=2.5, weighting={"kind": "famo", "same_masks": True})
    mean = write_run(tmp_path / "b", [90.0, 110.0, 120.0, 130.0], weighting={"kind": "mean"})
    conflict(tmp_path / "out", FAMO=famo, equal=mean)
    text = (tmp_path / "out" / "conflict.md").read_text()
    found = cells(text)
    assert found["tasks", ""] == ["FAMO", "equal"]
    spread = np.std([80.0, 100.0, 95.0])
    assert found["infrared-visible / multi-focus", "angle, mean ± deviation"] == [
        f"91.7° ± {spread:.1f}°",
        "112.5° ± 14.8°",
    ]
    assert found["", "above 90°"] == ["67% of 3", "75% of 4"]  # 90° itself is none
    assert ["multi-focus: PSNR", "2.500", "1.250"] in [[key[0], key[1], *rest] for key, rest in found.items()]
    assert "validation at step 4" in text
    assert "- FAMO: FAMO, same_masks: true\n- equal: mean of the losses\n" in text


def test_the_picture_shows_every_measurement_and_the_right_angle(tmp_path, figures):
    angles = {"one": [80.0, 100.0, 95.0, 85.0], "two": [70.0, 60.0, float("nan"), 50.0]}
    runs = {
        name: write_run(tmp_path / name, values, weighting={"kind": kind})
        for (name, values), kind in zip(angles.items(), ("famo", "mean"), strict=True)
    }
    conflict(tmp_path / "out", **runs)
    (figure,) = figures
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == ["infrared-visible / multi-focus", *TASKS]
    dots = [line for line in panels[0].lines if line.get_marker() == "."]
    assert [list(line.get_ydata()) for line in dots] == [angles["one"], [70.0, 60.0, 50.0]]
    assert list(dots[1].get_xdata()) == [0, 1, 3]
    assert any(set(line.get_ydata()) == {90.0} for line in panels[0].lines)
    assert list(panels[2].lines[0].get_ydata()) == pytest.approx([0.5, 0.4])
    with Image.open(tmp_path / "out" / "conflict.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5


def test_a_run_as_training_leaves_it_is_read(data_root, tmp_path):
    runs = {}
    for kind in ("famo", "mean"):
        runs[kind] = tmp_path / kind
        words = tita_words(data_root, tmp_path, runs[kind], weighting={"kind": kind}, steps=2)
        command(*words, "--set", "validation.angles_every=1")
    conflict(tmp_path / "out", **runs)
    found = cells((tmp_path / "out" / "conflict.md").read_text())
    assert [share.split(" of ")[1] for share in found["", "above 90°"]] == ["2", "2"]
    lines = [json.loads(line) for line in (runs["mean"] / "metrics.jsonl").read_text().splitlines()]
    angles = [line[PAIR] for line in lines if PAIR in line]
    shown = found["infrared-visible / multi-focus", "angle, mean ± deviation"][1]
    assert shown.startswith(f"{np.mean(angles):.1f}°")
    assert {key[0] for key in found} >= {"infrared-visible: EN", "multi-focus: PSNR"}


def test_a_step_that_was_done_twice_counts_once(tmp_path):
    run = write_run(tmp_path / "a", [10.0, 100.0])
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 0, "time": "later", PAIR: 120.0}) + "\n")
    conflict(tmp_path / "out", a=run)
    assert cells((tmp_path / "out" / "conflict.md").read_text())["", "above 90°"] == ["100% of 2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 8, "last": 8}, r"one and other differ in more than their weighting \(steps\)"),
        ({"seed": 4}, r"more than their weighting \(seed\)"),
        ({"profile": "tita-sf", "optim": {"lr": 1e-3}}, r"more than their weighting \(profile, optim\)"),
        ({"steps": 8}, r"other: the run in .* was validated at step 4 of 8: finish it first"),
        ({"angles": []}, r"other: .* has no angles: train it with --set validation.angles_every=20"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(tmp_path, changes, message):
    angles = changes.pop("angles", [80.0, 100.0])
    one, other = write_run(tmp_path / "one", [80.0, 100.0]), write_run(tmp_path / "other", angles, **changes)
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        conflict(tmp_path / "out", one=one, other=other)
    assert not (tmp_path / "out").exists()


def test_folders_that_are_no_runs_and_bad_names_are_refused(tmp_path):
    run = write_run(tmp_path / "a", [80.0])
    words = ("conflict", "--out", tmp_path / "out")
    for given, message in (
        ([run], "--run takes NAME=FOLDER"),
        ([f"={run}"], "--run takes NAME=FOLDER"),
        ([f"a={run}", f"a={run}"], "--run gives a twice"),
        ([f"a={tmp_path}"], "a: .*recipe.json is no recipe of TITA"),
    ):
        with pytest.raises(SystemExit, match=f"^error: {message}"):
            command(*words, *(word for item in given for word in ("--run", item)))
    (run / "metrics.jsonl").write_text("[")
    with pytest.raises(SystemExit, match=r"cannot read .*metrics\.jsonl"):
        command(*words, "--run", f"a={run}")
    (run / "recipe.json").write_text("{}")
    with pytest.raises(SystemExit, match="no recipe of TITA: give the folder of a tita run"):
        command(*words, "--run", f"a={run}")

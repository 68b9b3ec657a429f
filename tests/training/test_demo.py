"""The demonstration: its commands exist, and it says whether the losses fell."""

import argparse
import importlib
import json
import re
from pathlib import Path

import pytest

from training import __main__ as command_line
from training.card_text import load_card_text
from training.demo import Fall, Step, chain, check_losses, losses, run, summary

ROOT = Path(__file__).parents[2]
STEPS = chain(Path("runs/demo"))


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.title)
def test_every_step_is_a_command_with_such_options(step):
    name, *options = step.argv
    parser = argparse.ArgumentParser(exit_on_error=False)
    importlib.import_module(command_line.COMMANDS[name][0]).add_arguments(parser)
    _, unknown = parser.parse_known_args(options)  # a wrong value or a missing option raises
    assert unknown == []


def test_the_card_has_the_bundles_name():
    (export,) = (step.argv for step in STEPS if step.title == "export")
    card, out = (export[export.index(option) + 1] for option in ("--card", "--out"))
    assert Path(out).name == load_card_text(card).name


def test_make_offers_the_demo_and_serves_what_it_writes():
    makefile = (ROOT / "Makefile").read_text()
    assert "training demo --out $(RUNS)/demo" in makefile
    assert re.search(r"PAIRFUSE_WEIGHTS=\$\(RUNS\)/demo/bundle .*pairfuse serve", makefile)


def write_runs(out, *, second):
    """Records as training writes them: totals are running means, so that of stage II starts at stage I's."""
    fusion = [
        {"step": 0, "loss": 4.0, "rec": 3.0, "base": 1.0, "lr": 1e-3},
        {"step": 20, "loss": 2.0, "rec": 1.5, "base": 0.5, "lr": 1e-3},
        {"step": 40, "loss": 2.1, "rec": 1.5, "base": 0.5, "lr": 1e-3, "tone": 3.0, "edges": 1.0, "time/step": 9.0},
        {"step": 60, "loss": 2.5, "rec": 1.5, "base": 0.4, "lr": 1e-4, "tone": second, "edges": 0.5, "time/step": 9.0},
        {"step": 61, "val/SCD": 1.0},
    ]
    (out / "fusion").mkdir()
    (out / "fusion" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in fusion))
    schedule = {"stage1_epochs": 2, "stage2_epochs": 2, "steps_per_epoch": 20}
    (out / "fusion" / "recipe.json").write_text(json.dumps({"schedule": schedule}))


def test_losses_are_told_stage_by_stage(tmp_path):
    write_runs(tmp_path, second=1.0)
    falls = losses(tmp_path)
    assert falls == [Fall("stage I", 4.0, 2.0), Fall("stage II", 4.0, 1.5)]
    check_losses(falls)
    for kind in ("visible", "infrared"):
        (tmp_path / "data" / "ivf" / "val" / kind).mkdir(parents=True)
        (tmp_path / "data" / "ivf" / "val" / kind / "street_0048.png").touch()
    text = summary(tmp_path, {"draw": 8.4, "fusion": 61.0}, falls)
    line, *rest = text.splitlines()
    assert "stage I 4.00 → 2.00, stage II 4.00 → 1.50" in line
    assert "draw 8, fusion 61, all 69" in line
    assert f"PAIRFUSE_WEIGHTS={tmp_path}/bundle pairfuse serve" in "\n".join(rest)
    assert f"curl -F image_a=@{tmp_path}/data/ivf/val/visible/street_0048.png -F image_b=@" in "\n".join(rest)


@pytest.mark.parametrize("last", [4.0, float("nan")])
def test_a_loss_that_does_not_fall_is_an_error(tmp_path, last):
    write_runs(tmp_path, second=last)
    with pytest.raises(SystemExit, match="error: the loss of stage II did not fall"):
        check_losses(losses(tmp_path))


def test_a_step_that_fails_ends_the_demo(tmp_path, monkeypatch):
    bad = Step("draw", ("draw", "--out", str(tmp_path), "--train", "0"))
    monkeypatch.setattr("training.demo.chain", lambda out, tokenizer: [bad])
    with pytest.raises(SystemExit, match="must be at least 1"):
        run(argparse.Namespace(out=tmp_path, tokenizer=tmp_path))

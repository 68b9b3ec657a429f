"""The command ``demo``: the whole chain on drawn pairs, to see in minutes that everything works here.

Each step is the command that a real training uses. They run in one process, because importing torch five times would
take as long as a step. The tokenizer is the released one: in a minute a new one learns no more than the mean image, its
tokens are the same for every image, and there is nothing to fuse with or to edit.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = "titok-ste-demo"
TOKENIZER = Path(__file__).parents[1] / "weights" / "titok-ste-lite"
"""The released bundle whose tokenizer is used."""


@dataclass(frozen=True)
class Step:
    """One command of the chain: its title, and the arguments of ``python -m training``."""

    title: str
    argv: tuple[str, ...]


@dataclass(frozen=True)
class Fall:
    """First and last loss of one stage of training."""

    stage: str
    first: float
    last: float


def chain(out: Path, tokenizer: Path = TOKENIZER) -> list[Step]:
    """The steps from nothing to an evaluated bundle, all below one folder.

    Drawing comes first: it forks, which is safe only before torch has started its threads.
    """
    data, bundle = str(out / "data"), str(out / "bundle" / NAME)
    slots, fusion = str(out / "slots.json"), str(out / "fusion")
    given = ("--tokenizer", str(tokenizer))
    report = ("--data", f"{data}/ivf/val", "--baselines", "--out", str(out / "evaluation"))
    return [
        Step("draw", ("draw", "--out", data, "--samples", "1")),
        Step("probe", ("probe", *given, "--data", data, "--out", slots)),
        Step("train", ("titok-ste", "--recipe", NAME, *given, "--data", data, "--slots", slots, "--out", fusion)),
        Step("export", ("export", *given, "--run", fusion, "--card", NAME, "--out", bundle)),
        Step("evaluate", ("evaluate", "--bundle", bundle, *report)),
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m training demo``."""
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for everything; default runs/demo")
    parser.add_argument(
        "--tokenizer", type=Path, default=TOKENIZER, help="run folder or bundle; default: the released one"
    )


def run(args: argparse.Namespace) -> None:
    """Run the chain, fuse one pair, print times and losses; exits with an error if a loss did not fall."""
    # Imported here: the command line imports this module by name.
    main = importlib.import_module("training.__main__").main
    seconds: dict[str, float] = {}
    for step in chain(args.out, args.tokenizer):
        print(f"\n{step.title}: python -m training {' '.join(step.argv)}", flush=True)
        began = time.monotonic()
        main(list(step.argv))
        seconds[step.title] = time.monotonic() - began
    began = time.monotonic()
    fuse_sample(args.out)
    seconds["fuse"] = time.monotonic() - began
    falls = losses(args.out)
    print("\n" + summary(args.out, seconds, falls))
    check_losses(falls)


def fuse_sample(out: Path) -> None:
    """Fuse one drawn pair with the new bundle, through the command line that users have."""
    command = [sys.executable, "-m", "app", "fuse", *map(str, sample(out)), "-o", str(out / "fused.png")]
    done = subprocess.run(command, env={**os.environ, "PAIRFUSE_WEIGHTS": str(out / "bundle")}, check=False)
    if done.returncode:
        sys.exit("error: the new bundle could not fuse a pair; the lines above say why")


def sample(out: Path) -> tuple[Path, Path]:
    """The first drawn validation pair: visible, infrared."""
    visible, infrared = (min((out / "data" / "ivf" / "val" / kind).glob("*.png")) for kind in ("visible", "infrared"))
    return visible, infrared


def losses(out: Path) -> list[Fall]:
    """First and last loss of both stages, from the run's records.

    The logged values are running means. At the start of stage II the total still remembers stage I, so there the terms
    count that the stage brings.
    """
    fusion, schedule = _records(out / "fusion"), _recipe(out / "fusion")["schedule"]
    second = schedule["stage1_epochs"] * schedule["steps_per_epoch"]
    early = [line for line in fusion if line["step"] < second]
    late = [line for line in fusion if line["step"] >= second]
    new_terms = {name for name in late[0].keys() - early[0].keys() if not name.startswith(("time", "lr"))}
    return [_fall("stage I", early, {"loss"}), _fall("stage II", late, new_terms)]


def _fall(stage: str, records: Sequence[dict[str, Any]], terms: set[str]) -> Fall:
    first, last = (sum(records[row][term] for term in terms) for row in (0, -1))
    return Fall(stage, first, last)


def _records(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run that hold losses, not those of its validations."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def _recipe(folder: Path) -> dict[str, Any]:
    recipe: dict[str, Any] = json.loads((folder / "recipe.json").read_text())
    return recipe


def summary(out: Path, seconds: dict[str, float], falls: Sequence[Fall]) -> str:
    """One line with losses and times, then what to look at and how to serve the result."""
    fell = ", ".join(f"{fall.stage} {fall.first:.2f} → {fall.last:.2f}" for fall in falls)
    spent = ", ".join(f"{title} {value:.0f}" for title, value in seconds.items())
    cpu = sum(os.times()[:4])
    visible, infrared = sample(out)
    return "\n".join(
        [
            f"loss: {fell} · seconds: {spent}, all {sum(seconds.values()):.0f} ({cpu:.0f} of CPU time)",
            f"look at:   {out}/fused.png, {out}/evaluation/metrics.md, tensorboard --logdir {out}",
            f"serve it:  PAIRFUSE_WEIGHTS={out}/bundle pairfuse serve      (or: make serve-demo)",
            f"ask it:    curl -F image_a=@{visible} -F image_b=@{infrared} localhost:8000/fuse -o fused.png",
        ]
    )


def check_losses(falls: Sequence[Fall]) -> None:
    """Exit with one line if a loss did not fall: then something is broken here."""
    stuck = [fall.stage for fall in falls if not fall.last < fall.first]
    if stuck:
        sys.exit(f"error: the loss of {' and of '.join(stuck)} did not fall")

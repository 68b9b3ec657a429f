"""Do tasks conflict less under one weighting than under another? Angles and weights of TITA runs side by side.

The paper's Figure 2, from runs that were trained with ``validation.angles_every`` above 0.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from training.conflict_plot import save_curves
from training.conflict_runs import ConflictRun, check_comparable, read_run
from training.data.images import DataError
from training.evaluation import wording
from training.tita_recipe import TITARecipe

MARKDOWN, PICTURE = "conflict.md", "conflict.png"


def to_markdown(runs: Sequence[ConflictRun]) -> str:
    """Angles of every pair of tasks and the last validation, a column for each run."""
    first = runs[0]
    names = [run.name for run in runs]
    every = first.recipe.validation.angles_every
    lines = ["# Conflict between tasks", ""]
    lines += [f"{first.recipe.steps} steps; angles between the gradients of two tasks every {every} steps.", ""]
    lines += [f"- {run.name}: {_weighting(run.recipe)}" for run in runs]
    lines += ["", *_head(["tasks", "", *names])]
    for pair in first.angles:
        found = [run.summary(pair) for run in runs]
        angles = [f"{_degrees(angle.mean)} ± {_degrees(angle.deviation)}" if angle.measured else "–" for angle in found]
        lines.append(_line([pair, "angle, mean ± deviation", *angles]))
        shares = [f"{angle.conflicts:.0%} of {angle.measured}" if angle.measured else "–" for angle in found]
        lines.append(_line(["", "above 90°", *shares]))
    lines += ["", *_head([f"validation at step {first.recipe.steps}", *names])]
    for key in first.scores:
        lines.append(_line([key.replace("/", ": ", 1), *(wording.number(run.scores[key]) for run in runs)]))
    lines += [
        "",
        "- Above 90° a step that helps one task harms the other.",
        "- Neighbouring measurements of one run are alike, and each row is one run: the deviation is no interval, and "
        "another seed may turn small differences round.",
        "- Weights in the picture are as recorded: averaged over about the last 20 steps.",
    ]
    return "\n".join(lines) + "\n"


def _weighting(recipe: TITARecipe) -> str:
    """Its kind; for FAMO, which alone has more to set, with what differs from its defaults."""
    if recipe.weighting.kind == "mean":
        return "mean of the losses"
    values = recipe.weighting.model_dump(exclude_defaults=True)
    return "FAMO" + "".join(f", {key}: {str(value).lower()}" for key, value in values.items())


def _degrees(value: float) -> str:
    return f"{value:.1f}°"


def _head(cells: Sequence[str]) -> list[str]:
    return [_line(cells), "|" + "---|" * len(cells)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def parse_runs(items: Sequence[str]) -> dict[str, Path]:
    """Folders by name.

    Raises:
        DataError: An item is not ``NAME=FOLDER``, or a name comes twice.
    """
    found: dict[str, Path] = {}
    for item in items:
        name, _, folder = item.partition("=")
        if not name or not folder:
            raise DataError(f"--run takes NAME=FOLDER, not {item!r}")
        if name in found:
            raise DataError(f"--run gives {name} twice")
        found[name] = Path(folder)
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m training conflict``."""
    parser.add_argument(
        "--run",
        dest="runs",
        action="append",
        required=True,
        metavar="NAME=FOLDER",
        help="a tita run with validation.angles_every above 0, repeatable; all of one recipe but for the weighting",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help=f"for {MARKDOWN} and {PICTURE}")


def run(args: argparse.Namespace) -> None:
    """Compare the runs, print the table and write it with the picture.

    Raises:
        DataError: A run has no angles or is not finished, or the runs cannot be compared.
    """
    runs = [read_run(name, folder) for name, folder in parse_runs(args.runs).items()]
    check_comparable(runs)
    text = to_markdown(runs)
    print(text, end="")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / MARKDOWN).write_text(text, encoding="utf-8")
    save_curves(runs, args.out / PICTURE)
    print(f"\nwritten: {args.out / MARKDOWN}, {PICTURE}")

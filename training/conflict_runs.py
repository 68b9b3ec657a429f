"""Finished TITA runs with angles between the gradients of their tasks, and whether they may be compared."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from training.curves import Curve, read_curves
from training.data.images import DataError
from training.tita_recipe import TITARecipe

RIGHT = 90.0
"""Degrees above which two tasks conflict."""


class Angles(NamedTuple):
    """Angles between the gradients of two tasks over a run.

    Attributes:
        measured: How many; those where a gradient was 0 do not count.
        mean: In degrees.
        deviation: Standard deviation between measurements.
        conflicts: Share of them above 90°.
    """

    measured: int
    mean: float
    deviation: float
    conflicts: float


@dataclass(frozen=True)
class ConflictRun:
    """A finished run with angles.

    Attributes:
        name: As it was given.
        recipe: As it was run.
        curves: All records by name.
    """

    name: str
    recipe: TITARecipe
    curves: Mapping[str, Curve]

    @cached_property
    def angles(self) -> dict[str, Curve]:
        """Angles by pair of tasks, ``TASK / TASK``; NaN where there was none."""
        return {key.replace("/", " / "): curve for key, curve in self._named("angle/").items()}

    @cached_property
    def weights(self) -> dict[str, Curve]:
        """Weights by task."""
        return self._named("weight/")

    @cached_property
    def scores(self) -> dict[str, float]:
        """Validation of the last step by ``TASK/METRIC``."""
        return {key: values[-1] for key, (_, values) in self._named("val/").items()}

    def _named(self, prefix: str) -> dict[str, Curve]:
        return {key.removeprefix(prefix): curve for key, curve in self.curves.items() if key.startswith(prefix)}

    def summary(self, pair: str) -> Angles:
        """What the angles of a pair of tasks come to."""
        values = np.array(self.angles[pair][1])
        found = values[np.isfinite(values)]
        if not found.size:
            return Angles(0, math.nan, math.nan, math.nan)
        return Angles(found.size, float(found.mean()), float(found.std()), float((found > RIGHT).mean()))


def read_run(name: str, folder: Path) -> ConflictRun:
    """A run folder.

    Raises:
        DataError: It is no run of TITA, is not finished, or has no angles.
    """
    path = folder / "recipe.json"
    try:
        recipe = TITARecipe.model_validate_json(path.read_text())
    except (OSError, ValidationError) as error:
        raise DataError(f"{name}: {path} is no recipe of TITA: give the folder of a tita run") from error
    run = ConflictRun(name, recipe, read_curves(folder))
    if not run.angles:
        raise DataError(
            f"{name}: {folder} has no angles: train it with --set validation.angles_every=20, and two tasks or more"
        )
    last = max((steps[-1] for key, (steps, _) in run.curves.items() if key.startswith("val/")), default=0)
    if last < recipe.steps:
        raise DataError(f"{name}: the run in {folder} was validated at step {last} of {recipe.steps}: finish it first")
    return run


def check_comparable(runs: Sequence[ConflictRun]) -> None:
    """Refuse runs whose results differ by more than how the losses were weighted.

    Raises:
        DataError: Two recipes differ beyond ``weighting``; the message names the sections.
    """
    first, *others = runs
    wanted = _beyond_weighting(first.recipe)
    for other in others:
        found = _beyond_weighting(other.recipe)
        if changed := [key for key in wanted if wanted[key] != found[key]]:
            raise DataError(
                f"{first.name} and {other.name} differ in more than their weighting ({', '.join(changed)}): "
                "compare runs of one recipe and one number of steps"
            )


def _beyond_weighting(recipe: TITARecipe) -> dict[str, object]:
    values: dict[str, object] = json.loads(recipe.model_dump_json(exclude={"weighting"}))
    return values

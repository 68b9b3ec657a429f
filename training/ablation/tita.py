"""The ablations of TITA: rows differ in the network, and in how the losses of the tasks become one."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from models.tita import ABLATIONS, TITAConfig
from training.ablation.measured import Measured, as_pairs, begun, measure_once, metric_values
from training.ablation.study import Skip, Study
from training.ablation.tables import Table
from training.ablation.tita_tables import MISSING, PLANS, Plan
from training.config import load_recipe
from training.data.images import DataError
from training.data.pairs import ImagePairs
from training.tita import TITATrainer, build_network, load_trained
from training.tita_recipe import TITARecipe

TASK = "infrared-visible"
"""Validation task of the recipe whose pairs are measured."""

ROWS_DECIDE = {key.name for key in fields(TITAConfig) if len({getattr(c, key.name) for c in ABLATIONS.values()}) > 1}
"""Values of a network that differ between rows."""


@dataclass(frozen=True)
class NetworkJob:
    """A row that can be run.

    Attributes:
        plan: How.
        network: What the recipe changes in the network of every row.
        parameters: Of the network with these changes.
        published: What the paper prints of them.
    """

    plan: Plan
    network: Mapping[str, Any]
    parameters: int
    published: str

    @property
    def settings(self) -> tuple[str, ...]:
        """Network and weighting."""
        return (f"profile={self.plan.profile}", f"weighting.kind={self.plan.weighting}")

    @property
    def departures(self) -> tuple[str, ...]:
        """Nothing: both settings are what the tables are about."""
        return ()

    def facts(self) -> dict[str, str]:
        """Its network, how large it is, and how its losses are weighted."""
        changes = ", ".join(f"{key}: {value}" for key, value in self.network.items())
        return {
            "network": f"{self.plan.profile} with {changes}" if changes else self.plan.profile,
            "parameters (paper)": f"{self.parameters:,} ({self.published})",
            "losses": "FAMO" if self.plan.weighting == "famo" else self.plan.weighting,
        }

    def record(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "profile": self.plan.profile,
            "network": dict(self.network),
            "weighting": self.plan.weighting,
            "parameters": self.parameters,
            "paper_parameters": self.published,
        }


class TITAStudy(Study[NetworkJob]):
    """One table of TITA.

    Args:
        args: Options of the command.
        table: The table.
        side: Of the measured pairs; None for native size.

    Raises:
        DataError: The recipe is wrong, sets what the rows decide, or has no pairs to measure.
    """

    def __init__(self, args: argparse.Namespace, table: Table, side: int | None) -> None:
        self.table, self.data = table, args.data
        self.name, self.overrides = args.recipe, tuple(args.set)
        self.recipe: TITARecipe = load_recipe(self.name, TITARecipe, args.set)
        _check_free(self.recipe, self.overrides)
        self.val = _measured_pairs(self.recipe, args.data)
        self.pairs = as_pairs(self.val, side, table.metrics)

    def build(self, row: str) -> NetworkJob | Skip:
        """How a row is trained, or why it must be left out."""
        if row in MISSING:
            return Skip(MISSING[row])
        plan = PLANS[self.table.number][row]
        network = build_network(plan.profile, self.recipe.network)
        count = sum(p.numel() for p in network.parameters())
        return NetworkJob(plan, self.recipe.network, count, self.table.parameters[row])

    def run(self, job: NetworkJob, folder: Path) -> Measured:
        """Train a row unless it is finished, and measure its averaged weights unless that is done."""
        recipe = load_recipe(self.name, TITARecipe, [*self.overrides, *job.settings])
        state = begun(folder, recipe, TITATrainer.kind)
        if state is None or state["step"] < recipe.steps:
            trainer = TITATrainer(recipe, self.data, folder)
            trainer.resume()
            trainer.fit()
        model, state = load_trained(folder)
        metrics = self.table.metrics
        return measure_once(
            folder, state, self.pairs, metrics, lambda: metric_values(folder.name, model, self.pairs, metrics)
        )


def _check_free(recipe: TITARecipe, overrides: Sequence[str]) -> None:
    """The rows' own values must be theirs: with the same one in all rows a row would not be what it is called."""
    for text in overrides:
        if (key := text.partition("=")[0]) in {"profile", "weighting.kind"}:
            raise DataError(f"--set {key}: each row of the table has its own; leave it out")
    if taken := sorted(ROWS_DECIDE & recipe.network.keys()):
        raise DataError(f"network: {', '.join(taken)} differs from row to row; leave it out of the recipe")


def _measured_pairs(recipe: TITARecipe, data: Path) -> ImagePairs:
    tasks = {task.name: task for task in recipe.validation.tasks}
    if TASK not in tasks or not tasks[TASK].pairs:
        raise DataError(f"the rows are measured on validation.tasks {TASK} of the recipe, which has no such pairs")
    return ImagePairs(data, tasks[TASK].pairs, max_cache_mb=recipe.max_cache_mb)

"""The ablation of UniFusion: rows differ in parts of the network, in its backbone, and in how it is trained."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from training.ablation.measured import Measured, Values, as_pairs, begun, measure_once, metric_values
from training.ablation.study import Skip, Study
from training.ablation.tables import Table
from training.ablation.unifusion_tables import CHANGES, SETS
from training.config import load_recipe
from training.data.images import DataError
from training.data.pairs import ImagePairs
from training.data.tasks import Task
from training.evaluation.pairs import Grey, Pair
from training.tita_validation import Example, TaskExamples
from training.unifusion import UniFusionTrainer, load_trained
from training.unifusion_network import load_network, network_config
from training.unifusion_recipe import UniFusionRecipe

_ALL = 1_000_000
"""Pairs of a task, and pixels of a side: more than there are."""


@dataclass(frozen=True)
class UniFusionJob:
    """A row that can be run.

    Attributes:
        settings: What it changes in the recipe.
        parameters: Trained, for fusing.
        backbone: Its name.
    """

    settings: tuple[str, ...]
    parameters: int
    backbone: str

    @property
    def departures(self) -> tuple[str, ...]:
        """Nothing: all settings are what the table is about."""
        return ()

    def facts(self) -> dict[str, str]:
        """How large its network is, around what, and what the recipe is told."""
        return {
            "backbone": self.backbone,
            "parameters": f"{self.parameters:,}",
            "recipe values": ", ".join(self.settings),
        }

    def record(self) -> dict[str, Any]:
        """The same for programs."""
        return {"backbone": self.backbone, "parameters": self.parameters}


class Images(NamedTuple):
    """Pairs of one validation task.

    Attributes:
        names: ``TASK/NAME`` each.
        pairs: Both images, 8 bit.
        counts: Pairs or single images by folder.
    """

    names: list[str]
    pairs: list[tuple[Grey, Grey]]
    counts: dict[str, int]


class UniFusionStudy(Study[UniFusionJob]):
    """The one table of UniFusion.

    Args:
        args: Options of the command.
        table: The table.
        side: Of the measured pairs; None for native size.

    Raises:
        DataError: The recipe is wrong, is not that of the full model, or has no pairs to measure.
    """

    def __init__(self, args: argparse.Namespace, table: Table, side: int | None) -> None:
        if args.seeds < 1:
            raise DataError(f"--seeds must be 1 or more, not {args.seeds}")
        self.table, self.data, self.seeds = table, args.data, args.seeds
        self.name, self.overrides = args.recipe, tuple(args.set)
        self.recipe: UniFusionRecipe = load_recipe(self.name, UniFusionRecipe, args.set)
        _check_full(self.recipe)
        tasks = _measured_tasks(self.recipe)
        found = {name: _images(self.recipe, task, args.data) for name, task in tasks.items()}
        self.val = Images(
            [name for images in found.values() for name in images.names],
            [pair for images in found.values() for pair in images.pairs],
            {f"{name}: {folder}": n for name, images in found.items() for folder, n in images.counts.items()},
        )
        self.pairs = {name: as_pairs(images, side, SETS[name]) for name, images in found.items()}

    @property
    def runs(self) -> int:
        """As many as ``--seeds`` asks for."""
        return self.seeds

    def notes(self) -> tuple[str, ...]:
        """How far the recipe departs from the paper's two levels, and which pairs are made."""
        levels, notes = self.recipe.levels, list[str]()
        if levels.fuse_grad_to_adapter:
            notes.append(
                f"In two levels the adapters also take {levels.fuse_grad_to_adapter:g} of the fusion loss's gradient "
                "(levels.fuse_grad_to_adapter), which is 0 in the paper."
            )
        if levels.skip_drop:
            notes.append(
                f"{levels.skip_drop:.0%} of the samples are rebuilt without the image skip (levels.skip_drop), none in "
                "the paper."
            )
        if made := [name for name, task in _measured_tasks(self.recipe).items() if task.made is not None]:
            notes.append(f"Of {', '.join(made)}, pairs are made of single images, the same every time.")
        return tuple(notes)

    def build(self, row: str) -> UniFusionJob | Skip:
        """How a row is trained, or why it must be left out."""
        backbone = self.recipe.backbone
        if row == "random" and (backbone.path is None or backbone.random):
            return Skip(
                "the backbone of all rows is random already; give the trained one with --set backbone.path=PATH"
            )
        recipe = self._recipe(CHANGES[row], self.recipe.seed)
        network = load_network(recipe)
        name = "none" if network.backbone is None else network.backbone.name
        return UniFusionJob(CHANGES[row], sum(p.numel() for p in network.parameters()), name)

    def run(self, job: UniFusionJob, folder: Path) -> Measured:
        """Train a row with every seed unless that is done, and measure it; the means over all seeds."""
        first = self.recipe.seed
        runs = [self._run(job, folder / f"seed{seed}", seed) for seed in range(first, first + self.seeds)]
        by_run = {name: np.array([run.values[name] for run in runs]) for name in self.table.metrics}  # (seeds, pairs)
        means = {name: values.mean(axis=0).tolist() for name, values in by_run.items()}
        seconds = sum(run.seconds for run in runs)
        measured = Measured(runs[0].steps, seconds, means)
        if self.seeds == 1:
            return measured
        spread = {name: float(np.nanmean(values, axis=1).std(ddof=1)) for name, values in by_run.items()}
        return replace(measured, seeds=self.seeds, spread=spread)

    def _run(self, job: UniFusionJob, folder: Path, seed: int) -> Measured:
        recipe = self._recipe(job.settings, seed)
        state = begun(folder, recipe, UniFusionTrainer.kind)
        if state is None or state["step"] < recipe.steps:
            trainer = UniFusionTrainer(recipe, self.data, folder)
            trainer.resume()
            trainer.fit()
        model, state = load_trained(folder)

        def measure() -> Values:
            label = folder.parent.name
            return self._spread_out(
                {name: metric_values(label, model, pairs, SETS[name]) for name, pairs in self.pairs.items()}
            )

        return measure_once(folder, state, self._all_pairs(), self.table.metrics, measure)

    def _recipe(self, settings: tuple[str, ...], seed: int) -> UniFusionRecipe:
        return load_recipe(self.name, UniFusionRecipe, [*self.overrides, *settings, f"seed={seed}"])

    def _all_pairs(self) -> list[Pair]:
        return [pair for pairs in self.pairs.values() for pair in pairs]

    def _spread_out(self, values: Mapping[str, Values]) -> Values:
        """Values of each set of pairs, as columns over the pairs of all sets."""
        columns = {}
        for name, metrics in SETS.items():
            for metric in metrics:
                own = {name: list(values[name][metric])}
                columns[f"{metric} {name}"] = [
                    value for other, pairs in self.pairs.items() for value in own.get(other, [np.nan] * len(pairs))
                ]
        return columns


def _check_full(recipe: UniFusionRecipe) -> None:
    """All rows but the full one take something away: it must be there."""
    config = network_config(recipe.profile, recipe.network)
    full = {
        "network.adapter": config.adapter == "hierarchical",
        "network.skip": config.skip,
        "network.encoder": config.encoder == "frozen",
        "network.reconstruction_depth": config.reconstruction_depth > 0,
        "levels.joint": not recipe.levels.joint,
    }
    if lacking := [key for key, there in full.items() if not there]:
        raise DataError(f"the row full would not be it with the recipe's {', '.join(lacking)}: leave that to the rows")


def _measured_tasks(recipe: UniFusionRecipe) -> dict[str, Task]:
    tasks = {task.name: task for task in recipe.validation.tasks if task.name in SETS}
    if missing := [name for name in SETS if name not in tasks]:
        wanted = ", ".join(SETS)
        raise DataError(f"the rows are measured on validation.tasks {wanted} of the recipe; it has no {missing[0]}")
    return {name: tasks[name] for name in SETS}


def _images(recipe: UniFusionRecipe, task: Task, data: Path) -> Images:
    """All pairs of a validation task."""
    made = _made(recipe, task, data)
    pairs, names, counts = made, [f"{task.name}/made {place}" for place in range(1, len(made) + 1)], dict[str, int]()
    if task.made is not None:
        counts = {", ".join(folder.path for folder in task.made.images): len(made)}
    if task.pairs:
        found = ImagePairs(data, task.pairs, max_cache_mb=recipe.max_cache_mb)
        pairs, names = [*found.pairs, *made], [*(f"{task.name}/{name}" for name in found.names), *names]
        counts = found.counts | counts
    return Images(names, pairs, counts)


def _made(recipe: UniFusionRecipe, task: Task, data: Path) -> list[tuple[Grey, Grey]]:
    """The pairs that are made of single images, whole."""
    if task.made is None:
        return []
    only = task.model_copy(update={"pairs": ()})
    config = recipe.validation.model_copy(update={"tasks": (only,), "pairs": _ALL, "side": _ALL})
    examples = TaskExamples(data, config, max_cache_mb=recipe.max_cache_mb).examples[task.name]
    return [_as_levels(example) for example in examples]


def _as_levels(example: Example) -> tuple[Grey, Grey]:
    a, b = ((255.0 * image[0, 0].numpy()).round().astype(np.uint8) for image in (example.a, example.b))
    return a, b

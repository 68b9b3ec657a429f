"""The ablations of TiTok+STE: rows differ in tokens and slots."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from models.ste import SlotSpec
from training.ablation.asked import asked_columns, tone_errors
from training.ablation.backbones import BACKBONES
from training.ablation.measured import Measured, Values, as_pairs, begun, measure_once, metric_values
from training.ablation.rows import Rows, TokenJob
from training.ablation.study import Skip, Study
from training.ablation.tables import TABLES, Table
from training.config import load_recipe
from training.data.images import DataError
from training.data.pairs import ImagePairs
from training.probing.slots import write_json
from training.titok_ste import FusionTrainer, load_trained
from training.titok_ste_recipe import FusionRecipe

OPTIONS = ("tokenizer", "slots", "tokenizer_for", "slots_for", "backbone")
"""Those that only this model takes."""

KeyT = TypeVar("KeyT")


def add_options(parser: argparse._ArgumentGroup) -> None:
    """Options that only this model takes."""
    parser.add_argument("--tokenizer", type=Path, help="its run folder, a bundle, or TiTok weights")
    parser.add_argument("--slots", type=Path, metavar="FILE", help="its slot file (default: slots are probed here)")
    for option, metavar, text in (
        ("tokenizer-for", "K=PATH", "table 4: tokenizer of K tokens, repeatable"),
        ("slots-for", "S=FILE", "table 7: slot file with S slots, repeatable"),
        ("backbone", "NAME=FILE", f"table 6: weights of {' or '.join(BACKBONES)}, repeatable"),
    ):
        parser.add_argument(f"--{option}", action="append", default=[], metavar=metavar, help=text)


class TokenStudy(Study[TokenJob]):
    """One table of TiTok+STE.

    Args:
        args: Options of the command.
        table: The table.
        side: Of the measured pairs; None for native size.

    Raises:
        DataError: An option is wrong or missing, or the recipe or its pairs are wrong.
    """

    def __init__(self, args: argparse.Namespace, table: Table, side: int | None) -> None:
        if args.tokenizer is None:
            raise DataError("titok-ste is built around a tokenizer: give --tokenizer")
        self.table, self.data = table, args.data
        self.name, self.overrides = args.recipe, tuple(args.set)
        self.recipe: FusionRecipe = load_recipe(self.name, FusionRecipe, args.set)
        self.rows = _rows(args, self.recipe)
        self.val = ImagePairs(args.data, self.recipe.val)
        self.pairs = as_pairs(self.val, side, table.metrics)

    def build(self, row: str) -> TokenJob | Skip:
        """What a row needs, or why it must be left out."""
        return self.rows.build(self.table.number, row)

    def run(self, job: TokenJob, folder: Path) -> Measured:
        """Train a row unless it is finished, and measure it at the default strength unless that is done."""
        recipe = load_recipe(self.name, FusionRecipe, [*self.overrides, *job.settings])
        _train(job, recipe, self.data, folder)
        write_json(folder / "slots.json", job.slots.to_dict())
        model, state = load_trained(folder, job.source)

        def measure() -> Values:
            found = metric_values(folder.name, model, self.pairs, self.table.metrics)
            return {**found, **tone_errors(model, self.pairs, recipe)}

        return measure_once(folder, state, self.pairs, [*self.table.metrics, *asked_columns(recipe)], measure)


def _rows(args: argparse.Namespace, recipe: FusionRecipe) -> Rows:
    tokenizers = parse_paths("tokenizer-for", args.tokenizer_for, map(int, TABLES[4].rows))
    budgets = parse_paths("slots-for", args.slots_for, map(int, TABLES[7].rows))
    backbones = parse_paths("backbone", args.backbone, BACKBONES)
    fixed = tuple(text.partition("=")[0] for text in args.set)
    pairs = ImagePairs(args.data, recipe.train)
    return Rows(args.tokenizer, pairs, args.slots, tokenizers, budgets, backbones, fixed)


def _train(job: TokenJob, recipe: FusionRecipe, data: Path, folder: Path) -> None:
    """Train, or go on training; a finished row is left as it is.

    Raises:
        DataError: The folder holds a run of another recipe, tokenizer or choice of slots.
    """
    if _steps_done(job, recipe, folder) >= _steps_wanted(recipe):
        return
    trainer = FusionTrainer(recipe, job.source, job.slots, data, folder)
    trainer.resume()
    trainer.fit()


def _steps_wanted(recipe: FusionRecipe) -> int:
    schedule = recipe.schedule
    return (schedule.stage1_epochs + schedule.stage2_epochs) * schedule.steps_per_epoch


def _steps_done(job: TokenJob, recipe: FusionRecipe, folder: Path) -> int:
    """Steps of the run in a folder, 0 for a new one, once it is known to be the same run."""
    state = begun(folder, recipe, FusionTrainer.kind)
    if state is None:
        return 0
    before = SlotSpec.from_dict(json.loads(state["slots"]))
    if before.tokenizer_id != job.source.tokenizer_id:
        raise DataError(
            f"the run in {folder} was begun with the tokens of {before.tokenizer_id}, not of "
            f"{job.source.tokenizer_id}: give another --out"
        )
    if (before.positions, before.channels) != (job.slots.positions, job.slots.channels):
        raise DataError(f"the run in {folder} was begun with other edit slots: give another --out, or those slots")
    return int(state["step"])


def parse_paths(option: str, items: Sequence[str], keys: Iterable[KeyT]) -> dict[KeyT, Path]:
    """What a repeatable option ``--option KEY=PATH`` says.

    Raises:
        DataError: It is written otherwise, the key is unknown or given twice, or there is no such path.
    """
    known = {str(key): key for key in keys}
    found: dict[KeyT, Path] = {}
    for item in items:
        key, equals, path = item.partition("=")
        if not equals or key not in known:
            raise DataError(f"--{option} {item}: write it as KEY=PATH with a KEY of {', '.join(known)}")
        if known[key] in found:
            raise DataError(f"--{option} gives {key} twice")
        if not Path(path).exists():
            raise DataError(f"--{option} {item}: there is no {path}")
        found[known[key]] = Path(path)
    return found

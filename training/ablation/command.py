"""The command ``ablate``: run the rows of a table of the paper and write it with the paper's values beside ours."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from training.ablation.backbones import BACKBONES
from training.ablation.measured import as_pairs, measure_row, train_row
from training.ablation.report import Outcome, Row, Setting, to_markdown, write_table
from training.ablation.rows import Job, Rows
from training.ablation.tables import TABLES, choose_rows
from training.config import load_recipe
from training.data.images import DataError
from training.data.pairs import ImagePairs
from training.evaluation.pairs import Pair
from training.evaluation.selection import parse_size
from training.probing.slots import write_json
from training.titok_ste_recipe import FusionRecipe

CONTROLS = (6, ("titok", "none"))
"""The most important control: the same network with tokens and without."""

KeyT = TypeVar("KeyT")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m training ablate``."""
    parser.add_argument("model", choices=["titok-ste"], help="the model whose ablations the paper shows")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--table", type=int, choices=sorted(TABLES), help="number in the paper")
    what.add_argument("--controls", action="store_true", help="short for --table 6 --rows titok none")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="only these rows, the first as reference")
    parser.add_argument("--data", type=Path, required=True, help="data root that the recipe's folders lie in")
    parser.add_argument("--tokenizer", type=Path, required=True, help="its run folder, a bundle, or TiTok weights")
    parser.add_argument("--slots", type=Path, metavar="FILE", help="its slot file (default: slots are probed here)")
    parser.add_argument("--recipe", default="titok-ste-lite-short", help="recipe name or .yaml path of every row")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a recipe value")
    parser.add_argument("--size", default="native", help="of the measured pairs: native, or a side such as 256")
    parser.add_argument("--out", type=Path, required=True, help="folder; finished rows there are not run again")
    for option, metavar, text in (
        ("tokenizer-for", "K=PATH", "table 4: tokenizer of K tokens, repeatable"),
        ("slots-for", "S=FILE", "table 7: slot file with S slots, repeatable"),
        ("backbone", "NAME=FILE", f"table 6: weights of {' or '.join(BACKBONES)}, repeatable"),
    ):
        parser.add_argument(f"--{option}", action="append", default=[], metavar=metavar, help=text)


def run(args: argparse.Namespace) -> None:
    """Run every row that is not finished, measure it, and write the table anew after each.

    Raises:
        DataError: An option is wrong, or a row failed; the rows before it are finished and in the table.
    """
    number, names = (CONTROLS[0], args.rows or list(CONTROLS[1])) if args.controls else (args.table, args.rows)
    table = TABLES[number]
    chosen = choose_rows(table, names)
    recipe = load_recipe(args.recipe, FusionRecipe, args.set)
    side = parse_size(args.size)
    builder = _builder(args, recipe)
    val = ImagePairs(args.data, recipe.val)
    pairs = as_pairs(val, side)
    folder = args.out / f"table{number}"
    setting = Setting(
        args.recipe,
        tuple(args.set),
        recipe.seed,
        ", ".join(val.counts),
        "native" if side is None else f"{side}×{side}",
        tuple(val.names),
    )
    rows = {name: Row(name) for name in chosen}
    for place, name in enumerate(chosen, start=1):
        print(f"table {number}, row {name} ({place} of {len(chosen)})", flush=True)
        rows[name] = _run_row(args, number, name, builder, folder / name, pairs)
        write_table(Outcome(table, setting, tuple(rows.values())), folder)
    print("\n" + to_markdown(Outcome(table, setting, tuple(rows.values()))), end="")
    print(f"\nwritten: {folder / 'table.md'}, table.json")


def _builder(args: argparse.Namespace, recipe: FusionRecipe) -> Rows:
    tokenizers = parse_paths("tokenizer-for", args.tokenizer_for, map(int, TABLES[4].rows))
    budgets = parse_paths("slots-for", args.slots_for, map(int, TABLES[7].rows))
    backbones = parse_paths("backbone", args.backbone, BACKBONES)
    fixed = tuple(text.partition("=")[0] for text in args.set)
    pairs = ImagePairs(args.data, recipe.train)
    return Rows(args.tokenizer, pairs, args.slots, tokenizers, budgets, backbones, fixed)


def _run_row(
    args: argparse.Namespace, number: int, name: str, builder: Rows, folder: Path, pairs: Sequence[Pair]
) -> Row:
    """Build, train and measure one row."""
    try:
        job = builder.build(number, name)
        if not isinstance(job, Job):
            print(f"left out: {job.reason}")
            return Row(name, job)
        recipe = load_recipe(args.recipe, FusionRecipe, [*args.set, *job.settings])
        train_row(job, recipe, args.data, folder)
        write_json(folder / "slots.json", job.slots.to_dict())
        return Row(name, job, measure_row(job.source, folder, pairs, TABLES[number].metrics, recipe))
    except (DataError, FileNotFoundError) as error:
        raise DataError(f"table {number}, row {name}: {error}; finished rows are kept in {folder.parent}") from error


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

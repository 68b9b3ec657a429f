"""The command ``ablate``: run the rows of a table of the paper and write it with the paper's values beside ours."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from training.ablation import tables, tita, tita_tables, titok_ste, unifusion, unifusion_tables
from training.ablation.report import Outcome, Row, Setting, to_markdown, write_table
from training.ablation.study import Skip, Study
from training.ablation.tables import Table, choose_rows
from training.data.images import DataError
from training.evaluation.selection import parse_size

CONTROLS = (6, ("titok", "none"))
"""The most important control of TiTok+STE: the same network with tokens and without."""


class Ablated(NamedTuple):
    """A model whose ablations its paper shows.

    Attributes:
        tables: Of the paper, by number; its only one without a number is 0.
        study: Makes the study of a table from the command's options and the side of the measured pairs.
        recipe: Used unless another is asked for.
    """

    tables: Mapping[int, Table]
    study: type[titok_ste.TokenStudy] | type[tita.TITAStudy] | type[unifusion.UniFusionStudy]
    recipe: str


MODELS = {
    "titok-ste": Ablated(tables.TABLES, titok_ste.TokenStudy, "titok-ste-lite-short"),
    "tita": Ablated(tita_tables.TABLES, tita.TITAStudy, "tita-ablation"),
    "unifusion": Ablated(unifusion_tables.TABLES, unifusion.UniFusionStudy, "unifusion-ablation"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m training ablate``."""
    numbers = {name: ", ".join(map(str, model.tables)) for name, model in MODELS.items() if 0 not in model.tables}
    recipes = ", ".join(f"{name}: {model.recipe}" for name, model in MODELS.items())
    parser.add_argument("model", choices=list(MODELS), help="the model whose ablations its paper shows")
    what = parser.add_mutually_exclusive_group()
    help_text = "number in the paper: " + "; ".join(f"{known} of {name}" for name, known in numbers.items())
    help_text += "; unifusion has one table"
    what.add_argument("--table", type=int, metavar="N", help=help_text)
    what.add_argument("--controls", action="store_true", help="titok-ste: short for --table 6 --rows titok none")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="only these rows, the first as reference")
    parser.add_argument("--data", type=Path, required=True, help="data root that the recipe's folders lie in")
    parser.add_argument("--recipe", help=f"recipe name or .yaml path of every row (default: {recipes})")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a recipe value")
    parser.add_argument("--size", default="native", help="of the measured pairs: native, or a side such as 256")
    parser.add_argument("--out", type=Path, required=True, help="folder; finished rows there are not run again")
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="unifusion: runs of each row, other seeds each"
    )
    titok_ste.add_options(parser.add_argument_group("titok-ste, which is built around a tokenizer"))


def run(args: argparse.Namespace) -> None:
    """Run every row that is not finished, measure it, and write the table anew after each.

    Raises:
        DataError: An option is wrong, or a row failed; the rows before it are finished and in the table.
    """
    model = MODELS[args.model]
    table, chosen = _choose(args, model.tables)
    args.recipe = args.recipe or model.recipe
    side = parse_size(args.size)
    study: Study[Any] = model.study(args, table, side)
    folder = args.out / table.name.replace(" ", "")
    setting = Setting(
        args.recipe,
        tuple(args.set),
        study.recipe.seed,
        ", ".join(study.val.counts),
        "native" if side is None else f"{side}×{side}",
        tuple(study.val.names),
        study.runs,
    )
    table = replace(table, notes=(*table.notes, *study.notes()))
    rows = {name: Row(name) for name in chosen}
    for place, name in enumerate(chosen, start=1):
        print(f"{table.name}, row {name} ({place} of {len(chosen)})", flush=True)
        rows[name] = _run_row(study, table, name, folder / name)
        write_table(Outcome(table, setting, tuple(rows.values())), folder)
    print("\n" + to_markdown(Outcome(table, setting, tuple(rows.values()))), end="")
    print(f"\nwritten: {folder / 'table.md'}, table.json")


def _choose(args: argparse.Namespace, known: Mapping[int, Table]) -> tuple[Table, list[str]]:
    """The table and its rows that are asked for."""
    if args.model != "titok-ste":
        given = [name for name in (*titok_ste.OPTIONS, "controls") if getattr(args, name)]
        if given:
            raise DataError(f"{args.model} has no tokens: leave out --{given[0].replace('_', '-')}")
    if args.model != "unifusion" and args.seeds != 1:
        raise DataError(f"the rows of {args.model} are run with one seed: leave out --seeds")
    number, names = (CONTROLS[0], args.rows or list(CONTROLS[1])) if args.controls else (args.table, args.rows)
    if 0 in known and number is None:
        number = 0
    elif 0 in known:
        raise DataError(f"{args.model} has one table: leave out --table")
    if number not in known:
        missing = "give --table" if number is None else f"{args.model} has no table {number}"
        raise DataError(f"{missing}; known: {', '.join(map(str, known))}")
    return known[number], choose_rows(known[number], names)


def _run_row(study: Study[Any], table: Table, name: str, folder: Path) -> Row:
    """Build, train and measure one row."""
    try:
        job = study.build(name)
        if isinstance(job, Skip):
            print(f"left out: {job.reason}")
            return Row(name, job)
        return Row(name, job, study.run(job, folder))
    except (DataError, FileNotFoundError) as error:
        raise DataError(f"{table.name}, row {name}: {error}; finished rows are kept in {folder.parent}") from error

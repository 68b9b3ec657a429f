"""The command ``check-data``: what a recipe's pairs are, before a run is started with them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import BaseModel, model_validator

from training.config import ImageFolder, PairFolder, load_recipe
from training.data.cases import case_of, cases_in_both
from training.data.folders import PairFiles, find_images, find_pairs
from training.data.images import DataError, Size, check_pairs, image_size, read_all


class PairLists(BaseModel):
    """The pairs of any recipe that has them; its other keys are not looked at.

    Attributes:
        train: To train with.
        val: To validate with.
        single_train: Single images that pairs are made of while training.
        single_val: Those of validation.
    """

    train: list[PairFolder]
    val: list[PairFolder]
    single_train: list[ImageFolder] = []
    single_val: list[ImageFolder] = []

    @model_validator(mode="before")
    @classmethod
    def _of_tasks(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The lists of a recipe that has them by task."""
        if "tasks" not in values:
            return values
        sides = {"train": values["tasks"], "val": values.get("validation", {}).get("tasks", [])}
        pairs = {side: [pair for task in tasks for pair in task.get("pairs", [])] for side, tasks in sides.items()}
        made = {
            f"single_{side}": [image for task in tasks if "made" in task for image in task["made"].get("images", [])]
            for side, tasks in sides.items()
        }
        return pairs | made


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m training check-data``."""
    parser.add_argument("--recipe", default="titok-ste-lite", help="recipe of pairs: name or .yaml path")
    parser.add_argument("--data", type=Path, required=True, help="data root that the recipe's folders lie in")
    parser.add_argument("--case-pattern", help="regular expression with one group: the case in a file's name")
    parser.add_argument("--read", action="store_true", help="read every image in full; without it, headers only")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a recipe value")


def run(args: argparse.Namespace) -> None:
    """Print every entry with its pairs, sizes and memory, and what train and val share.

    Raises:
        DataError: The images are not what the recipe asks for, or a case or a pair is in both train and val.
    """
    lists = load_recipe(args.recipe, PairLists, args.set)
    train, val = ([find_pairs(args.data, entry) for entry in part] for part in (lists.train, lists.val))
    pattern = args.case_pattern or _pattern([*lists.train, *lists.val])
    entries = [*(("train", entry) for entry in train), *(("val", entry) for entry in val)]
    megabytes = sum(_describe(side, entry, pattern, read=args.read) for side, entry in entries)
    single_train, single_val = (
        _singles(side, args.data, folders)
        for side, folders in (("train", lists.single_train), ("val", lists.single_val))
    )
    print(f"{megabytes:.1f} MB of memory for all pairs")
    _compare(train, val, pattern)
    if shared := single_train & single_val:
        raise DataError(f"train and val share {_count(len(shared), 'single image')}, e.g. {min(shared)}")


def _pattern(entries: Sequence[PairFolder]) -> str | None:
    """The case pattern of the first entry that is split by case."""
    return next((entry.cases.pattern for entry in entries if entry.cases is not None), None)


def _describe(side: str, entry: PairFiles, pattern: str | None, *, read: bool) -> float:
    """Print one line for an entry; returns its megabytes."""
    sizes = check_pairs(entry.files)
    if read:
        read_all(list(chain.from_iterable(entry.files)))
    megabytes = 2e-6 * sum(height * width for height, width in sizes)
    cases = {case_of(name, pattern) for name in entry.names} - {None} if pattern is not None else set()
    counted = f", {_count(len(cases), 'case')}" if cases else ""
    print(f"{side:5}  {entry.label}: {_count(len(sizes), 'pair')}{counted}, {_range(sizes)}, {megabytes:.1f} MB")
    return megabytes


def _singles(side: str, root: Path, folders: Sequence[ImageFolder]) -> set[Path]:
    """Print one line for each folder of single images; returns all files."""
    files: set[Path] = set()
    for folder in {folder.path: folder for folder in folders}.values():  # several tasks may make pairs of one folder
        found = [*chain.from_iterable(find_images(root, folder))]
        print(f"{side:5}  {folder.path}: {_count(len(found), 'single image')}, {_range([*map(image_size, found)])}")
        files |= {*found}
    return files


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _range(sizes: Sequence[Size]) -> str:
    heights, widths = zip(*sizes, strict=True)
    spans = [f"{min(x)}" if min(x) == max(x) else f"{min(x)}–{max(x)}" for x in (heights, widths)]
    return "×".join(spans)


def _compare(train: Sequence[PairFiles], val: Sequence[PairFiles], pattern: str | None) -> None:
    """Say what train and val share.

    Raises:
        DataError: They share files, or cases.
    """
    files = {path for entry in train for path, _ in entry.files}
    twice = [path for entry in val for path, _ in entry.files if path in files]
    if twice:
        raise DataError(f"train and val share {_count(len(twice), 'pair')}, e.g. {twice[0]}")
    if pattern is None:
        return
    train_names, val_names = ([name for entry in part for name in entry.names] for part in (train, val))
    shared = cases_in_both(train_names, val_names, pattern)
    if shared:
        raise DataError(
            f"train and val share {_count(len(shared), 'case')}: {', '.join(shared)}: give each folder a `cases` entry "
            "with the same `val_cases`"
        )
    print("no case is in both train and val")

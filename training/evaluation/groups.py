"""Kinds of scene: which group each pair belongs to, from a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from training.data.images import DataError


def read_groups(path: Path, pairs: Sequence[str]) -> dict[str, str]:
    """The group of every pair.

    Args:
        path: CSV with the columns ``name`` (file name of the pair without its suffix) and ``group``. Lines of
            other pairs are passed over.
        pairs: Names of the pairs.

    Raises:
        DataError: The file cannot be read, has other columns, or names a pair twice or not at all.
    """
    groups: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file)
            for line in lines:
                name, group = line.get("name"), line.get("group")
                if not name or not group:
                    raise DataError(f"{path}, line {lines.line_num}: no name or no group; the first line is name,group")
                if groups.setdefault(name, group) != group:
                    raise DataError(f"{path} puts {name!r} into two groups, {groups[name]} and {group}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    missing = [name for name in pairs if name not in groups]
    if missing:
        raise DataError(f"{path} has no group for {len(missing)} pairs, e.g. {missing[0]!r}")
    return {name: groups[name] for name in pairs}

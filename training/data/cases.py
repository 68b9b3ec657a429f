"""Splits by case (patient), so that neighbouring slices of one case never stand on both sides."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from training.config import CaseSplit
from training.data.images import DataError, list_images


def case_of(name: str, pattern: str) -> str | None:
    """The case that a file's name (without suffix) belongs to, None if the pattern does not fit the whole name."""
    match = re.fullmatch(pattern, name)
    return None if match is None else match.group(1)


def cases_in_both(names: Iterable[str], others: Iterable[str], pattern: str) -> list[str]:
    """Cases that occur in two lists of file names, sorted; names that do not fit the pattern have no case."""
    first, second = ({case_of(name, pattern) for name in part} - {None} for part in (names, others))
    return sorted(case for case in first & second if case is not None)


def is_val_case(case: str, split: CaseSplit) -> bool:
    """Whether a case is on the val side: by its number alone, whatever else lies in its folder."""
    if split.fraction is None:
        return case in split.val_cases
    digest = hashlib.sha256(f"{split.seed}:{case}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64 >= split.fraction


def keep_cases(names: Sequence[str], split: CaseSplit, root: Path, what: str) -> list[bool]:
    """Which file names (without suffix) the split keeps.

    Args:
        names: As the folder has them.
        split: What to keep.
        root: Data root, for the folders of ``exclude_cases_of``.
        what: Calls the folder in messages.

    Raises:
        DataError: A name does not fit the pattern, or nothing is left.
    """
    cases = [_case(name, split.pattern, what) for name in names]
    excluded = {
        _case(path.stem, split.pattern, folder)
        for folder in split.exclude_cases_of
        for path in list_images(root / folder)
    }
    keep = [c not in excluded and split.part in {None, "val" if is_val_case(c, split) else "train"} for c in cases]
    if not any(keep):
        raise DataError(f"{what}: nothing is left of the cases {_list(cases)}: {_why(set(cases), excluded, split)}")
    return keep


def _case(name: str, pattern: str, what: str) -> str:
    case = case_of(name, pattern)
    if case is None:
        raise DataError(f"{what}: {name!r} does not fit the case pattern {pattern!r}: set `cases.pattern`")
    return case


def _why(cases: set[str], excluded: set[str], split: CaseSplit) -> str:
    if cases <= excluded:
        return f"each of them is in {', '.join(split.exclude_cases_of)}; choose `part` and `val_cases` instead"
    other = "val" if split.part == "train" else "train"
    return f"they are on the {other} side, or excluded; change `val_cases`, `fraction` or `seed`"


def _list(cases: Iterable[str]) -> str:
    return ", ".join(sorted(set(cases), key=lambda case: (len(case), case)))

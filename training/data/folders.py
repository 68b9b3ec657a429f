"""From an entry of a recipe to the pairs of files that it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

from training.config import PairFolder
from training.data.cases import keep_cases
from training.data.images import SUFFIXES, DataError, match_pairs
from training.data.layouts import LAYOUTS, find_folders

Files = tuple[Path, Path]


@dataclass(frozen=True)
class PairFiles:
    """The pairs of one entry.

    Attributes:
        label: Both folders relative to the data root: the entry's name in records.
        files: Paths of images A and B, sorted by name.
    """

    label: str
    files: tuple[Files, ...]

    @property
    def names(self) -> list[str]:
        """File stem of each pair."""
        return [a.stem for a, _ in self.files]


def find_pairs(root: Path, entry: PairFolder) -> PairFiles:
    """The pairs that an entry stands for; no image is opened.

    Raises:
        DataError: A folder, a partner or a listed name is missing, the count is not the expected one, or the split by
            case leaves nothing. The message says what to change.
    """
    folder_a, folder_b = _folders(root, entry)
    label = f"{_relative(folder_a, root)} + {_relative(folder_b, root)}"
    files = match_pairs(folder_a, folder_b)
    if entry.names is not None:
        files = _listed(files, read_names(root / entry.names), root / entry.names, label)
    _check_count(len(files), entry, f"{folder_a} + {folder_b}")
    if entry.cases is not None:
        files = list(compress(files, keep_cases([a.stem for a, _ in files], entry.cases, root, label)))
    return PairFiles(label, tuple(files[: entry.limit]))


def read_names(path: Path) -> list[str]:
    """File names from a text file, one a line, without the suffix of an image; ``#`` begins a comment.

    Raises:
        DataError: The file cannot be read, or holds no name.
    """
    try:
        lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"list of names {path}: {error}") from error
    names = [Path(line).stem if Path(line).suffix.lower() in SUFFIXES else line for line in lines if line]
    if not names:
        raise DataError(f"list of names {path} holds no name: write one file name a line")
    return names


def _folders(root: Path, entry: PairFolder) -> Files:
    if entry.layout is not None and entry.split is not None:
        return find_folders(root / entry.root, entry.layout, entry.split)
    assert entry.a is not None
    assert entry.b is not None
    return root / entry.a, root / entry.b


def _relative(folder: Path, root: Path) -> str:
    return folder.relative_to(root).as_posix() if folder.is_relative_to(root) else str(folder)


def _listed(files: Sequence[Files], names: Sequence[str], path: Path, label: str) -> list[Files]:
    wanted = set(names)
    if len(wanted) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"list of names {path} has {twice!r} twice")
    missing = sorted(wanted - {a.stem for a, _ in files})
    if missing:
        raise DataError(f"{len(missing)} of {len(names)} names in {path} are not in {label}, e.g. {missing[0]}")
    return [pair for pair in files if pair[0].stem in wanted]


def _check_count(found: int, entry: PairFolder, where: str) -> None:
    expected = entry.expect
    if expected is None and entry.layout is not None and entry.split is not None:
        split = LAYOUTS[entry.layout].splits[entry.split]
        expected = split.pairs if split.listed or entry.names is None else None
    if expected in {None, "any", found}:
        return
    source = f" ({entry.layout}, split {entry.split})" if entry.expect is None else ""
    raise DataError(
        f"expected {expected} pairs in {where}{source}, found {found}: complete the images, or accept what is there "
        f"with `expect: {found}` or `expect: any` in the recipe"
    )

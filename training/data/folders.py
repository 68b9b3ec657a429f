"""From an entry of a recipe to the files that it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import TypeVar

from training.config import CaseSplit, ImageFolder, PairFolder
from training.data.cases import keep_cases
from training.data.images import SUFFIXES, DataError, list_images, match_pairs
from training.data.layouts import LAYOUTS, find_places
from training.data.places import Place, match_places

Files = tuple[Path, Path]
FilesT = TypeVar("FilesT", bound=tuple[Path, ...])


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
    place_a, place_b = _places(root, entry)
    label = f"{_relative(place_a, root)} + {_relative(place_b, root)}"
    files = match_places(place_a, place_b)
    if entry.names is not None:
        files = _listed(files, read_names(root / entry.names), root / entry.names, label)
    _check_count(len(files), entry, f"{place_a} + {place_b}")
    return PairFiles(label, tuple(_of_cases(files, entry.cases, root, label)[: entry.limit]))


def find_images(root: Path, entry: ImageFolder) -> list[tuple[Path, ...]]:
    """The images of an entry by name: (image,), or (image, partner) where they belong to pairs; none is opened.

    Raises:
        DataError: A folder or a partner is missing, or the split by case leaves nothing.
    """
    files: Sequence[tuple[Path, ...]] = (
        [(path,) for path in list_images(root / entry.path)]
        if entry.partner is None
        else match_pairs(root / entry.path, root / entry.partner)
    )
    return _of_cases(files, entry.cases, root, entry.path)


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


def _places(root: Path, entry: PairFolder) -> tuple[Place, Place]:
    if entry.layout is not None and entry.split is not None:
        return find_places(root / entry.root, entry.layout, entry.split)
    assert entry.a is not None
    assert entry.b is not None
    return Place(root / entry.a), Place(root / entry.b)


def _relative(place: Place, root: Path) -> str:
    if not place.folder.is_relative_to(root):
        return str(place)
    return str(replace(place, folder=place.folder.relative_to(root)))


def _of_cases(files: Sequence[FilesT], split: CaseSplit | None, root: Path, label: str) -> list[FilesT]:
    if split is None:
        return list(files)
    return list(compress(files, keep_cases([images[0].stem for images in files], split, root, label)))


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

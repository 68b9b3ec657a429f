"""Where one image of every pair lies: a folder, the part of a folder with a mark in its names, a folder per scene."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from training.data.images import SUFFIXES, DataError, match_pairs


@dataclass(frozen=True)
class Place:
    """Where one image of every pair lies.

    Attributes:
        folder: Holds the images, or the scenes.
        mark: End of the names (without suffix) that count, in upper or lower case; what is before it names the pair.
        scenes: Every pair has a sub-folder of its own, which names it.
    """

    folder: Path
    mark: str = ""
    scenes: bool = False

    def __str__(self) -> str:
        folder = self.folder.as_posix()
        return f"{folder}/{'*/' * self.scenes}*{self.mark}" if self.mark else folder

    @classmethod
    def below(cls, root: Path, pattern: str) -> Self | None:
        """The place of a pattern below a root, None if there is none; folder names match in any case.

        A pattern is a folder (``source_1``), a folder with a mark (``imageA/*_A``, or ``*-A`` for the root itself), or
        a folder of scenes with a mark (``input/*/*_A``).
        """
        *folders, last = pattern.split("/")
        mark = last.removeprefix("*") if last.startswith("*") else ""
        if not mark:
            folders.append(last)
        scenes = bool(mark) and folders[-1:] == ["*"]
        folder = _folder_below(root, folders[:-1] if scenes else folders)
        if folder is None:
            return None
        place = cls(folder, mark, scenes)
        return place if not mark or any(place._marked()) else None

    def images(self) -> dict[str, Path]:
        """The images by the name of their pair.

        Raises:
            DataError: A pair has two images here.
        """
        found: dict[str, Path] = {}
        for path in self._marked():
            name = path.parent.name if self.scenes else path.stem[: -len(self.mark)]
            if name in found:
                raise DataError(f"{found[name]} and {path.name} are both image {self.mark} of {name}: remove one")
            found[name] = path
        return found

    def _marked(self) -> Iterator[Path]:
        folders = sorted(p for p in self.folder.iterdir() if p.is_dir()) if self.scenes else [self.folder]
        for folder in folders:
            for path in sorted(folder.iterdir()):
                marked = path.stem.lower().endswith(self.mark.lower()) and not path.name.startswith(".")
                if marked and path.suffix.lower() in SUFFIXES:
                    yield path


def match_places(a: Place, b: Place) -> list[tuple[Path, Path]]:
    """The pairs of two places, sorted by name.

    Raises:
        DataError: An image has no partner, or a name stands for two images.
    """
    if not a.mark and not b.mark:
        return match_pairs(a.folder, b.folder)
    images_a, images_b = a.images(), b.images()
    lonely = sorted(images_a.keys() ^ images_b.keys())
    if lonely:
        where = a if lonely[0] in images_a else b
        raise DataError(f"{len(lonely)} images have no partner, e.g. {lonely[0]}, which is only in {where}")
    return [(images_a[name], images_b[name]) for name in sorted(images_a)]


def _folder_below(root: Path, parts: list[str]) -> Path | None:
    """The folder of that name, upper and lower case alike; None if there is none."""
    folder = root
    for part in parts:
        exact = folder / part
        alike = [exact] if exact.is_dir() else sorted(p for p in folder.glob("*") if p.name.lower() == part.lower())
        if not alike:
            return None
        folder = alike[0]
    return folder if folder.is_dir() else None

"""Published data sets by name: which folders hold which modality, and how many pairs each split has.

A recipe may write ``{layout: msrs, root: MSRS, split: train}`` instead of two folder names. Image A is the visible one,
and MRI in the medical sets; image B is infrared, CT, PET or SPECT. The splits named ``paper-*`` have the sizes
that the paper "From 2D Grids to 1D Tokens" states; it does not publish which pairs they hold, so they need a list.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from training.data.images import DataError

Folders = tuple[str, str]
"""Folders of images A and B below a layout's root."""


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes:
        folders: Where copies of the data set keep it; the first that exists is taken, upper and lower case alike.
        pairs: How many pairs it has; None if copies differ.
        listed: It is a part of these folders which only a list of names can tell.
    """

    folders: tuple[Folders, ...]
    pairs: int | None
    listed: bool = False


@dataclass(frozen=True)
class Layout:
    """A published data set.

    Attributes:
        source: Where to get it.
        splits: Its splits by name.
    """

    source: str
    splits: dict[str, Split]


def _road_scene() -> Layout:
    folders = (
        ("crop_LR_visible", "cropinfrared"),
        ("RoadScene-master/crop_LR_visible", "RoadScene-master/cropinfrared"),
        *_short_names(""),
    )
    splits = {
        "all": Split(folders, 221),
        "paper-val": Split(folders, 50, listed=True),
        "paper-test": Split(folders, 152, listed=True),
    }
    return Layout("github.com/hanna-xu/RoadScene", splits)


def _m3fd() -> Layout:
    fusion = (*_short_names("M3FD_Fusion/"), *_short_names(""))
    detection = (*_short_names("M3FD_Detection/"), *_short_names(""))
    splits = {
        "fusion": Split(fusion, 300),
        "detection": Split(detection, 4200),
        "paper-test": Split((*fusion, *detection), 202, listed=True),
    }
    return Layout("github.com/JinyuanLiu-CV/TarDAL", splits)


def _msrs() -> Layout:
    def folders(part: str) -> tuple[Folders, ...]:
        return (f"{part}/vi", f"{part}/ir"), (f"Visible/{part}/MSRS", f"Infrared/{part}/MSRS")

    splits = {"train": Split(folders("train"), 1083), "test": Split(folders("test"), 361)}
    return Layout("github.com/Linfeng-Tang/MSRS", splits)


def _llvip() -> Layout:
    def folders(part: str) -> tuple[Folders, ...]:
        return tuple((f"{above}visible/{part}", f"{above}infrared/{part}") for above in ("", "LLVIP/"))

    splits = {"train": Split(folders("train"), 12025), "test": Split(folders("test"), 3463)}
    return Layout("bupt-ai-cz.github.io/LLVIP", splits)


def _tno() -> Layout:
    folders = _short_names("")
    splits = {"all": Split(folders, None), "paper-test": Split(folders, 30, listed=True)}
    return Layout("figshare.com, «TNO Image Fusion Dataset», its pairs sorted into two folders", splits)


def _harvard(kind: str, train: int) -> Layout:
    def folders(part: str) -> tuple[Folders, ...]:
        above = (f"MyDatasets/{kind}-MRI/", f"{kind}-MRI/", "")
        return tuple((f"{root}{part}/MRI", f"{root}{part}/{kind}") for root in above)

    splits = {"train": Split(folders("train"), train), "test": Split(folders("test"), 24)}
    return Layout("github.com/xianming-gu/Havard-Medical-Image-Fusion-Datasets, folder MyDatasets", splits)


def _short_names(above: str) -> tuple[Folders, ...]:
    names = (("vis", "ir"), ("vi", "ir"), ("visible", "infrared"))
    return tuple((above + visible, above + infrared) for visible, infrared in names)


LAYOUTS: dict[str, Layout] = {
    "msrs": _msrs(),
    "m3fd": _m3fd(),
    "roadscene": _road_scene(),
    "tno": _tno(),
    "llvip": _llvip(),
    "harvard-ct": _harvard("CT", 160),
    "harvard-pet": _harvard("PET", 245),
    "harvard-spect": _harvard("SPECT", 333),
}
"""Every layout that a recipe may name."""


def find_folders(root: Path, layout: str, split: str) -> tuple[Path, Path]:
    """The two folders of a split below the data set's root.

    Raises:
        DataError: None of the known folder names is there; the message says which were tried and what to do.
    """
    options = LAYOUTS[layout].splits[split].folders
    for a, b in options:
        folder_a, folder_b = _below(root, a), _below(root, b)
        if folder_a is not None and folder_b is not None:
            return folder_a, folder_b
    missing = f"{root} has none of {'; '.join(f'{a} + {b}' for a, b in options)}"
    raise DataError(
        f"{layout}, split {split}: {missing if root.is_dir() else f'no folder {root}'}: get the images from "
        f"{LAYOUTS[layout].source}, set `root` to where they are, or name the two folders with `a` and `b`"
    )


def _below(root: Path, name: str) -> Path | None:
    """The folder of that name, upper and lower case alike; None if there is none."""
    folder = root
    for part in Path(name).parts:
        exact = folder / part
        alike = [exact] if exact.is_dir() else sorted(p for p in folder.glob("*") if p.name.lower() == part.lower())
        if not alike:
            return None
        folder = alike[0]
    return folder if folder.is_dir() else None

"""Published data sets by name: which folders hold which modality, and how many pairs each split has.

A recipe may write ``{layout: msrs, root: MSRS, split: train}`` instead of two folder names. Image A is the visible one,
MRI in the medical sets, the over-exposed one, and the one with the far part in focus; image B is infrared, CT, PET or
SPECT, under-exposed, and near. The splits named ``paper-*`` have the sizes that the paper "From 2D Grids to 1D Tokens"
states, those named ``tita-*`` the sizes of "Balancing Task-invariant Interaction and Task-specific Adaptation"; neither
publishes which pairs they hold, so they need a list.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from training.data.images import DataError
from training.data.places import Place

Folders = tuple[str, str]
"""Where images A and B lie below a layout's root: folders, or patterns of ``Place.below``."""


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

    splits = {
        "train": Split(folders("train"), 12025),
        "test": Split(folders("test"), 3463),
        "tita-test": Split(folders("test"), 70, listed=True),
    }
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


def _sice() -> Layout:
    folders = _within(("SCIE", "SICE"), ("oe", "ue"), ("over", "under"))
    source = "github.com/csjcai/SICE, one bright and one dark exposure of each sequence sorted into two folders"
    return Layout(source, {"train": Split(folders, 589)})


def _mefb() -> Layout:
    folders = _within(("MEFB", "MEFB-main"), ("input/*/*_B", "input/*/*_A"), ("input_B", "input_A"), ("over", "under"))
    return Layout("github.com/xingchenzhang/MEFB", {"all": Split(folders, 100)})


def _real_mff() -> Layout:
    folders = _within(("RealMFF", "Real-MFF"), ("imageB/*_B", "imageA/*_A"), ("far", "near"))
    return Layout("github.com/Zancelot/Real-MFF", {"all": Split(folders, 710)})


def _mfi_whu() -> Layout:
    folders = _within(("MFI-WHU",), ("source_2", "source_1"), ("far", "near"))
    splits = {
        "all": Split(folders, 120),
        "tita-train": Split(folders, 90, listed=True),
        "tita-test": Split(folders, 30, listed=True),
    }
    return Layout("github.com/HaoZhang1018/MFI-WHU", splits)


def _lytro() -> Layout:
    sorted_names = (("BB/*-B", "AA/*-A"), ("sourceB/*-B", "sourceA/*-A"), ("B", "A"), ("far", "near"))
    folders = _within(("Lytro", "LytroDataset"), ("*-B", "*-A"), *sorted_names)
    return Layout("mansournejati.ece.iut.ac.ir/content/lytro-multi-focus-dataset", {"all": Split(folders, 20)})


def _mffw() -> Layout:
    folders = _within(("MFFW2", "MFFW/MFFW2", "MFFW"), ("*_B", "*_A"), ("B", "A"), ("far", "near"))
    return Layout("arxiv.org/abs/2002.04780, its sets of two pictures (MFFW2)", {"all": Split(folders, 13)})


def _mffb() -> Layout:
    folders = _within(("MFF_test",), ("input/*/*_B", "input/*/*_A"), ("input_B", "input_A"))
    return Layout("github.com/YangSun22/TC-MoA, its test pairs of Lytro, MFFW and MFI-WHU", {"all": Split(folders, 63)})


def _short_names(above: str) -> tuple[Folders, ...]:
    names = (("vis", "ir"), ("vi", "ir"), ("visible", "infrared"))
    return tuple((above + visible, above + infrared) for visible, infrared in names)


def _within(roots: tuple[str, ...], *places: Folders) -> tuple[Folders, ...]:
    """The places themselves, and below other folders."""
    below = tuple((f"{root}/{a}", f"{root}/{b}") for root in roots for a, b in places)
    return (*places, *below)


LAYOUTS: dict[str, Layout] = {
    "msrs": _msrs(),
    "m3fd": _m3fd(),
    "roadscene": _road_scene(),
    "tno": _tno(),
    "llvip": _llvip(),
    "harvard-ct": _harvard("CT", 160),
    "harvard-pet": _harvard("PET", 245),
    "harvard-spect": _harvard("SPECT", 333),
    "sice": _sice(),
    "mefb": _mefb(),
    "realmff": _real_mff(),
    "mfi-whu": _mfi_whu(),
    "lytro": _lytro(),
    "mffw": _mffw(),
    "mffb": _mffb(),
}
"""Every layout that a recipe may name."""


def find_places(root: Path, layout: str, split: str) -> tuple[Place, Place]:
    """Where the two images of a split's pairs lie below the data set's root.

    Raises:
        DataError: None of the known folder names is there; the message says which were tried and what to do.
    """
    options = LAYOUTS[layout].splits[split].folders
    for a, b in options:
        place_a, place_b = Place.below(root, a), Place.below(root, b)
        if place_a is not None and place_b is not None:
            return place_a, place_b
    missing = f"{root} has none of {'; '.join(f'{a} + {b}' for a, b in options)}"
    raise DataError(
        f"{layout}, split {split}: {missing if root.is_dir() else f'no folder {root}'}: get the images from "
        f"{LAYOUTS[layout].source}, set `root` to where they are, or name the two folders with `a` and `b`"
    )

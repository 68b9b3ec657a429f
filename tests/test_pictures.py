"""The drawn sample pair is what its program draws, and the documents point at things that exist."""

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

Modules = tuple[ModuleType, ModuleType]

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
MENTIONED = re.compile(r"`((?:app|models|training|tests|docs)/[\w./*-]*)`")
SECTION = re.compile(r"^### `(\w+)/`\n(.*?)(?=^#)", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def scene() -> Iterator[Modules]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PICTURES))
        yield import_module("scene"), import_module("street")
        for name in ("scene", "street"):
            del sys.modules[name]


def committed(name: str) -> tuple[str, NDArray[np.uint8]]:
    with Image.open(PICTURES / f"{name}.png") as image:
        return image.mode, np.asarray(image)


def around(pixels: NDArray[np.uint8], person: Any, scene: ModuleType) -> tuple[float, list[float]]:
    """Mean level of somebody's coat, and of a strip on each side of them."""
    camera = scene.CAMERA
    scale = camera.focal / person.z
    u = camera.centre + scale * person.x
    v = camera.horizon + scale * (camera.eye - 1.2 * person.tall)
    grey = pixels.astype(float) if pixels.ndim == 2 else pixels @ np.array([0.299, 0.587, 0.114])
    rows = slice(round(v - 0.12 * scale), round(v + 0.12 * scale))
    coat = grey[rows, round(u - 0.1 * scale) : round(u + 0.1 * scale)]
    sides = [grey[rows, round(u + d * scale) : round(u + (d + 0.2) * scale)] for d in (-0.75, 0.55)]
    return float(coat.mean()), [float(side.mean()) for side in sides]


def test_committed_pictures_are_what_the_program_draws(scene: Modules) -> None:
    # One level is allowed for: exp and sin may differ in the last bit between processors.
    for name, drawn in zip(("visible", "infrared"), scene[0].draw(), strict=True):
        stored = committed(name)[1]
        assert stored.shape == drawn.shape
        assert np.abs(stored.astype(int) - drawn.astype(int)).max() <= 1, f"draw {name}.png again"


def test_pair_is_aligned_and_the_visible_one_has_colour() -> None:
    (mode_v, visible), (mode_i, infrared) = committed("visible"), committed("infrared")
    assert (mode_v, mode_i) == ("RGB", "L")
    assert visible.shape[:2] == infrared.shape == (480, 640)
    assert np.ptp(visible.astype(int), axis=2).mean() > 5
    assert sum((PICTURES / f"{name}.png").stat().st_size for name in ("visible", "infrared")) < 700_000


def test_people_are_warmer_than_what_is_around_them(scene: Modules) -> None:
    infrared = committed("infrared")[1]
    for person in scene[1].PEOPLE:
        coat, sides = around(infrared, person, scene[0])
        assert coat > min(sides) + 40, person
    assert infrared[:40, 230:360].mean() < 40, "the sky is cold"


@pytest.mark.parametrize("row", [3, 4])
def test_people_in_the_shade_are_hidden_from_the_colour_camera(scene: Modules, row: int) -> None:
    coat, _ = around(committed("visible")[1], scene[1].PEOPLE[row], scene[0])
    assert coat < 40


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_mentioned_files_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = {link.partition("#")[0] for link in LINK.findall(text) if not re.match(r"[a-z]+:", link)}
    missing = [link for link in sorted(links) if link and not (document.parent / link).exists()]
    missing += [path for path in sorted(set(MENTIONED.findall(text))) if not any(ROOT.glob(path.rstrip("/")))]
    assert not missing, f"{document.name} points at what is not there: {', '.join(missing)}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_into_documents_meet_a_heading(document: Path) -> None:
    for link in LINK.findall(document.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        if anchor and not re.match(r"[a-z]+:", link):
            text = (document.parent / path if path else document).read_text(encoding="utf-8")
            headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{document.name}: {link}"


def test_architecture_lists_every_file_of_the_packages() -> None:
    sections = dict(SECTION.findall((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")))
    assert sections.keys() == {"app", "models", "training"}
    for package, section in sections.items():
        cells = [row.split("|")[1] for row in section.splitlines() if row.startswith("|")]
        listed = {name.rstrip("/") for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
        gone = {name for name in listed if not any((ROOT / package).glob(name))}
        assert not gone, f"{package}/ has no {', '.join(sorted(gone))}"
        files = {path.name for path in (ROOT / package).glob("*.py") if path.stem not in {"__init__", "__main__"}}
        assert files <= listed, (
            f"say in docs/architecture.md what is in {package}/: {', '.join(sorted(files - listed))}"
        )

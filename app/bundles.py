"""Finds the model bundles in the weights folder and checks each against its card."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from app.card import FileRecord, Graph, ModelCard, Tiling
from app.errors import BundleError, StartupError

CARD = "card.json"
FORM_FIELDS = frozenset(
    {"image_a", "image_b", "model", "strength", "color", "format", "quality", "effort", "range16", "max_side"}
)
IMAGE_INPUTS = {"a", "b"}
CODE_INPUTS = {"code_a", "code_b"}
EDIT_INPUT = "edit"
COUNTED_INPUT = "counted"
MEAN_INPUT = "mean"


@dataclass(frozen=True)
class Bundle:
    """A checked bundle.

    Attributes:
        card: The valid card.
        fusion: File of the fusion graph.
        encoder: File of the encoder graph, or None for a model without one.
        sums: File of the first pass over tiles, or None for a model that has no tiles.
        given: File of the second pass, likewise.
    """

    card: ModelCard
    fusion: Path
    encoder: Path | None
    sums: Path | None = None
    given: Path | None = None


def find_bundles(weights: Path) -> list[Path]:
    """Returns the bundle folders of a weights folder, sorted by name.

    Raises:
        StartupError: The folder does not exist.
    """
    if not weights.is_dir():
        raise StartupError(
            f"No weights folder at {weights}. Set PAIRFUSE_WEIGHTS to the folder that holds the bundles."
        )
    return sorted(path for path in weights.iterdir() if path.is_dir() and not path.name.startswith("."))


def read_bundle(folder: Path) -> Bundle:
    """Reads and checks one bundle. The graphs themselves are checked where they are opened.

    Raises:
        BundleError: The card is missing or invalid, or a file is missing or differs from its checksum or
            size.
    """
    card = _read_card(folder)
    _check_interface(card)
    for name, record in card.files.items():
        _check_file(folder, name, record)
    listed = {CARD, *card.files}
    for path in sorted(folder.iterdir()):
        # A graph may draw in a file beside it, which no checksum would cover.
        if path.name not in listed and not path.name.startswith("."):
            raise BundleError(folder.name, f"file {path.name!r} is not in its card; remove it, or export again")
    graphs = (card.encoder, *((card.tiling.sums, card.tiling.given) if card.tiling else (None, None)))
    return Bundle(card, folder / card.fusion.file, *(folder / graph.file if graph else None for graph in graphs))


def _read_card(folder: Path) -> ModelCard:
    try:
        card = ModelCard.model_validate_json((folder / CARD).read_bytes())
    except FileNotFoundError:
        raise BundleError(folder.name, f"it has no {CARD}") from None
    except OSError as error:
        raise BundleError(folder.name, f"{CARD} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or CARD
        raise BundleError(folder.name, f"{CARD} is invalid at {where}: {first['msg']}") from None
    if card.name != folder.name:
        raise BundleError(folder.name, f"its card names it {card.name!r}; folder and name must agree")
    return card


def _check_interface(card: ModelCard) -> None:
    """Refuses a card whose graph interface the service cannot feed."""
    inputs = _names(card.fusion)
    expected = set(IMAGE_INPUTS)
    expected |= CODE_INPUTS if card.encoder else set()
    expected |= {EDIT_INPUT} if card.edit_slots else set()
    if inputs != expected:
        raise BundleError(
            card.name,
            f"the fusion graph takes {sorted(inputs)}, but with {'an' if card.encoder else 'no'} encoder and "
            f"{len(card.edit_slots)} edit slots it must take {sorted(expected)}",
        )
    for graph in card.graphs:
        if len(graph.outputs) != 1:
            raise BundleError(card.name, f"{graph.file} must have one output, the card lists {len(graph.outputs)}")
    if card.encoder and len(card.encoder.inputs) != 1:
        raise BundleError(
            card.name, f"{card.encoder.file} must take one image, the card lists {len(card.encoder.inputs)}"
        )
    edit = [spec.shape for spec in card.fusion.inputs if spec.name == EDIT_INPUT]
    if edit and edit[0][1:] != [len(card.edit_slots)]:
        raise BundleError(
            card.name,
            f"input 'edit' is {edit[0]}; {len(card.edit_slots)} edit slots need ['N', {len(card.edit_slots)}]",
        )
    if card.tiling:
        _check_tiling(card, card.tiling)
    clash = FORM_FIELDS & set(card.slots)
    if clash:
        raise BundleError(card.name, f"edit slots {sorted(clash)} have names of form fields; rename them")


def _check_tiling(card: ModelCard, tiling: Tiling) -> None:
    """Refuses tile graphs that the service cannot feed, or that do not fit to each other."""
    if card.encoder or card.edit_slots:
        raise BundleError(card.name, "tiling is for models without encoder and edit slots: its graphs take neither")
    for graph, extra in ((tiling.sums, COUNTED_INPUT), (tiling.given, MEAN_INPUT)):
        if _names(graph) != IMAGE_INPUTS | {extra}:
            expected = sorted(IMAGE_INPUTS | {extra})
            raise BundleError(card.name, f"{graph.file} takes {sorted(_names(graph))}, it must take {expected}")
    mean = next(spec.shape for spec in tiling.given.inputs if spec.name == MEAN_INPUT)
    sums = tiling.sums.outputs[0].shape
    if len(sums) != 2 or sums[1:] != mean[1:]:
        raise BundleError(
            card.name,
            f"{tiling.sums.file} returns {sums}, {tiling.given.file} takes a mean {mean}: both must be (N, C)",
        )


def _names(graph: Graph) -> set[str]:
    return {spec.name for spec in graph.inputs}


def _check_file(folder: Path, name: str, record: FileRecord) -> None:
    path = folder / name
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(folder.name, f"file {name!r} cannot be read: {error.strerror}") from None
    if size != record.bytes:
        raise BundleError(folder.name, f"file {name!r} has {size} bytes, the card says {record.bytes}")
    if digest != record.sha256:
        raise BundleError(folder.name, f"file {name!r} has sha256 {digest[:12]}…, the card says {record.sha256[:12]}…")

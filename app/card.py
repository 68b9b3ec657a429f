"""The model card: the contract between a folder in ``weights/`` and the service that loads it."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Paper(_Strict):
    """The publication that the model reproduces."""

    title: str
    venue: str
    url: str


class Task(_Strict):
    """One kind of image pair, with what each of the two images must show."""

    name: Name
    image_a: str
    image_b: str


class FileRecord(_Strict):
    """Checksum and size of one file of the bundle."""

    sha256: Sha256
    bytes: Annotated[int, Field(gt=0)]


class TensorSpec(_Strict):
    """One graph input or output. Dynamic axes are named, fixed ones are numbers."""

    name: str
    dtype: Literal["float32"]
    shape: list[int | str]


class Graph(_Strict):
    """One ONNX graph: the file that holds it and its interface."""

    file: str
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]


class EditSlot(_Strict):
    """One editable token slot: what a caller's edit strength scales."""

    name: Name
    default: Annotated[float, Field(ge=0)]
    max: Annotated[float, Field(gt=0)]
    meaning: str


class SizeLimits(_Strict):
    """Which image sizes the graphs take. The graphs do all padding themselves."""

    multiple: Annotated[int, Field(ge=1)] = 1
    min_side: Annotated[int, Field(ge=1)] = 32
    max_pixels: Annotated[int, Field(ge=1024)]


class Tiling(_Strict):
    """How images above a size are fused in tiles; all lengths are pixels.

    Attributes:
        multiple: The whole image is padded to it at the bottom and right, mirrored with the edge repeated. All
            borders of tiles are multiples of it.
        above_pixels: Images of more pixels, and batches of more pixels in all, are not given to the fusion graph.
        tile: Largest side of a tile, halo included.
        halo_sums: What a tile of the first pass computes around its own pixels to get these exactly right.
        halo: The same for the second pass.
        sums: First pass: sums (N, C) over the pixels where ``counted`` is 1. The total of all tiles by the number of
            pixels of the padded image is the mean.
        given: Second pass: fuses a tile, given that mean.
    """

    multiple: Annotated[int, Field(ge=1)]
    above_pixels: Annotated[int, Field(ge=1024)]
    tile: Annotated[int, Field(ge=1)]
    halo_sums: Annotated[int, Field(ge=0)]
    halo: Annotated[int, Field(ge=0)]
    sums: Graph
    given: Graph

    @model_validator(mode="after")
    def _tiles_have_room(self) -> Tiling:
        for name in ("tile", "halo_sums", "halo"):
            if getattr(self, name) % self.multiple:
                raise ValueError(f"{name} {getattr(self, name)} is no multiple of {self.multiple}")
        halo = max(self.halo_sums, self.halo)
        if self.tile <= 2 * halo:
            raise ValueError(f"a tile of {self.tile} has no room beside a halo of {halo} on both sides")
        return self


class DataUse(_Strict):
    """How many images or pairs of a data set were used, and for what."""

    name: str
    count: Annotated[int, Field(ge=0)]
    unit: Literal["images", "pairs"]
    use: str
    licence: str


class TrainingRun(_Strict):
    """One training run: enough to repeat it."""

    recipe: str
    command: str
    steps: Annotated[int, Field(ge=0)]
    device: str
    seed: int
    commit: str
    date: str
    seconds: Annotated[float, Field(ge=0)]
    notes: str = ""


class Training(_Strict):
    """Everything that went into the weights."""

    data: list[DataUse]
    runs: list[TrainingRun]


class SlotStudy(_Strict):
    """What one edit slot (or all of them, named "all") does to fused images, per strength, in grey levels of 255.

    ``change`` is the mean absolute difference from strength 0; the last two are shares 0..1 of the pairs.
    """

    slot: str
    strengths: list[float]
    change: list[float]
    edge_intensity: list[float]
    flat_gradient: list[float | None]
    edge_intensity_rises: float
    flat_gradient_falls: float | None


class Evaluation(_Strict):
    """Metrics of this model and the baselines on one validation set, as the evaluate command wrote them.

    ``intervals`` holds the 95 % bootstrap interval of this model's mean, ``[model][metric]``, low and high.
    """

    dataset: str
    pairs: int
    size: str
    ranked_by: list[str]
    mean_rank: dict[str, float]
    metrics: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, tuple[float, float]]] | None = None
    strength: list[SlotStudy] = []


class ModelCard(_Strict):
    """What ``card.json`` holds. Unknown fields are an error: a misspelt field must not pass in silence."""

    card_version: Literal[1]
    name: Name
    title: str
    summary: str
    paper: Paper
    tasks: Annotated[list[Task], Field(min_length=1)]
    opset: Annotated[int, Field(ge=18)]
    files: dict[str, FileRecord]
    fusion: Graph
    encoder: Graph | None = None
    edit_slots: list[EditSlot] = []
    size: SizeLimits
    tiling: Tiling | None = None
    parameters: dict[str, int]
    macs: dict[str, float]
    training: Training
    evaluation: list[Evaluation] = []
    parity: dict[str, float] = {}
    extra: dict[str, Any] = {}
    licence: str
    limits: list[str]

    @field_validator("files")
    @classmethod
    def _files_stay_inside(cls, files: dict[str, FileRecord]) -> dict[str, FileRecord]:
        for path in files:
            parts = PurePosixPath(path).parts
            if len(parts) != 1 or parts[0] in {"", ".", ".."} or "\\" in path:
                raise ValueError(f"file {path!r} must be a plain name inside the bundle folder")
        return files

    @model_validator(mode="after")
    def _graph_files_are_listed(self) -> ModelCard:
        for graph in self.graphs:
            if graph.file not in self.files:
                raise ValueError(f"graph file {graph.file!r} has no checksum under 'files'")
        names = [slot.name for slot in self.edit_slots]
        if len(set(names)) != len(names):
            raise ValueError("edit slot names must differ")
        return self

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """All graphs that the bundle has: fusion, then encoder, then those of both passes over tiles."""
        tiles = (self.tiling.sums, self.tiling.given) if self.tiling else ()
        return (self.fusion, *((self.encoder,) if self.encoder else ()), *tiles)

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the edit slots in the order of the graph's ``edit`` input."""
        return tuple(slot.name for slot in self.edit_slots)

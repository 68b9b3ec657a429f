"""What is known of a finished row, and how it stays in its run folder: rows are neither trained nor measured twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import nn

from training.config import Recipe
from training.data.images import DataError
from training.evaluation.measure import FusedPair, measure_pair
from training.evaluation.methods import Method, Real, Unit, evaluate_methods
from training.evaluation.pairs import Grey, Pair
from training.probing.slots import write_json
from training.run import CHECKPOINT, check_same_recipe, load_checkpoint

VALUES = "values.json"
"""File of a run folder with the metrics of every pair."""

Values = Mapping[str, Sequence[float]]
"""One number per pair for each column."""


@dataclass(frozen=True)
class Measured:
    """A finished row.

    Attributes:
        steps: That it was trained for.
        seconds: That this took.
        values: One number per pair for each metric; NaN where the metric is not defined.
        seeds: How many runs with other seeds these are means of.
        spread: Standard deviation over the seeds of each metric's mean; empty for one seed.
    """

    steps: int
    seconds: float
    values: dict[str, list[float]]
    seeds: int = 1
    spread: dict[str, float] = field(default_factory=dict)


class NamedImages(Protocol):
    """Pairs in memory."""

    @property
    def names(self) -> list[str]:
        """Of every pair."""

    @property
    def pairs(self) -> list[tuple[Grey, Grey]]:
        """Both images of every pair, 8 bit, of one shape."""


def as_pairs(images: NamedImages, side: int | None, metrics: Sequence[str]) -> list[Pair]:
    """Pairs as the metrics want them, at native size or squashed to ``side`` as ``evaluate`` does.

    Raises:
        DataError: One is too small for a metric. Rows take long, so this is found before the first.
    """
    named = zip(images.names, images.pairs, strict=True)
    pairs = [Pair(name, _sized(a, side), _sized(b, side)) for name, (a, b) in named]
    smallest = min(pairs, key=lambda pair: min(pair.a.shape))
    measure_pair(metrics, FusedPair(smallest, {"image a": smallest.a}))
    return pairs


def _sized(image: Grey, side: int | None) -> Grey:
    if side is None:
        return image
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def begun(folder: Path, recipe: Recipe, kind: str) -> dict[str, Any] | None:
    """The checkpoint in a row's folder once its recipe is known to be the row's; None for a new row.

    Raises:
        DataError: It is damaged, or of a run of another kind or recipe.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    state = load_checkpoint(path)
    if state.get("kind") != kind:
        raise DataError(f"{folder} holds a {state.get('kind')} run, not a {kind} run: give another --out")
    check_same_recipe(state, recipe, folder)
    return state


def measure_once(
    folder: Path,
    state: Mapping[str, Any],
    pairs: Sequence[Pair],
    columns: Sequence[str],
    measure: Callable[[], Values],
) -> Measured:
    """What ``measure`` finds; read back instead if it was found before for the same weights, pairs and columns.

    Args:
        folder: Of the run.
        state: The record of its checkpoint.
        pairs: What is measured.
        columns: Of the values.
        measure: Values by column.
    """
    asked = {"step": state["step"], "pairs": fingerprint(pairs), "metrics": list(columns)}
    known = _read(folder / VALUES)
    if {key: known.get(key) for key in asked} != asked:
        values = {name: [_or_none(v) for v in row] for name, row in measure().items()}
        known = {**asked, "names": [pair.name for pair in pairs], "values": values}
        write_json(folder / VALUES, known)
    restored = {m: [np.nan if v is None else v for v in row] for m, row in known["values"].items()}
    return Measured(state["step"], state["seconds"], restored)


def metric_values(name: str, model: nn.Module, pairs: Sequence[Pair], metrics: Sequence[str]) -> Values:
    """Metrics of a model that fuses two images at its defaults; ``name`` calls it in messages.

    Raises:
        DataError: A pair is too small for a metric, or a fused image is not finite.
    """
    return evaluate_methods(pairs, {name: _fuser(model)}, metrics).values[name]


def fingerprint(pairs: Sequence[Pair]) -> str:
    """Checksum over names, sizes and pixels."""
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(f"{pair.name} {pair.a.shape}".encode())
        digest.update(np.ascontiguousarray(pair.a).tobytes())
        digest.update(np.ascontiguousarray(pair.b).tobytes())
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Any]:
    """Stored values; nothing if there are none, or an editor has spoilt them: they are then measured again."""
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None  # JSON knows no NaN


def _fuser(model: nn.Module) -> Method:
    """The model as a method of the evaluation."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)

    @torch.no_grad()
    def fuse(a: Unit, b: Unit) -> Real:
        first, second = (torch.from_numpy(x)[None, None].to(device) for x in (a, b))
        fused: Real = model(first, second)[0, 0].float().cpu().numpy()
        return fused

    return fuse

"""Train a row unless it is finished, then measure it in PyTorch; both results stay in its run folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from models.interface import TokenSource
from models.ste import SlotSpec
from models.token_fusion import TokenFusionModel
from training.ablation.asked import asked_columns, tone_errors
from training.ablation.rows import Job
from training.data.images import DataError
from training.data.pairs import ImagePairs
from training.evaluation.methods import Method, Real, Unit, evaluate_methods
from training.evaluation.pairs import Grey, Pair
from training.probing.slots import write_json
from training.run import CHECKPOINT, check_same_recipe, load_checkpoint
from training.titok_ste import FusionTrainer, load_trained
from training.titok_ste_recipe import FusionRecipe

VALUES = "values.json"
"""File of a run folder with the metrics of every pair."""


@dataclass(frozen=True)
class Measured:
    """A finished row.

    Attributes:
        steps: That it was trained for.
        seconds: That this took.
        values: One number per pair for each metric; NaN where the metric is not defined.
    """

    steps: int
    seconds: float
    values: dict[str, list[float]]


def as_pairs(images: ImagePairs, side: int | None) -> list[Pair]:
    """Pairs as the metrics want them, at native size or squashed to ``side`` as ``evaluate`` does."""
    named = zip(images.names, images.pairs, strict=True)
    return [Pair(name, _sized(a, side), _sized(b, side)) for name, (a, b) in named]


def _sized(image: Grey, side: int | None) -> Grey:
    if side is None:
        return image
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def train_row(job: Job, recipe: FusionRecipe, data: Path, folder: Path) -> None:
    """Train, or go on training; a finished row is left as it is.

    Raises:
        DataError: The folder holds a run of another recipe, tokenizer or choice of slots.
    """
    if _steps_done(job, recipe, folder) >= _steps_wanted(recipe):
        return
    trainer = FusionTrainer(recipe, job.source, job.slots, data, folder)
    trainer.resume()
    trainer.fit()


def _steps_wanted(recipe: FusionRecipe) -> int:
    schedule = recipe.schedule
    return (schedule.stage1_epochs + schedule.stage2_epochs) * schedule.steps_per_epoch


def _steps_done(job: Job, recipe: FusionRecipe, folder: Path) -> int:
    """Steps of the run in a folder, 0 for a new one, once it is known to be the same run."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return 0
    state = load_checkpoint(path)
    check_same_recipe(state, recipe, folder)
    before = SlotSpec.from_dict(json.loads(state["slots"]))
    if before.tokenizer_id != job.source.tokenizer_id:
        raise DataError(
            f"the run in {folder} was begun with the tokens of {before.tokenizer_id}, not of "
            f"{job.source.tokenizer_id}: give another --out"
        )
    if (before.positions, before.channels) != (job.slots.positions, job.slots.channels):
        raise DataError(f"the run in {folder} was begun with other edit slots: give another --out, or those slots")
    return int(state["step"])


def measure_row(
    source: TokenSource, folder: Path, pairs: Sequence[Pair], metrics: Sequence[str], recipe: FusionRecipe
) -> Measured:
    """Metrics of the averaged weights at the default strength, and their distance to the tone that the recipe wants.

    What was measured before is read back.

    Raises:
        DataError: A pair is too small for a metric, or a fused image is not finite.
    """
    model, state = load_trained(folder, source)
    columns = [*metrics, *asked_columns(recipe)]
    asked = {"step": state["step"], "pairs": fingerprint(pairs), "metrics": columns}
    known = _read(folder / VALUES)
    if {key: known.get(key) for key in asked} != asked:
        results = evaluate_methods(pairs, {folder.name: _fuser(model)}, metrics)
        found = results.values[folder.name] | tone_errors(model, pairs, recipe)
        values = {m: [_or_none(v) for v in row] for m, row in found.items()}
        known = {**asked, "names": list(results.pairs), "values": values}
        write_json(folder / VALUES, known)
    restored = {m: [np.nan if v is None else v for v in row] for m, row in known["values"].items()}
    return Measured(state["step"], state["seconds"], restored)


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


def _fuser(model: TokenFusionModel) -> Method:
    """The model at its default strength as a method of the evaluation."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)

    @torch.no_grad()
    def fuse(a: Unit, b: Unit) -> Real:
        first, second = (torch.from_numpy(x)[None, None].to(device) for x in (a, b))
        fused: Real = model(first, second)[0, 0].float().cpu().numpy()
        return fused

    return fuse

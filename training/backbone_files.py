"""A trained backbone on disk: ``backbone.safetensors``, and ``backbone.json`` that says what it is.

Weights are rounded to float16, which halves the file, and computed with in float32. The checksum is that of the rounded
values: it is the identity that networks trained on this backbone ask for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.unifusion import SmallViT, ViTConfig
from training.backbone_recipe import BackboneRecipe
from training.backbone_student import NAME, build_control
from training.data.images import DataError
from training.record import run_record
from training.run import CHECKPOINT, load_checkpoint

WEIGHTS = "backbone.safetensors"
IDENTITY = "backbone.json"

_PART = "vit."
"""What the names of the transformer's weights begin with in a checkpoint."""

_UNUSED = "mask_token"
"""Only training hides patches."""


def read_run(folder: Path) -> tuple[BackboneRecipe, dict[str, Any]]:
    """Recipe and checkpoint of a backbone run.

    Raises:
        FileNotFoundError: There is no checkpoint.
        DataError: It is damaged, or of another kind or version.
    """
    state = load_checkpoint(folder / CHECKPOINT)
    if state.get("kind") != "backbone":
        raise DataError(f"{folder} is a {state.get('kind')} run: give the folder of a backbone run")
    try:
        return BackboneRecipe.model_validate_json(state["recipe"]), state
    except ValidationError as error:
        raise DataError(f"{folder} holds a run of another version: {error}") from error


def load_trained(run_folder: Path) -> SmallViT:
    """The teacher's transformer of a run as ``save_backbone`` writes it: frozen, in eval mode.

    Raises:
        FileNotFoundError: There is no checkpoint.
        DataError: It is damaged, or of another kind or version.
    """
    recipe, state = read_run(run_folder)
    return _trained(recipe, state)


def save_backbone(run_folder: Path, out: Path) -> Path:
    """Write the teacher's transformer of a run, and what it is.

    Args:
        run_folder: Of a backbone run.
        out: Folder for both files, made if needed.

    Returns:
        Path of the weights.

    Raises:
        FileNotFoundError: There is no checkpoint.
        DataError: It is damaged, or of another kind or version.
    """
    recipe, state = read_run(run_folder)
    vit = _trained(recipe, state)
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half().contiguous() for name, value in vit.state_dict().items()}, str(out / WEIGHTS))
    (out / WEIGHTS).chmod(0o644)  # safetensors writes files that only their owner may read
    record = {
        **vit.identity().record(),
        "config": asdict(vit.config),
        "parameters": sum(parameter.numel() for parameter in vit.parameters()),
        "data": state["data"],
        "run": run_record(state, run_folder),
    }
    (out / IDENTITY).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return out / WEIGHTS


def load_backbone(path: Path) -> SmallViT:
    """A saved backbone: frozen, in eval mode, float32.

    Args:
        path: ``backbone.safetensors``, or the folder that holds it; ``backbone.json`` must lie beside it.

    Raises:
        FileNotFoundError: One of the files is missing.
        DataError: One is damaged, they do not belong together, or the weights are not those of the recorded checksum.
    """
    file, record = _file(path), read_record(path)
    if not file.is_file():
        raise FileNotFoundError(f"no backbone {file}: train one with `python -m training backbone`")
    try:
        weights = load_file(file)
    except (SafetensorError, OSError) as error:
        raise DataError(f"cannot read {file}: it is cut short, damaged, or no safetensors file ({error})") from error
    try:
        vit = _build(ViTConfig(**record["config"]), record["name"], record["mean"], record["std"], weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{file} does not fit {IDENTITY} beside it: {error}") from error
    try:
        vit.identity().check({key: record.get(key) for key in vit.identity().record()})
    except ValueError as error:
        raise DataError(f"{file} is not what {IDENTITY} beside it describes: {error}") from error
    return vit


def load_control(path: Path, seed: int) -> SmallViT:
    """The untrained twin of a saved backbone: size and normalisation are its own, the weights are random and frozen.

    Args:
        path: As for ``load_backbone``; only ``backbone.json`` is read.
        seed: Of the weights.

    Raises:
        FileNotFoundError: There is no such file.
        DataError: It is damaged.
    """
    record = read_record(path)
    try:
        return build_control(ViTConfig(**record["config"]), record["mean"], record["std"], seed)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{_file(path).with_name(IDENTITY)} describes no backbone: {error}") from error


def _trained(recipe: BackboneRecipe, state: Mapping[str, Any]) -> SmallViT:
    own = {name.removeprefix(_PART): value for name, value in state["average"].items() if name.startswith(_PART)}
    weights = {name: value.half() for name, value in own.items() if name != _UNUSED}
    return _build(ViTConfig(**recipe.network), NAME, (recipe.mean,) * 3, (recipe.std,) * 3, weights)


def _build(
    config: ViTConfig, name: str, mean: tuple[float, ...], std: tuple[float, ...], weights: Mapping[str, Tensor]
) -> SmallViT:
    vit = SmallViT(config, name=name, mean=mean, std=std, maskable=False)
    vit.load_state_dict({key: value.float() for key, value in weights.items()})
    return vit.eval().requires_grad_(False)


def read_record(path: Path) -> dict[str, Any]:
    """What ``backbone.json`` says: identity and size of the backbone, its data and its run.

    Args:
        path: As for ``load_backbone``.

    Raises:
        FileNotFoundError: There is none.
        DataError: It is damaged.
    """
    path = _file(path).with_name(IDENTITY)
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: it must lie beside the backbone's weights")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from error
    if not isinstance(record, dict):
        raise DataError(f"{path} is damaged: it holds no record")
    return record


def _file(path: Path) -> Path:
    return path / WEIGHTS if path.is_dir() else path

"""Recipes: YAML files read into strict models, so that every number of a run stands in one file."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from training.data.images import DataError

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""Arithmetic of a run, in Lightning Fabric's words; ``16-mixed`` scales the loss and unscales before clipping."""


class Strict(BaseModel):
    """Base of all recipe sections: unknown keys are an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Recipe(Strict):
    """What every recipe has."""

    seed: int
    precision: Precision


class ImageFolder(Strict):
    """A folder of single images.

    Attributes:
        path: Relative to the data root.
        partner: Folder with the other modality under the same names, if the images belong to pairs.
        weight: How often each image is drawn, relative to those of other folders.
    """

    path: str
    partner: str | None = None
    weight: float = 1.0


class PairFolder(Strict):
    """Two folders of aligned images under the same names, relative to the data root."""

    a: str
    b: str


class OptimConfig(Strict):
    """Optimiser and its schedule.

    Attributes:
        lr: Peak learning rate.
        betas: Adam's moments.
        weight_decay: Decoupled weight decay.
        warmup_steps: Linear warm-up.
        min_lr_ratio: Cosine ends at this share of ``lr``.
        clip: Global gradient norm limit.
        ema: Decay of the averaged weights; 0 keeps none.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup_steps: int = 0
    min_lr_ratio: float = 0.01
    clip: float = 1.0
    ema: float = 0.0


RecipeT = TypeVar("RecipeT", bound=BaseModel)


def load_recipe(
    name_or_path: str, kind: type[RecipeT], overrides: list[str] | None = None, *, folder: str = "configs"
) -> RecipeT:
    """Read a recipe by name (from ``training/configs``) or by path.

    A recipe may begin with ``extends: NAME`` and then give only what differs from that recipe.

    Args:
        name_or_path: ``t32-tiny6-128`` or ``my/recipe.yaml``.
        kind: The model to read it into.
        folder: Folder of this package that names are looked up in.
        overrides: ``key=value`` or ``section.key=value`` strings that replace values, parsed as YAML.

    Raises:
        DataError: No such recipe, or a key or value in it is wrong; the message names it.
    """
    values, path = _read_yaml(name_or_path, folder)
    try:
        for override in overrides or []:
            _override(values, override)
        return kind.model_validate(values)
    except ValidationError as error:
        raise DataError(f"recipe {path.name}: {error}") from error


def _read_yaml(name_or_path: str, folder: str) -> tuple[dict[str, Any], Path]:
    """Values of a recipe and of what it extends, and its path."""
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        shipped = resources.files("training") / folder
        path = Path(str(shipped / f"{name_or_path}.yaml"))
        known = ", ".join(sorted(Path(str(entry)).stem for entry in shipped.iterdir()))
        if not path.is_file():
            raise DataError(f"no recipe {name_or_path!r}; known: {known}; or give the path of a .yaml file")
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"recipe {path.name}: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"recipe {path.name} must hold keys and values")
    base = values.pop("extends", None)
    return (values if base is None else _merged(_read_yaml(str(base), folder)[0], values)), path


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A recipe with some values changed; sections are merged key by key, lists are replaced."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merged(base[key], value) if both else value
    return merged


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise DataError(f"--set {override}: write it as KEY=VALUE")
    *parents, leaf = key.split(".")
    section: Any = values
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise DataError(f"--set {override}: {parent!r} is a value, not a section")
    section[leaf] = yaml.safe_load(value)

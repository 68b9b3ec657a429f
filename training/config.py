"""Recipes: YAML files read into strict models, so that every number of a run stands in one file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from training.data.images import DataError
from training.data.layouts import LAYOUTS

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""Arithmetic of a run, in Lightning Fabric's words; ``16-mixed`` scales the loss and unscales before clipping."""


class Strict(BaseModel):
    """Base of all recipe sections: unknown keys are an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Recipe(Strict):
    """What every recipe has."""

    seed: int
    precision: Precision


class CaseSplit(Strict):
    """Which cases (patients) of a folder count: neighbouring slices of one case are nearly the same image.

    ``part`` asks for one side of a split by case, given by ``val_cases`` or drawn by ``fraction`` and ``seed``. The
    draw looks at nothing but the seed and the case, so a case falls on one side in every folder of every recipe.

    Attributes:
        part: The side that the entry takes.
        val_cases: The cases of the val side; all others are on the train side.
        fraction: Share of the cases on the train side, in (0, 1).
        seed: Another seed draws another split.
        exclude_cases_of: Leave out every case that occurs in these folders, relative to the data root.
        pattern: Regular expression whose one group is the case in a file's name without suffix. By default the name
            is a case number and a slice number of three digits: ``25018`` is slice 18 of case 25.
    """

    part: Literal["train", "val"] | None = None
    val_cases: tuple[str, ...] = ()
    fraction: float | None = Field(default=None, gt=0, lt=1)
    seed: int = 0
    exclude_cases_of: tuple[str, ...] = ()
    pattern: str = r"(\d+)\d{3}"

    @field_validator("val_cases", "exclude_cases_of", mode="before")
    @classmethod
    def _as_words(cls, value: Any) -> Any:
        """One value stands for a list of one, and YAML reads a case number as a number."""
        values = value if isinstance(value, (list, tuple)) else [value]
        return [str(item) if isinstance(item, int) else item for item in values]

    @field_validator("pattern")
    @classmethod
    def _has_one_group(cls, value: str) -> str:
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression: {error}") from error
        if groups != 1:
            raise ValueError(f"{value!r} must have one group in brackets, the case; it has {groups}")
        return value

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        ways = bool(self.val_cases) + (self.fraction is not None)
        if self.part is not None and ways != 1:
            raise ValueError("a part needs either `val_cases` or `fraction`")
        if self.part is None and (ways or not self.exclude_cases_of):
            raise ValueError("give `part: train` or `part: val`, or `exclude_cases_of`")
        return self


class ImageFolder(Strict):
    """A folder of single images.

    Attributes:
        path: Relative to the data root.
        partner: Folder with the other modality under the same names, if the images belong to pairs.
        weight: How often each image is drawn, relative to those of other folders.
        cases: Split by case, for medical slices.
    """

    path: str
    partner: str | None = None
    weight: float = 1.0
    cases: CaseSplit | None = None


class PairFolder(Strict):
    """Aligned pairs on disk: two folders with the same names, or a published data set by its name.

    ``{a: ivf/train/visible, b: ivf/train/infrared}`` or ``{layout: msrs, root: MSRS, split: train}``. What follows is
    applied in this order: ``names``, the count against ``expect``, ``cases``, ``limit``.

    Attributes:
        a: Folder of the first images (visible; MRI), relative to the data root.
        b: Folder of the second images (infrared; CT, PET, SPECT).
        layout: A name in ``training/data/layouts.py``; finds both folders below ``root``.
        root: Folder of the data set, relative to the data root.
        split: One of the layout's splits.
        names: Text file with one file name a line: only these pairs. Relative to the data root.
        expect: How many pairs there must be, or ``any``. By default the layout's own count; two plain folders may
            hold any number.
        cases: Split by case, for medical slices.
        limit: Only the first pairs by name.
    """

    a: str | None = None
    b: str | None = None
    layout: str | None = None
    root: str = "."
    split: str | None = None
    names: str | None = None
    expect: int | Literal["any"] | None = None
    cases: CaseSplit | None = None
    limit: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if (self.a is None) == (self.layout is None) or (self.a is None) != (self.b is None):
            raise ValueError("give `a` and `b`, or `layout` and `split`")
        if self.layout is None:
            if self.split is not None or self.root != ".":
                raise ValueError("`root` and `split` belong to `layout`; `a` and `b` are whole paths")
            return self
        if self.layout not in LAYOUTS:
            raise ValueError(f"no layout {self.layout!r}; known: {', '.join(LAYOUTS)}")
        splits = LAYOUTS[self.layout].splits
        if self.split not in splits:
            raise ValueError(f"{self.layout} has no split {self.split!r}; known: {', '.join(splits)}")
        if splits[self.split].listed and self.names is None:
            raise ValueError(
                f"the paper does not publish the list of {self.layout}, split {self.split}: give `names: FILE` with "
                f"one name a line, or take another split of {', '.join(splits)}"
            )
        return self

    @model_serializer(mode="wrap")
    def _only_what_was_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # keeps the records of plain folders short, and those of earlier runs valid
        return {name: value for name, value in handler(self).items() if name in self.model_fields_set}


class OptimConfig(Strict):
    """Optimiser and its schedule.

    Attributes:
        lr: Peak learning rate.
        betas: Adam's moments.
        weight_decay: Decoupled weight decay.
        warmup_steps: Linear warm-up.
        min_lr_ratio: Cosine ends at this share of ``lr``.
        clip: Global gradient norm limit; 0 for none.
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

    A recipe may begin with ``extends: NAME``, or the path of a file beside it, and then give only what differs.

    Args:
        name_or_path: ``t32-tiny6-128`` or ``my/recipe.yaml``.
        kind: The model to read it into.
        folder: Folder of this package that names are looked up in.
        overrides: ``key=value`` or ``section.key=value`` strings that replace values, parsed as YAML.

    Raises:
        DataError: No such recipe, or a key or value in it is wrong, or it extends itself; the message names it.
    """
    path = _find(name_or_path, folder)
    return checked_values(_read_yaml(path, folder), kind, overrides or [], f"recipe {path.name}")


def checked_values(values: dict[str, Any], kind: type[RecipeT], overrides: Sequence[str], what: str) -> RecipeT:
    """Values with overrides, read into a model.

    Args:
        values: By key; sections are dictionaries. The overrides go into it.
        kind: The model.
        overrides: As of ``load_recipe``.
        what: Calls the values in messages.

    Raises:
        DataError: A key or value is wrong; the message names it.
    """
    try:
        for override in overrides:
            _override(values, override)
        return kind.model_validate(values)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise DataError(f"{what}: {'; '.join(faults)}") from error


def _find(name_or_path: str, folder: str, beside: Path | None = None) -> Path:
    """Path of a recipe; a path is relative to the recipe ``beside`` it, if there is one."""
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        return path if beside is None else beside.parent / path
    shipped = resources.files("training") / folder
    path = Path(str(shipped / f"{name_or_path}.yaml"))
    if not path.is_file():
        known = ", ".join(sorted(Path(str(entry)).stem for entry in shipped.iterdir()))
        raise DataError(f"no recipe {name_or_path!r}; known: {known}; or give the path of a .yaml file")
    return path


def _read_yaml(path: Path, folder: str, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Values of a recipe and of what it extends; ``above`` are the recipes that extend it."""
    chain = (*above, path.resolve())
    if chain[-1] in above:
        raise DataError(f"recipe {path.name} extends itself: {' > '.join(each.name for each in chain)}")
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"recipe {path.name}: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"recipe {path.name} must hold keys and values")
    base = values.pop("extends", None)
    if base is None:
        return values
    return _merged(_read_yaml(_find(str(base), folder, path), folder, chain), values)


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
    try:
        section[leaf] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise DataError(f"--set {override}: {value!r} is no YAML value") from error

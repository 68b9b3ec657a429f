"""Reads the text fields of a request, or the options of a command, into checked options."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar, get_args

from app.card import ModelCard
from app.catalog import Catalog
from app.codec import OutputFormat
from app.color import ColorRule
from app.errors import BadFieldError
from app.levels import RangeRule

PLAIN_FIELDS = ("model", "strength", "color", "format", "quality", "range16")
DEFAULT_QUALITY = 90

T = TypeVar("T", bound=str)


@dataclass(frozen=True)
class FuseOptions:
    """How one pair is fused.

    Attributes:
        model: Name of a loaded model.
        edit: Strength of each edit slot, in the card's order.
        color: Where the chroma comes from, or ``rgb`` to fuse each channel.
        format: File format of the answer.
        quality: 1–100, for jpeg and webp.
        range16: How values deeper than 8 bits are scaled.
    """

    model: str
    edit: tuple[float, ...]
    color: ColorRule = "auto"
    format: OutputFormat = "png"
    quality: int = DEFAULT_QUALITY
    range16: RangeRule = "stretch"


def read_options(fields: Mapping[str, str], catalog: Catalog) -> FuseOptions:
    """Checks the text fields of a request.

    Args:
        fields: Field values by name. An edit slot of the chosen model is a field of its own.
        catalog: The loaded models.

    Raises:
        UnknownModelError: The model is not loaded.
        BadFieldError: A field is unknown, or its value is not allowed.
    """
    card = catalog.get(fields.get("model")).card
    known = (*PLAIN_FIELDS, *card.slots)
    for name in fields:
        if name not in known:
            takes = ", ".join(("image_a", "image_b", *known))
            raise BadFieldError(name[:80], f"{card.name} has no such field.", allowed=takes)
    color: ColorRule = _choice(fields, "color", get_args(ColorRule), "auto")
    output: OutputFormat = _choice(fields, "format", get_args(OutputFormat), "png")
    range16: RangeRule = _choice(fields, "range16", get_args(RangeRule), "stretch")
    return FuseOptions(card.name, _edit(fields, card), color, output, _quality(fields), range16)


def _edit(fields: Mapping[str, str], card: ModelCard) -> tuple[float, ...]:
    """Returns the strength of each slot: its own field, else ``strength``, else the card's default."""
    if not card.edit_slots:
        if "strength" in fields:
            allowed = "no value, for this model"
            raise BadFieldError("strength", f"{card.name} has no edit slots. Leave the field out.", allowed=allowed)
        return ()
    common = None
    if "strength" in fields:
        common = _number(fields, "strength", min(slot.max for slot in card.edit_slots))
    return tuple(
        _number(fields, slot.name, slot.max) if slot.name in fields else slot.default if common is None else common
        for slot in card.edit_slots
    )


def _number(fields: Mapping[str, str], name: str, maximum: float) -> float:
    text = fields[name]
    allowed = f"a number from 0 to {maximum:g}"
    try:
        value = float(text)
    except ValueError:
        raise BadFieldError(name, f"{text[:40]!r} is not a number.", allowed=allowed) from None
    if not (math.isfinite(value) and 0 <= value <= maximum):
        raise BadFieldError(name, f"{text[:40]} is out of range.", allowed=allowed)
    return value


def _quality(fields: Mapping[str, str]) -> int:
    text = fields.get("quality", str(DEFAULT_QUALITY))
    # isdecimal alone would take digits of other scripts, and int alone "1_0" and signs.
    if not (text.isascii() and text.isdecimal() and len(text) <= 3 and 1 <= int(text) <= 100):
        raise BadFieldError("quality", f"{text[:40]!r} is not such a number.", allowed="a whole number from 1 to 100")
    return int(text)


def _choice(fields: Mapping[str, str], name: str, choices: tuple[T, ...], default: T) -> T:
    text = fields.get(name, default)
    for choice in choices:
        if choice == text:
            return choice
    raise BadFieldError(name, f"{text[:40]!r} is not a choice.", allowed=", ".join(choices))

"""Reads the text fields of a request, or the options of a command, into checked options."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar, get_args

from app.card import ModelCard
from app.catalog import Catalog
from app.codec import DEFAULT_QUALITY, OutputFormat
from app.color import ColorRule
from app.deflate import Effort
from app.errors import BadFieldError
from app.levels import RangeRule
from app.working import LEAST_SIDE, MOST_SIDE, NATIVE, is_max_side

PLAIN_FIELDS = ("model", "strength", "color", "format", "quality", "effort", "range16", "max_side")

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
        max_side: Longest side at which the model sees the pair; 0: as it is.
        effort: How much time fewer bytes of the answer are worth.
    """

    model: str
    edit: tuple[float, ...]
    color: ColorRule = "auto"
    format: OutputFormat = "png"
    quality: int = DEFAULT_QUALITY
    range16: RangeRule = "stretch"
    max_side: int = NATIVE
    effort: Effort = "fast"


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
    effort: Effort = _choice(fields, "effort", get_args(Effort), "fast")
    quality, side = _quality(fields), _max_side(fields)
    return FuseOptions(card.name, _edit(fields, card), color, output, quality, range16, side, effort)


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
    value = _whole(text)
    if value is None or not 1 <= value <= 100:
        raise BadFieldError("quality", f"{text[:40]!r} is not such a number.", allowed="a whole number from 1 to 100")
    return value


def _max_side(fields: Mapping[str, str]) -> int:
    text = fields.get("max_side", str(NATIVE))
    value = _whole(text)
    if value is None or not is_max_side(value):
        allowed = f"0 for the full size, or a whole number of pixels from {LEAST_SIDE} to {MOST_SIDE}"
        raise BadFieldError("max_side", f"{text[:40]!r} is not such a number.", allowed=allowed)
    return value


def _whole(text: str) -> int | None:
    """Returns the number that a few plain digits make, else None."""
    # isdecimal alone would take digits of other scripts, and int alone "1_0" and signs.
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 5 else None


def _choice(fields: Mapping[str, str], name: str, choices: tuple[T, ...], default: T) -> T:
    text = fields.get(name, default)
    for choice in choices:
        if choice == text:
            return choice
    raise BadFieldError(name, f"{text[:40]!r} is not a choice.", allowed=", ".join(choices))

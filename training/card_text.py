"""The words of a card: what no command can measure, kept beside the recipes."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from training.config import Strict, load_recipe


class CardText(Strict):
    """Hand-written fields of a card.

    Attributes:
        slots: Meaning of each edit slot by name.
        data_licences: Terms of each data folder, by the folder that it lies in: ``ivf/train`` for
            ``ivf/train/visible``.
        extra: Anything else worth keeping in the card.
    """

    name: str
    title: str
    summary: str
    paper: dict[str, str]
    tasks: list[dict[str, str]]
    slots: dict[str, str]
    size: dict[str, int]
    licence: str
    data_licences: dict[str, str]
    extra: dict[str, Any] = Field(default_factory=dict)
    limits: list[str]


def load_card_text(name_or_path: str) -> CardText:
    """Read card text by name (from ``training/cards``) or by path.

    Raises:
        DataError: No such text, or a field is wrong.
    """
    return load_recipe(name_or_path, CardText, folder="cards")

"""Every model of the project by name: one line for each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from models.base import FusionModel
from models.lite import LiteConfig, TiTokSTELite
from models.titok_ste import PROFILES as TITOK_STE
from models.titok_ste import TiTokSTE

PROFILES: dict[str, Callable[..., FusionModel]] = {
    "titok-ste-paper": partial(TiTokSTE, config=TITOK_STE["paper"]),
    "titok-ste": partial(TiTokSTE, config=TITOK_STE["product"]),
    "titok-ste-mean": partial(TiTokSTE, config=TITOK_STE["mean"]),
    "titok-ste-d48": partial(TiTokSTE, config=TITOK_STE["d48"]),
    "titok-ste-d32": partial(TiTokSTE, config=TITOK_STE["d32"]),
    "titok-ste-d32-short": partial(TiTokSTE, config=TITOK_STE["d32-short"]),
    "titok-ste-lite": TiTokSTELite,
    "titok-ste-medical": partial(TiTokSTELite, config=LiteConfig(mix="power", knee=0.1)),
}


def build(name: str, *args: Any, **kwargs: Any) -> FusionModel:
    """Build a model.

    Args:
        name: A key of ``PROFILES``.
        *args: What the model is built around; for TiTok+STE the frozen tokenizer and its slots.
        **kwargs: Passed on by name.

    Raises:
        ValueError: No model has this name; the message lists those that exist.
    """
    if name not in PROFILES:
        raise ValueError(f"no model is named {name!r}; known: {', '.join(PROFILES)}")
    return PROFILES[name](*args, **kwargs)

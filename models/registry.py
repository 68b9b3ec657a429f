"""Every model of the project by name: one line for each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from models.base import FusionModel
from models.lite import LiteConfig, TiTokSTELite
from models.tita import ABLATIONS, TITA, TITAConfig
from models.tita import PROFILES as TITA_PROFILES
from models.titok_ste import PROFILES as TITOK_STE
from models.titok_ste import TiTokSTE
from models.unifusion import ABLATIONS as UNIFUSION_ABLATIONS
from models.unifusion import PROFILES as UNIFUSION_PROFILES
from models.unifusion import UniFusion, UniFusionConfig

TOKEN_MODELS: dict[str, Callable[..., FusionModel]] = {
    "titok-ste-paper": partial(TiTokSTE, config=TITOK_STE["paper"]),
    "titok-ste": partial(TiTokSTE, config=TITOK_STE["product"]),
    "titok-ste-mean": partial(TiTokSTE, config=TITOK_STE["mean"]),
    "titok-ste-d48": partial(TiTokSTE, config=TITOK_STE["d48"]),
    "titok-ste-d32": partial(TiTokSTE, config=TITOK_STE["d32"]),
    "titok-ste-d32-short": partial(TiTokSTE, config=TITOK_STE["d32-short"]),
    "titok-ste-lite": TiTokSTELite,
    "titok-ste-medical": partial(TiTokSTELite, config=LiteConfig(mix="power", knee=0.1)),
}
"""Built around a frozen tokenizer and its slots."""

TITA_CONFIGS: dict[str, TITAConfig] = {
    "tita": TITA_PROFILES["product"],
    "tita-code": TITA_PROFILES["code"],
    "tita-paper": TITA_PROFILES["paper"],
    **{f"tita-{row}": config for row, config in ABLATIONS.items()},
}
"""Every TITA network: the released one, the published one by its code and by its text, the rows of its ablations."""

UNIFUSION_CONFIGS: dict[str, UniFusionConfig] = {
    "unifusion": UNIFUSION_PROFILES["light"],
    "unifusion-code": UNIFUSION_PROFILES["code"],
    "unifusion-paper": UNIFUSION_PROFILES["paper"],
    **{f"unifusion-{row}": config for row, config in UNIFUSION_ABLATIONS.items()},
}
"""Every UniFusion network: the released one, the published one by its code and by its text, the rows of its
ablations."""

IMAGE_MODELS: dict[str, Callable[..., FusionModel]] = {
    name: partial(TITA, config=config) for name, config in TITA_CONFIGS.items()
}
"""Built from nothing: they see the images only."""

BACKBONE_MODELS: dict[str, Callable[..., FusionModel]] = {
    name: partial(UniFusion, config) for name, config in UNIFUSION_CONFIGS.items()
}
"""Built around a frozen backbone, but for those that train an encoder of their own."""

PROFILES = TOKEN_MODELS | IMAGE_MODELS | BACKBONE_MODELS


def build(name: str, *args: Any, **kwargs: Any) -> FusionModel:
    """Build a model.

    Args:
        name: A key of ``PROFILES``.
        *args: What the model is built around: for those of ``TOKEN_MODELS`` the frozen tokenizer and its slots, for
            those of ``BACKBONE_MODELS`` the frozen backbone, for those of ``IMAGE_MODELS`` nothing.
        **kwargs: Passed on by name.

    Raises:
        ValueError: No model has this name; the message lists those that exist. Or it takes no tokenizer and was given
            one, or a backbone that it lacks, that does not fit or that it does not take.
    """
    if name not in PROFILES:
        raise ValueError(f"no model is named {name!r}; known: {', '.join(PROFILES)}")
    if args and name in IMAGE_MODELS:
        raise ValueError(f"{name} is built around no tokenizer; models that are: {', '.join(TOKEN_MODELS)}")
    return PROFILES[name](*args, **kwargs)

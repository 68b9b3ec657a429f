"""A trained network again, from what a bundle holds of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from torch import Tensor

from models.base import FusionModel
from models.registry import TITA_CONFIGS, TOKEN_MODELS, UNIFUSION_CONFIGS, build
from models.ste import SlotSpec
from models.tita import TITA, TITAConfig
from models.tokenizer import TOKENIZERS, Tokenizer
from models.tokenizer.checkpoint import matching_state
from models.unifusion import SmallViT, UniFusion, UniFusionConfig, ViTConfig

ConfigT = TypeVar("ConfigT", TITAConfig, UniFusionConfig)


@dataclass(frozen=True)
class Parts:
    """What a bundle holds of one network.

    Attributes:
        profile: Its name in ``models.registry``.
        weights: Tensors by name for each file: ``fusion``, and ``tokenizer`` or ``backbone`` if it is around one.
        changes: Values of its configuration that differ from the profile; none for models around a tokenizer.
        slots: Content of the slot file, for models around a tokenizer.
        backbone: Identity and size of the backbone, for models around one.
    """

    profile: str
    weights: Mapping[str, Mapping[str, Tensor]]
    changes: Mapping[str, Any] = field(default_factory=dict)
    slots: Mapping[str, Any] | None = None
    backbone: Mapping[str, Any] | None = None


def rebuild(parts: Parts) -> FusionModel:
    """The network in eval mode, float32, without gradients.

    Raises:
        ValueError: A part is missing, or the parts do not belong together; the message says which.
    """
    try:
        model = _build(parts)
        model.load_state_dict(matching_state(model, _weights(parts, "fusion"), parts.profile))
    except (AttributeError, KeyError, TypeError) as error:  # a record that lacks a key, or is no record
        raise ValueError(f"its record of the network is damaged: {error!r}") from error
    return model.eval().requires_grad_(False)


def _build(parts: Parts) -> FusionModel:
    name = parts.profile
    if name in TITA_CONFIGS:
        return TITA(_changed(TITA_CONFIGS[name], parts.changes))
    if name in UNIFUSION_CONFIGS:
        config = _changed(UNIFUSION_CONFIGS[name], parts.changes)
        return UniFusion(config, _backbone(parts) if config.encoder == "frozen" else None)
    if name not in TOKEN_MODELS:
        return build(name)  # which lists the known names
    if parts.changes:
        raise ValueError(f"{name} has no configuration to change: {', '.join(parts.changes)}")
    if parts.slots is None:
        raise ValueError(f"{name} is built around a tokenizer, and its slot file is missing")
    slots = SlotSpec.from_dict(parts.slots)
    return build(name, _tokenizer(parts, slots), slots)


def _changed(config: ConfigT, changes: Mapping[str, Any]) -> ConfigT:
    """The configuration with values from JSON, which knows no tuples."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in changes.items()}
    return replace(config, **values)


def _tokenizer(parts: Parts, slots: SlotSpec) -> Tokenizer:
    name = slots.tokenizer_id.partition(":")[0]
    if name not in TOKENIZERS:
        raise ValueError(f"its slots are for an unknown tokenizer {name!r}; known: {', '.join(sorted(TOKENIZERS))}")
    tokenizer = Tokenizer(TOKENIZERS[name])
    tokenizer.load_published(_weights(parts, "tokenizer"))
    return tokenizer


def _backbone(parts: Parts) -> SmallViT:
    record = parts.backbone
    if record is None:
        raise ValueError(f"{parts.profile} is built around a backbone, and the record of its size is missing")
    size = ViTConfig(**{key.name: record[key.name] for key in fields(ViTConfig)})
    vit = SmallViT(size, name=record["name"], mean=record["mean"], std=record["std"], maskable=False)
    vit.load_state_dict(matching_state(vit, _weights(parts, "backbone"), record["name"]))
    identity = vit.identity()
    identity.check({key: record.get(key) for key in identity.record()})
    return vit


def _weights(parts: Parts, name: str) -> Mapping[str, Tensor]:
    if name not in parts.weights:
        raise ValueError(f"the weights of its {name} are missing")
    return parts.weights[name]

"""From the recipe's words to UniFusion's network, and to the frozen backbone that it is built around."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from models.registry import UNIFUSION_CONFIGS
from models.unifusion import DinoV3Backbone, SmallViT, UniFusion, UniFusionConfig, ViTConfig
from models.unifusion.backbone import VisionBackbone
from models.unifusion.config import HEAD_DIM
from training.backbone_files import load_backbone, load_control
from training.data.images import DataError
from training.unifusion_recipe import BackboneConfig, UniFusionRecipe


def network_config(profile: str, changes: Mapping[str, Any]) -> UniFusionConfig:
    """Architecture of a recipe.

    Args:
        profile: Its name in ``models.registry``.
        changes: Values that differ.

    Raises:
        DataError: No such profile, or no such value.
    """
    if profile not in UNIFUSION_CONFIGS:
        raise DataError(f"no UniFusion profile {profile!r}; known: {', '.join(UNIFUSION_CONFIGS)}")
    try:
        return replace(UNIFUSION_CONFIGS[profile], **changes)
    except (TypeError, ValueError) as error:
        raise DataError(f"network: {error}") from error


def load_network(recipe: UniFusionRecipe, backbone: VisionBackbone | None = None) -> UniFusion:
    """An untrained network around its backbone.

    Args:
        recipe: What to build.
        backbone: Used in place of the recipe's.

    Raises:
        DataError: The network is not possible, or the backbone cannot be loaded or does not fit.
    """
    config = network_config(recipe.profile, recipe.network)
    backbone = backbone or make_backbone(recipe.backbone, config)
    try:
        return UniFusion(config, backbone)
    except ValueError as error:
        raise DataError(f"backbone: {error}") from error


def check_backbone_of(network: UniFusion, state: Mapping[str, Any], folder: Path) -> None:
    """Refuse a checkpoint that was trained on another backbone: its adapters read other features.

    Raises:
        DataError: It was; the message names what differs.
    """
    try:
        network.check_identity(state["backbone"])
    except ValueError as error:
        raise DataError(f"{folder}: {error}") from error


def make_backbone(config: BackboneConfig, network: UniFusionConfig) -> VisionBackbone | None:
    """The backbone of a recipe, frozen; None for a network that trains an encoder of its own.

    Args:
        config: Which.
        network: The network that it is for.

    Raises:
        DataError: The weights are missing, damaged or of another model, or timm is missing; or a small backbone cannot
            be as wide as the network asks for.
    """
    if network.encoder == "trained":
        return None
    if config.path is None or (config.random and config.kind == "dinov3"):
        return _random(config, network)
    if not config.path.exists():
        raise DataError(f"backbone.path: there is no {config.path}: {_REMEDY[config.kind]}")
    if config.kind == "small":
        return load_control(config.path, config.seed) if config.random else load_backbone(config.path)
    backbone = _dinov3()
    try:
        backbone.load_official(config.path)
    except (ImportError, OSError, ValueError) as error:
        raise DataError(f"backbone.path: {error}") from error
    return backbone


_RANDOM = "or take random weights with --set backbone.path=null"
_REMEDY = {
    "small": f"train one with `python -m training backbone`, or give yours with --set backbone.path=PATH, {_RANDOM}",
    "dinov3": f"DINOv3's weights are no part of this project; give your file with --set backbone.path=PATH, {_RANDOM}",
}


def _random(config: BackboneConfig, network: UniFusionConfig) -> VisionBackbone:
    if config.kind == "dinov3":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return _dinov3()
    E = network.embed_dim
    try:
        return SmallViT.random(config.seed, ViTConfig(E, depth=config.depth, heads=E // HEAD_DIM))
    except ValueError as error:
        raise DataError(f"backbone: {error}") from error


def _dinov3() -> DinoV3Backbone:
    try:
        return DinoV3Backbone()
    except ImportError as error:
        raise DataError(f"backbone: {error}") from error

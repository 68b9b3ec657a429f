"""Count multiply-adds of the networks, attention products included (1 MAC = one multiply-add)."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from models.base import FusionModel
from models.registry import PROFILES, TOKEN_MODELS, UNIFUSION_CONFIGS, build
from models.token_fusion import TokenFusionModel
from models.tokenizer import TOKENIZERS, Tokenizer
from models.unifusion import SmallViT, ViTConfig
from models.unifusion.config import HEAD_DIM


def count_macs(model: FusionModel, height: int, width: int) -> tuple[float, float]:
    """MACs of one pair at a size, counted on shapes alone.

    Returns:
        (MACs of ``fuse`` per output pixel, MACs of ``encode`` per image).
    """
    device = next(model.parameters()).device
    a, b = (torch.zeros(1, 1, height, width, device=device) for _ in range(2))
    with torch.no_grad():
        with FlopCounterMode(display=False) as encode:
            # a token model's own encode switches autocast off, which the meta device does not know
            code = model.tokenizer.encode(a) if isinstance(model, TokenFusionModel) else model.encode(a)
        with FlopCounterMode(display=False) as fuse:
            model.fuse(a, b, code, code, a.new_ones(1, len(model.slots)))
    return fuse.get_total_flops() / 2 / (height * width), encode.get_total_flops() / 2


def _around(name: str, tokenizer: str) -> tuple[Any, ...]:
    """What a model is built around, of the size that it wants; weights do not matter."""
    if name in TOKEN_MODELS:
        return Tokenizer(TOKENIZERS[tokenizer]), None
    config = UNIFUSION_CONFIGS.get(name)
    if config is None or config.encoder == "trained":
        return ()
    size = ViTConfig(config.embed_dim, heads=config.embed_dim // HEAD_DIM)
    return (SmallViT(size, name="counted", maskable=False),)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m training macs``."""
    parser.add_argument("--model", action="append", choices=sorted(PROFILES), help="default: all")
    parser.add_argument("--tokenizer", default="t32-tiny6-128", choices=sorted(TOKENIZERS))
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"))


def run(args: argparse.Namespace) -> None:
    """Print one line per model."""
    height, width = args.size
    print(f"{'model':22} {'parameters':>11} {'fuse kMAC/px':>13} {'fuse GMAC':>10} {'encode GMAC/image':>18}")
    for name in args.model or PROFILES:
        with torch.device("meta"):
            model = build(name, *_around(name, args.tokenizer))
        per_pixel, encode = count_macs(model, height, width)
        parameters = sum(p.numel() for p in model.parameters())
        total = per_pixel * height * width
        print(f"{name:22} {parameters:>11,} {per_pixel / 1e3:>13.2f} {total / 1e9:>10.2f} {encode / 1e9:>18.3f}")

"""Find editable slots of a tokenizer by supervision: which token answers to sharpening, which to smoothing?

Each image is tokenized as it is and after a known change. Two things make a position and channel group a good slot:

- *stability*: its tokens shift the same way for most images, |mean shift| / standard deviation of the shift;
- *quiet*: it varies little from image to image, so that an offset there cannot be mistaken for content.

The slot is the group with the largest stability / spread. Positions found on one tokenizer mean nothing on another,
so the file names the tokenizer.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from models.ste import SlotSpec
from models.tokenizer import Tokenizer
from training.config import ImageFolder
from training.data.squares import SquareImages
from training.data.tone import blur
from training.run import seed_everything
from training.tokenizer import load_tokenizer

GROUP = 3
"""Channels per group: the paper edits three of twelve."""


def sharpened(x: Tensor, amount: float) -> Tensor:
    """Unsharp masking and more contrast: (N, 1, H, W) in [0, 1] -> same."""
    sigma = x.new_full((len(x), 1, 1, 1), 1.5)
    mean = x.mean(dim=(2, 3), keepdim=True)
    y = x + amount * (x - blur(x, sigma))
    return (mean + (1.0 + 0.5 * amount) * (y - mean)).clamp(0, 1)


def smoothed(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur: (N, 1, H, W) in [0, 1] -> same."""
    return blur(x, x.new_full((len(x), 1, 1, 1), sigma))


def token_shift(tokenizer: Tokenizer, images: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Shift of the codes under a change, (M, K, C), for (M, 1, S, S) images."""
    return encode_all(tokenizer, change(images)) - encode_all(tokenizer, images)


@torch.no_grad()
def encode_all(tokenizer: Tokenizer, images: Tensor) -> Tensor:
    """Codes of many images: (M, 1, S, S) -> (M, K, C)."""
    return torch.cat([tokenizer.encode(chunk) for chunk in images.split(32)])


def group_stability(shift: Tensor) -> Tensor:
    """Stability of every position and channel group: (M, K, C) -> (K, C / 3).

    Per channel |mean| / standard deviation over the images, averaged over the group's channels.
    """
    per_channel = shift.mean(dim=0).abs() / shift.std(dim=0).clamp_min(1e-6)  # (K, C)
    return per_channel.unflatten(1, (-1, GROUP)).mean(dim=2)


def group_spread(codes: Tensor) -> Tensor:
    """Standard deviation over the images of every position and channel group: (M, K, C) -> (K, C / 3)."""
    return codes.std(dim=0).unflatten(1, (-1, GROUP)).square().mean(dim=2).sqrt()


def choose_slots(scores: dict[str, Tensor]) -> dict[str, tuple[int, int]]:
    """The (position, group) of the highest score for each slot; a position serves one slot only."""
    chosen: dict[str, tuple[int, int]] = {}
    for name, table in scores.items():
        free = table.clone()
        for position, _ in chosen.values():
            free[position] = -1.0
        best = int(free.argmax())
        chosen[name] = (best // table.shape[1], best % table.shape[1])
    return chosen


def probe(tokenizer: Tokenizer, images: Tensor, *, amount: float, sigma: float, seed: int) -> SlotSpec:
    """Probe both slots.

    Args:
        tokenizer: In eval mode.
        images: (M, 1, S, S) in [0, 1].
        amount: Strength of the sharpened copies.
        sigma: Blur of the smoothed copies, pixels of the tokenizer's input.
        seed: For the record.
    """
    shifts = {
        "sharpen": token_shift(tokenizer, images, lambda x: sharpened(x, amount)),
        "smooth": token_shift(tokenizer, images, lambda x: smoothed(x, sigma)),
    }
    tables = {name: group_stability(shift) for name, shift in shifts.items()}
    spread = group_spread(encode_all(tokenizer, images)).clamp_min(1e-3)
    chosen = choose_slots({name: table / spread for name, table in tables.items()})
    channels = {name: list(range(GROUP * g, GROUP * (g + 1))) for name, (_, g) in chosen.items()}
    effects = {
        name: {
            "change": "unsharp mask and contrast" if name == "sharpen" else "Gaussian blur",
            "mean_shift": shifts[name][:, p, channels[name]].mean(dim=0).tolist(),
            "stability": float(tables[name][p, g]),
            "spread": float(spread[p, g]),
            "median_spread": float(spread.median()),
            "median_stability": float(tables[name].median()),
        }
        for name, (p, g) in chosen.items()
    }
    return SlotSpec(
        tokenizer_id=tokenizer.tokenizer_id,
        sha256=tokenizer.weights_sha256,
        num_tokens=tokenizer.num_tokens,
        token_dim=tokenizer.token_dim,
        positions=tuple(p for p, _ in chosen.values()),
        channels=tuple(tuple(channels[name]) for name in chosen),
        names=tuple(chosen),
        evidence={
            "per_group_stability": {n: [[round(v, 4) for v in row] for row in t.tolist()] for n, t in tables.items()},
            "slot_effects": effects,
            "seed": seed,
        },
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m training probe``."""
    parser.add_argument("--tokenizer", type=Path, required=True, help="run folder of the tokenizer, or a bundle")
    parser.add_argument("--data", type=Path, required=True, help="data root")
    parser.add_argument("--folder", action="append", help="image folder below it; may be repeated")
    parser.add_argument("--amount", type=float, default=1.0, help="strength of the sharpened copies")
    parser.add_argument("--sigma", type=float, default=2.0, help="blur of the smoothed copies, tokenizer pixels")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True, help="slot file to write (JSON)")


def run(args: argparse.Namespace) -> None:
    """Probe and write the slot file."""
    seed_everything(args.seed)
    tokenizer = load_tokenizer(args.tokenizer)
    folders = args.folder or ["ivf/train/visible", "ivf/train/infrared"]
    squares = SquareImages(args.data, [ImageFolder(path=f) for f in folders], tokenizer.config.image_size)
    images = squares.batch(torch.arange(len(squares)))
    spec = probe(tokenizer, images, amount=args.amount, sigma=args.sigma, seed=args.seed)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(spec.to_dict(), indent=1) + "\n")
    for name, position, channels in zip(spec.names, spec.positions, spec.channels, strict=True):
        effect = spec.evidence["slot_effects"][name]
        print(
            f"{name}: position {position}, channels {list(channels)}, stability {effect['stability']:.2f} "
            f"(median {effect['median_stability']:.2f}), spread {effect['spread']:.3f} "
            f"(median {effect['median_spread']:.3f}), {len(images)} images"
        )

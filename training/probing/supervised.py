"""Slots by supervision: which token answers to sharpening, which to smoothing? Needs only the tokenizer.

Each image is tokenized as it is and after a known change. Two things make a position and channel group a good slot:

- *stability*: its tokens shift the same way for most images, |mean shift| / standard deviation of the shift;
- *quiet*: it varies little from image to image, so that an offset there cannot be mistaken for content.

The slot is the group with the largest stability / spread.

Shape letters: M images, S side, K tokens, C token channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.interface import TokenSource
from training.data.images import DataError
from training.data.tone import blur
from training.probing.slots import GROUP, Found, Slot

CHANGES = {"sharpen": "unsharp mask and contrast", "smooth": "Gaussian blur"}
"""The known changes in the order of the slots."""


def sharpened(x: Tensor, amount: float) -> Tensor:
    """Unsharp masking and more contrast: (N, 1, H, W) in [0, 1] -> same."""
    sigma = x.new_full((len(x), 1, 1, 1), 1.5)
    mean = x.mean(dim=(2, 3), keepdim=True)
    y = x + amount * (x - blur(x, sigma))
    return (mean + (1.0 + 0.5 * amount) * (y - mean)).clamp(0, 1)


def smoothed(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur: (N, 1, H, W) in [0, 1] -> same."""
    return blur(x, x.new_full((len(x), 1, 1, 1), sigma))


@torch.no_grad()
def encode_all(tokenizer: TokenSource, images: Tensor) -> Tensor:
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


@dataclass(frozen=True)
class Shifts:
    """How tokens answer to the known changes.

    Attributes:
        shift: For each change, the shift of every image's tokens, (M, K, C).
        spread: Standard deviation of each position and group from image to image, (K, C / 3).
    """

    shift: dict[str, Tensor]
    spread: Tensor

    def mean(self, change: str, position: int, channels: Sequence[int]) -> tuple[float, ...]:
        """Mean shift of some channels of one token."""
        return tuple(self.shift[change][:, position, list(channels)].mean(dim=0).tolist())


def measure_shifts(tokenizer: TokenSource, images: Tensor, *, amount: float, sigma: float) -> Shifts:
    """Tokenize the images as they are, sharpened and smoothed.

    Args:
        tokenizer: In eval mode.
        images: (M, 1, S, S) in [0, 1]; at least two.
        amount: Strength of the sharpened copies.
        sigma: Blur of the smoothed copies, pixels.

    Raises:
        DataError: There is only one image.
    """
    if len(images) < 2:
        raise DataError("one image shows no stability: give at least 2")
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "sharpen": lambda x: sharpened(x, amount),
        "smooth": lambda x: smoothed(x, sigma),
    }
    codes = encode_all(tokenizer, images)
    shift = {name: encode_all(tokenizer, change(images)) - codes for name, change in changes.items()}
    return Shifts(shift, group_spread(codes).clamp_min(1e-3))


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


def find_supervised(shifts: Shifts, budget: int) -> Found:
    """Choose a slot for each known change.

    Raises:
        DataError: More slots are wanted than there are changes.
    """
    if budget > len(CHANGES):
        raise DataError(
            f"the supervised probe knows {len(CHANGES)} changes ({', '.join(CHANGES)}), so it finds no {budget} slots: "
            "take --method gumbel or exhaustive"
        )
    tables = {name: group_stability(shifts.shift[name]) for name in list(CHANGES)[:budget]}
    slots = []
    for name, (p, g) in choose_slots({name: table / shifts.spread for name, table in tables.items()}).items():
        channels = tuple(range(GROUP * g, GROUP * (g + 1)))
        notes = {
            "stability": float(tables[name][p, g]),
            "spread": float(shifts.spread[p, g]),
            "median_spread": float(shifts.spread.median()),
            "median_stability": float(tables[name].median()),
        }
        table = [[round(v, 4) for v in row] for row in tables[name].tolist()]
        slots.append(Slot(p, channels, shifts.mean(name, p, channels), CHANGES[name], notes, stability=table))
    return Found("supervised", tuple(slots), named=True)

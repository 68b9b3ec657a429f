"""Slots that nothing chose: at random places, or at places given by hand, as rivals of probed ones (§12)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from training.data.images import DataError
from training.probing.slots import GROUP, Found, Slot
from training.probing.supervised import CHANGES, Shifts


def find_random(num_tokens: int, token_dim: int, budget: int, seed: int, shifts: Shifts | None = None) -> Found:
    """Random positions, all different, each with a random channel group.

    Args:
        num_tokens: K.
        token_dim: C.
        budget: Slots.
        seed: Decides everything.
        shifts: To start the slots along measured token shifts, as probed slots do; without it along random directions.
    """
    generator = torch.Generator().manual_seed(seed)
    positions = torch.randperm(num_tokens, generator=generator)[:budget].tolist()
    groups = torch.randint(token_dim // GROUP, (budget,), generator=generator).tolist()
    channels = [tuple(range(GROUP * g, GROUP * (g + 1))) for g in groups]
    return Found("random", _place(positions, channels, generator, shifts), named=True)


def find_fixed(
    num_tokens: int,
    token_dim: int,
    positions: Sequence[int],
    channels: Sequence[int],
    seed: int,
    shifts: Shifts | None = None,
) -> Found:
    """Given positions, in the order sharpen, smooth, …, which all edit the same channels.

    Raises:
        DataError: A position or channel is given twice or does not exist, or there are no channels.
    """
    for what, values, size in (("position", positions, num_tokens), ("channel", channels, token_dim)):
        if wrong := [value for value in values if not 0 <= value < size]:
            raise DataError(f"--{what}s: this tokenizer has {what}s 0 to {size - 1}, not {wrong[0]}")
        if len(set(values)) < len(values):
            raise DataError(f"--{what}s names a {what} twice")
    if not channels:
        raise DataError("--channels: name at least one channel")
    generator = torch.Generator().manual_seed(seed)
    return Found("fixed", _place(positions, [tuple(channels)] * len(positions), generator, shifts), named=True)


def _place(
    positions: Sequence[int], channels: Sequence[tuple[int, ...]], generator: torch.Generator, shifts: Shifts | None
) -> tuple[Slot, ...]:
    changes = [*CHANGES.items(), *[("", "")] * len(positions)]
    slots = []
    for position, own, (change, words) in zip(positions, channels, changes, strict=False):
        if shifts is not None and change:
            slots.append(Slot(position, own, shifts.mean(change, position, own), words))
        else:
            direction = F.normalize(torch.randn(len(own), generator=generator), dim=0)
            slots.append(Slot(position, own, tuple(direction.tolist()), "random direction"))
    return tuple(slots)

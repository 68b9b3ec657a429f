"""Which tokens a row may edit: from a slot file, at the paper's positions, probed, at random, or borrowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch

from models.interface import TokenSource
from models.ste import SlotSpec
from training.data.images import DataError
from training.data.pairs import ImagePairs
from training.probing.ablation import find_random
from training.probing.edited import evenly
from training.probing.settings import CheckSettings
from training.probing.slots import GROUP, Found, Slot, make_spec, slot_names
from training.probing.supervised import CHANGES, Shifts, find_supervised, group_stability, measure_shifts
from training.titok_ste import check_tokenizer

PAPER_POSITIONS = {"titok-l32": (12, 18), "titok-b64": (18, 60), "titok-s128": (69, 20)}
"""Positions of sharpen and smooth in the paper's tables 3 and 4."""

PAPER_GROUPS = {"titok-l32": 2}
"""Channel group, where the paper gives it: channels 6 to 8."""

SEED = 5
PROBED_PAIRS = 32
AMOUNT, SIGMA = 1.0, 2.0
"""Known changes of the supervised probe, as its command has them by default."""


class Chosen(NamedTuple):
    """Slots, and in a few words who chose them."""

    slots: SlotSpec
    by: str


@dataclass
class Places:
    """Chooses slots of one tokenizer.

    Args:
        tokenizer: Frozen.
        pairs: Images for the probe.
        given: A slot file of this tokenizer; nothing is probed then.

    Raises:
        DataError: The slot file is of another tokenizer.
    """

    tokenizer: TokenSource
    pairs: ImagePairs
    given: SlotSpec | None = None

    def __post_init__(self) -> None:
        if self.given is not None:
            check_tokenizer(self.given, self.tokenizer)

    @cached_property
    def base(self) -> Chosen:
        """The slots of the slot file; without one the paper's two for a published tokenizer, else two probed ones."""
        if self.given is not None:
            return Chosen(self.given, f"slot file, {self.given.evidence.get('method', 'by hand')}")
        shifts = self._shifts()
        if self.tokenizer.config.name in PAPER_POSITIONS:
            found, by = self._as_paper(shifts), "the paper's positions"
        else:
            found, by = find_supervised(shifts, len(CHANGES)), "supervised probe"
        return Chosen(self._spec(found), by)

    @torch.no_grad()
    def _shifts(self) -> Shifts:
        """How the tokens of some training images answer to sharpening and smoothing."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        tokenizer = self.tokenizer.to(device)
        images = [x for row in evenly(len(self.pairs), PROBED_PAIRS) for x in self.pairs.full(row)]
        squares = torch.cat([tokenizer.prepare(x.to(device))[:, :1] for x in images])
        shifts = measure_shifts(tokenizer, squares, amount=AMOUNT, sigma=SIGMA)
        return Shifts({name: shift.cpu() for name, shift in shifts.shift.items()}, shifts.spread.cpu())

    def _as_paper(self, shifts: Shifts) -> Found:
        """The paper's positions; where it gives no channels, the group that the supervised probe scores highest."""
        name, slots = self.tokenizer.config.name, []
        for (change, words), position in zip(CHANGES.items(), PAPER_POSITIONS[name], strict=True):
            scores = group_stability(shifts.shift[change]) / shifts.spread
            group = PAPER_GROUPS.get(name, int(scores[position].argmax()))
            channels = tuple(range(GROUP * group, GROUP * (group + 1)))
            slots.append(Slot(position, channels, shifts.mean(change, position, channels), words))
        return Found("fixed", tuple(slots), named=True)

    def _spec(self, found: Found) -> SlotSpec:
        return make_spec(found, self.tokenizer, None, CheckSettings.model_validate({}), {"seed": SEED})

    def budget(self, count: int) -> Chosen:
        """So many slots: the first of ``base``, then random places.

        Raises:
            DataError: The tokenizer has fewer positions.
        """
        slots, by = self.base
        if count > self.tokenizer.num_tokens:
            raise DataError(f"{count} slots do not fit the {self.tokenizer.num_tokens} tokens of this tokenizer")
        if count == 0:
            return Chosen(keep(slots, ()), "nobody")
        first = keep(slots, range(min(count, len(slots.positions))))
        extra = count - len(first.positions)
        return Chosen(self._extended(first, extra), f"{by}, then {extra} at random") if extra else Chosen(first, by)

    def _extended(self, first: SlotSpec, extra: int) -> SlotSpec:
        """The slots, and more at random positions."""
        if first.channels and len(first.channels[0]) != GROUP:
            raise DataError(f"slots of {len(first.channels[0])} channels cannot be added to: give --slots-for S=FILE")
        size = (self.tokenizer.num_tokens, self.tokenizer.token_dim)
        drawn = find_random(*size, len(first.positions) + extra, SEED).slots
        free = [slot for slot in drawn if slot.position not in first.positions][:extra]
        names = [name for name in slot_names(2 * len(drawn)) if name not in first.names][:extra]
        effects = dict(first.evidence.get("slot_effects", {}))
        effects |= {n: {"change": s.change, "mean_shift": list(s.shift)} for n, s in zip(names, free, strict=True)}
        return replace(
            first,
            positions=(*first.positions, *(slot.position for slot in free)),
            channels=(*first.channels, *(slot.channels for slot in free)),
            names=(*first.names, *names),
            evidence={"method": "random", "seed": SEED, "slot_effects": effects},
        )


def keep(slots: SlotSpec, rows: Sequence[int]) -> SlotSpec:
    """Only some of the slots, by their order, with what the probe knows of each."""
    names = tuple(slots.names[row] for row in rows)
    effects = slots.evidence.get("slot_effects", {})
    evidence = {key: slots.evidence[key] for key in ("method", "seed") if key in slots.evidence}
    return replace(
        slots,
        positions=tuple(slots.positions[row] for row in rows),
        channels=tuple(slots.channels[row] for row in rows),
        names=names,
        evidence={**evidence, "slot_effects": {name: effects[name] for name in names if name in effects}},
    )


def borrow(slots: SlotSpec, source: TokenSource) -> SlotSpec:
    """The same places and directions in what stands in the tokenizer's place: nothing there has been probed.

    Raises:
        DataError: It has other numbers of tokens or channels.
    """
    size = (source.num_tokens, source.token_dim)
    if size != (slots.num_tokens, slots.token_dim):
        raise DataError(f"slots of {slots.num_tokens}×{slots.token_dim} tokens do not fit {size[0]}×{size[1]}")
    effects = slots.evidence.get("slot_effects", {})
    kept = {
        name: {"change": "borrowed from the tokenizer", "mean_shift": own["mean_shift"]}
        for name, own in effects.items()
        if "mean_shift" in own
    }
    return replace(
        slots,
        tokenizer_id=source.tokenizer_id,
        sha256=source.weights_sha256,
        evidence={"method": "fixed", "slot_effects": kept},
    )


def describe_slots(slots: SlotSpec) -> str:
    """``sharpen 12 (6-8), smooth 18 (6-8)``: position and channels of each slot."""
    places = zip(slots.names, slots.positions, slots.channels, strict=True)
    return ", ".join(f"{name} {position} ({_channels(own)})" for name, position, own in places) or "none"


def _channels(channels: Sequence[int]) -> str:
    run = list(channels) == list(range(channels[0], channels[0] + len(channels)))
    return f"{channels[0]}-{channels[-1]}" if run and len(channels) > 1 else " ".join(map(str, channels))

"""From what a method found to a slot file: measure each slot, name it, and keep the evidence (§3.4, §3.5).

Shape letters: S slots, K tokens, C token channels, G edited channels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.interface import TokenSource
from models.ste import SlotSpec
from training.data.images import DataError
from training.probing.edited import EditedFusion
from training.probing.measures import MEASURES, score
from training.probing.settings import CheckSettings

GROUP = 3
"""Channels per group: the paper edits three of twelve."""
MAX_SLOTS = 4
_TINY = 1e-12


@dataclass(frozen=True)
class Slot:
    """One editable place.

    Attributes:
        position: Token position.
        channels: Edited channels.
        shift: Direction of the edit: one number for each channel. Training starts Δ along it.
        change: What the direction is, in words.
        notes: What the method knows about this slot; kept in ``slot_effects``.
        frequency: How often each position was chosen, (K,), if the method draws.
        stability: Table of the method's steadiness, if it has one.
    """

    position: int
    channels: tuple[int, ...]
    shift: tuple[float, ...]
    change: str
    notes: Mapping[str, Any] = field(default_factory=dict)
    frequency: Sequence[float] | None = None
    stability: Sequence[Any] | None = None

    def offset(self, num_tokens: int, token_dim: int, norm: float) -> Tensor:
        """The edit as an offset of all tokens, (K, C), of norm ``norm`` (all zeros for a zero shift)."""
        direction = torch.tensor(self.shift)
        offset = torch.zeros(num_tokens, token_dim)
        offset[self.position, list(self.channels)] = norm * direction / direction.norm().clamp_min(_TINY)
        return offset


@dataclass(frozen=True)
class Found:
    """Result of a method at one budget.

    Attributes:
        method: Its name.
        slots: In the method's own order.
        named: Whether that order is sharpen, smooth, …; otherwise names are read off the measured effects.
        evidence: Further entries of the slot file.
    """

    method: str
    slots: tuple[Slot, ...]
    named: bool
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Effect:
    """Mean signed change over all probing pairs: of EI, AG, SF (grey levels), SSIM, and of the score J."""

    change: Mapping[str, float]
    score: float
    score_std: float

    def to_dict(self) -> dict[str, float]:
        """As it stands in the slot file."""
        return {**self.change, "score": round(self.score, 6), "score_std": round(self.score_std, 6)}


def slot_names(count: int) -> tuple[str, ...]:
    """``sharpen, smooth, slot2, slot3``, as many as there are slots."""
    return ("sharpen", "smooth", *(f"slot{i}" for i in range(2, count)))[:count]


def measure_edits(subject: EditedFusion, edits: Tensor, chunk: int) -> list[Effect]:
    """Effect of each edit, (E, K, C), over all pairs."""
    measured = subject.measured_all(edits.to(subject.a.device), chunk=chunk)  # (P, E, 4)
    unedited = subject.unedited[:, None].expand_as(measured)
    change = (measured - unedited).mean(dim=0).cpu()
    gain = score(measured, unedited, subject.weights).cpu()
    spread, mean = gain.std(dim=0), gain.mean(dim=0)
    return [
        Effect({name: round(float(x), 6) for name, x in zip(MEASURES, row, strict=True)}, float(m), float(s))
        for row, m, s in zip(change, mean, spread, strict=True)
    ]


def order_by_effect(effects: Sequence[Effect]) -> list[int]:
    """Slots in the order of their names: largest signed ΔEI first, smallest second, the others by score."""
    by_edges = sorted(range(len(effects)), key=lambda i: -effects[i].change["EI"])
    first, last = by_edges[:1], by_edges[1:][-1:]
    rest = sorted(set(by_edges) - {*first, *last}, key=lambda i: -effects[i].score)
    return [*first, *last, *rest]


def make_spec(
    found: Found,
    tokenizer: TokenSource,
    subject: EditedFusion | None,
    settings: CheckSettings,
    extra: Mapping[str, Any],
) -> SlotSpec:
    """The slot file's content.

    Args:
        found: Slots and evidence.
        tokenizer: The probed one.
        subject: To measure the slots with; without it their effects stay unknown and the order must be ``named``.
        settings: Amplitude of the measured edits.
        extra: Further entries, such as the settings; the method's own evidence overrides them.

    Raises:
        DataError: A position or channel does not exist in this tokenizer.
    """
    slots, effects, joint = list(found.slots), [], {}
    if subject is not None:
        size = (subject.num_tokens, subject.token_dim)
        offsets = torch.stack([torch.zeros(size), *(s.offset(*size, settings.amplitude) for s in slots)])
        *effects, together = measure_edits(subject, torch.cat([offsets[1:], offsets.sum(dim=0)[None]]), settings.chunk)
        joint = {"joint_effect": together.to_dict()}
        if not found.named:
            order = order_by_effect(effects)
            slots, effects = [slots[i] for i in order], [effects[i] for i in order]
    names = slot_names(len(slots))
    measured = [effect.to_dict() for effect in effects] or [{} for _ in slots]
    tables = {
        "per_slot_frequency": {n: s.frequency for n, s in zip(names, slots, strict=True) if s.frequency is not None},
        "per_group_stability": {n: s.stability for n, s in zip(names, slots, strict=True) if s.stability is not None},
    }
    own = {
        name: {"change": slot.change, "mean_shift": list(slot.shift), **slot.notes, **effect}
        for name, slot, effect in zip(names, slots, measured, strict=True)
    }
    try:
        return SlotSpec(
            tokenizer_id=tokenizer.tokenizer_id,
            sha256=tokenizer.weights_sha256,
            num_tokens=tokenizer.num_tokens,
            token_dim=tokenizer.token_dim,
            positions=tuple(slot.position for slot in slots),
            channels=tuple(slot.channels for slot in slots),
            names=names,
            evidence={
                "method": found.method,
                "budget": len(slots),
                **{key: table for key, table in tables.items() if table},
                **extra,
                **found.evidence,
                "slot_effects": own,
                **joint,
            },
        )
    except ValueError as error:
        raise DataError(str(error)) from error


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write so that an interruption leaves the old file whole; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(data, indent=1) + "\n")
    os.replace(partial, path)

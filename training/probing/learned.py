"""Slots from the two methods that look at fused images: the Gumbel-Softmax search and the exhaustive check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from training.probing.edited import EditedFusion
from training.probing.exhaustive import Check, channel_slopes
from training.probing.gumbel import Selection
from training.probing.settings import CheckSettings, Modality
from training.probing.slots import GROUP, Found, Slot


def rounded(x: Tensor) -> Any:
    """A tensor as nested lists of short numbers, for JSON."""
    return [rounded(row) for row in x] if x.ndim else round(float(x), 5)


def check_tables(check: Check) -> dict[str, Any]:
    """The check's tables for the slot file: stability and largest score of each position and group, (K, C / 3)."""
    return {"per_group_stability": rounded(check.stability), "per_group_score": rounded(check.score.amax(dim=2))}


def best_of(selections: Sequence[Selection]) -> Selection:
    """The search with the largest final score: a single one often ends in a poor optimum."""
    return max(selections, key=lambda selection: selection.score)


def find_gumbel(selections: Mapping[Modality, Sequence[Selection]], check: Check) -> Found:
    """Slots of the best search; each edits the steadiest channel group of its position.

    Args:
        selections: Searches of each modality; the slots come from the first.
        check: The exhaustive check of the same network.
    """
    first = next(iter(selections.values()))
    best = best_of(first)
    slots = []
    for row, position in enumerate(best.positions):
        channels = _channels(check.group(position))
        offset = best.offsets[row]
        part = offset[list(channels)]
        notes = {
            "learned_offset": rounded(offset),
            "share_of_offset": round(float(part.square().sum() / offset.square().sum()), 4),
            "entropy_bits": round(best.entropy[row], 4),
        }
        frequency = rounded(best.frequency[row])
        slots.append(Slot(position, channels, tuple(part.tolist()), "learned direction", notes, frequency))
    evidence = {
        "score_curve": [round(value, 6) for value in best.curve],
        "seed": best.seed,
        "seeds": [_summary(selection) for selection in first],
        **check_tables(check),
    }
    if len(selections) > 1:
        evidence["per_modality"] = {name: _summary(best_of(own)) for name, own in selections.items()}
    return Found("gumbel", tuple(slots), named=False, evidence=evidence)


def find_exhaustive(subject: EditedFusion, check: Check, budget: int, settings: CheckSettings) -> Found:
    """The positions with the largest score, each with its steadiest channel group.

    The direction within the group is the slope of the score along each single channel.
    """
    slots = []
    for position in check.ranked()[:budget]:
        slopes = channel_slopes(subject, position, settings)
        channels = _channels(check.group(position))
        part = slopes[list(channels)]
        shift = settings.amplitude * part / part.norm().clamp_min(1e-12)
        notes = {"per_channel_slope": rounded(slopes)}
        slots.append(Slot(position, channels, tuple(shift.tolist()), "slope of the score", notes))
    return Found("exhaustive", tuple(slots), named=False, evidence=check_tables(check))


def _channels(group: int) -> tuple[int, ...]:
    return tuple(range(GROUP * group, GROUP * (group + 1)))


def _summary(selection: Selection) -> dict[str, Any]:
    return {
        "seed": selection.seed,
        "positions": list(selection.positions),
        "score": round(selection.score, 6),
        "entropy_bits": [round(value, 4) for value in selection.entropy],
    }

"""What the edit strength does to fused images: how much they change, and whether as the slot promises.

Each slot is moved alone over ``STRENGTHS`` while the others stay at their default; then all move together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from training.evaluation.methods import Real, Unit, to_grey, to_unit
from training.evaluation.metrics.common import Triple, check_triple
from training.evaluation.metrics.natural import flat_gradient
from training.evaluation.metrics.statistics import edge_intensity
from training.evaluation.pairs import Grey, Pair

STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0)

EditMethod = Callable[[Unit, Unit, Sequence[float]], Real]
"""Fuses two images (H, W) in [0, 1] at one strength per slot."""


@dataclass(frozen=True)
class Slot:
    """Name, default and largest strength of an edit slot."""

    name: str
    default: float
    max: float


@dataclass(frozen=True)
class SlotStudy:
    """What one slot (or all of them, named "all") does.

    Attributes:
        slot: Its name.
        strengths: The strengths studied: ``STRENGTHS`` up to the slot's maximum.
        change: Mean absolute difference in grey levels from the image at strength 0, per strength.
        edge_intensity: Mean EI per strength, grey levels.
        flat_gradient: Mean average gradient in flat areas per strength, grey levels; None without flat areas.
        edge_intensity_rises: Share 0..1 of pairs whose EI rises with every step.
        flat_gradient_falls: Share 0..1 of pairs with flat areas whose gradient there falls with every step.
    """

    slot: str
    strengths: tuple[float, ...]
    change: list[float]
    edge_intensity: list[float]
    flat_gradient: list[float | None]
    edge_intensity_rises: float
    flat_gradient_falls: float | None


def study_strength(pairs: Sequence[Pair], fuse: EditMethod, slots: Sequence[Slot]) -> list[SlotStudy]:
    """Study every slot alone and, if there are several, all together ("all" comes first).

    Images are compared after rounding to 8 bit, as they would be saved.

    Raises:
        ValueError: There are no pairs or no slots.
    """
    if not pairs or not slots:
        raise ValueError("a strength study needs at least one pair and one edit slot")
    studies = []
    groups = [(slot.name, [slot]) for slot in slots]
    if len(slots) > 1:
        groups.insert(0, ("all", list(slots)))
    for name, moved in groups:
        strengths = tuple(g for g in STRENGTHS if g <= min(slot.max for slot in moved))
        edits = [tuple(g if slot in moved else slot.default for slot in slots) for g in strengths]
        studies.append(_study(name, strengths, edits, pairs, fuse))
    return studies


def _study(
    name: str,
    strengths: tuple[float, ...],
    edits: Sequence[tuple[float, ...]],
    pairs: Sequence[Pair],
    fuse: EditMethod,
) -> SlotStudy:
    curves = np.array([_curves(pair, _fuse_all(pair, fuse, edits)) for pair in pairs])  # (pairs, 3, strengths)
    change, edges, flat = curves.transpose(1, 0, 2)
    flat = flat[np.isfinite(flat).all(axis=1)]
    return SlotStudy(
        name,
        strengths,
        change.mean(axis=0).tolist(),
        edges.mean(axis=0).tolist(),
        flat.mean(axis=0).tolist() if len(flat) else [None] * len(strengths),
        float((np.diff(edges, axis=1) > 0.0).all(axis=1).mean()),
        float((np.diff(flat, axis=1) < 0.0).all(axis=1).mean()) if len(flat) else None,
    )


def _fuse_all(pair: Pair, fuse: EditMethod, edits: Sequence[tuple[float, ...]]) -> list[Grey]:
    a, b = to_unit(pair.a), to_unit(pair.b)
    return [to_grey(fuse(a, b, edit), pair.a.shape) for edit in edits]


def _curves(pair: Pair, fused: Sequence[Grey]) -> list[list[float]]:
    """Change from the first image, EI and flat-area gradient of each fused image of one pair."""
    triples: list[Triple] = [check_triple(pair.a, pair.b, image) for image in fused]
    change = [float(np.abs(triple.f - triples[0].f).mean()) for triple in triples]
    return [change, [edge_intensity(t) for t in triples], [flat_gradient(t) for t in triples]]


def study_json(studies: Sequence[SlotStudy]) -> list[dict[str, object]]:
    """The studies as plain JSON values."""
    return [asdict(study) for study in studies]


def study_markdown(title: str, studies: Sequence[SlotStudy]) -> str:
    """One table per slot: change from strength 0, EI and flat-area gradient at each strength."""
    lines = [f"## Edit strength: {title}", ""]
    for study in studies:
        rows: dict[str, Sequence[float | None]] = {
            "mean change from 0, grey levels": study.change,
            "EI": study.edge_intensity,
            "gradient in flat areas": study.flat_gradient,
        }
        lines += [f"| {study.slot} | " + " | ".join(f"{g:g}" for g in study.strengths) + " |"]
        lines += ["|---|" + "---:|" * len(study.strengths)]
        lines += [f"| {name} | " + " | ".join(map(_number, values)) + " |" for name, values in rows.items()]
        falls = "no flat areas" if study.flat_gradient_falls is None else f"{study.flat_gradient_falls:.0%}"
        lines += [
            "",
            f"EI rises with every step on {study.edge_intensity_rises:.0%} of the pairs; "
            f"the gradient in flat areas falls with every step on {falls}.",
            "",
        ]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"

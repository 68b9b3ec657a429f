"""What the probe prints, and the summary over slot budgets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from models.ste import SlotSpec
from training.probing.agreement import agreement_lines, seed_line
from training.probing.edited import EditedFusion
from training.probing.measures import MEASURES


def spec_lines(spec: SlotSpec) -> list[str]:
    """A slot file in words: one line per slot, then seeds and agreement."""
    evidence = spec.evidence
    if not spec.positions:
        return ["no slots: tokens are never edited"]
    lines = [
        f"{name}: position {position}, channels {list(channels)}, {_effect(evidence['slot_effects'][name])}"
        for name, position, channels in zip(spec.names, spec.positions, spec.channels, strict=True)
    ]
    if "joint_effect" in evidence and len(lines) > 1:
        lines.append(f"all together: {_measured(evidence['joint_effect'])}")
    if "seeds" in evidence:
        lines.append(seed_line(evidence["seeds"], spec.positions))
    if "agreement" in evidence:
        lines += agreement_lines(evidence["method"], spec.positions, evidence["agreement"], spec.num_tokens)
    return lines


def _effect(effect: Mapping[str, Any]) -> str:
    parts = [effect["change"]]
    if "median_stability" in effect:
        parts.append(
            f"stability {effect['stability']:.2f} (median {effect['median_stability']:.2f}), "
            f"spread {effect['spread']:.3f} (median {effect['median_spread']:.3f})"
        )
    if "score" in effect:
        parts.append(_measured(effect))
    return ", ".join(parts)


def _measured(effect: Mapping[str, float]) -> str:
    changes = ", ".join(f"Δ{name} {effect[name]:+.3f}" for name in MEASURES)
    return f"{changes}, score {effect['score']:+.4f}"


def unedited_means(subject: EditedFusion) -> dict[str, float]:
    """Mean of every measure without edits."""
    return {name: float(value) for name, value in zip(MEASURES, torch.mean(subject.unedited, dim=0), strict=True)}


def budget_summary(specs: Mapping[int, SlotSpec], unedited: Mapping[str, float] | None) -> dict[str, Any]:
    """Positions, score and measures of every budget.

    Args:
        specs: By budget.
        unedited: Means without edits; ``None`` if no network was probed, then the summary holds positions only.
    """
    rows = []
    for budget, spec in sorted(specs.items()):
        row: dict[str, Any] = {"budget": budget, "positions": list(spec.positions), "channels": spec.channels}
        if unedited is not None:
            joint = spec.evidence["joint_effect"]
            row |= {"J": joint["score"], **{name: round(unedited[name] + joint[name], 4) for name in MEASURES}}
        rows.append(row)
    return {"budgets": rows}


def summary_markdown(summary: Mapping[str, Any]) -> str:
    """The summary as a table."""
    rows = summary["budgets"]
    numbers = [key for key in ("J", *MEASURES) if key in rows[0]]
    lines = ["| slots | positions | " + " | ".join(numbers) + " |", "|---:|---|" + "---:|" * len(numbers)]
    for row in rows:
        positions = ", ".join(map(str, row["positions"])) or "–"
        lines.append(f"| {row['budget']} | {positions} | " + " | ".join(f"{row[key]:.4f}" for key in numbers) + " |")
    return "\n".join(lines) + "\n"

"""Plots of a probe, one PNG each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from models.ste import SlotSpec
from training.probing.edited import EditedFusion
from training.probing.exhaustive import Check
from training.probing.gumbel import Selection
from training.probing.learned import best_of
from training.probing.measures import MEASURES
from training.probing.settings import Modality
from training.probing.slots import GROUP, Slot

STRENGTHS = (-1.0, 0.0, 1.0, 2.0)
"""Columns of the picture; strength 1 is an offset of the check's amplitude."""

_MODALITIES = {"both": "both images edited", "a": "only image A edited", "b": "only image B edited"}
_DPI = 130
_GAIN = 4.0


def save_search(selections: Mapping[Modality, Sequence[Selection]], folder: Path) -> None:
    """Selector distribution, hard-selection frequency and score curves of a search."""
    best = {modality: best_of(own) for modality, own in selections.items()}
    for name, text in (("mean_soft", "mean of y"), ("frequency", "share of hard selections")):
        figure, rows = _grid(len(best), 2.2)
        for axes, (modality, selection) in zip(rows, best.items(), strict=True):
            values: Tensor = getattr(selection, name)
            _bars(axes, values.numpy(), selection.positions)
            axes.set_title(f"{_MODALITIES[modality]}, seed {selection.seed}", fontsize=9, loc="left")
            axes.set_ylabel(text)
        rows[-1].set_xlabel("token position")
        _save(figure, folder / ("selector.png" if name == "mean_soft" else "frequency.png"))
    figure, rows = _grid(len(selections), 2.6)
    for axes, (modality, own) in zip(rows, selections.items(), strict=True):
        for selection in own:
            label = f"seed {selection.seed}: {', '.join(map(str, selection.positions))}"
            axes.plot(np.linspace(0, 1, len(selection.curve)), selection.curve, linewidth=1.2, label=label)
        axes.set_title(_MODALITIES[modality], fontsize=9, loc="left")
        axes.set_ylabel("score J")
        axes.legend(fontsize=7, frameon=False)
    rows[-1].set_xlabel("share of the steps")
    _save(figure, folder / "score.png")


def save_check(check: Check, chosen: Sequence[tuple[int, int]], folder: Path) -> None:
    """Heat maps of stability and of the largest score, position × channel group.

    Args:
        check: The exhaustive check.
        chosen: Position and channel group of each slot; framed.
        folder: Where ``stability.png`` goes.
    """
    best = check.score.amax(dim=2).clamp_min(0.0)
    tables = {"stability |mean| / std": (check.stability, 1.0), "largest score J of both signs": (best, 0.4)}
    figure, rows = _grid(len(tables), 2.0)
    for axes, (title, (table, power)) in zip(rows, tables.items(), strict=True):
        # scores of different positions differ by orders of magnitude: the power keeps weak ones visible
        image = axes.imshow(table.T.numpy(), aspect="auto", origin="lower", norm=PowerNorm(power, vmin=0.0))
        figure.colorbar(image, ax=axes, pad=0.01)
        axes.set_title(title, fontsize=9, loc="left")
        groups = table.shape[1]
        axes.set_yticks(range(groups), [f"{GROUP * g}–{GROUP * g + GROUP - 1}" for g in range(groups)])
        axes.set_ylabel("channels")
        for position, group in chosen:
            axes.plot(position, group, "s", markerfacecolor="none", markeredgecolor="#ff4d4d", markersize=9)
    rows[-1].set_xlabel("token position")
    _save(figure, folder / "stability.png")


def save_effects(subject: EditedFusion, slots: Mapping[str, Slot], amplitude: float, folder: Path) -> None:
    """The first pair under each slot at strengths -1, 0, 1, 2, and four times the difference of 2 and 0."""
    columns = ["A", "B", *(f"strength {g:g}" for g in STRENGTHS), f"(2 - 0) × {_GAIN:g}"]
    figure = Figure(figsize=(1.7 * len(columns), 1.9 * len(slots)), layout="constrained")
    grid = figure.subplots(len(slots), len(columns), squeeze=False)
    for line, (name, slot) in zip(grid, slots.items(), strict=True):
        offset = slot.offset(subject.num_tokens, subject.token_dim, amplitude).to(subject.a.device)
        with torch.no_grad():
            edits = torch.stack([g * offset for g in STRENGTHS])
            fused = subject.fused(torch.zeros(len(edits), dtype=torch.long, device=subject.a.device), edits)[:, 0].cpu()
        difference = 0.5 + _GAIN * (fused[-1] - fused[1])
        sources = (subject.a[0, 0].cpu(), subject.b[0, 0].cpu())
        for axes, image, title in zip(line, (*sources, *fused, difference), columns, strict=True):
            axes.imshow(image.clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(title, fontsize=8)
        line[0].set_ylabel(f"{name} ({slot.position})", fontsize=8)
    _save(figure, folder / "slots.png")


def save_budgets(specs: Mapping[int, SlotSpec], unedited: Mapping[str, float], folder: Path) -> None:
    """Relative change of every measure and the score over the slot budget."""
    figure, (axes,) = _grid(1, 3.4)
    budgets = sorted(specs)
    for name in MEASURES:
        change = [100.0 * specs[s].evidence["joint_effect"][name] / unedited[name] for s in budgets]
        axes.plot(budgets, change, "o-", linewidth=1.2, markersize=4, label=f"{name}, %")
    scores = [100.0 * specs[s].evidence["joint_effect"]["score"] for s in budgets]
    axes.plot(budgets, scores, "s--", color="black", linewidth=1.2, markersize=4, label="score J × 100")
    axes.set_xticks(budgets)
    axes.set_xlabel("slots")
    axes.set_ylabel("change from the unedited image")
    axes.legend(fontsize=8, frameon=False)
    _save(figure, folder / "budgets.png")


def _bars(axes: Axes, values: NDArray[np.float32], positions: Sequence[int]) -> None:
    slots, count = values.shape
    width = 0.8 / slots
    for s in range(slots):
        places = np.arange(count) + (s - (slots - 1) / 2) * width
        axes.bar(places, values[s], width, label=f"slot {s}: position {positions[s]}")
    axes.set_xticks(range(0, count, max(1, count // 16)))
    axes.set_xlim(-0.6, count - 0.4)
    axes.legend(fontsize=7, frameon=False)


def _grid(rows: int, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(9.0, height * rows + 0.4), layout="constrained")
    return figure, list(figure.subplots(rows, 1, squeeze=False)[:, 0])


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=_DPI)

"""Angles between tasks and weights of tasks over the steps of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from training.conflict_runs import RIGHT, ConflictRun

_COLOURS = ("#3b82c4", "#e07b39", "#4a9d5b", "#b5559c", "#c9a227", "#7a6fd0")
_SMOOTH = 8
"""The line is the mean over an eighth of the measurements."""


def save_curves(runs: Sequence[ConflictRun], path: Path) -> None:
    """Above, the angles of each pair of tasks: dots, and their moving mean as a line. Below, the weight of each task.

    Args:
        runs: With the same tasks.
        path: Of the PNG.
    """
    pairs, tasks = list(runs[0].angles), list(runs[0].weights)
    columns = max(len(pairs), len(tasks))
    figure = Figure(figsize=(3.6 * columns, 5.2), layout="constrained")
    grid = figure.subplots(2, columns, squeeze=False, sharex=True)
    for axes in grid.flat:
        axes.set_visible(False)
    for axes, pair in zip(grid[0], pairs, strict=False):
        _show(axes, pair)
        for row, run in enumerate(runs):
            steps, values = (np.array(part, dtype=np.float64) for part in run.angles[pair])
            known = np.isfinite(values)
            colour = _COLOURS[row % len(_COLOURS)]
            axes.plot(steps[known], values[known], ".", color=colour, markersize=3.5, alpha=0.4)
            axes.plot(steps[known], _moving_mean(values[known]), color=colour, linewidth=1.6, label=run.name)
        axes.axhline(RIGHT, color="black", linestyle=":", linewidth=1.0, label="90°: conflict above")
    for axes, task in zip(grid[1], tasks, strict=False):
        _show(axes, task)
        for row, run in enumerate(runs):
            axes.plot(*run.weights[task], color=_COLOURS[row % len(_COLOURS)], linewidth=1.6, label=run.name)
        axes.set_xlabel("step", fontsize=8)
    grid[0, 0].set_ylabel("angle between gradients, degrees", fontsize=8)
    grid[1, 0].set_ylabel("weight", fontsize=8)
    _share_limits([axes for axes in grid[0] if axes.get_visible()])
    _share_limits([axes for axes in grid[1] if axes.get_visible()])
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def _show(axes: Axes, title: str) -> None:
    axes.set_visible(True)
    axes.set_title(title, loc="left", fontsize=9)
    axes.tick_params(labelsize=7, labelbottom=True)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)


def _share_limits(panels: Sequence[Axes]) -> None:
    """One scale for all panels of a row, so that heights can be compared."""
    low, high = zip(*(axes.get_ylim() for axes in panels), strict=True)
    for axes in panels:
        axes.set_ylim(min(low), max(high))


def _moving_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over a window around each value, shorter at both ends."""
    half = len(values) // _SMOOTH // 2
    return np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])

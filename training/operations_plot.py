"""The weights of the operations as bars."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from training.operations_report import STREAMS, OperationReport

_COLOURS = ("#3b82c4", "#e07b39", "#4a9d5b", "#b5559c", "#c9a227", "#7a6fd0")


def save_bars(report: OperationReport, path: Path) -> None:
    """One panel a stream: a bar for each task, its standard deviation over the pairs, and the paper's value as a line.

    Args:
        report: The weights.
        path: Of the PNG.
    """
    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    panels = figure.subplots(1, len(STREAMS), sharey=True)
    places, width = np.arange(len(report.operations)), 0.8 / len(report.tasks)
    for stream, axes in enumerate(panels):
        for row, task in enumerate(report.tasks):
            here = places + (row - (len(report.tasks) - 1) / 2) * width
            colour = _COLOURS[row % len(_COLOURS)]
            mean, deviation = task.mean[stream], task.deviation[stream]
            error = {"elinewidth": 1.0, "capsize": 2.5}
            axes.bar(here, mean, 0.9 * width, yerr=deviation, color=colour, label=task.name, error_kw=error)
            if task.published:
                values = [task.published[1][name][stream] for name in report.operations]
                axes.hlines(
                    values, here - 0.45 * width, here + 0.45 * width, color="black", linestyle=":", label="the paper"
                )
        axes.set_title(f"stream {STREAMS[stream]}", loc="left", fontsize=10)
        axes.set_xticks(places, report.operations)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    panels[0].set_ylabel("weight")
    handles, labels = panels[0].get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    figure.legend(once.values(), once.keys(), loc="outside upper left", ncols=len(once), frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)

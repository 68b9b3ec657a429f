"""Plots of a report as SVG that takes the text colour of the page around it, so that it reads in light and dark."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.evaluation.summary import Report
from training.evaluation.wording import arrow

_INK = "#010203"  # no plot uses this colour otherwise: it is exchanged for the page's own
_REST = "#8a8f98"
_COLOURS = ("#3b82c4", "#e07b39", "#4a9d5b", "#b5559c", "#c9a227", "#7a6fd0", "#d1495b", "#3aa6a6", "#9c6b4e")
_STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "grid.alpha": 0.18,
    "grid.linewidth": 0.8,
    "axes.linewidth": 0.6,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), _INK
    ),
    "grid.color": _INK,
}


def means_plot(report: Report) -> str:
    """A panel per column: the mean of every method as a dot, its interval as a line; best mean rank on top.

    References have a colour each; their controls share it and are diamonds.
    """
    across = min(4, len(report.columns))
    down = math.ceil(len(report.columns) / across)
    names = report.by_rank
    colours = _colours(report)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11.0, down * (0.55 + 0.2 * len(names))), layout="constrained")
        panels = _panels(figure, down, across, sharey=True)
        for column, axes in zip(report.columns, panels, strict=False):
            for row, name in enumerate(names):
                low, high = report.intervals[column][name]
                colour, mark = colours[name], "D" if name in report.controls else "o"
                axes.plot([low, high], [row, row], color=colour, linewidth=2.2, alpha=0.55)
                axes.plot(report.table[column][name], row, mark, color=colour, markersize=4.5)
            axes.set_title(f"{column} {arrow(column)}")
            axes.set_yticks(range(len(names)), names)
            axes.grid(axis="y")
        next(iter(figure.axes)).invert_yaxis()
        return _svg(figure, panels, "means with intervals")


def pairs_plot(report: Report) -> str:
    """A panel per metric of the rank: every method but the controls on every pair, the reference's worst pair first."""
    across = min(2, len(report.ranked_by))
    down = math.ceil(len(report.ranked_by) / across)
    order = report.worst_first
    places = np.arange(1, len(order) + 1)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11.0, 0.5 + 1.9 * down), layout="constrained")
        panels = _panels(figure, down, across)
        for metric, axes in zip(report.ranked_by, panels, strict=False):
            for name, style in _line_styles(report).items():
                values = np.array(report.results.values[name][metric])[order]
                axes.plot(places, np.where(np.isfinite(values), values, np.nan), label=name, **style)
            axes.set_title(f"{metric} {arrow(metric)}")
            axes.grid(axis="y")
            axes.set_xlim(0.5, len(order) + 0.5)
            axes.locator_params(axis="x", integer=True)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=4, frameon=False)
        return _svg(figure, panels, "values of every pair")


def _panels(figure: Figure, down: int, across: int, *, sharey: bool = False) -> Iterator[Axes]:
    grid = figure.subplots(down, across, squeeze=False, sharey=sharey)
    return iter(grid.ravel().tolist())


def _colours(report: Report) -> dict[str, str]:
    """A colour for each reference and its controls, grey for the rest."""
    references = report.references or (report.reference,)
    own = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(references)}
    return {name: own.get(report.controls.get(name, name), _REST) for name in report.methods}


def _line_styles(report: Report) -> dict[str, dict[str, Any]]:
    """The reference as a heavy line in front, other methods light, controls left out; colours repeat with new marks."""
    references = [name for name in report.references if name in report.contenders]
    rest = [name for name in report.by_rank if name in report.contenders and name not in references]
    styles: dict[str, dict[str, Any]] = {}
    for i, name in enumerate([*references, *rest]):
        first = name == report.reference
        styles[name] = {
            "color": _COLOURS[i % len(_COLOURS)],
            "marker": "osv^D"[i // len(_COLOURS) % 5],
            "markersize": 4.0 if first else 2.6,
            "linewidth": 2.0 if first else 0.8,
            "alpha": 1.0 if first else 0.75,
            "zorder": 3 if first else 2,
        }
    return styles


def _svg(figure: Figure, unused: Iterable[Axes], name: str) -> str:
    """The figure as an ``<svg>`` element, without panels that nothing was drawn on."""
    for axes in unused:
        axes.set_visible(False)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):  # the same results give the same file
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    return (
        text[text.index("<svg") :]
        .replace(_INK, "currentColor")
        .replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1)
    )

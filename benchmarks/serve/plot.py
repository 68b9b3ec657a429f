"""Draws what a run of ``make bench-serve`` measured: speed, latency, memory."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.serve.conduct import Memory
from benchmarks.serve.judged import median, percentile
from benchmarks.serve.speed import ONE_SIZE, WAYS, Speed
from benchmarks.serve.subjects import PAIRFUSE

COLORS = ("#1f6fb4", "#8a8f98", "#d1772f", "#b5559c")
STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "svg.hashsalt": "pairfuse",  # The same picture from the same numbers.
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.0,
    "grid.alpha": 0.25,
}
MEGA = 1e6


def draw(speed: Speed, memory: Memory) -> str:
    """Returns an SVG picture with three panels."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 3.4), layout="constrained")
        rates, tails, growth = figure.subplots(1, 3)
        _draw_rates(rates, speed)
        _draw_tails(tails, speed)
        _draw_memory(growth, memory)
        handles, labels = rates.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=len(labels), frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def _draw_rates(axes: Axes, speed: Speed) -> None:
    for name, cells, color in _servers(speed):
        rates = [median([load.throughput for load in speed.loads[cell]]) for cell in cells]
        axes.plot([cell.clients for cell in cells], rates, "o-", color=color, label=name, **_width(name))
    for way, line in zip(WAYS, (":", "--"), strict=True):
        rate = median([turn.throughput for turn in speed.bare[ONE_SIZE, way]])
        axes.axhline(rate, color="black", linestyle=line, linewidth=1.0, label=f"in process, {way}")
    axes.set(title="pictures a second", ylim=(0, None))
    _scale_clients(axes, speed)


def _draw_tails(axes: Axes, speed: Speed) -> None:
    for name, cells, color in _servers(speed):
        tails = [median([percentile(load, 99) * 1e3 for load in speed.loads[cell]]) for cell in cells]
        axes.plot([cell.clients for cell in cells], tails, "o-", color=color, **_width(name))
    axes.set(title="99th percentile, ms", yscale="log")
    _scale_clients(axes, speed)


def _draw_memory(axes: Axes, memory: Memory) -> None:
    samples = np.array(memory.samples) / MEGA
    axes.plot(np.linspace(0, memory.requests, len(samples)), samples, color=COLORS[0], linewidth=1.2)
    axes.set(title="resident memory, MB", xlabel="requests of mixed sizes", ylim=(0, None))
    axes.grid(visible=True)


def _servers(speed: Speed) -> list[tuple[str, list[Any], str]]:
    """Returns name, cells and colour of each server, for pairs of one size."""
    names = list(dict.fromkeys(cell.name for cell in speed.loads))
    found = []
    for name, color in zip(names, COLORS, strict=False):
        cells = [cell for cell in speed.loads if (cell.name, cell.pairs) == (name, ONE_SIZE)]
        found.append((name, cells, color))
    return found


def _scale_clients(axes: Axes, speed: Speed) -> None:
    numbers = sorted({cell.clients for cell in speed.loads if cell.pairs == ONE_SIZE})
    axes.set_xscale("log", base=2)
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.set_xlabel("clients")
    axes.grid(visible=True)


def _width(name: str) -> dict[str, Any]:
    return {"linewidth": 2.2 if name == PAIRFUSE else 1.2, "markersize": 4.0}

"""Shows memory against image size as table, Markdown, JSON and plot."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from rich.table import Table

from benchmarks.large import Large, LargeRun
from benchmarks.large_run import TILED, WHOLE

COLUMNS = ("image", "megapixels")
WAY_COLUMNS = {WHOLE: ("whole, peak", "whole, time"), TILED: ("in tiles, peak", "in tiles, time")}
LABELS = {WHOLE: "whole image", TILED: "in tiles"}


def large_title(name: str, large: Large) -> str:
    """Returns what the table shows, in one line."""
    tiling = large.tiling
    if tiling is None:
        return f"{name}, memory against image size; every image as a whole"
    return (
        f"{name}, memory against image size; tiles of {tiling.tile} pixels with halos of {tiling.halo_sums} and "
        f"{tiling.halo}, in the service from {tiling.above_pixels / 1e6:.2f} megapixels on"
    )


def large_table(name: str, large: Large) -> Table:
    """Returns the table for the terminal."""
    table = Table(*_columns(large), title=large_title(name, large), title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in _rows(large):
        table.add_row(*row)
    return table


def large_markdown(name: str, large: Large | str) -> list[str]:
    """Returns the lines of the section, with the picture that ``draw_large`` makes, or why there is none."""
    if isinstance(large, str):
        return [f"{name}: {large}."]
    return [
        f"### {large_title(name, large)}",
        "",
        "One pair of each size is fused once, in a fresh process each time. The peak is that of the whole process.",
        "",
        f"| {' | '.join(_columns(large))} |",
        f"|---|{'---:|' * (len(_columns(large)) - 1)}",
        *(f"| {' | '.join(row)} |" for row in _rows(large)),
        "",
        f"![Peak memory against image size]({picture_name(name)})",
    ]


def large_json(large: Large | str) -> dict[str, Any]:
    """Returns the tiles and all runs, peaks in bytes; or why there are none."""
    if isinstance(large, str):
        return {"missing": large}
    kept = {"multiple", "above_pixels", "tile", "halo_sums", "halo"}
    geometry = large.tiling.model_dump(include=kept) if large.tiling else None
    return {"tiling": geometry, "runs": [asdict(run) for run in large.runs]}


def picture_name(name: str) -> str:
    """Returns the file name of a model's plot."""
    return f"memory-{name}.svg"


def draw_large(name: str, large: Large, folder: Path) -> None:
    """Draws peak memory over megapixels, one line for each way, into a folder."""
    mpl.rcParams["svg.hashsalt"] = "pairfuse"  # The same numbers give the same file.
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axis = figure.subplots()
    for way in large.ways:
        runs = [(run.height * run.width / 1e6, run.peak / 1e9) for run in large.runs if run.way == way and run.peak]
        pixels, peaks = [pixels for pixels, _ in runs], [peak for _, peak in runs]
        axis.plot(pixels, peaks, marker="o", markersize=4, linewidth=1.2, label=LABELS[way])
    if large.tiling is not None:
        axis.axvline(large.tiling.above_pixels / 1e6, color="grey", linewidth=0.8, linestyle=":")
    axis.set_title(f"{name}: peak memory of one run", fontsize=9)
    axis.set_xlabel("megapixels", fontsize=8)
    axis.set_ylabel("GB", fontsize=8)
    axis.set_ylim(bottom=0)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(folder / picture_name(name), metadata={"Date": None})


def _columns(large: Large) -> tuple[str, ...]:
    return (*COLUMNS, *(column for way in large.ways for column in WAY_COLUMNS[way]))


def _rows(large: Large) -> list[tuple[str, ...]]:
    rows = []
    for height, width in large.sizes:
        cells = [cell for way in large.ways for cell in _cells(large.run((height, width), way))]
        rows.append((f"{width}×{height}", f"{height * width / 1e6:.1f}", *cells))
    return rows


def _cells(run: LargeRun) -> tuple[str, str]:
    if run.peak is None or run.seconds is None:
        return run.missing, ""
    return f"{run.peak / 1e6:.0f} MB", f"{run.seconds:.1f} s"

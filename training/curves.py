"""Draw the curves of runs from their ``metrics.jsonl``, for documentation and for a look without TensorBoard."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from training.data.images import DataError

Curve = tuple[list[int], list[float]]


def read_curves(folder: Path) -> dict[str, Curve]:
    """All curves of a run folder: name to steps and values. A step that was done twice counts as it ended.

    Raises:
        DataError: There are no records.
    """
    path = folder / "metrics.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}; give the folder of a run") from error
    points: dict[str, dict[int, float]] = {}
    for line in lines:
        for name, value in line.items():
            if name not in {"step", "time"}:
                points.setdefault(name, {})[int(line["step"])] = float(value)
    if not points:
        raise DataError(f"{path} holds no records yet")
    return {name: (sorted(rows), [rows[step] for step in sorted(rows)]) for name, rows in points.items()}


def draw(runs: dict[str, dict[str, Curve]], names: list[str], path: Path) -> None:
    """One small plot per curve, all runs in it; the format is that of the file's suffix.

    Raises:
        DataError: No run has a curve of that name.
    """
    known = sorted({name for curves in runs.values() for name in curves})
    if unknown := [name for name in names if name not in known]:
        raise DataError(f"no curve {', '.join(unknown)}; known: {', '.join(known)}")
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    mpl.rcParams["svg.hashsalt"] = "pairfuse"  # the same runs give the same file
    figure = Figure(figsize=(3.6 * columns, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, name in zip(axes, names, strict=False):
        for run, curves in runs.items():
            if name in curves:
                axis.plot(*curves[name], label=run, linewidth=1.2)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    if len(runs) > 1:
        axes[0].legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m training curves``."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--names", nargs="+", default=["loss"], metavar="CURVE", help="e.g. loss val/SSIM val/SCD")
    parser.add_argument("--out", type=Path, required=True, help="picture to write, .svg or .png")


def run(args: argparse.Namespace) -> None:
    """Draw."""
    draw({folder.resolve().name: read_curves(folder) for folder in args.runs}, args.names, args.out)
    print(args.out)

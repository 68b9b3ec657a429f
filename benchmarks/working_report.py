"""The tables and the plot of the working size, made of what its measurement recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.working_ways import GUIDED, WAYS

FULL = "full size"
ALONE = "model alone"
PSNR, SSIM, TRUTH = "PSNR to full, dB", "SSIM to full", "PSNR to truth, dB"
KEPT = ("Qabf", "VIF")
WAYS_SHOWN = ("enlarged", "larger detail", GUIDED, ALONE)
NOTHING = "–"
MARKERS = "o^sDv"  # One for each set; the colour tells the model.
Row = Mapping[str, Any]


def as_markdown(record: Mapping[str, Any]) -> str:
    """Returns all tables of a record that has rows for them, each under a heading of its own."""
    tables = {
        "Fidelity": fidelity_table(record["fidelity"]),
        "Ways back": ways_table(record["fidelity"]),
        "Times": times_table(record["times"]),
    }
    facts = "\n".join(f"- {name}: {value}" for name, value in record["machine"].items())
    return "\n\n".join([facts, *(f"## {title}\n\n{table}" for title, table in tables.items() if table)])


def fidelity_table(rows: Sequence[Row]) -> str:
    """Returns what a reduced pair is worth: one line for each set, model and side. Empty without rows."""
    names = [f"{name}, full / {GUIDED}" for name in (*KEPT, TRUTH)]
    lines = []
    for (pairs, model, side), ways in _by_side(rows).items():
        full, guided = _full(rows, pairs, model), ways[GUIDED]
        both = [_both(full[name], guided[name], 1 if name == TRUTH else 3) for name in (*KEPT, TRUTH)]
        likeness = [f"{ways[way][PSNR]:.1f}" for way in WAYS_SHOWN] + [f"{guided[SSIM]:.3f}"]
        lines.append([pairs, f"`{model}`", side, *likeness, *both])
    return _table(["pairs", "model", "side", *WAYS_SHOWN, f"SSIM, {GUIDED}", *names], lines)


def ways_table(rows: Sequence[Row]) -> str:
    """Returns the PSNR to the result of the full size of those ways back that are kin to the guided step, likewise."""
    names = [way for way in WAYS if way == GUIDED or way not in WAYS_SHOWN]
    lines = [
        [pairs, f"`{model}`", side, *(f"{ways[way][PSNR]:.1f}" for way in names)]
        for (pairs, model, side), ways in _by_side(rows).items()
    ]
    return _table(["pairs", "model", "side", *names], lines)


def times_table(rows: Sequence[Row]) -> str:
    """Returns what a pair costs at each working size. Empty without rows."""
    lines = [
        [
            f"`{row['model']}`",
            str(row["max_side"]),
            row["working size"],
            f"{row['model s']:.2f}",
            f"{row['guide s']:.2f}" if row["guide s"] else NOTHING,
            f"{100 * _whole(row) / _native(rows, row['model']):.0f} %",
            NOTHING if row[PSNR] is None else f"{row[PSNR]:.1f}",
        ]
        for row in rows
    ]
    head = ["model", "`max_side`", "working size", "model, CPU s", "reduction and guided step, CPU s", "of native"]
    return _table([*head, PSNR], lines)


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Draws fidelity and time over the working side as a share of the full one; the suffix chooses the format."""
    mpl.rcParams["svg.hashsalt"] = "pairfuse"  # The same record gives the same file.
    figure = Figure(figsize=(11, 4), layout="constrained")
    psnr, ssim, time = figure.subplots(1, 3)
    sides = _by_side(record["fidelity"])
    sets = list(dict.fromkeys(pairs for pairs, _, _ in sides))
    models = list(dict.fromkeys(row["model"] for row in [*record["fidelity"], *record["times"]]))
    for line in dict.fromkeys((pairs, model) for pairs, model, _ in sides):
        shares = [(float(Fraction(side)), ways[GUIDED]) for (*key, side), ways in sides.items() if tuple(key) == line]
        look = {"color": f"C{models.index(line[1])}", "marker": MARKERS[sets.index(line[0]) % len(MARKERS)]}
        for axis, name in ((psnr, PSNR), (ssim, SSIM)):
            axis.plot(*zip(*((share, way[name]) for share, way in shares), strict=True), label=": ".join(line), **look)
    for model in dict.fromkeys(row["model"] for row in record["times"]):
        of_model = [row for row in record["times"] if row["model"] == model]
        points = ((row["share"], _whole(row) / _native(record["times"], model)) for row in of_model)
        time.plot(*zip(*points, strict=True), color=f"C{models.index(model)}", marker=".", label=model)
    _finish(psnr, "PSNR to the native result, dB")
    _finish(ssim, "SSIM to the native result")
    _finish(time, "CPU time, guided step included; native: 1")
    handles, labels = psnr.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7)
    if record["times"]:
        time.legend(fontsize=7)
        time.set_ylim(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _finish(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize=9)
    axis.set_xlabel("working side as a share of the longer side", fontsize=8)
    axis.set_xlim(0, 1.05)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3)


def _by_side(rows: Sequence[Row]) -> dict[tuple[str, str, str], dict[str, Row]]:
    """Returns the rows of all ways for each set, model and reduced side, in their order."""
    found: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        if row["way"] != FULL:
            found.setdefault((row["pairs"], row["model"], row["side"]), {})[row["way"]] = row
    return found


def _full(rows: Sequence[Row], pairs: str, model: str) -> Row:
    return next(row for row in rows if (row["pairs"], row["model"], row["way"]) == (pairs, model, FULL))


def _both(full: float | None, guided: float | None, digits: int) -> str:
    return NOTHING if full is None or guided is None else f"{full:.{digits}f} / {guided:.{digits}f}"


def _whole(row: Row) -> float:
    return float(row["model s"] + (row["guide s"] or 0))


def _native(rows: Sequence[Row], model: str) -> float:
    return next(_whole(row) for row in rows if row["model"] == model and row["guide s"] is None)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    if not lines:
        return ""
    rule = "|".join("---:" if number > 2 else "---" for number in range(len(head)))
    return "\n".join(f"| {' | '.join(cells)} |" if cells else f"|{rule}|" for cells in ([*head], [], *lines))

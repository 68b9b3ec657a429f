"""Write results: JSON with every value, a Markdown table, the card's entry, and a contact sheet of images."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from training.evaluation.methods import Results
from training.evaluation.metrics import METRICS, RANKED
from training.evaluation.pairs import Grey
from training.evaluation.rank import mean_rank

_LABEL_HEIGHT = 16


@dataclass(frozen=True)
class Report:
    """Results with what a reader needs to know about them.

    Attributes:
        dataset: Label such as ivf/val.
        size: "native" or "256x256".
        results: The values.
        ranked_by: Metrics that count for the mean rank.
    """

    dataset: str
    size: str
    results: Results
    ranked_by: tuple[str, ...] = RANKED

    def ranks(self) -> dict[str, float]:
        """Mean rank of each method among all methods of the report."""
        return mean_rank(self.results.means(), self.ranked_by)


def to_json(report: Report) -> dict[str, Any]:
    """Everything as plain JSON values; a value that is not finite becomes null."""
    results, ranks = report.results, report.ranks()
    means, deviations = results.means(), results.deviations()
    methods = {
        name: {
            "mean_rank": ranks[name],
            "mean": _nulls(means[name]),
            "std": _nulls(deviations[name]),
            "per_pair": {
                pair: _nulls({metric: values[metric][row] for metric in results.metrics})
                for row, pair in enumerate(results.pairs)
            },
        }
        for name, values in results.values.items()
    }
    return {
        "dataset": report.dataset,
        "size": report.size,
        "pairs": len(results.pairs),
        "ranked_by": list(report.ranked_by),
        "metrics": {m: {"better": _direction(m), "text": METRICS[m].text} for m in results.metrics},
        "methods": methods,
    }


def to_markdown(report: Report) -> str:
    """One table: a row per method, best mean rank first; the best value of each column is bold."""
    ranks, means = report.ranks(), report.results.means()
    columns: dict[str, dict[str, float]] = {"rank": ranks}
    for metric in report.results.metrics:
        columns[metric] = {method: table[metric] for method, table in means.items()}
    cells = {name: _mark_best(values, _rising(name)) for name, values in columns.items()}
    heads = [f"{name} {'↑' if _rising(name) else '↓'}" for name in columns]
    lines = [
        f"{report.dataset}, size {report.size}, {len(report.results.pairs)} pairs; "
        f"rank: mean rank over {', '.join(report.ranked_by)}.",
        "",
        "| method | " + " | ".join(heads) + " |",
        "|---|" + "---:|" * len(heads),
    ]
    for method in sorted(ranks, key=lambda name: ranks[name]):
        lines.append(f"| {method} | " + " | ".join(column[method] for column in cells.values()) + " |")
    return "\n".join(lines) + "\n"


def card_entry(report: Report, methods: Iterable[str]) -> dict[str, Any]:
    """The entry for a card's ``evaluation`` list, of some of the methods, ranked among these.

    A mean that is not defined is left out. Numbers are rounded to four decimals.
    """
    chosen = set(methods)
    results = report.results
    means = {name: table for name, table in results.means().items() if name in chosen}
    return {
        "dataset": report.dataset,
        "pairs": len(results.pairs),
        "size": report.size,
        "ranked_by": list(report.ranked_by),
        "mean_rank": {name: round(rank, 4) for name, rank in mean_rank(means, report.ranked_by).items()},
        "metrics": {
            name: {metric: round(value, 4) for metric, value in table.items() if math.isfinite(value)}
            for name, table in means.items()
        },
    }


def write_report(report: Report, folder: Path) -> None:
    """Write metrics.json and metrics.md into a folder, which is made if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", to_json(report))
    (folder / "metrics.md").write_text(to_markdown(report), encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write strict JSON (no NaN), indented by two."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def contact_sheet(rows: Sequence[Mapping[str, Grey]], height: int = 240) -> Image.Image:
    """Images side by side, a row per pair, each with its label above.

    Args:
        rows: Label and image (H, W) in order, such as ``{"a": …, "b": …, "average": …}``; at least one row.
        height: Height of each image on the sheet in pixels; larger images are made smaller, none larger.
    """
    thumbs = [[_thumb(label, image, height) for label, image in row.items()] for row in rows]
    width = max(sum(thumb.width for thumb in row) for row in thumbs)
    sheet = Image.new("L", (width, sum(row[0].height for row in thumbs)), 255)
    top = 0
    for row in thumbs:
        left = 0
        for thumb in row:
            sheet.paste(thumb, (left, top))
            left += thumb.width
        top += row[0].height
    return sheet


def _thumb(label: str, image: Grey, height: int) -> Image.Image:
    scale = min(1.0, height / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    thumb = Image.new("L", (size[0] + 2, size[1] + _LABEL_HEIGHT), 255)
    thumb.paste(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS), (1, _LABEL_HEIGHT))
    ImageDraw.Draw(thumb).text((3, 2), label, fill=0)
    return thumb


def _nulls(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _rising(column: str) -> bool:
    return column != "rank" and METRICS[column].higher_is_better


def _direction(metric: str) -> str:
    return "higher" if METRICS[metric].higher_is_better else "lower"


def _mark_best(values: Mapping[str, float], rising: bool) -> dict[str, str]:
    """Format a column with three to five significant digits and mark its best values, ties included."""
    texts = {name: _format(value) for name, value in values.items()}
    finite = [value for value in values.values() if math.isfinite(value)]
    if len(values) < 2 or not finite:
        return texts
    best = _format(float(np.max(finite) if rising else np.min(finite)))
    return {name: f"**{text}**" if text == best else text for name, text in texts.items()}


def _format(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 10.0 else f"{value:.2f}"

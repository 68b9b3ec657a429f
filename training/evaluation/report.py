"""Write a report: JSON with every value, Markdown, one HTML file, and the entry of a card."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from training.evaluation.bootstrap import LEVEL, RESAMPLES, SEED, Interval
from training.evaluation.markdown import to_markdown
from training.evaluation.metrics import ALL_METRICS
from training.evaluation.page import PairPictures, to_html
from training.evaluation.rank import mean_rank
from training.evaluation.summary import RANK, Difference, Report, is_rising

Json = dict[str, Any]


def to_json(report: Report) -> Json:
    """Everything as plain JSON values; a value that is not finite becomes null."""
    return {
        "dataset": report.dataset,
        "size": report.size,
        "pairs": len(report.results.pairs),
        "ranked_by": list(report.ranked_by),
        "bootstrap": {"level": LEVEL, "resamples": RESAMPLES, "seed": SEED},
        "metrics": {
            m: {"better": "higher" if is_rising(m) else "lower", "text": ALL_METRICS[m].text}
            for m in report.results.metrics
        },
        "controls": dict(report.controls),
        "methods": _methods_json(report),
        "differences": {
            reference: {other: _differences_json(columns) for other, columns in others.items()}
            for reference, others in report.differences.items()
        },
        "groups": {
            name: {"pairs": group.pairs, "mean_rank": group.ranks} for name, group in report.group_ranks.items()
        },
    }


def _methods_json(report: Report) -> Json:
    results = report.results
    means, deviations = results.means(), results.deviations()
    return {
        name: {
            "mean_rank": report.table[RANK][name],
            "mean_rank_interval": _ends(report.intervals[RANK][name]),
            "mean": _nulls(means[name]),
            "std": _nulls(deviations[name]),
            "interval": {metric: _ends(report.intervals[metric][name]) for metric in results.metrics},
            "per_pair": {
                pair: _nulls({metric: values[metric][row] for metric in results.metrics})
                for row, pair in enumerate(results.pairs)
            },
            "per_pair_rank": dict(zip(results.pairs, report.pair_ranks[name], strict=True)),
        }
        for name, values in results.values.items()
    }


def _differences_json(columns: Mapping[str, Difference]) -> Json:
    return {
        ("mean_rank" if column == RANK else column): {
            "mean": found.mean if math.isfinite(found.mean) else None,
            "interval": _ends(found.interval),
            "better": found.better,
        }
        for column, found in columns.items()
    }


def card_entry(
    report: Report,
    methods: Iterable[str],
    *,
    own: str | None = None,
    called: str | None = None,
    beside: Iterable[str] = (),
) -> Json:
    """The entry for a card's ``evaluation`` list, of some of the methods, ranked among these.

    A mean that is not defined is left out. Numbers are rounded to four decimals.

    Args:
        report: The results.
        methods: Names of the methods.
        own: The card's model among them, whose intervals are kept as well.
        called: Its name in the card, where that is another than in the report.
        beside: Methods whose means are kept, but which are not ranked: the sources.
    """
    chosen, unranked = set(methods), set(beside)
    names = {own: called} if own and called else {}
    kept = {name: table for name, table in report.results.means().items() if name in chosen | unranked}
    means = {names.get(name, name): table for name, table in kept.items()}
    ranked = {name: table for name, table in means.items() if name not in unranked}
    entry: Json = {
        "dataset": report.dataset,
        "pairs": len(report.results.pairs),
        "size": report.size,
        "ranked_by": list(report.ranked_by),
        "mean_rank": {name: round(rank, 4) for name, rank in mean_rank(ranked, report.ranked_by).items()},
        "metrics": {
            name: {metric: round(value, 4) for metric, value in table.items() if math.isfinite(value)}
            for name, table in means.items()
        },
    }
    if own:
        ends = {metric: report.intervals[metric][own] for metric in report.results.metrics}
        entry["intervals"] = {
            names.get(own, own): {m: [round(x, 4) for x in found] for m, found in ends.items() if _defined(found)}
        }
    return entry


def write_report(report: Report, folder: Path, pictures: PairPictures) -> None:
    """Write metrics.json, metrics.md and report.html into a folder, which is made if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", to_json(report))
    (folder / "metrics.md").write_text(to_markdown(report), encoding="utf-8")
    (folder / "report.html").write_text(to_html(report, pictures), encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write strict JSON (no NaN), indented by two."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _defined(ends: Interval) -> bool:
    return math.isfinite(ends.low) and math.isfinite(ends.high)


def _ends(ends: Interval) -> list[float] | None:
    return list(ends) if _defined(ends) else None


def _nulls(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}

"""Tables of quality: all released models and the baselines, one table a validation set, from the cards' evaluations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from training.evaluation.metrics import ALL_METRICS
from training.evaluation.rank import mean_rank

SETS = {
    "ivf/val": "infrared and visible",
    "mef/val": "over- and under-exposed",
    "made/focus": "near and far focus, made from single images",
    "mif-ct/val": "MRI and CT",
    "mif-pet/val": "MRI and PET",
    "mif-spect/val": "MRI and SPECT",
}
"""What the pairs of a set are, in the order of the tables. Other sets come last, by their name alone."""
TRUTH = ("PSNR_truth", "SSIM_truth")
"""Columns of sets whose pairs were made of one image."""
COLUMNS = ("EN", "SD", "SCD", "SSIM", "MI", "VIF", "Qabf", "CC", "clip")
# Half of the last decimal that the tables show.
_SAME = 5e-4


@dataclass(frozen=True)
class Table:
    """One validation set: the means of several methods, ranked among each other.

    Attributes:
        dataset: Label such as ivf/val.
        pairs: Number of pairs.
        ranked_by: Metrics that count for the mean rank.
        metrics: ``metrics[method][metric]``.
        rank: Mean rank of each method.
    """

    dataset: str
    pairs: int
    ranked_by: tuple[str, ...]
    metrics: dict[str, dict[str, float]]
    rank: dict[str, float]

    @classmethod
    def of(cls, evaluation: dict[str, Any]) -> Table:
        """The table of one card, with the card's ranks: they come from means that are not rounded."""
        rank = evaluation["mean_rank"]
        # the sources are measured beside the methods, but have no rank
        metrics = {method: evaluation["metrics"][method] for method in rank}
        return cls(evaluation["dataset"], evaluation["pairs"], tuple(evaluation["ranked_by"]), metrics, rank)

    def fits(self, other: Table) -> bool:
        """Whether both were measured on the same pairs in the same way, to judge by the methods they share."""
        shared = self.metrics.keys() & other.metrics.keys()
        return (
            (self.dataset, self.pairs) == (other.dataset, other.pairs)
            and bool(shared)
            and not {*self.ranked_by}.isdisjoint(other.ranked_by)
            and all(_agree(self.metrics[method], other.metrics[method]) for method in shared)
        )

    def joined(self, other: Table) -> Table:
        """All methods of both, ranked anew, by the metrics that both are ranked by."""
        metrics = {**self.metrics, **other.metrics}
        ranked_by = tuple(name for name in self.ranked_by if name in other.ranked_by)
        # a card leaves out a mean that is not defined; such a mean ranks last
        means = {method: {name: row.get(name, math.nan) for name in ranked_by} for method, row in metrics.items()}
        return replace(self, ranked_by=ranked_by, metrics=metrics, rank=mean_rank(means, ranked_by))

    def standing(self, method: str) -> str:
        """Mean rank and place, and where the truth is known, how close the method comes to it."""
        place = 1 + sum(rank < self.rank[method] for rank in self.rank.values())
        text = f"{self.rank[method]:.2f} ({_ordinal(place)} of {len(self.rank)})"
        truth = self.metrics[method].get("PSNR_truth")
        return text if truth is None else f"{text}, {truth:.1f} dB"


def gather(cards: Iterable[dict[str, Any]]) -> list[Table]:
    """The evaluations of all cards at native size, joined where they fit."""
    tables: list[Table] = []
    for card in cards:
        for evaluation in card["evaluation"]:
            if evaluation["size"] == "native":
                new = Table.of(evaluation)
                place = next((i for i, table in enumerate(tables) if table.fits(new)), None)
                if place is None:
                    tables.append(new)
                else:
                    tables[place] = tables[place].joined(new)
    order = list(SETS)
    return sorted(tables, key=lambda table: order.index(table.dataset) if table.dataset in SETS else len(order))


def overview(tables: Iterable[Table], models: Sequence[str]) -> str:
    """One row a table, one column a model; the best model is bold where there are several."""
    lines = [
        f"| validation pairs | number | {' | '.join(f'`{model}`' for model in models)} | best baseline |",
        "|---|---|" + "---|" * (len(models) + 1),
    ]
    for table in tables:
        ranks = [table.rank[model] for model in models if model in table.rank]
        cells = []
        for model in models:
            text = table.standing(model) if model in table.rank else "–"
            is_best = len(ranks) > 1 and table.rank.get(model) == min(ranks)
            cells.append(f"**{text}**" if is_best else text)
        baselines = [method for method in table.rank if method not in models]
        best = min(baselines, key=table.rank.__getitem__, default=None)
        cells.append(f"{best} {table.standing(best)}" if best else "–")
        lines.append(f"| {_title(table)} | {table.pairs} | {' | '.join(cells)} |")
    return "\n".join(lines)


def details(tables: Sequence[Table], models: Sequence[str]) -> str:
    """What the metrics mean, then every table in full."""
    shown = [name for name in (*TRUTH, *COLUMNS) if any(name in row for t in tables for row in t.metrics.values())]
    lines = ["| metric | | better |", "|---|---|---|"]
    for name in shown:
        better = "higher" if ALL_METRICS[name].higher_is_better else "lower"
        lines.append(f"| {name} | {ALL_METRICS[name].text} | {better} |")
    return "\n\n".join(["\n".join(lines), *(_in_full(table, models) for table in tables)])


def _in_full(table: Table, models: Sequence[str]) -> str:
    """One row a method, best mean rank first; our models in bold."""
    columns = [name for name in (*TRUTH, *COLUMNS) if any(name in row for row in table.metrics.values())]
    title = _title(table)
    lines = [
        f"## {title[0].upper()}{title[1:]}",
        "",
        f"{table.pairs} pairs. Mean rank over {', '.join(table.ranked_by)}.",
        "",
        f"| method | mean rank | {' | '.join(columns)} |",
        "|---|---|" + "---|" * len(columns),
    ]
    for method in sorted(table.rank, key=table.rank.__getitem__):
        name = f"**{method}**" if method in models else method
        values = [table.metrics[method].get(column) for column in columns]
        cells = " | ".join("–" if value is None else f"{value:.3f}" for value in values)
        lines.append(f"| {name} | {table.rank[method]:.2f} | {cells} |")
    return "\n".join(lines)


def _title(table: Table) -> str:
    words = SETS.get(table.dataset)
    return f"{words} ({table.dataset})" if words else table.dataset


def _agree(one: dict[str, float], two: dict[str, float]) -> bool:
    return all(abs(one[name] - two[name]) < _SAME for name in one.keys() & two.keys())


def _ordinal(number: int) -> str:
    ending = "th" if number in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"

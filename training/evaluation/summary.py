"""What the values say: means, ranks, their intervals, and paired differences to a reference method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from training.evaluation.bootstrap import Array, Interval, Resamples
from training.evaluation.metrics import ALL_METRICS, RANKED
from training.evaluation.rank import rank_with_controls
from training.evaluation.results import Results

RANK = "rank"
"""Name of the table column that holds the mean rank."""


def is_rising(column: str) -> bool:
    """Whether more is better in a column: a metric's name, or a rank or an error, where less is."""
    return column in ALL_METRICS and ALL_METRICS[column].higher_is_better


@dataclass(frozen=True)
class Difference:
    """Reference minus another method on the same pairs.

    Attributes:
        mean: Mean difference.
        interval: Its paired bootstrap interval.
        better: True or False where the interval excludes 0 and the reference is better or worse; else None.
    """

    mean: float
    interval: Interval
    better: bool | None


@dataclass(frozen=True)
class Group:
    """Mean ranks over the pairs of one kind of scene."""

    pairs: int
    ranks: dict[str, float]


@dataclass(frozen=True)
class Report:
    """Results with what a reader needs to know about them. Columns are ``RANK`` and the metrics.

    Attributes:
        dataset: Label such as ivf/val.
        size: "native" or "256x256".
        results: The values, of at least one pair.
        ranked_by: Metrics that count for the mean rank.
        references: Methods whose differences to all others are of interest; pairs are sorted by the first.
        groups: Kind of scene by the pair's name; empty if there are none.
        controls: Model by the name of its control. A control is ranked as if it stood in its model's place.

    Raises:
        ValueError: A metric of the rank was not measured.
    """

    dataset: str
    size: str
    results: Results
    ranked_by: tuple[str, ...] = RANKED
    references: tuple[str, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    controls: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = [metric for metric in self.ranked_by if metric not in self.results.metrics]
        if missing or not self.ranked_by:
            raise ValueError(f"cannot rank by {', '.join(missing) or 'no metric'}: not measured")

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods as they were given."""
        return tuple(self.results.values)

    @property
    def contenders(self) -> tuple[str, ...]:
        """The methods without the controls."""
        return tuple(name for name in self.methods if name not in self.controls)

    @property
    def columns(self) -> tuple[str, ...]:
        """The mean rank, then the metrics."""
        return (RANK, *self.results.metrics)

    @property
    def reference(self) -> str:
        """The method that the report is about."""
        return self.references[0] if self.references else self.methods[0]

    @cached_property
    def table(self) -> dict[str, dict[str, float]]:
        """Mean rank and mean of each metric, ``[column][method]``."""
        means = self.results.means()
        table = {metric: {name: row[metric] for name, row in means.items()} for metric in self.results.metrics}
        return {RANK: self._mean_ranks(self.results), **table}

    @cached_property
    def by_rank(self) -> list[str]:
        """Methods, best mean rank first."""
        return sorted(self.methods, key=lambda name: self.table[RANK][name])

    @cached_property
    def intervals(self) -> dict[str, dict[str, Interval]]:
        """Interval of each entry of ``table``; in every draw the methods are ranked afresh."""
        low, high = self._resamples.interval(self._draws)
        return {
            column: {name: Interval(float(low[i, j]), float(high[i, j])) for i, name in enumerate(self.methods)}
            for j, column in enumerate(self.columns)
        }

    @cached_property
    def differences(self) -> dict[str, dict[str, dict[str, Difference]]]:
        """``[reference][other][column]``: paired differences of every reference to every other method."""
        return {reference: self._differences_of(reference) for reference in self.references}

    @cached_property
    def pair_ranks(self) -> dict[str, list[float]]:
        """Mean rank of each method on each pair alone."""
        return {name: ranks.mean(axis=-1).tolist() for name, ranks in zip(self.methods, self._ranks, strict=True)}

    @cached_property
    def worst_first(self) -> list[int]:
        """Places of the pairs in the results, the worst mean rank of the reference first."""
        ranks = self.pair_ranks[self.reference]
        return sorted(range(len(ranks)), key=lambda row: -ranks[row])

    @cached_property
    def group_ranks(self) -> dict[str, Group]:
        """Mean ranks within each group, groups sorted by name."""
        places: dict[str, list[int]] = {}
        for row, pair in enumerate(self.results.pairs):
            if pair in self.groups:
                places.setdefault(self.groups[pair], []).append(row)
        return {
            name: Group(len(rows), self._mean_ranks(self.results.only(rows))) for name, rows in sorted(places.items())
        }

    def pair_metric_ranks(self, method: str, row: int) -> dict[str, float]:
        """Rank of a method on one pair by each of the metrics that count."""
        ranks = self._ranks[self.methods.index(method), row].tolist()
        return dict(zip(self.ranked_by, ranks, strict=True))

    @cached_property
    def _values(self) -> Array:
        return self.results.array()

    @cached_property
    def _resamples(self) -> Resamples:
        return Resamples(len(self.results.pairs))

    @cached_property
    def _ranked_columns(self) -> list[int]:
        return [self.results.metrics.index(metric) for metric in self.ranked_by]

    @cached_property
    def _draws(self) -> Array:
        """Mean rank and means of each draw, (draws, methods, columns)."""
        means = self._resamples.means(self._values)
        ranks = self._rank(means[..., self._ranked_columns]).mean(axis=-1)
        return np.concatenate([ranks[..., None], means], axis=-1)

    @cached_property
    def _ranks(self) -> Array:
        """Ranks on each pair alone, (methods, pairs, ranked metrics)."""
        by_pair = self._values[:, self._ranked_columns].transpose(2, 0, 1)
        return self._rank(by_pair).transpose(1, 0, 2)

    def _rank(self, values: Array) -> Array:
        """Ranks of (..., methods, ranked metrics)."""
        places = {self.methods.index(name): self.methods.index(model) for name, model in self.controls.items()}
        return rank_with_controls(values, self.ranked_by, places)

    def _mean_ranks(self, results: Results) -> dict[str, float]:
        means = np.array([[row[metric] for metric in self.ranked_by] for row in results.means().values()])
        return dict(zip(self.methods, self._rank(means).mean(axis=-1).tolist(), strict=True))

    def _differences_of(self, reference: str) -> dict[str, dict[str, Difference]]:
        own = self.methods.index(reference)
        with np.errstate(invalid="ignore"):  # inf - inf: not defined, and left out like any NaN
            by_pair = self._values[own] - self._values  # (methods, metrics, pairs)
        ranks = self._draws[:, own, :1] - self._draws[:, :, 0]
        draws = np.concatenate([ranks[..., None], self._resamples.means(by_pair)], axis=-1)
        low, high = self._resamples.interval(draws)
        found: dict[str, dict[str, Difference]] = {}
        for i, other in enumerate(self.methods):
            if other == reference:
                continue
            means = [self.table[RANK][reference] - self.table[RANK][other], *map(_finite_mean, by_pair[i])]
            found[other] = {
                column: _difference(column, means[j], Interval(float(low[i, j]), float(high[i, j])))
                for j, column in enumerate(self.columns)
            }
        return found


def _finite_mean(values: Array) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else math.nan


def _difference(column: str, mean: float, interval: Interval) -> Difference:
    better = None
    if interval.low > 0.0 or interval.high < 0.0:
        better = (interval.low > 0.0) == is_rising(column)
    return Difference(mean, interval, better)

"""Metric values of several methods on the same pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Results:
    """Metric values of several methods on the same pairs.

    Attributes:
        metrics: Names of the metrics, in table order.
        pairs: Names of the pairs.
        values: ``values[method][metric]`` has one number per pair; NaN where the metric is not defined.
    """

    metrics: tuple[str, ...]
    pairs: tuple[str, ...]
    values: dict[str, dict[str, list[float]]]

    def means(self) -> dict[str, dict[str, float]]:
        """Mean over the pairs with a finite value, ``[method][metric]``; NaN if there is none."""
        return {name: {m: _mean(v) for m, v in table.items()} for name, table in self.values.items()}

    def deviations(self) -> dict[str, dict[str, float]]:
        """Population standard deviation over the same pairs as ``means``."""
        return {name: {m: _deviation(v) for m, v in table.items()} for name, table in self.values.items()}

    def array(self) -> NDArray[np.float64]:
        """All values, (methods, metrics, pairs)."""
        return np.array([[table[m] for m in self.metrics] for table in self.values.values()], np.float64)

    def only(self, rows: Sequence[int]) -> Results:
        """The same methods and metrics on some of the pairs, given by their places."""
        values = {
            name: {metric: [column[row] for row in rows] for metric, column in table.items()}
            for name, table in self.values.items()
        }
        return Results(self.metrics, tuple(self.pairs[row] for row in rows), values)


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _mean(values: Sequence[float]) -> float:
    finite = _finite(values)
    return float(np.mean(finite)) if finite else math.nan


def _deviation(values: Sequence[float]) -> float:
    finite = _finite(values)
    return float(np.std(finite)) if finite else math.nan

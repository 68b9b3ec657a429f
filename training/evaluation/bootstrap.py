"""Paired bootstrap over image pairs: intervals of means, and of anything computed from means.

Pairs are drawn with replacement. All methods and metrics see the same draws, so that what makes a pair easy or
hard for every method cancels in their difference. Percentile intervals (Efron and Tibshirani 1993, chapter 13).
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95
SEED = 0


class Interval(NamedTuple):
    """Both ends of an interval; NaN where it is not defined."""

    low: float
    high: float


class Resamples:
    """Draws of pairs with replacement, the same for everything that is computed from them.

    Args:
        pairs: Number of pairs; a single pair says nothing about others, so its intervals are NaN.
        count: Number of draws.
        seed: Of the random numbers.
    """

    def __init__(self, pairs: int, count: int = RESAMPLES, seed: int = SEED) -> None:
        # How often each pair is in each draw: a mean is then one matrix product.
        self._counts = np.random.default_rng(seed).multinomial(pairs, np.full(pairs, 1.0 / pairs), size=count)

    def means(self, values: Array) -> Array:
        """Mean of each draw over its finite values: (..., pairs) -> (draws, ...); NaN where there is none."""
        finite = np.isfinite(values)
        counts = self._counts.T.astype(np.float64)  # (pairs, draws)
        number = finite.astype(np.float64) @ counts
        total = np.where(finite, values, 0.0) @ counts
        means = np.divide(total, number, out=np.full_like(total, np.nan), where=number > 0.0)
        return np.moveaxis(means, -1, 0)

    def interval(self, draws: Array) -> Array:
        """Percentile interval over the first axis: (draws, ...) -> (2, ...), low and high."""
        if self._counts.shape[1] < 2:
            return np.full((2, *draws.shape[1:]), np.nan)
        tail = (1.0 - LEVEL) / 2.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a column without any value keeps NaN, as it should
            return np.asarray(np.nanquantile(draws, [tail, 1.0 - tail], axis=0))

"""Mean rank of methods over several metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from training.evaluation.metrics import RANKED, find_metrics

# The order of summation moves the last bits of a mean; below this many decimals two means are one.
_TIE_DECIMALS = 9


def mean_rank(means: Mapping[str, Mapping[str, float]], metrics: Sequence[str] = RANKED) -> dict[str, float]:
    """Rank the methods by the data set's mean of each metric, then average the ranks over the metrics.

    Args:
        means: ``means[method][metric]``.
        metrics: The metrics that count; each with its own direction.

    Returns:
        1 (best on every metric) to the number of methods. Equal means share the average of their ranks; a
        value that is not finite ranks last.

    Raises:
        ValueError: No metric, or one that is unknown or was not measured.
    """
    missing = {m.name for m in find_metrics(metrics) for table in means.values() if m.name not in table}
    if missing or not metrics:
        raise ValueError(f"cannot rank by {', '.join(sorted(missing)) or 'no metric'}: not measured")
    values = np.array([[table[name] for name in metrics] for table in means.values()])
    return dict(zip(means, rank_values(values, metrics).mean(axis=-1).tolist(), strict=True))


def rank_values(values: NDArray[np.float64], metrics: Sequence[str]) -> NDArray[np.float64]:
    """Ranks of the methods on each metric, of any number of tables at once.

    Args:
        values: (..., methods, metrics).
        metrics: Names of the last axis.

    Returns:
        (..., methods, metrics), 1 = best; ties share the average of their ranks, not finite ranks last.
    """
    signs = np.array([-1.0 if metric.higher_is_better else 1.0 for metric in find_metrics(metrics)])
    costs = np.where(np.isfinite(values), np.round(values * signs, _TIE_DECIMALS), np.inf)
    return np.asarray(rankdata(costs, axis=-2), np.float64)


def rank_with_controls(
    values: NDArray[np.float64], metrics: Sequence[str], controls: Mapping[int, int]
) -> NDArray[np.float64]:
    """Like ``rank_values``, but controls compete with nobody: each is ranked as if it were its own model.

    So the ranks of the models do not depend on how many controls are measured beside them.

    Args:
        values: (..., methods, metrics).
        metrics: Names of the last axis.
        controls: Place of the model by place of its control; no control is a model itself.
    """
    models = [row for row in range(values.shape[-2]) if row not in controls]
    ranks = np.empty_like(values)
    ranks[..., models, :] = rank_values(values[..., models, :], metrics)
    for control, model in controls.items():
        stand_in = [control if row == model else row for row in models]
        ranks[..., control, :] = rank_values(values[..., stand_in, :], metrics)[..., models.index(model), :]
    return ranks

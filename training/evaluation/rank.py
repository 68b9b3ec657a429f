"""Mean rank of methods over several metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata

from training.evaluation.metrics import RANKED, find_metrics


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
    chosen = find_metrics(metrics)
    missing = {m.name for m in chosen for table in means.values() if m.name not in table}
    if missing or not chosen:
        raise ValueError(f"cannot rank by {', '.join(sorted(missing)) or 'no metric'}: not measured")
    ranks = []
    for metric in chosen:
        sign = -1.0 if metric.higher_is_better else 1.0
        costs = [sign * table[metric.name] for table in means.values()]
        ranks.append(rankdata([cost if math.isfinite(cost) else math.inf for cost in costs]))
    return dict(zip(means, np.mean(ranks, axis=0).tolist(), strict=True))

"""Numbers and findings in words, for the Markdown and the HTML report alike."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from training.evaluation.bootstrap import LEVEL, RESAMPLES, Interval
from training.evaluation.summary import RANK, Difference, Report, is_rising

FEW_PAIRS = 10
"""Below this many pairs the bootstrap sees too little: its intervals come out too narrow."""

_UNUSUAL = 1.5  # standard deviations from the method's own mean; one pair of fifteen if they are normal


def number(value: float) -> str:
    """Four or more significant digits for metrics of usual size; a dash where there is no value."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 10.0 else f"{value:.2f}"


def interval(ends: Interval) -> str:
    """``6.61 … 6.90`` with the digits of ``number``, or nothing where it is not defined."""
    return f"{number(ends.low)} … {number(ends.high)}" if math.isfinite(ends.low) else ""


def difference(found: Difference) -> tuple[str, str]:
    """A mean difference and its interval with sign, true minus and one number of decimals; "" if not defined."""
    known = [x for x in (found.mean, *found.interval) if math.isfinite(x)]
    largest = max(map(abs, known), default=0.0)
    digits = 2 if largest >= 10.0 else 3 if largest >= 0.1 else 4
    mean, low, high = (f"{x:+.{digits}f}".replace("-", "−") for x in (found.mean, *found.interval))
    ends = f"{low} … {high}" if math.isfinite(found.interval.low) else ""
    return (mean if math.isfinite(found.mean) else "–"), ends


def arrow(column: str) -> str:
    """Which way is better."""
    return "↑" if is_rising(column) else "↓"


def best_of(values: Mapping[str, float], column: str) -> set[str]:
    """The methods whose value reads the same as the best one; none where there is nothing to compare."""
    finite = [value for value in values.values() if math.isfinite(value)]
    if len(values) < 2 or not finite:
        return set()
    best = number(max(finite) if is_rising(column) else min(finite))
    return {name for name, value in values.items() if number(value) == best}


def verdict(found: Difference) -> str:
    """▲ better, ▼ worse, or nothing where the interval holds 0."""
    return "" if found.better is None else "▲" if found.better else "▼"


def setting(report: Report) -> str:
    """How much was measured: pairs and size."""
    count = len(report.results.pairs)
    size = "native size" if report.size == "native" else f"resized to {report.size}"
    return f"{count} pair{'s' * (count != 1)}, {size}"


def headline(report: Report) -> list[str]:
    """What the report says about its reference method, in a few sentences."""
    name, rank = report.reference, report.table[RANK]
    ends = interval(report.intervals[RANK][name])
    sure = f" (interval {ends})" if ends else ""
    place = 1 + sum(rank[other] < rank[name] for other in report.contenders)
    placed = "" if name in report.controls else f", place {place} of {len(report.contenders)}"
    found = [f"{name}: mean rank {number(rank[name])}{sure}{placed}."]
    rivals = [other for other in report.by_rank if other != name and other in report.contenders]
    if rivals:
        found.append(_against(report, rivals[0], f"{rivals[0]}, the best of the others by mean rank"))
    found += [_against(report, other, f"the control {other}") for other, own in report.controls.items() if own == name]
    if len(report.results.pairs) == 1:
        found.append("One pair allows no intervals.")
    elif len(report.results.pairs) < FEW_PAIRS:
        found.append(f"With fewer than {FEW_PAIRS} pairs the intervals are too narrow; take them as a hint only.")
    return [sentence for sentence in found if sentence]


def _against(report: Report, other: str, called: str) -> str:
    if report.reference not in report.differences or len(report.results.pairs) < 2:
        return ""
    columns = report.differences[report.reference][other]
    better = [metric for metric in report.ranked_by if columns[metric].better is True]
    worse = [metric for metric in report.ranked_by if columns[metric].better is False]
    unclear = [metric for metric in report.ranked_by if columns[metric].better is None]
    parts = [("better on", better), ("worse on", worse), ("no clear difference on", unclear)]
    return f"Against {called}: " + "; ".join(f"{words} {', '.join(names)}" for words, names in parts if names) + "."


def method_text(report: Report) -> str:
    """How the numbers came about, in two or three sentences."""
    controls = " A control is ranked in the place of its model." if report.controls else ""
    return (
        f"Rank: mean rank over {', '.join(report.ranked_by)}.{controls} Intervals: paired bootstrap "
        f"over the pairs, {LEVEL:.0%}, {RESAMPLES:,} draws, fixed seed, not corrected for the number of comparisons."
    )


def notable(report: Report, row: int) -> str:
    """Where the reference leads on one pair, where it loses most, and which value is unusually poor for it.

    Gaps of different metrics are compared in standard deviations: of all values of the metric, or of its own.
    """
    if len(report.methods) < 2:
        return ""
    ranks = report.pair_metric_ranks(report.reference, row)
    first = [metric for metric, rank in ranks.items() if rank < 1.5]
    found = [f"best on {', '.join(first)}"] if first else []
    gaps = {metric: _gap(report, metric, row) for metric in ranks}
    most = max(gaps, key=lambda metric: gaps[metric][0])
    if gaps[most][0] > 0.0:
        rival = gaps[most][1]
        own, theirs = (report.results.values[method][most][row] for method in (report.reference, rival))
        found.append(f"loses most on {most}: {number(own)}, {rival} has {number(theirs)}")
    scores = {metric: _score(report, metric, row) for metric in ranks}
    low = min(scores, key=lambda metric: scores[metric])
    if scores[low] < -_UNUSUAL:
        own, mean = report.results.values[report.reference][low][row], report.table[low][report.reference]
        found.append(f"unusually poor for it on {low}: {number(own)}, its mean is {number(mean)}")
    return "; ".join(found)


def _gap(report: Report, metric: str, row: int) -> tuple[float, str]:
    """How far the reference is behind the best other method on one pair, in standard deviations; that method."""
    sign = 1.0 if is_rising(metric) else -1.0
    values = {name: sign * report.results.values[name][metric][row] for name in report.methods}
    own = values[report.reference]
    rivals = [name for name in report.contenders if name != report.reference]
    others = {name: values[name] for name in rivals if math.isfinite(values[name])}
    if not others or not math.isfinite(own):
        return 0.0, ""
    rival = max(others, key=lambda name: others[name])
    everything = np.array([table[metric] for table in report.results.values.values()])
    spread = float(np.std(everything[np.isfinite(everything)]))
    return ((others[rival] - own) / spread if spread > 0.0 else 0.0), rival


def _score(report: Report, metric: str, row: int) -> float:
    """The reference's value on one pair in standard deviations from its mean; below 0 is worse."""
    values = np.array(report.results.values[report.reference][metric])
    spread = float(np.std(values[np.isfinite(values)])) if np.isfinite(values).any() else 0.0
    if spread == 0.0 or not math.isfinite(values[row]):
        return 0.0
    sign = 1.0 if is_rising(metric) else -1.0
    return sign * float(values[row] - report.table[metric][report.reference]) / spread

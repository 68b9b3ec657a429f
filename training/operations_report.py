"""What the weights of the operations say: a table with the paper's beside it, and whether tasks differ."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.tita.config import Operation

Array = NDArray[np.float64]

STREAMS = ("A", "B")
DRAWS = 1999
SEED = 0
LEVEL = 0.05

_OPERATIONS: tuple[Operation, ...] = ("hpf", "add", "mul")
_TABLE_9: dict[str, tuple[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    "infrared-visible": ("IVF, visible and infrared", ((0.0291, 0.2456, 0.2054), (0.0243, 0.2226, 0.2729))),
    "multi-exposure": ("MEF, over and under", ((0.0286, 0.1963, 0.3054), (0.0313, 0.2575, 0.1809))),
    "multi-focus": ("MFF, far and near", ((0.0159, 0.2480, 0.2323), (0.0133, 0.2231, 0.2675))),
}
_SHORT = {"ivf": "infrared-visible", "mef": "multi-exposure", "mff": "multi-focus"}


@dataclass(frozen=True)
class TaskWeights:
    """The weights for every pair of one task.

    Attributes:
        name: Of the task.
        a: Folder of the first images.
        b: Folder of the second images.
        pairs: Names of the pairs.
        weights: (pairs, 2, O): the stream of a, then that of b. The sum of a pair is 1.
    """

    name: str
    a: str
    b: str
    pairs: tuple[str, ...]
    weights: Array

    @property
    def mean(self) -> Array:
        """Mean over the pairs, (2, O)."""
        mean: Array = self.weights.mean(axis=0)
        return mean

    @property
    def deviation(self) -> Array:
        """Population standard deviation over the pairs, (2, O)."""
        deviation: Array = self.weights.std(axis=0)
        return deviation

    @property
    def published(self) -> tuple[str, Mapping[str, Sequence[float]]] | None:
        """What the paper calls this task, and its weights of both streams by operation; None if it has none."""
        name = self.name.lower()
        entry = _TABLE_9.get(_SHORT.get(name, name))
        if entry is None:
            return None
        return entry[0], dict(zip(_OPERATIONS, zip(*entry[1], strict=True), strict=True))


@dataclass(frozen=True)
class Contrast:
    """The largest difference between two tasks' means.

    Attributes:
        stream: 0 or 1.
        operation: Its place.
        high: Name of the task with the larger mean.
        low: That of the other.
        difference: Larger minus smaller.
        spread: Standard deviation of this weight within a task, pooled over all tasks; NaN without a second pair.
    """

    stream: int
    operation: int
    high: str
    low: str
    difference: float
    spread: float


@dataclass(frozen=True)
class PermutationTest:
    """A permutation test of whether the tasks' means differ.

    Attributes:
        ratio: Variance between tasks over variance within, of all weights together (a pseudo-F); infinite where
            there is none within.
        probability: Share of random assignments of pairs to tasks with a ratio as large, the real one among them.
        least: The smallest probability that so few pairs allow, whatever their weights.
    """

    ratio: float
    probability: float
    least: float


@dataclass(frozen=True)
class OperationReport:
    """The weights of one network for all tasks.

    Attributes:
        model: Name of its folder.
        size: ``native``, or the side of the central part that was looked at.
        operations: In the order of the weights.
        tasks: At least one.
    """

    model: str
    size: str
    operations: tuple[str, ...]
    tasks: tuple[TaskWeights, ...]

    @cached_property
    def contrast(self) -> Contrast | None:
        """The largest difference between two tasks; None with one task."""
        if len(self.tasks) < 2:
            return None
        means = np.stack([task.mean for task in self.tasks])  # (tasks, 2, O)
        stream, operation = np.unravel_index(np.ptp(means, axis=0).argmax(), means.shape[1:])
        column = means[:, stream, operation]
        high, low = int(column.argmax()), int(column.argmin())
        squares = sum(float(((t.weights - t.mean) ** 2)[:, stream, operation].sum()) for t in self.tasks)
        free = sum(len(task.pairs) - 1 for task in self.tasks)
        names = self.tasks[high].name, self.tasks[low].name
        spread = math.sqrt(squares / free) if free else math.nan
        return Contrast(int(stream), int(operation), *names, float(column[high] - column[low]), spread)

    @property
    def published_difference(self) -> float | None:
        """The largest difference in the paper between those of its tasks that are here; None if they are not two."""
        known = [task.published[1] for task in self.tasks if task.published]
        if len(known) < 2:
            return None
        return float(np.ptp([[values[name] for name in self.operations] for values in known], axis=0).max())

    @cached_property
    def test(self) -> PermutationTest | None:
        """Whether tasks differ; None with one task, or with one pair of each."""
        sizes = [len(task.pairs) for task in self.tasks]
        if len(sizes) < 2 or sum(sizes) == len(sizes):
            return None
        values = np.concatenate([task.weights.reshape(size, -1) for task, size in zip(self.tasks, sizes, strict=True)])
        labels = np.repeat(np.arange(len(sizes)), sizes)
        found = variance_ratio(values, labels)
        draws = np.random.default_rng(SEED)
        # rounding must not make a draw that only renames the tasks smaller than the real assignment
        reached = sum(variance_ratio(values, draws.permutation(labels)) >= found * (1 - 1e-9) for _ in range(DRAWS))
        return PermutationTest(found, (1 + reached) / (1 + DRAWS), least_probability(sizes))


def least_probability(sizes: Sequence[int]) -> float:
    """Share of assignments to groups of these sizes that are the same but for the names of groups of one size."""
    orders = math.prod(map(math.factorial, [*sizes, *Counter(sizes).values()]))
    return orders / math.factorial(sum(sizes))


def variance_ratio(values: Array, labels: NDArray[np.intp]) -> float:
    """Variance between groups over variance within, summed over all columns.

    Args:
        values: (M, columns).
        labels: Group of each row, (M,), from 0 without a gap; fewer groups than rows.

    Returns:
        The ratio; infinite where rows of a group are equal and groups are not, 0 where all rows are equal.
    """
    groups = np.eye(int(labels.max()) + 1)[labels]  # (M, groups)
    sizes = groups.sum(axis=0)
    means = (groups.T @ values) / sizes[:, None]
    between = float((sizes[:, None] * (means - values.mean(axis=0)) ** 2).sum()) / (len(sizes) - 1)
    within = float(((values - means[labels]) ** 2).sum()) / (len(values) - len(sizes))
    nothing = 1e-18  # what rounding leaves of equal weights
    if within > nothing:
        return between / within
    return math.inf if between > nothing else 0.0


def to_markdown(report: OperationReport) -> str:
    """The table and the statement."""
    heads = [f"{stream} {name}" for stream in STREAMS for name in report.operations]
    size = "whole images" if report.size == "native" else f"the central {report.size}×{report.size} pixels at most"
    lines = [
        f"{report.model}: weights of the operations, mean ± standard deviation over the pairs, of {size}. "
        "Stream A is that of the first images; the weights of both streams add up to 1.",
        "",
        "| task | pairs | " + " | ".join(heads) + " |",
        "|---|---:|" + "---:|" * len(heads),
    ]
    for task in report.tasks:
        both = zip(task.mean.ravel().tolist(), task.deviation.ravel().tolist(), strict=True)
        cells = [f"{mean:.4f} ± {deviation:.4f}" for mean, deviation in both]
        lines.append(f"| {task.name} | {len(task.pairs)} | " + " | ".join(cells) + " |")
        if task.published:
            name, values = task.published
            row = [f"{values[x][i]:.4f}" for i in range(len(STREAMS)) for x in report.operations]
            lines.append(f"| the paper: {name} | | " + " | ".join(row) + " |")
    return "\n".join([*lines, "", *statement(report)]) + "\n"


def statement(report: OperationReport) -> list[str]:
    """Whether the weights differ from task to task, in a few sentences."""
    contrast, test = report.contrast, report.test
    if contrast is None:
        return ["One task: nothing to compare it with."]
    where = f"{STREAMS[contrast.stream]} {report.operations[contrast.operation]}"
    found = f"Largest difference of two means: {contrast.difference:.4f}, {where}, {contrast.high} − {contrast.low}"
    if report.published_difference is not None:
        found += f" (in the paper's values of these tasks: {report.published_difference:.4f})"
    if test is None:
        return [f"{found}. With one pair of each task there is no spread to hold it against."]
    times = f", {contrast.difference / contrast.spread:.1f} times as large" if contrast.spread > 0 else ""
    verdict = "The weights differ" if test.probability < LEVEL else "The weights do not differ clearly"
    if test.least >= LEVEL:
        verdict = f"Too few pairs to tell (p cannot be below {test.least:.2g}) whether weights differ"
    return [
        f"{found}; spread of this weight within a task: {contrast.spread:.4f}{times}.",
        f"**{verdict} between these tasks**: variance between tasks over variance within F = "
        f"{test.ratio:.3g}, p = {test.probability:.2g} by {DRAWS:,} random assignments of the pairs. This takes pairs "
        "as independent; if many are of one scene, p comes out too small. It says whether there is a difference, not "
        "that it is large, nor that the fused images need it.",
    ]


def to_json(report: OperationReport) -> dict[str, Any]:
    """Everything as plain JSON values; a value that is not finite becomes null."""
    contrast, test = report.contrast, report.test
    return {
        "model": report.model,
        "size": report.size,
        "operations": list(report.operations),
        "tasks": {task.name: _task_json(task, report.operations) for task in report.tasks},
        "largest_difference": contrast
        and {
            "stream": STREAMS[contrast.stream].lower(),
            "operation": report.operations[contrast.operation],
            "tasks": [contrast.high, contrast.low],
            "difference": contrast.difference,
            "spread_within": _finite(contrast.spread),
            "paper": report.published_difference,
        },
        "test": test and {"ratio": _finite(test.ratio), "p": test.probability, "draws": DRAWS, "seed": SEED},
    }


def _task_json(task: TaskWeights, operations: Sequence[str]) -> dict[str, Any]:
    paper = None
    if task.published:
        name, values = task.published
        paper = {"task": name, **_by_stream(np.array([values[x] for x in operations]).T, operations)}
    return {
        "pairs": len(task.pairs),
        "folders": {"a": task.a, "b": task.b},
        "mean": _by_stream(task.mean, operations),
        "std": _by_stream(task.deviation, operations),
        "paper": paper,
        "per_pair": {
            pair: _by_stream(weights, operations) for pair, weights in zip(task.pairs, task.weights, strict=True)
        },
    }


def _by_stream(values: Array, operations: Sequence[str]) -> dict[str, dict[str, float]]:
    return {
        stream.lower(): dict(zip(operations, row.tolist(), strict=True))
        for stream, row in zip(STREAMS, values, strict=True)
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

"""Measure any number of fusion methods on a set of pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.images import DataError, list_images
from training.evaluation.metrics import DEFAULT, find_metrics
from training.evaluation.metrics.common import check_triple
from training.evaluation.pairs import Grey, Pair, read_grey

Real = NDArray[np.floating[Any]]
"""A real image, (H, W)."""

Unit = NDArray[np.float32]
"""An image (H, W) in [0, 1]."""

Method = Callable[[Unit, Unit], Real]
"""Fuses two images (H, W) in [0, 1] into one of that shape; values outside [0, 1] get clipped."""


class FusedFolder:
    """Fused images that another program has written, found by the pair's name.

    Args:
        folder: Holds one image per pair under the same file stem.

    Raises:
        DataError: The folder is missing or holds no image.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = {path.stem: path for path in list_images(folder)}

    def read(self, pair: Pair) -> Grey:
        """The fused image of a pair, 8-bit luminance of the pair's shape.

        Raises:
            DataError: It is missing, unreadable, or of another size than the pair.
        """
        if pair.name not in self._files:
            raise DataError(f"{self.folder} holds no fused image named {pair.name!r}")
        fused = read_grey(self._files[pair.name])
        if fused.shape != pair.a.shape:
            raise DataError(f"{self._files[pair.name]} is {fused.shape}, but the pair is {pair.a.shape}")
        return fused


# Half the pixels of an average lie exactly between two levels, where the last bit of a float32 would decide
# the rounding, and with it 0.2 bit of EN; levels are cut to this many decimals first so that a tie is a tie.
_TIE_DECIMALS = 3


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


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _mean(values: Sequence[float]) -> float:
    finite = _finite(values)
    return float(np.mean(finite)) if finite else math.nan


def _deviation(values: Sequence[float]) -> float:
    finite = _finite(values)
    return float(np.std(finite)) if finite else math.nan


def to_unit(image: Grey) -> Unit:
    """8-bit levels 0..255 to float32 in [0, 1]."""
    return image.astype(np.float32) / np.float32(255.0)


def to_grey(image: Real, shape: tuple[int, ...]) -> Grey:
    """A fused image in [0, 1] to 8-bit levels as it would be saved: clipped, times 255, rounded half to even.

    Raises:
        ValueError: The shape is not the expected one or a value is not finite.
    """
    if image.shape != shape:
        raise ValueError(f"the fused image must be {shape}, not {image.shape}")
    if not np.isfinite(image).all():
        raise ValueError("the fused image holds values that are not finite")
    levels = np.round(np.clip(image.astype(np.float64), 0.0, 1.0) * 255.0, _TIE_DECIMALS)
    grey: Grey = np.rint(levels).astype(np.uint8)
    return grey


def fuse_pair(method: Method | FusedFolder, pair: Pair) -> Grey:
    """The fused image of one pair as saved: 8-bit levels, (H, W)."""
    if isinstance(method, FusedFolder):
        return method.read(pair)
    return to_grey(method(to_unit(pair.a), to_unit(pair.b)), pair.a.shape)


def evaluate_methods(
    pairs: Sequence[Pair],
    methods: Mapping[str, Method | FusedFolder],
    metrics: Sequence[str] = DEFAULT,
    *,
    on_fused: Callable[[str, Pair, Grey], None] | None = None,
) -> Results:
    """Fuse every pair with every method and measure the fused images after rounding to 8 bit.

    Args:
        pairs: At least one pair.
        methods: By name: a callable on two images (H, W) in [0, 1], or a folder of fused images.
        metrics: Names from the registry.
        on_fused: Called with method, pair and each fused image, for instance to keep it for a contact sheet.

    Raises:
        ValueError: No pairs or methods, an unknown metric, or a method returned no valid image.
    """
    if not pairs or not methods:
        raise ValueError("evaluation needs at least one pair and one method")
    chosen = find_metrics(metrics)
    values: dict[str, dict[str, list[float]]] = {name: {m.name: [] for m in chosen} for name in methods}
    for pair in pairs:
        for name, method in methods.items():
            try:
                fused = fuse_pair(method, pair)
                triple = check_triple(pair.a, pair.b, fused)
                for metric in chosen:
                    values[name][metric.name].append(metric.function(triple))
            except ValueError as error:
                raise DataError(f"{name} on {pair.name!r}: {error}") from error
            if on_fused is not None:
                on_fused(name, pair, fused)
    return Results(tuple(m.name for m in chosen), tuple(pair.name for pair in pairs), values)

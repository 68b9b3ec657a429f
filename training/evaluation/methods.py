"""Measure any number of fusion methods on a set of pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from training.data.images import DataError, list_images, read_luminance
from training.evaluation.measure import FusedPair, in_order, measure_pair
from training.evaluation.metrics import DEFAULT, find_metrics
from training.evaluation.pairs import Grey, Pair
from training.evaluation.results import Results

Real = NDArray[np.floating[Any]]
"""A real image, (H, W)."""

Unit = NDArray[np.float32]
"""An image (H, W) in [0, 1]."""

Method = Callable[[Unit, Unit], Real]
"""Fuses two images (H, W) in [0, 1] into one of that shape; values outside [0, 1] get clipped."""


@runtime_checkable
class PairMethod(Protocol):
    """A method that must know which pair it is given, not only both images."""

    def fused(self, pair: Pair) -> Grey:
        """The fused image of a pair, 8-bit luminance of the pair's shape."""
        ...


class FusedFolder:
    """Fused images that another program has written, found by the pair's name.

    Args:
        folder: Holds one image per pair under the same file stem. Grey values deeper than 8 bits are read at full
            scale: a stretch would add contrast that the method did not make.

    Raises:
        DataError: The folder is missing or holds no image.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = {path.stem: path for path in list_images(folder)}

    def fused(self, pair: Pair) -> Grey:
        """The fused image of a pair, 8-bit luminance of the pair's shape.

        Raises:
            DataError: It is missing, unreadable, or of another size than the pair.
        """
        if pair.name not in self._files:
            raise DataError(f"{self.folder} holds no fused image named {pair.name!r}")
        fused = read_luminance(self._files[pair.name], deep="full")
        if fused.shape != pair.a.shape:
            raise DataError(f"{self._files[pair.name]} is {fused.shape}, but the pair is {pair.a.shape}")
        return fused


# Half the pixels of an average lie exactly between two levels, where the last bit of a float32 would decide
# the rounding, and with it 0.2 bit of EN; levels are cut to this many decimals first so that a tie is a tie.
_TIE_DECIMALS = 3


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


def fuse_pair(method: Method | PairMethod, pair: Pair) -> Grey:
    """The fused image of one pair as saved: 8-bit levels, (H, W)."""
    if isinstance(method, PairMethod):
        return method.fused(pair)
    return to_grey(method(to_unit(pair.a), to_unit(pair.b)), pair.a.shape)


def evaluate_methods(
    pairs: Sequence[Pair],
    methods: Mapping[str, Method | PairMethod],
    metrics: Sequence[str] = DEFAULT,
    *,
    on_fused: Callable[[str, Pair, Grey], None] | None = None,
    jobs: int = 1,
) -> Results:
    """Fuse every pair once with every method and measure the fused images after rounding to 8 bit.

    Shows a progress bar on a terminal.

    Args:
        pairs: At least one pair.
        methods: By name: a callable on two images (H, W) in [0, 1], or one that is asked for a pair.
        metrics: Names from the registry.
        on_fused: Called with method, pair and each fused image, for instance to keep it for a contact sheet.
        jobs: Processes that measure; methods run in this one, so that each model is loaded once.

    Raises:
        ValueError: No pairs or methods, an unknown metric, or a method returned no valid image.
    """
    if not pairs or not methods:
        raise ValueError("evaluation needs at least one pair and one method")
    chosen = tuple(metric.name for metric in find_metrics(metrics))
    values: dict[str, dict[str, list[float]]] = {name: {m: [] for m in chosen} for name in methods}
    fused = (_fuse_with_all(pair, methods, on_fused) for pair in pairs)
    with closing(in_order(partial(measure_pair, chosen), fused, jobs)) as measured:
        for found in tqdm(measured, total=len(pairs), unit="pair", disable=None):
            for name, numbers in found.items():
                for metric, number in zip(chosen, numbers, strict=True):
                    values[name][metric].append(number)
    return Results(chosen, tuple(pair.name for pair in pairs), values)


def _fuse_with_all(
    pair: Pair,
    methods: Mapping[str, Method | PairMethod],
    on_fused: Callable[[str, Pair, Grey], None] | None,
) -> FusedPair:
    images = {}
    for name, method in methods.items():
        try:
            images[name] = fuse_pair(method, pair)
        except ValueError as error:
            raise DataError(f"{name} on {pair.name!r}: {error}") from error
        if on_fused is not None:
            on_fused(name, pair, images[name])
    return FusedPair(pair, images)

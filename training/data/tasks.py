"""Batches for one network that learns several fusion tasks: the same number of crops of each task, every time.

A task has pairs from folders, pairs made of single images, or both. Rows are drawn with repetition by torch's global
random numbers, so their state is all that an exact resume needs, and a small folder is never used up.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from training.config import ImageFolder, PairFolder, Strict
from training.data.images import DataError
from training.data.pairs import ImagePairs
from training.data.singles import SingleImages
from training.synthesis.kinds import AnyConfig, Synthesis, synthesise


class MadePairs(Strict):
    """Pairs made of single images while training.

    Attributes:
        images: Where the images lie.
        how: Kind and settings; ``first`` in them says which picture is image A.
        share: Part of the task's crops that are made, where the task has pairs from folders too.
    """

    images: list[ImageFolder] = Field(min_length=1)
    how: Synthesis
    share: float = Field(default=0.5, gt=0, le=1)


class Task(Strict):
    """One task.

    Attributes:
        name: Its name in records: ``infrared-visible``.
        pairs: Pairs from folders; ``a`` of each is image A.
        made: Pairs made of single images.
    """

    name: str = Field(min_length=1)
    pairs: tuple[PairFolder, ...] = ()
    made: MadePairs | None = None

    @model_validator(mode="after")
    def _has_a_source(self) -> Self:
        if not self.pairs and self.made is None:
            raise ValueError(f"task {self.name!r} has no images: give `pairs`, `made`, or both")
        return self


class TaskSampling(Strict):
    """How crops are cut.

    Attributes:
        batch: Crops of each task per step and device.
        side: Of a crop, in pixels.
        flip: Whether half of the crops are mirrored.
        flip_vertical: Whether half of them are also turned upside down.
    """

    batch: int = Field(default=8, ge=1)
    side: int = Field(default=64, ge=32, multiple_of=8)
    flip: bool = True
    flip_vertical: bool = False


class TaskBatch(NamedTuple):
    """Crops of one task, each (N, 1, R, R) in [0, 1].

    Attributes:
        a: First source.
        b: Second source.
        truth: What a perfect fusion would be, for crops that were made of single images; 0 for others. None if there
            is no such crop.
        made: Which crops have a truth, (N,) bool.
    """

    a: Tensor
    b: Tensor
    truth: Tensor | None
    made: Tensor


class TaskSampler:
    """Draws a batch of every task.

    Args:
        root: Data root.
        tasks: In the order of their losses.
        sampling: How.
        device: Where batches go.
        max_cache_mb: Most memory for the images of one task's pairs, and of its single images.

    Attributes:
        names: Of the tasks.
        counts: Pairs or single images per folder.

    Raises:
        DataError: Two tasks share a name, images are missing, cannot be read, are smaller than a crop or too many.
    """

    def __init__(
        self,
        root: Path,
        tasks: Sequence[Task],
        sampling: TaskSampling,
        device: torch.device,
        *,
        max_cache_mb: float = 8000.0,
    ) -> None:
        self.names = [task.name for task in tasks]
        if not tasks or len(set(self.names)) < len(tasks):
            raise DataError(f"tasks must have names of their own, got {', '.join(self.names) or 'none'}")
        self._sources = [_Source(root, task, sampling, device, max_cache_mb) for task in tasks]
        self.counts: dict[str, int] = {}
        for source in self._sources:
            self.counts.update(source.counts)

    def draw(self) -> dict[str, TaskBatch]:
        """A random batch of each task, by its name."""
        return {name: source.draw() for name, source in zip(self.names, self._sources, strict=True)}


class _Source:
    """Draws batches of one task."""

    def __init__(
        self, root: Path, task: Task, sampling: TaskSampling, device: torch.device, max_cache_mb: float
    ) -> None:
        self.sampling, self.device = sampling, device
        self.counts: dict[str, int] = {}
        self.pairs: ImagePairs | None = None
        self.singles: SingleImages | None = None
        self.share = 0.0
        if task.pairs:
            self.pairs = ImagePairs(root, task.pairs, max_cache_mb=max_cache_mb)
            self.counts |= self.pairs.counts
            _check_sizes(self.pairs, task.name, sampling.side)
        if task.made is not None:
            self.how: AnyConfig = task.made.how
            self.share = task.made.share if task.pairs else 1.0
            window = sampling.side + 2 * self.how.margin
            self.singles = SingleImages(root, task.made.images, min_side=window, max_cache_mb=max_cache_mb)
            self.counts |= self.singles.counts

    def draw(self) -> TaskBatch:
        N, R = self.sampling.batch, self.sampling.side
        made = torch.rand(N) < self.share
        rows = torch.zeros(3, N, 1, R, R, device=self.device)  # a, b, truth
        count = int(made.sum())
        if self.singles is not None and count:
            rows[:, made] = self._flipped(self._make(self.singles, count))
        if self.pairs is not None and count < N:
            rows[:2, ~made] = self._flipped(self._cut(self.pairs, N - count))
        return TaskBatch(rows[0], rows[1], rows[2] if count else None, made.to(self.device))

    def _cut(self, pairs: ImagePairs, count: int) -> Tensor:
        """Crops of pairs, (2, count, 1, R, R)."""
        crops = [_crop(pairs.pairs[row], self.sampling.side) for row in torch.randint(len(pairs), (count,)).tolist()]
        return _as_values(np.stack(crops, axis=1), self.device)

    def _make(self, singles: SingleImages, count: int) -> Tensor:
        """Pairs and truth made of windows of single images, (3, count, 1, R, R)."""
        margin, R = self.how.margin, self.sampling.side
        windows = [_crop([singles.images[row]], R + 2 * margin) for row in singles.draw(count).tolist()]
        images = _as_values(np.stack(windows, axis=1), self.device)[0]
        inside = slice(margin, margin + R)
        return torch.stack(list(synthesise(images, self.how)))[..., inside, inside]

    def _flipped(self, crops: Tensor) -> Tensor:
        """Crops of which half are mirrored, (M, N, 1, R, R)."""
        for axis, wanted in ((4, self.sampling.flip), (3, self.sampling.flip_vertical)):
            if wanted:
                chosen = (torch.rand(crops.shape[1]) < 0.5).to(crops.device)
                crops = torch.where(chosen[:, None, None, None], crops.flip(axis), crops)
        return crops


def _check_sizes(pairs: ImagePairs, task: str, side: int) -> None:
    for name, (image, _) in zip(pairs.names, pairs.pairs, strict=True):
        height, width = image.shape
        if min(height, width) < side:
            raise DataError(
                f"task {task}: pair {name!r} is {width}×{height}, smaller than a crop of {side}×{side}: set "
                f"`side` to {min(height, width) // 8 * 8}, or leave the pair out"
            )


def _crop(images: Sequence[NDArray[np.uint8]], side: int) -> NDArray[np.uint8]:
    """The same random square of images of one size, (M, side, side)."""
    height, width = images[0].shape
    top, left = int(torch.randint(height - side + 1, ())), int(torch.randint(width - side + 1, ()))
    return np.stack([image[top : top + side, left : left + side] for image in images])


def _as_values(pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """(M, N, R, R) of 8 bits -> (M, N, 1, R, R) in [0, 1]."""
    return torch.from_numpy(pixels)[:, :, None].to(device).float() / 255.0

"""A quick look at a TITA network during training. The evaluate command measures the exported bundle in full."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from models.base import FusionModel
from training.data.pairs import ImagePairs
from training.data.singles import SingleImages
from training.data.tasks import Task
from training.losses import gradient, scd, ssim
from training.synthesis.kinds import synthesise
from training.tita_recipe import Validation
from training.titok_ste_validation import entropy

_SEED = 0
"""Of pairs that are made of single images; never that of a run, so that all runs are measured on the same pairs."""


class Example(NamedTuple):
    """A pair to look at, each image (1, 1, H, W) in [0, 1]; ``truth`` is None unless the pair was made."""

    a: Tensor
    b: Tensor
    truth: Tensor | None


class TaskExamples:
    """The first pairs of every task, cut to their centre.

    Args:
        root: Data root.
        config: How many, of which tasks.
        max_cache_mb: Most memory for the images of one task.

    Attributes:
        examples: By task.

    Raises:
        DataError: Images are missing or cannot be read.
    """

    def __init__(self, root: Path, config: Validation, *, max_cache_mb: float) -> None:
        self.examples: dict[str, list[Example]] = {}
        for task in config.tasks:
            found = _from_folders(root, task, config, max_cache_mb) + _made(root, task, config, max_cache_mb)
            self.examples[task.name] = found[: config.pairs]

    @torch.no_grad()
    def scores(self, model: FusionModel) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Fuse all.

        Returns:
            By ``val/TASK/NAME`` means of EN, SCD, SSIM (sum over both sources), the gradient, and of PSNR where there
            is a truth; and a picture row of each task's first pair.
        """
        model.eval()
        device = next(model.parameters()).device
        scores, pictures = dict[str, float](), dict[str, Tensor]()
        for name, examples in self.examples.items():
            fused = [model(example.a.to(device), example.b.to(device)).cpu() for example in examples]
            rows = [_measure(example, image) for example, image in zip(examples, fused, strict=True)]
            scores |= {f"val/{name}/{key}": sum(row[key] for row in rows) / len(rows) for key in rows[0]}
            pictures[f"val/{name}: a, b, fused"] = torch.cat([examples[0].a, examples[0].b, fused[0]], dim=3)[0, 0]
        return scores, pictures


def _measure(example: Example, fused: Tensor) -> dict[str, float]:
    a, b, truth = example
    values = {
        "EN": entropy(fused),
        "SCD": float(scd(a, b, fused)),
        "SSIM": float(ssim(a, fused) + ssim(b, fused)),
        "gradient": float(gradient(fused).mean()),
    }
    if truth is not None:
        values["PSNR"] = psnr(fused, truth)
    return values


def psnr(image: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio of images in [0, 1], dB; 100 at most."""
    return -10 * float((image - truth).square().mean().clamp_min(1e-10).log10())


def _from_folders(root: Path, task: Task, config: Validation, max_cache_mb: float) -> list[Example]:
    if not task.pairs:
        return []
    pairs = ImagePairs(root, task.pairs, max_cache_mb=max_cache_mb)
    wanted = range(min(config.pairs, len(pairs)))
    cut = ([_centre(image, config.side) for image in pairs.full(row)] for row in wanted)
    return [Example(a, b, None) for a, b in cut]


def _made(root: Path, task: Task, config: Validation, max_cache_mb: float) -> list[Example]:
    if task.made is None:
        return []
    margin = task.made.how.margin
    singles = SingleImages(root, task.made.images, min_side=64 + 2 * margin, max_cache_mb=max_cache_mb)
    generator = torch.Generator().manual_seed(_SEED)
    examples = []
    for image in singles.images[: config.pairs]:
        values = torch.tensor(image)[None, None].float() / 255.0
        pair = synthesise(_centre(values, config.side + 2 * margin), task.made.how, generator)
        examples.append(Example(*(_without_border(x, margin) for x in pair)))
    return examples


def _centre(image: Tensor, side: int) -> Tensor:
    top, left = (max(0, size - side) // 2 for size in image.shape[-2:])
    return image[..., top : top + side, left : left + side]


def _without_border(image: Tensor, margin: int) -> Tensor:
    return image[..., margin : image.shape[-2] - margin, margin : image.shape[-1] - margin]

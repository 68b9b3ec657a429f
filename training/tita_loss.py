"""What each task of TITA asks of a fused image: similarity to the sources, the stronger gradient, an intensity.

Facts: ℓ = 10 · ℓ_ssim + 20 · ℓ_text + 20 · ℓ_int, one objective for each task; only their intensity and the shares of
the sources in the similarity differ. Shape letters: N batch, R side of a crop.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from training.config import Strict
from training.data.tasks import TaskBatch
from training.losses import gradient, out_of_range, scd, ssim

TONE_SQUARES = (4, 8)
"""Sides in pixels of the squares whose means are the coarse images that `tone` compares."""

Weight = Field(default=0.0, ge=0)


class Objective(Strict):
    """Objective of one task. The defaults are the authors' code for infrared-visible.

    Attributes:
        ssim: Weight of 1 - SSIM to both sources.
        texture: Weight of the distance to the larger gradient magnitude of both.
        intensity: Weight of the distance to an intensity.
        target: That intensity: the ``max`` or the ``mean`` of both sources.
        shares: How much each source counts in the SSIM: ``equal``, or in proportion to its mean ``gradient``
            magnitude over the batch.
        truth: Crops that were made of single images learn from these instead: their SSIM, gradient and intensity.
        tone: Weight of the distance between the coarse gradients of the output and, place by place, those of the source
            that has the stronger ones. Where no source has one there shall be none: a halo is such. Not in the paper.
        noise: Gradient magnitude that is as likely noise as texture; about 0.02 for noise of one grey level. Weaker
            ones are not asked for. 0 asks for all, as in the paper.
        correlation: Weight of 2 - SCD, for tasks that add up the contrast of both sources. Not in the paper.
        out_of_range: Weight of the distance by which the output leaves the displayable range. Not in the paper.
    """

    ssim: float = Field(default=10.0, ge=0)
    texture: float = Field(default=20.0, ge=0)
    intensity: float = Field(default=20.0, ge=0)
    target: Literal["max", "mean"] = "max"
    shares: Literal["equal", "gradient"] = "gradient"
    truth: bool = False
    tone: float = Weight
    noise: float = Weight
    correlation: float = Weight
    out_of_range: float = Weight


def task_loss(batch: TaskBatch, fused: Tensor, objective: Objective) -> Tensor:
    """Loss of one task, a scalar above 0.

    Args:
        batch: Sources and, where there is one, the truth.
        fused: Network output for them, (N, 1, R, R), not clamped.
        objective: Its weights.
    """
    a, b, truth = batch.a, batch.b, batch.truth
    made = batch.made if objective.truth and truth is not None else torch.zeros_like(batch.made)
    rows = _to_sources(a, b, fused, objective)  # (N,)
    if truth is not None and bool(made.any()):
        rows = torch.where(made, _to_truth(truth, fused, objective), rows)
    loss = rows.mean()
    if objective.out_of_range:
        loss = loss + objective.out_of_range * out_of_range(fused, 0.0)
    return loss


def _to_sources(a: Tensor, b: Tensor, fused: Tensor, objective: Objective) -> Tensor:
    """Distance to what both sources together ask for: -> (N,)."""
    wanted = torch.maximum(a, b) if objective.target == "max" else (a + b) / 2
    gradient_a, gradient_b = gradient(a), gradient(b)
    share = _share(gradient_a, gradient_b) if objective.shares == "gradient" else 0.5
    rows = (
        objective.ssim * (1 - share * ssim(a, fused) - (1 - share) * ssim(b, fused))
        + objective.texture * _mean(gradient(fused) - _texture(torch.maximum(gradient_a, gradient_b), objective.noise))
        + objective.intensity * _mean(fused - wanted)
    )
    if objective.tone:
        rows = rows + objective.tone * _tone(a, b, fused)
    if objective.correlation:
        rows = rows + objective.correlation * (2 - scd(a, b, fused))
    return rows


def _texture(magnitude: Tensor, noise: float) -> Tensor:
    """Magnitudes far above the noise as they are, those far below it nearly 0."""
    if not noise:
        return magnitude
    return magnitude * magnitude.square() / (magnitude.square() + noise**2)


def _tone(a: Tensor, b: Tensor, fused: Tensor) -> Tensor:
    """Distance of coarse gradients to the stronger ones of both sources, signs included: -> (N,)."""
    distance = a.new_zeros(len(a))
    for side in TONE_SQUARES:
        steps = (_steps(F.avg_pool2d(image, side)) for image in (a, b, fused))
        for of_a, of_b, of_fused in zip(*steps, strict=True):
            distance = distance + _mean(of_fused - torch.where(of_a.abs() >= of_b.abs(), of_a, of_b))
    return distance


def _steps(image: Tensor) -> tuple[Tensor, Tensor]:
    """Differences between neighbours in a row and in a column."""
    return image.diff(dim=3), image.diff(dim=2)


def _share(gradient_a: Tensor, gradient_b: Tensor) -> Tensor:
    """Share of the first source in the gradients of both: one scalar for the batch, as in the authors' code."""
    a, b = gradient_a.mean(), gradient_b.mean()
    return a / (a + b).clamp_min(1e-6)


def _to_truth(truth: Tensor, fused: Tensor, objective: Objective) -> Tensor:
    """Distance to the image that both sources were made from: -> (N,)."""
    return (
        objective.ssim * (1 - ssim(truth, fused))
        + objective.texture * _mean(gradient(fused) - gradient(truth))
        + objective.intensity * _mean(fused - truth)
    )


def _mean(difference: Tensor) -> Tensor:
    return difference.abs().mean(dim=(1, 2, 3))

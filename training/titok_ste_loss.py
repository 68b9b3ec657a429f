"""The two objectives of Algorithm 1. Every term comes back weighted, so that logs show what drives the sum."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from models.token_fusion import Features
from training.data.sampling import Frames
from training.losses import decomposition_loss, out_of_range, scd, sobel, ssim, ssim_loss, vif
from training.targets import Target, TargetConfig, make_target
from training.titok_ste_recipe import StageOneLoss, StageTwoLoss


def stage_one_loss(
    sources: tuple[Tensor, Tensor],
    outputs: tuple[Tensor, Tensor],
    features_a: Features,
    features_b: Features,
    weights: StageOneLoss,
) -> dict[str, Tensor]:
    """Reconstruction of both sources (eq. 14-15, λ_1 = λ_2 = 1) and decomposition (eq. 16)."""
    pairs = list(zip(sources, outputs, strict=True))
    (ax, ay), (bx, by) = (sobel(x - y) for x, y in pairs)
    return {
        "rec/ssim": weights.ssim * sum_of(ssim_loss(x, y) for x, y in pairs),
        "rec/mse": weights.mse * sum_of(F.mse_loss(y, x) for x, y in pairs),
        "rec/gradient": weights.gradient * 0.25 * sum_of(g.abs().mean() for g in (ax, ay, bx, by)),
        "decomposition": weights.decomposition
        * decomposition_loss(features_a.base, features_b.base, features_a.detail, features_b.detail, weights.delta),
    }


def sum_of(terms: Iterable[Tensor]) -> Tensor:
    """Sum of scalar tensors."""
    return torch.stack(list(terms)).sum()


def stage_two_loss(
    a: Tensor,
    b: Tensor,
    fused: Tensor,
    features_a: Features,
    features_b: Features,
    edit: Tensor,
    weights: StageTwoLoss,
    target: TargetConfig,
    frames: Frames | None = None,
) -> dict[str, Tensor]:
    """Fusion loss (eq. 17-18) and the terms of our profiles.

    Args:
        a: First source, (N, 1, H, W) in [0, 1].
        b: Second source.
        fused: Network output, not clamped.
        features_a: Features of the first source.
        features_b: Features of the second.
        edit: Strength that the target is for, sharpen and smooth, (N, 2).
        weights: Weight of each term; a term of weight 0 is left out.
        target: How strength moves the target.
        frames: What the sources were cut from; None if they are whole.
    """
    wanted = make_target(a, b, edit, target, frames)
    terms = {
        "intensity": weights.intensity * intensity_error(a, b, fused, wanted, weights),
        "gradient": weights.gradient * gradient_error(fused, wanted, weights),
        "decomposition": weights.decomposition
        * decomposition_loss(features_a.base, features_b.base, features_a.detail, features_b.detail, weights.delta),
    }
    if weights.reconstruction:
        each = [weights.reconstruction_ssim * ssim_loss(x, fused) + F.mse_loss(fused, x) for x in (a, b)]
        terms["reconstruction"] = weights.reconstruction * 0.5 * sum_of(each)
    if weights.ssim:
        terms["ssim"] = weights.ssim * (1.0 - 0.5 * (ssim(a, fused) + ssim(b, fused))).mean()
    if weights.scd:
        # natural fusion (sharpen 0) leaves the infrared tone out on purpose, so it is not asked for its correlation
        share = edit[:, 0].clamp(max=1.0) if target.conditioned else torch.ones_like(edit[:, 0])
        terms["scd"] = weights.scd * (share * (2.0 - scd(a, b, fused))).mean()
    if weights.vif:
        terms["vif"] = weights.vif * (1.0 - 0.5 * (vif(a, fused) + vif(b, fused))).mean()
    if weights.out_of_range:
        terms["range"] = weights.out_of_range * out_of_range(fused, weights.margin)
    return terms


def intensity_error(a: Tensor, b: Tensor, fused: Tensor, wanted: Target, weights: StageTwoLoss) -> Tensor:
    """Mean difference to the pixel maximum (eq. 17), or to the wanted tone at a smaller size."""
    if weights.intensity_target == "max":
        return F.l1_loss(fused, torch.maximum(a, b))
    scale = weights.tone_scale
    return F.l1_loss(F.avg_pool2d(fused, scale), F.avg_pool2d(wanted.tone, scale))


def gradient_error(fused: Tensor, wanted: Target, weights: StageTwoLoss) -> Tensor:
    """Mean difference of gradient magnitudes (eq. 17), or of signed gradients."""
    fx, fy = sobel(fused)
    if weights.gradient_target == "magnitude":
        error = (fx.abs() + fy.abs() - wanted.gx.abs() - wanted.gy.abs()).abs()
    else:
        error = (fx - wanted.gx).abs() + (fy - wanted.gy).abs()
    return (wanted.weight * error).mean()

"""What a fused image should look like at a given edit strength.

The paper has no loss that rewards different outputs for different strengths; these targets make the two slots mean
something: *sharpen* moves the tone from natural to full contrast and scales the gradients, *smooth* quietens areas
in which neither source has structure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from models.reference import box_mean
from models.token_map import resize
from models.tone import compress, compress_white
from training.config import Strict
from training.data.sampling import Frames
from training.losses import sobel


class TargetConfig(Strict):
    """How the edit strength (g_0 sharpen, g_1 smooth) moves the target.

    Attributes:
        conditioned: Off: strength 1 targets at every strength (the paper's objective).
        tone: What full contrast is: ``centred``, the sum of both sources about their mean (scenes), or ``power``,
            their power mean without the division, so that black stays black (medical slices).
        power: Its exponent: 1 is the sum, a large one the brighter source.
        gradient_gain: Gradient gain at g_0 = 1; a little over 1 makes up for the shrinkage of an L1 fit.
        sharpen_gain: Change of the gain per unit of g_0.
        full_at: g_0 from which on the tone is that of full contrast. Below 1, because the network reads the strength
            from the tokens with some error and would otherwise fall short at 1.
        contrast: Standard deviation that the full tone of a frame is brought to, images in [0, 1]; 0 leaves
            that of the centred sum. It is a property of the whole frame, which a crop does not show and tokens do.
        contrast_gain: Least and largest gain by which it is brought there.
        level: Mean level that the full tone of a frame is moved towards.
        level_shift: The most that it is moved; more would lift the black of a night scene to a haze.
        smooth_gain: Gradient reduction in flat areas at g_1 = 1; it grows with g_1², so that the default stays gentle.
        flat_threshold: Mean |Sobel_x| + |Sobel_y| (images in [0, 1]) below which an area counts as flat.
        flat_weight: Extra weight of flat areas in the gradient error, which is nearly all edges otherwise: without it
            the network has little to gain from the smooth slot.
        flat_softness: Width of the transition around the threshold.
        knee: Tones this close to black or white, and beyond, are compressed into the displayable range.
        natural_share: Side of the blur that splits the infrared frame into tone and local contrast, as a share of
            the frame's sides.
    """

    conditioned: bool = True
    tone: Literal["centred", "power"] = "centred"
    power: float = Field(default=2.0, ge=1.0)
    gradient_gain: float = 1.0
    sharpen_gain: float = 0.25
    full_at: float = 1.0
    contrast: float = Field(default=0.0, ge=0.0)
    contrast_gain: tuple[float, float] = (0.75, 1.35)
    level: float = 0.5
    level_shift: float = Field(default=0.0, ge=0.0)
    smooth_gain: float = 0.08
    flat_threshold: float = 0.12
    flat_weight: float = 0.0
    flat_softness: float = 0.03
    knee: float = 0.15
    natural_share: float = 0.25


class Target(NamedTuple):
    """Wanted tone and gradients, each (N, 1, H, W), and how much each place counts in the gradient error."""

    tone: Tensor
    gx: Tensor
    gy: Tensor
    weight: Tensor


def centred_sum(a: Tensor, b: Tensor, frames: Frames, config: TargetConfig) -> Tensor:
    """A + B about the mean level of the frames: full contrast of both sources, not clipped."""
    both = frames.a + frames.b
    centre = both.mean(dim=(1, 2, 3), keepdim=True)
    gain: Tensor | float = 1.0
    if config.contrast:
        spread = both.std(dim=(1, 2, 3), keepdim=True).clamp_min(1e-3)
        gain = (config.contrast / spread).clamp(*config.contrast_gain)
    level = 0.5 * centre
    level = level + (config.level - level).clamp(-config.level_shift, config.level_shift)
    return gain * (a + b - centre) + level


def natural_tone(a: Tensor, b: Tensor, frames: Frames, share: float) -> Tensor:
    """The first source plus the local contrast of the second, whose own large-scale tone is left out."""
    size = max(3, int(share * min(frames.b.shape[-2:]))) // 2 * 2 + 1
    return a + b - resize(box_mean(box_mean(frames.b, size), size), b.shape[-2:], frames.box)


def strongest_gradient(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Signed Sobel gradient of whichever source has the larger magnitude at each pixel."""
    (ax, ay), (bx, by) = sobel(a), sobel(b)
    first = ax.abs() + ay.abs() >= bx.abs() + by.abs()
    return torch.where(first, ax, bx), torch.where(first, ay, by)


def power_tone(a: Tensor, b: Tensor, power: float, knee: float) -> Tensor:
    """(A^p + B^p)^(1/p), compressed towards white only."""
    return compress_white((a**power + b**power) ** (1.0 / power), knee)


def tones(a: Tensor, b: Tensor, frames: Frames, config: TargetConfig) -> tuple[Tensor, Tensor]:
    """The tone at strength 0 (natural) and at 1 (full contrast)."""
    if config.tone == "power":
        return torch.maximum(a, b), power_tone(a, b, config.power, config.knee)
    natural = compress(natural_tone(a, b, frames, config.natural_share), config.knee)
    return natural, compress(centred_sum(a, b, frames, config), config.knee)


def target_strength(edit: Tensor, slots: Sequence[str]) -> Tensor:
    """The strengths that a target answers to, sharpen and smooth, (N, 2).

    A model without one of these slots has no say in it, so it is trained for strength 1, the default. Further slots
    have no target of their own.

    Args:
        edit: Strength of each of the model's slots, (N, S).
        slots: Their names.
    """
    ones = edit.new_ones(len(edit))
    return torch.stack([edit[:, slots.index(n)] if n in slots else ones for n in ("sharpen", "smooth")], dim=1)


def make_target(a: Tensor, b: Tensor, edit: Tensor, config: TargetConfig, frames: Frames | None = None) -> Target:
    """The target of a pair.

    Args:
        a: First source, (N, 1, H, W) in [0, 1].
        b: Second source.
        edit: Strength, (N, 2): sharpen, smooth.
        config: What the strength does.
        frames: What ``a`` and ``b`` were cut from; None if they are whole.
    """
    gx, gy = strongest_gradient(a, b)
    natural, full = tones(a, b, frames or Frames(a, b), config)
    if not config.conditioned:
        return Target(full, config.gradient_gain * gx, config.gradient_gain * gy, torch.ones_like(gx))
    sharpen, smooth = edit[:, :2, None, None].split(1, dim=1)  # (N, 1, 1, 1) each
    activity = box_mean(gx.abs() + gy.abs(), 7)
    flat = torch.sigmoid((config.flat_threshold - activity) / config.flat_softness)
    gain = config.gradient_gain + config.sharpen_gain * (sharpen - 1.0) - config.smooth_gain * smooth.square() * flat
    tone = torch.lerp(natural, full, (sharpen / config.full_at).clamp(max=1.0))
    return Target(tone, gain * gx, gain * gy, 1.0 + config.flat_weight * flat)

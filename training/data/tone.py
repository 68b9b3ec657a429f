"""Tone and sensor augmentation of batches, each image by its own random draw.

Every function maps (N, 1, H, W) float32 in [0, 1] to the same shape and range.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional as F


class ToneConfig(BaseModel):
    """Strength of the tone augmentation; probabilities are per image."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    probability: float = 1.0
    gamma: tuple[float, float] = (1.0, 1.0)
    brightness: float = 0.0
    contrast: tuple[float, float] = (1.0, 1.0)
    blur_probability: float = 0.0
    blur_sigma: float = 0.0
    noise_probability: float = 0.0
    noise_sigma: float = 0.0
    invert_probability: float = 0.0


def _uniform(x: Tensor, low: float, high: float) -> Tensor:
    return torch.empty(x.shape[0], 1, 1, 1, device=x.device).uniform_(low, high)


def _chosen(x: Tensor, probability: float) -> Tensor:
    return torch.rand(x.shape[0], 1, 1, 1, device=x.device) < probability


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with one sigma (pixels) per image, (N, 1, 1, 1); window 9, border replicated."""
    offsets = torch.arange(-4, 5, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma.flatten(1).clamp_min(1e-3)) ** 2)  # (N, 9)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    N = x.shape[0]
    y = F.pad(x.transpose(0, 1), (4, 4, 4, 4), mode="replicate")  # (1, N, H + 8, W + 8)
    y = F.conv2d(y, kernel.reshape(N, 1, 9, 1), groups=N)
    return F.conv2d(y, kernel.reshape(N, 1, 1, 9), groups=N).transpose(0, 1)


class ToneDraw(NamedTuple):
    """One random tone change per image, each (N, 1, 1, 1); noise is drawn when it is applied."""

    changed: Tensor
    gamma: Tensor
    contrast: Tensor
    brightness: Tensor
    inverted: Tensor
    sigma: Tensor
    noise: Tensor

    def rows(self, index: Tensor) -> ToneDraw:
        """The changes of some of the images."""
        return ToneDraw(*(value[index] for value in self))


def draw_tone(count: int, config: ToneConfig, device: torch.device) -> ToneDraw:
    """Draw the changes of ``count`` images."""
    like = torch.empty(count, 1, 1, 1, device=device)
    return ToneDraw(
        changed=_chosen(like, config.probability),
        gamma=torch.exp(_uniform(like, *torch.tensor(config.gamma).log().tolist())),
        contrast=_uniform(like, *config.contrast),
        brightness=_uniform(like, -config.brightness, config.brightness),
        inverted=_chosen(like, config.invert_probability),
        sigma=_uniform(like, 0.0, config.blur_sigma) * _chosen(like, config.blur_probability),
        noise=_uniform(like, 0.0, config.noise_sigma) * _chosen(like, config.noise_probability),
    )


def apply_tone(x: Tensor, draw: ToneDraw, mean: Tensor, *, sharp: bool = False) -> Tensor:
    """Gamma, contrast, brightness, inverted polarity, blur and sensor noise.

    Args:
        x: (N, 1, H, W) in [0, 1].
        draw: The change of each image.
        mean: Grey level around which contrast turns, before gamma, (N, 1, 1, 1). A crop and its frame share it.
        sharp: Leave out blur and noise: a frame shrunk to the tokenizer's size has lost both.
    """
    y = x.clamp(0, 1) ** draw.gamma
    centre = mean.clamp(0, 1) ** draw.gamma
    y = (y - centre) * draw.contrast + centre + draw.brightness
    y = torch.where(draw.inverted, 1.0 - y, y)
    if not sharp and bool((draw.sigma > 0).any()):
        y = torch.where(draw.sigma > 0, blur(y, draw.sigma), y)
    if not sharp and bool((draw.noise > 0).any()):
        y = y + draw.noise * torch.randn_like(y)
    return torch.where(draw.changed, y.clamp(0, 1), x)


def augment_tone(x: Tensor, config: ToneConfig) -> Tensor:
    """A random change of each image of a batch, (N, 1, H, W) in [0, 1]."""
    return apply_tone(x, draw_tone(len(x), config, x.device), x.mean(dim=(2, 3), keepdim=True))

"""Tone and sensor augmentation of batches, each image by its own random draw.

Every function maps (N, 1, H, W) float32 in [0, 1] to the same shape and range.
"""

from __future__ import annotations

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


def augment_tone(x: Tensor, config: ToneConfig) -> Tensor:
    """Gamma, contrast, brightness, blur, sensor noise and inverted polarity, as configured."""
    y = x.clamp(0, 1) ** torch.exp(_uniform(x, *torch.tensor(config.gamma).log().tolist()))
    mean = y.mean(dim=(2, 3), keepdim=True)
    y = (y - mean) * _uniform(x, *config.contrast) + mean
    y = y + _uniform(x, -config.brightness, config.brightness)
    y = torch.where(_chosen(x, config.invert_probability), 1.0 - y, y)
    if config.blur_probability > 0:
        y = torch.where(_chosen(x, config.blur_probability), blur(y, _uniform(x, 0.0, config.blur_sigma)), y)
    if config.noise_probability > 0:
        noise = torch.randn_like(y) * _uniform(x, 0.0, config.noise_sigma)
        y = torch.where(_chosen(x, config.noise_probability), y + noise, y)
    return torch.where(_chosen(x, config.probability), y.clamp(0, 1), x)

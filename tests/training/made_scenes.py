"""Scenes to make pairs from, and both kinds of pairs."""

import torch

from training.synthesis.exposure import ExposureConfig
from training.synthesis.focus import FocusConfig
from training.synthesis.kinds import synthesise

CONFIGS = [FocusConfig(), ExposureConfig()]
KINDS = ["focus", "exposure"]


def radius(*values):
    return torch.tensor(values).view(-1, 1, 1, 1)


def scene(count=1, channels=1, height=72, width=80, seed=0):
    """Random texture on a slope, 8-bit values."""
    draw = torch.Generator().manual_seed(seed)
    noise = torch.rand(count, channels, height, width, generator=draw)
    slope = torch.linspace(0.1, 0.9, width).expand(count, channels, height, width)
    return ((0.5 * noise + 0.5 * slope) * 255).round() / 255


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def made(image, config, seed=0):
    return synthesise(image, config, seeded(seed))


def error(picture, truth):
    return (picture - truth).abs()

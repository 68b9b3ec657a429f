"""TITA networks small enough for tests, and pairs for them."""

from dataclasses import replace

import torch

from models.tita import TITA, TITAConfig

SMALL = {
    "dim": 12,
    "heads": 3,
    "pixel_heads": 3,
    "extract_depth": 2,
    "fusion_depths": (2,),
    "rebuild_depth": 1,
}


def small(config=None, **changes):
    """A form of the network at small sizes."""
    return replace(config or TITAConfig(), **{**SMALL, **changes})


def lively(config=None, **changes):
    """A small network whose layers act as strongly as trained ones and whose output spreads over [0, 1]."""
    model = TITA(small(config, **changes)).eval()
    stir(model, 0.2)
    return model


@torch.no_grad()
def stir(module, by):
    """Move every parameter at random: fresh layers hardly act."""
    for parameter in module.parameters():
        parameter.add_(by * torch.randn_like(parameter))


def pair(*size):
    """Two random images."""
    return torch.rand(*size), torch.rand(*size)

"""UniFusion networks and backbones small enough for tests, and codes for them."""

from dataclasses import replace

import torch

from models.unifusion import SmallViT, UniFusion, UniFusionConfig, ViTConfig

SMALL = {"embed_dim": 64, "width": 8, "heads": 2, "cross_blocks": 2}
VIT = ViTConfig(embed_dim=64, depth=4, heads=1, registers=2)


def small(config=None, **changes):
    """A form of the network at small sizes."""
    return replace(config or UniFusionConfig(), **{**SMALL, **changes})


def backbone(seed=0, config=VIT):
    """A frozen one with random weights."""
    return SmallViT.random(seed, config)


def tiny(config=None, **changes):
    """A small network around a random backbone, or around none where it has an encoder of its own."""
    config = small(config, **changes)
    return UniFusion(config, None if config.encoder == "trained" else backbone()).eval()


@torch.no_grad()
def lively(config=None, **changes):
    """A small network whose output shows what any of its layers does: fresh ones of some forms begin at zero."""
    model = tiny(config, **changes)
    for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def pair(*size):
    """Two random images."""
    return torch.rand(*size), torch.rand(*size)


def inputs(model, batch, size):
    """What ``fuse`` needs of a random pair, but for the strengths."""
    a, b = pair(batch, 1, *size)
    with torch.no_grad():
        return {"a": a, "b": b, "code_a": model.encode(a), "code_b": model.encode(b)}

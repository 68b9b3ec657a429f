"""Both levels of UniFusion's training as one module: the images rebuilt from adapted features, and the fused one.

Shape letters: N batch, E channels of a tap, R side of a crop, r = R / 16, rounded up, and C channels of the images that
the network sees: 3 where its output is RGB, else 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.padding import crop_to
from models.unifusion import ReconstructionHeads, UniFusion
from models.unifusion.output import luminance
from training.unifusion_recipe import UniFusionRecipe

Codes = tuple[Tensor, Tensor]
"""Taps of the backbone for both images, (N, 4 · E, r, r) each."""


class Outcome(NamedTuple):
    """What a pass makes, un-clamped float32; None for what was not asked for.

    Attributes:
        rebuilt: Both sources, (N, C, R, R) each.
        fused: Luminance, (N, 1, R, R).
    """

    rebuilt: tuple[Tensor, Tensor] | None
    fused: Tensor | None


class TwoLevels(nn.Module):
    """The network with its reconstruction heads, if its form has them, as one call for data-parallel training.

    Args:
        network: The network.
    """

    def __init__(self, network: UniFusion) -> None:
        super().__init__()
        self.network = network
        self.heads = ReconstructionHeads(network.config) if network.config.reconstruction_depth else None

    def forward(
        self,
        a: Tensor,
        b: Tensor,
        codes: Codes | None = None,
        *,
        rebuild: bool = False,
        fuse: bool = False,
        keep_skip: Tensor | None = None,
        to_adapters: float = 1.0,
    ) -> Outcome:
        """Adapt both images, then rebuild them, fuse them, or both.

        Args:
            a: First sources, (N, 1, R, R) in [0, 1].
            b: Second sources, the same shape.
            codes: Their taps; None computes them here, where the encoder is trained.
            rebuild: Rebuild the sources; this form of the network must have the heads.
            fuse: Fuse them.
            keep_skip: 0 for samples that are rebuilt without the image skip, else 1, (N,); None keeps all. Fusion has
                it in any case.
            to_adapters: What part of the gradient of the fused image reaches the adapters, in [0, 1].
        """
        network = self.network
        with torch.set_grad_enabled(torch.is_grad_enabled() and (rebuild or to_adapters > 0)):
            codes = codes or (network.encode(a), network.encode(b))
            seen_a, seen_b = self.seen(a), self.seen(b)
            z_a, z_b = network.adapt(seen_a, seen_b, *codes, keep_skip=keep_skip if rebuild else None)
        rebuilt = fused = None
        if rebuild:
            assert self.heads is not None
            first, second = (crop_to(image, *a.shape[-2:]).float() for image in self.heads(z_a, z_b))
            rebuilt = first, second
        if fuse:
            if rebuild and keep_skip is not None:
                with averages_kept(network):
                    z_a, z_b = network.adapt(seen_a, seen_b, *codes)
            # the value is that of z, and the gradient a part of it
            z_a, z_b = (z.detach().lerp(z, to_adapters) for z in (z_a, z_b))
            fused = network.decode(z_a, z_b, seen_a, seen_b).float()
            fused = luminance(fused) if network.config.channels == 3 else fused
        return Outcome(rebuilt, fused)

    def seen(self, image: Tensor) -> Tensor:
        """An image as the network's adapters take it: (N, 1, R, R) -> (N, C, R, R)."""
        return image.expand(-1, self.network.config.channels, -1, -1)


@contextmanager
def averages_kept(module: nn.Module) -> Iterator[None]:
    """Batch norms still use the statistics of their batch, but learn nothing from them: for a second look at one batch.

    Running averages would otherwise count each batch as often as it is looked at.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    before = [part.track_running_stats for part in norms]
    for part in norms:
        part.track_running_stats = False
    try:
        yield
    finally:
        for part, tracked in zip(norms, before, strict=True):
            part.track_running_stats = tracked


def parameter_groups(model: TwoLevels, recipe: UniFusionRecipe) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Parameters of the upper and of the lower level, each group with its share of the learning rate.

    Without reconstruction, the lower level has none, and the adapters are a group of the upper.
    """
    network = model.network
    last = {id(parameter) for parameter in (*network.fusion.head[3].parameters(), *network.output.parameters())}
    theta, phi = dict(network.theta()), [value for _, value in network.phi(model.heads)]
    fusing = [value for name, value in theta.items() if fuses(name)]
    body, adapters = recipe.body_lr_ratio, recipe.adapter_lr_ratio * recipe.body_lr_ratio
    upper = [
        {"params": [value for value in fusing if id(value) not in last], "ratio": body},
        {"params": [value for value in fusing if id(value) in last], "ratio": 1.0},
        # what is left without reconstruction, at the rate that it has with it
        {"params": [value for name, value in theta.items() if not fuses(name)], "ratio": adapters},
    ]
    return [group for group in upper if group["params"]], [{"params": phi, "ratio": adapters}] if phi else []


def fuses(name: str) -> bool:
    """Whether a weight is of the fusion network, not of what describes the images for it."""
    return name.partition(".")[0] in ("fusion", "output")

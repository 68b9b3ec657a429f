"""Each image rebuilt from its own features: what trains the adapters, and nothing that fusion needs.

Shape letters: N batch, H and W padded sides of the image, f fold, C width, with Z = (N, C, H / f, W / f).
"""

from __future__ import annotations

from torch import Tensor, nn

from models.blocks import RestormerBlock
from models.unifusion.config import UniFusionConfig


class Reconstruction(nn.Sequential):
    """One head: 90,707 parameters with two blocks, 181,219 with four."""

    def __init__(self, config: UniFusionConfig) -> None:
        blocks = (RestormerBlock(config.width, heads=config.heads) for _ in range(config.reconstruction_depth))
        last = nn.Conv2d(config.width, config.channels * config.fold**2, 1)
        super().__init__(*blocks, last, nn.PixelShuffle(config.fold))


class ReconstructionHeads(nn.Module):
    """Both heads, for training only. They read features before these meet, so fusion is the same without them.

    Args:
        config: That of the network.

    Raises:
        ValueError: Nothing is reconstructed in this form of the network.
    """

    def __init__(self, config: UniFusionConfig) -> None:
        super().__init__()
        if config.reconstruction_depth < 1:
            raise ValueError("reconstruction_depth is 0: this form of the network has no reconstruction heads")
        self.a = Reconstruction(config)
        self.b = Reconstruction(config)

    def forward(self, z_a: Tensor, z_b: Tensor) -> tuple[Tensor, Tensor]:
        """Features as ``UniFusion.adapt`` gives them, Z each, -> images (N, 1 or 3, H, W), un-clamped.

        Their targets are the sources in [0, 1] as they were before the network padded them, so what is made of the
        padding must be cropped away first.
        """
        return self.a(z_a), self.b(z_b)

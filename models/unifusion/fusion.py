"""Both images' features meet in cross blocks, and a head makes the maps of the output.

Shape letters: N batch, H and W padded sides of the image, f fold, C width, with Z = (N, C, H / f, W / f).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.blocks import GatedFeedForward, PixelNorm, RestormerBlock, attend
from models.unifusion.config import UniFusionConfig


class CrossAttention(nn.Module):
    """Channel attention whose queries are from one map, keys and values from another.

    Args:
        width: Channels C.
        heads: Attention heads; must divide ``width``.
    """

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.query = _filtered(width, width)
        self.key_value = _filtered(width, 2 * width)
        self.out = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """Attend from ``x`` to ``other``: two Z -> Z."""
        k, v = self.key_value(other).chunk(2, dim=1)  # Z each
        return self.out(attend(self.query(x), k, v, self.temperature))


class CrossBlock(nn.Module):
    """Pre-norm residual block that brings what another map says into this one: 45,384 parameters at width 64."""

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self.norm_query = PixelNorm(width)
        self.norm_other = PixelNorm(width)
        self.attention = CrossAttention(width, heads=heads)
        self.norm = PixelNorm(width)
        self.feed_forward = GatedFeedForward(width, expansion=2, groups=4 * width)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """Transform ``x``: two Z -> Z."""
        x = x + self.attention(self.norm_query(x), self.norm_other(other))
        return x + self.feed_forward(self.norm(x))


class FusionNet(nn.Module):
    """The paper's θ: 501,451 parameters in the published form.

    The second image meets the first as it is after their meeting, so the two are not interchangeable.

    Args:
        config: The architecture.
        maps: What the output needs for each pixel.
    """

    def __init__(self, config: UniFusionConfig, maps: int) -> None:
        super().__init__()
        C, heads = config.width, config.heads
        self.cross_a, self.cross_b = (
            nn.ModuleList(CrossBlock(C, heads=heads) for _ in range(config.cross_blocks)) for _ in range(2)
        )
        last = nn.Conv2d(C // 2, maps * config.fold**2, 3, padding=1)
        if config.output != "image":  # which begin as useful ones: the network learns what to change
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.head = nn.Sequential(
            nn.Conv2d(2 * C, C, 3, padding=1),
            RestormerBlock(C, heads=heads),
            nn.Conv2d(C, C // 2, 3, padding=1),
            last,
            nn.PixelShuffle(config.fold),
        )

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """Features of both images, Z each, -> (N, maps, H, W)."""
        for cross_a, cross_b in zip(self.cross_a, self.cross_b, strict=True):
            z_a = cross_a(z_a, z_b)
            z_b = cross_b(z_b, z_a)
        return self.head(torch.cat([z_a, z_b], dim=1))


def _filtered(inputs: int, outputs: int) -> nn.Sequential:
    """A projection, then a 3 × 3 filter for each channel by itself."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs, bias=False),
    )

"""The MaskGIT-VQGAN pixel decoder that the published TiTok models end in. Parameter names are theirs."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

MULTIPLIERS = (1, 1, 2, 2, 4)
"""Channels of each level as multiples of the base width; level 0 has the size of the image."""


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU and 3×3 convolution, twice, with a skip.

    Where the channels change, the published model feeds its 1×1 shortcut with the block's own output instead of its
    input. Its weights were trained so, hence h + shortcut(h) here: there is no way around the convolutions.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = _norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm2 = _norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        if channels_in != channels_out:
            self.nin_shortcut = nn.Conv2d(channels_out, channels_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(h) if hasattr(self, "nin_shortcut") else x)


class UpLevel(nn.Module):
    """Two residual blocks; then, except on the last level, twice the size by nearest pixels and a convolution."""

    def __init__(self, channels_in: int, channels_out: int, *, upsample: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            [ResidualBlock(channels_in, channels_out), ResidualBlock(channels_out, channels_out)]
        )
        self.upsample_conv = nn.Conv2d(channels_out, channels_out, 3, padding=1) if upsample else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, 2H, 2W), or to (N, C_out, H, W) on the last level."""
        for block in self.block:
            x = block(x)
        if self.upsample_conv is None:
            return x
        return self.upsample_conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class PixelDecoder(nn.Module):
    """Proxy features to pixels, 16 times larger.

    Args:
        embed_dim: Channels of the proxy features.
        width: Channels at the size of the image, a multiple of 32; 128 as published.
    """

    def __init__(self, embed_dim: int, width: int) -> None:
        super().__init__()
        channels = [width * m for m in MULTIPLIERS]
        top = channels[-1]
        self.conv_in = nn.Conv2d(embed_dim, top, 3, padding=1)
        self.mid = nn.ModuleList([ResidualBlock(top, top), ResidualBlock(top, top)])
        below = [*channels[1:], top]  # what each level gets from the one before it
        self.up = nn.ModuleList(
            UpLevel(c_in, c_out, upsample=level > 0)
            for level, (c_in, c_out) in enumerate(zip(below, channels, strict=True))
        )
        self.norm_out = _norm(width)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, embed_dim, h, w) to (N, 3, 16h, 16w), not clamped."""
        x = self.conv_in(x)
        for block in self.mid:
            x = block(x)
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))

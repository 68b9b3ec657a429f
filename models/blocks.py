"""Building blocks of the 2D fusion path: Restormer block, base block and detail node.

Every block maps (N, D, H, W) to (N, D, H, W) for any H and W; the reflection padding of the detail node needs
both to be at least 2. H and W stay symbolic in an exported graph. Convolutions have no bias unless said
otherwise.

Shape letters: N batch, D width, H height, W image width, M heads, C channels per head, P = H·W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PixelNorm(nn.Module):
    """Layer norm over the channels of each pixel, with scale and shift."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise: (N, D, H, W) -> (N, D, H, W)."""
        normed: Tensor = self.norm(x.permute(0, 2, 3, 1))  # (N, H, W, D)
        return normed.permute(0, 3, 1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
    """Attention between channels, with statistics over all pixels of the image.

    Queries and keys have norm 1 along the pixels, so the logits are cosines and do not grow with the image.
    Written with products and a softmax only, so that it exports with dynamic sizes.

    Args:
        q: Queries, (N, D, H, W).
        k: Keys, same shape.
        v: Values, same shape.
        temperature: Scale of the logits of each head, (M, 1, 1); M must divide D.

    Returns:
        (N, D, H, W).
    """
    heads = len(temperature)
    q, k = _unit(_by_head(q, heads)), _unit(_by_head(k, heads))  # (N, M, C, P)
    logits = q @ k.transpose(-2, -1) * temperature  # (N, M, C, C)
    mixed = logits.softmax(dim=-1) @ _by_head(v, heads)  # (N, M, C, P)
    return mixed.reshape(v.shape)


def _by_head(x: Tensor, heads: int) -> Tensor:
    N, D, H, W = x.shape
    return x.reshape(N, heads, D // heads, H * W)  # (N, M, C, P)


def _unit(x: Tensor) -> Tensor:
    # Divides by a (…, 1) norm: F.normalize would expand the norm to a full map in the exported graph.
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)  # (N, M, C, 1)
    return x / norm.clamp_min(1e-12).to(x.dtype)


class ChannelAttention(nn.Module):
    """Attention between the channels of one map; see ``attend``.

    Args:
        width: Channels D.
        heads: Attention heads M; must divide ``width``.
        full_conv: Mix all 3·D channels in the 3×3 convolution of the projection (base block) instead of
            filtering each channel by itself (Restormer block).
    """

    def __init__(self, width: int, *, heads: int, full_conv: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide the width {width}")
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.project = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.spatial = nn.Conv2d(3 * width, 3 * width, 3, padding=1, groups=1 if full_conv else 3 * width, bias=False)
        self.out = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend: (N, D, H, W) -> (N, D, H, W)."""
        q, k, v = self.spatial(self.project(x)).chunk(3, dim=1)  # each (N, D, H, W)
        out: Tensor = self.out(attend(q, k, v, self.temperature))
        return out


class GatedFeedForward(nn.Module):
    """Two 3×3-filtered paths, one of which gates the other through a GELU.

    Args:
        width: Channels D.
        expansion: Hidden channels per path, as a multiple of ``width``.
        groups: Groups of the 3×3 convolution over both paths.
    """

    def __init__(self, width: int, *, expansion: int, groups: int) -> None:
        super().__init__()
        hidden = expansion * width
        self.expand = nn.Conv2d(width, 2 * hidden, 1, bias=False)
        self.spatial = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=groups, bias=False)
        self.out = nn.Conv2d(hidden, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform: (N, D, H, W) -> (N, D, H, W)."""
        gate, value = self.spatial(self.expand(x)).chunk(2, dim=1)  # each (N, expansion·D, H, W)
        out: Tensor = self.out(F.gelu(gate) * value)
        return out


class TransformerBlock(nn.Module):
    """Pre-norm residual block: channel attention, then a gated feed-forward layer."""

    def __init__(self, width: int, attention: nn.Module, feed_forward: nn.Module) -> None:
        super().__init__()
        self.norm1 = PixelNorm(width)
        self.attention = attention
        self.norm2 = PixelNorm(width)
        self.feed_forward = feed_forward

    def forward(self, x: Tensor) -> Tensor:
        """Transform: (N, D, H, W) -> (N, D, H, W)."""
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.feed_forward(self.norm2(x))
        return out


class RestormerBlock(TransformerBlock):
    """Depthwise form: 45,256 parameters at width 64 with 8 heads."""

    def __init__(self, width: int, *, heads: int = 8) -> None:
        super().__init__(
            width,
            ChannelAttention(width, heads=heads),
            GatedFeedForward(width, expansion=2, groups=4 * width),
        )


class BaseBlock(TransformerBlock):
    """Form with a full 3×3 convolution before the attention: 363,016 parameters at width 64 with 8 heads."""

    def __init__(self, width: int, *, heads: int = 8) -> None:
        super().__init__(
            width,
            ChannelAttention(width, heads=heads, full_conv=True),
            GatedFeedForward(width, expansion=1, groups=width),
        )


class Bottleneck(nn.Module):
    """Expand, filter each channel with reflected borders, contract; the three maps inside a detail node."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 2 * channels
        self.layers = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, padding=1, padding_mode="reflect", groups=hidden, bias=False),
            nn.ReLU6(),
            nn.Conv2d(hidden, channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Transform: (N, D/2, H, W) -> (N, D/2, H, W)."""
        out: Tensor = self.layers(x)
        return out


class DetailNode(nn.Module):
    """One affine coupling step of an invertible network: 18,176 parameters at width 64.

    With (z1, z2) the halves of the mixed input: z2 ← z2 + φ(z1), then z1 ← z1·exp(ρ(z2)) + η(z2). The
    exponential is taken in float32.

    Args:
        width: Channels D, even.
        exp_limit: Bound on the magnitude of the exponent; ``None`` leaves it free. A bound of 6 does not act
            in normal operation and keeps half precision from overflowing.
    """

    def __init__(self, width: int, *, exp_limit: float | None = None) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(f"the width must be even, not {width}")
        self.exp_limit = exp_limit
        self.mix = nn.Conv2d(width, width, 1)
        self.phi = Bottleneck(width // 2)
        self.rho = Bottleneck(width // 2)
        self.eta = Bottleneck(width // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Transform: (N, D, H, W) -> (N, D, H, W)."""
        z1, z2 = self.mix(x).chunk(2, dim=1)  # each (N, D/2, H, W)
        z2 = z2 + self.phi(z1)
        exponent = self.rho(z2).float()
        if self.exp_limit is not None:
            exponent = exponent.clamp(-self.exp_limit, self.exp_limit)
        z1 = z1 * exponent.exp().to(z1.dtype) + self.eta(z2)
        return torch.cat([z1, z2], dim=1)

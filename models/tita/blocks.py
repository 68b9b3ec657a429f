"""Transformer blocks: within one stream (Swin), and between two streams (the paper's ISF).

Shape letters: N batch, P windows, S tokens of a window, D channels. Tokens are sorted by windows, (N, P, S, D).
"""

from __future__ import annotations

from torch import Tensor, nn

from models.tita.config import TITAConfig
from models.tita.layers import DropPath, Pair, mlp
from models.tita.pixel_attention import make_mixer
from models.tita.windows import Grid, WindowAttention


class StreamBlock(nn.Module):
    """What one stream owns of a block: two norms, window attention, MLP; 30,810 parameters."""

    def __init__(self, config: TITAConfig, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(config.dim), nn.LayerNorm(config.dim)
        self.attention = WindowAttention(config.dim, heads=config.heads, window=config.window)
        self.mlp = mlp(config.dim, config.mlp_ratio)
        self.drop_path = DropPath(drop_path)

    def add(self, x: Tensor, attended: Tensor) -> Tensor:
        """Both residual steps, the first with ``attended``: two (N, P, S, D) -> (N, P, S, D)."""
        x = x + self.drop_path(attended)
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out


class IntraBlock(StreamBlock):
    """Window self-attention and MLP, pre-norm.

    Args:
        config: The architecture.
        shifted: Shift the windows by half their side.
        drop_path: Rate of stochastic depth.
    """

    def __init__(self, config: TITAConfig, *, shifted: bool, drop_path: float) -> None:
        super().__init__(config, drop_path)
        self.shifted = shifted

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Transform: (N, P, S, D) -> (N, P, S, D)."""
        normed = self.norm1(x)
        if not self.shifted:
            return self.add(x, self.attention(normed, normed, None))
        normed = grid.shift(normed)
        return self.add(x, grid.unshift(self.attention(normed, normed, grid)))


class IntraPair(nn.Module):
    """One intra block per stream: two streams that do not see each other."""

    def __init__(self, config: TITAConfig, *, shifted: bool, drop_path: float) -> None:
        super().__init__()
        self.a = IntraBlock(config, shifted=shifted, drop_path=drop_path)
        self.b = IntraBlock(config, shifted=shifted, drop_path=drop_path)

    def forward(self, x: Tensor, y: Tensor, grid: Grid) -> Pair:
        """Transform both streams, (N, P, S, D) each."""
        return Pair(self.a(x, grid), self.b(y, grid))


class InterBlock(nn.Module):
    """Window cross attention between the streams, the pixel attention on its result, and MLPs: the ISF block.

    Args:
        config: The architecture.
        shifted: Shift the windows by half their side.
        drop_path: Rate of stochastic depth.
    """

    def __init__(self, config: TITAConfig, *, shifted: bool, drop_path: float) -> None:
        super().__init__()
        self.shifted = shifted
        self.a, self.b = StreamBlock(config, drop_path), StreamBlock(config, drop_path)
        self.mixer = make_mixer(config)

    def forward(self, x: Tensor, y: Tensor, grid: Grid) -> Pair:
        """Transform both streams, (N, P, S, D) each."""
        normed_x, normed_y = self.a.norm1(x), self.b.norm1(y)
        if not self.shifted:
            u, v = self._interact(normed_x, normed_y, None)
        else:
            u, v = self._interact(grid.shift(normed_x), grid.shift(normed_y), grid)
            u, v = grid.unshift(u), grid.unshift(v)
        return Pair(self.a.add(x, u), self.b.add(y, v))

    def _interact(self, x: Tensor, y: Tensor, shifted: Grid | None) -> Pair:
        u, v = self.a.attention(x, y, shifted), self.b.attention(y, x, shifted)
        return Pair(u, v) if self.mixer is None else self.mixer(u, v)

"""Parts that every TITA block uses: a pair of streams, initialised linear layers, the MLP and stochastic depth.

Shape letters: N batch, P windows, S tokens of a window, D channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Pair(NamedTuple):
    """The tokens of both streams, of one shape."""

    a: Tensor
    b: Tensor


def linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """A linear layer whose weights start normal with deviation 0.02 and whose bias starts at 0."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def mlp(dim: int, ratio: int) -> nn.Sequential:
    """Expand, GELU, contract: 14,580 parameters for 60 channels and ratio 2."""
    return nn.Sequential(linear(dim, ratio * dim), nn.GELU(), linear(ratio * dim, dim))


class DropPath(nn.Module):
    """Stochastic depth: in training, a residual is left out for a sample at random, and the others make up for it.

    Args:
        rate: Probability that a sample's residual is left out, 0 to below 1.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, residual: Tensor) -> Tensor:
        """Drop: (N, P, S, D) -> (N, P, S, D)."""
        if not self.training or self.rate == 0.0:
            return residual
        kept = torch.rand(residual.shape[0], 1, 1, 1, device=residual.device) >= self.rate  # (N, 1, 1, 1)
        return residual * (kept / (1.0 - self.rate)).to(residual.dtype)

"""Operation-based adaptive fusion (OAF), and the convolution that stands in for it in the ablation.

Each stream passes up to three operations whose operands are predicted per pixel, and the results of both are added up
with weights that are predicted from the global mean of both streams, one number per operation and stream (eq. 4).

Shape letters: N batch, H height, W width, D channels, O operations. Maps are channels-last, (N, H, W, D).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.tita.config import Operation
from models.tita.layers import linear

_HAMMING = (0.08, 1.0, 0.08)
"""Hamming window of three samples; its outer product with itself narrows the low-pass kernels."""


def _conv(inputs: int, outputs: int, side: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, side, padding=side // 2)
    nn.init.xavier_uniform_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def log_window() -> Tensor:
    """Logarithm of the window over a 3×3 neighbourhood, (9,), in the order of rows."""
    return torch.tensor([math.log(p * q) for p in _HAMMING for q in _HAMMING])


def high_pass(x: Tensor, logits: Tensor, window: Tensor) -> Tensor:
    """Subtract from each pixel a mean of its 3×3 neighbourhood, the border reflected.

    The kernel of a pixel is the softmax of its nine logits times a Hamming window, normalised to sum 1. That is the
    softmax of the logits plus the logarithm of the window.

    Args:
        x: (N, H, W, D), H and W at least 2.
        logits: (N, H, W, 9), in the order of rows.
        window: ``log_window``, on the device of both.

    Returns:
        (N, H, W, D).
    """
    H, W = x.shape[1:3]
    kernel = (logits.float() + window).softmax(dim=-1).to(x.dtype)  # (N, H, W, 9)
    padded = F.pad(x.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="reflect").permute(0, 2, 3, 1)  # (N, H + 2, W + 2, D)
    for place in range(9):
        row, column = divmod(place, 3)
        neighbour = padded[:, row : row + H, column : column + W]
        x = x - kernel[..., place : place + 1] * neighbour
    return x


class Operations(nn.Module):
    """The operations of one stream and the layers that predict their operands: 73,449 parameters with all three."""

    window: Tensor

    def __init__(self, dim: int, operations: tuple[Operation, ...]) -> None:
        super().__init__()
        self.operations = operations
        # a buffer, because a copy from the host in the middle of a run cannot be part of a CUDA graph
        self.register_buffer("window", log_window(), persistent=False)
        self.compress = _conv(dim, dim, 1)
        self.operands = nn.ModuleDict({name: _conv(dim, 9 if name == "hpf" else dim, 3) for name in operations})

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Weighted sum of the operations' results.

        Args:
            x: (N, H, W, D).
            weights: (N, O).

        Returns:
            (N, H, W, D).
        """
        hidden = self.compress(x.permute(0, 3, 1, 2))  # (N, D, H, W)
        total = torch.zeros_like(x)
        for name, weight in zip(self.operations, weights[:, :, None, None, None].unbind(dim=1), strict=True):
            operand = self.operands[name](hidden).permute(0, 2, 3, 1)
            total = total + weight * self._apply_one(name, x, operand)
        return total

    def _apply_one(self, name: Operation, x: Tensor, operand: Tensor) -> Tensor:
        if name == "hpf":
            return high_pass(x, operand, self.window)
        return x + operand if name == "add" else x * operand


class OAF(nn.Module):
    """Fuses two maps by weighted operations: 154,524 parameters with all three operations.

    Args:
        dim: Channels D.
        operations: Which, in the order of the weights.
        dynamic: Predict the weights; else each is 1 / (2 · O), which is also where predicted ones start.
    """

    def __init__(self, dim: int, operations: tuple[Operation, ...], *, dynamic: bool) -> None:
        super().__init__()
        self.operations = operations
        self.a, self.b = Operations(dim, operations), Operations(dim, operations)
        hidden = (linear(2 * dim, dim), nn.GELU(), linear(dim, 2 * len(operations)))
        self.predictor = nn.Sequential(*hidden) if dynamic else None

    def weights(self, mean: Tensor) -> Tensor:
        """Weights from the global mean of both maps: (N, 2 · D) -> (N, 2, O), the sum over both streams is 1."""
        count = len(self.operations)
        if self.predictor is None:
            return mean.new_full((), 0.5 / count).expand(mean.shape[0], 2, count)
        return self.predictor(mean).softmax(dim=-1).unflatten(-1, (2, count))

    def forward(self, x: Tensor, y: Tensor, mean: Tensor) -> Tensor:
        """Fuse two maps (N, H, W, D) with the global ``mean`` of both, (N, 2 · D)."""
        weights_a, weights_b = self.weights(mean).unbind(dim=1)
        fused: Tensor = self.a(x, weights_a) + self.b(y, weights_b)
        return fused


class ConvHead(nn.Module):
    """Fuses two maps by one convolution, as SwinFusion does: 64,860 parameters."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(2 * dim, dim, 3, padding=1), nn.LeakyReLU(0.2))

    def forward(self, x: Tensor, y: Tensor, mean: Tensor) -> Tensor:
        """Fuse two maps (N, H, W, D); the mean has no part in it."""
        fused: Tensor = self.layers(torch.cat([x, y], dim=-1).permute(0, 3, 1, 2))
        return fused.permute(0, 2, 3, 1)

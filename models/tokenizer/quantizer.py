"""Vector quantizer with L2-normalised codes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Quantized(NamedTuple):
    """Result of a quantization.

    Attributes:
        codes: Unit-norm code vectors, (N, K, C); in training the gradient passes straight to the input.
        indices: Code numbers, (N, K), int64.
        loss: Codebook plus commitment loss, scalar.
    """

    codes: Tensor
    indices: Tensor
    loss: Tensor


class VectorQuantizer(nn.Module):
    """Nearest code by dot product of L2-normalised vectors, in float32 whatever the autocast state.

    Codes are close on the unit sphere: half precision flips them.
    """

    def __init__(self, codebook_size: int, token_dim: int, *, commitment: float = 0.25) -> None:
        super().__init__()
        self.commitment = commitment
        self.embedding = nn.Embedding(codebook_size, token_dim)
        nn.init.uniform_(self.embedding.weight, -1.0 / codebook_size, 1.0 / codebook_size)

    def nearest(self, tokens: Tensor) -> Tensor:
        """Index of the nearest code for each token: (N, K, C) -> (N, K)."""
        codebook = F.normalize(self.embedding.weight.float(), dim=-1)
        return (F.normalize(tokens.float(), dim=-1) @ codebook.t()).argmax(dim=-1)

    def lookup(self, indices: Tensor) -> Tensor:
        """Unit-norm code vectors: (N, K) -> (N, K, C)."""
        return F.normalize(self.embedding(indices).float(), dim=-1)

    def forward(self, tokens: Tensor) -> Quantized:
        """Quantize (N, K, C) continuous tokens."""
        with torch.autocast(tokens.device.type, enabled=False):
            z = F.normalize(tokens.float(), dim=-1)
            indices = self.nearest(z)
            codes = self.lookup(indices)
            loss = F.mse_loss(codes, z.detach()) + self.commitment * F.mse_loss(z, codes.detach())
            return Quantized(z + (codes - z).detach(), indices, loss)

    @torch.no_grad()
    def reseed(self, unused: Tensor, tokens: Tensor) -> int:
        """Move unused codes onto random encoder outputs, so that they are chosen again.

        Every code gets a direction of its own: between two equal codes, rounding would decide. Where the tokens have
        fewer directions than codes are unused, random ones of these codes move and the others stay as they are.

        Args:
            unused: Boolean mask over the codebook, (codebook_size,).
            tokens: Recent continuous tokens, (M, C).

        Returns:
            How many codes moved.
        """
        directions = torch.unique(F.normalize(tokens.float(), dim=-1), dim=0)
        rows = unused.nonzero()[:, 0]
        count = min(len(rows), len(directions))
        rows = rows[torch.randperm(len(rows), device=rows.device)[:count]]
        picks = torch.randperm(len(directions), device=tokens.device)[:count]
        self.embedding.weight[rows] = directions[picks]
        return count

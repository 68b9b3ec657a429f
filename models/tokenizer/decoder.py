"""Decoders: tokens -> image. They train a local tokenizer and show what tokens hold; they never fuse."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.tokenizer.config import TokenizerConfig
from models.tokenizer.transformer import Block


class MaskTokenDecoder(nn.Module):
    """Transformer over a grid of mask tokens and the K codes; base of decoders, which add a head.

    Args:
        config: The tokenizer.
        layers: Blocks.
    """

    def __init__(self, config: TokenizerConfig, layers: int) -> None:
        super().__init__()
        W, P = config.width, config.num_patches
        scale = W**-0.5
        self.grid = config.image_size // config.patch_size
        self.decoder_embed = nn.Linear(config.token_dim, W)
        self.class_embedding = nn.Parameter(scale * torch.randn(1, W))
        self.positional_embedding = nn.Parameter(scale * torch.randn(P + 1, W))
        self.mask_token = nn.Parameter(scale * torch.randn(1, 1, W))
        self.latent_token_positional_embedding = nn.Parameter(scale * torch.randn(config.num_tokens, W))
        self.ln_pre = nn.LayerNorm(W)
        self.transformer = nn.ModuleList(Block(W, config.heads) for _ in range(layers))
        self.ln_post = nn.LayerNorm(W)

    def features(self, codes: Tensor) -> Tensor:
        """One feature vector per patch: unit-norm codes (N, K, C) -> (N, W, S / patch, S / patch)."""
        N, P = codes.shape[0], self.grid**2
        x = torch.cat([self.class_embedding.expand(N, 1, -1), self.mask_token.expand(N, P, -1)], dim=1)
        latents = self.decoder_embed(codes) + self.latent_token_positional_embedding  # (N, K, W)
        x = self.ln_pre(torch.cat([x + self.positional_embedding, latents], dim=1))
        for block in self.transformer:
            x = block(x)
        x = self.ln_post(x[:, 1 : P + 1])  # (N, P, W)
        return x.transpose(1, 2).reshape(N, -1, self.grid, self.grid)


class TokenDecoder(MaskTokenDecoder):
    """Pixel head of the local tokenizers: patches to pixels, then one 3×3 convolution."""

    def __init__(self, config: TokenizerConfig) -> None:
        if config.decoder_layers < 1:
            raise ValueError(f"{config.name} has no pixel-head decoder: choose a tokenizer of the t32 family")
        super().__init__(config, config.decoder_layers)
        self.patch_size = config.patch_size
        self.ffn = nn.Conv2d(config.width, 3 * config.patch_size**2, 1)
        self.conv_out = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, codes: Tensor) -> Tensor:
        """Decode unit-norm codes.

        Args:
            codes: (N, K, C).

        Returns:
            Image, (N, 3, S, S), not clamped.
        """
        x = self.ffn(self.features(codes))
        # patch channels are ordered (row, column, colour); pixel_shuffle wants (colour, row, column)
        p = self.patch_size
        x = x.reshape(-1, p * p, 3, self.grid, self.grid).transpose(1, 2).flatten(1, 2)
        return self.conv_out(F.pixel_shuffle(x, p))

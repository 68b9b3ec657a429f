"""The TiTok encoder: image -> K continuous tokens of C channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.tokenizer.config import TokenizerConfig
from models.tokenizer.transformer import Block


def legacy_reshape(x: Tensor) -> Tensor:
    """Reinterpret (N, K, W) as (N, W, K) in memory order, without a transpose.

    The 4096-code TiTok models were trained with this; a transpose loads just as well and gives garbage codes.
    Channel w of output position k is feature d of transformer token t, where ``t W + d = w K + k``.
    """
    N, K, W = x.shape
    return x.reshape(N, W, K)


class TiTokEncoder(nn.Module):
    """Vision transformer over patches, a class embedding and K latent tokens; keeps the latents.

    The latent tokens themselves belong to the tokenizer (``latent_tokens`` of the checkpoints) and are passed in.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        W, K = config.width, config.num_tokens
        scale = W**-0.5
        self.legacy = config.legacy
        self.num_tokens = K
        self.patch_embed = nn.Conv2d(3, W, config.patch_size, stride=config.patch_size)
        self.class_embedding = nn.Parameter(scale * torch.randn(1, W))
        self.positional_embedding = nn.Parameter(scale * torch.randn(config.num_patches + 1, W))
        self.latent_token_positional_embedding = nn.Parameter(scale * torch.randn(K, W))
        self.ln_pre = nn.LayerNorm(W)
        self.transformer = nn.ModuleList(Block(W, config.heads) for _ in range(config.layers))
        self.ln_post = nn.LayerNorm(W)
        self.conv_out = nn.Conv2d(W, config.token_dim, 1)

    def forward(self, image: Tensor, latent_tokens: Tensor) -> Tensor:
        """Encode.

        Args:
            image: (N, 3, S, S) in [0, 1] with S the configured image size; no further normalisation.
            latent_tokens: (K, W).

        Returns:
            Continuous tokens before quantization, (N, K, C).
        """
        N = image.shape[0]
        x = self.patch_embed(image).flatten(2).transpose(1, 2)  # (N, P, W)
        x = torch.cat([self.class_embedding.expand(N, 1, -1), x], dim=1) + self.positional_embedding
        latents = (latent_tokens + self.latent_token_positional_embedding).expand(N, -1, -1)  # (N, K, W)
        x = self.ln_pre(torch.cat([x, latents], dim=1))
        for block in self.transformer:
            x = block(x)
        x = self.ln_post(x[:, -self.num_tokens :])  # (N, K, W)
        x = legacy_reshape(x) if self.legacy else x.transpose(1, 2)  # (N, W, K)
        return self.conv_out(x.unsqueeze(-1)).squeeze(-1).transpose(1, 2)  # (N, K, C)

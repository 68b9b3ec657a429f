"""Convolutional decoder: tokens -> coarse map -> image. Learns in a tenth of the steps of the pixel-head transformer.

A transformer over mask tokens first has to find out which token belongs where. Here a linear layer over the token
axis, as in the token-to-map interface π of the fusion network, connects every token with every place from the start.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.tokenizer.config import TokenizerConfig
from models.tokenizer.decoder import TokenDecoder

_LEVELS = (128, 96, 64, 48)
"""Channels at 1/16, 1/8, 1/4 and 1/2 of the image's side."""


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.GELU())


class ConvDecoder(nn.Module):
    """Lift C -> 128, token axis K -> grid positions, then nearest-neighbour doublings with 3×3 convolutions.

    Trains a local tokenizer and shows what its tokens hold; fusion never uses it. Its output is grey, repeated to
    three channels.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        if config.patch_size != 16:
            raise ValueError(f"the decoder doubles four times, for patches of 16 pixels, not {config.patch_size}")
        D = _LEVELS[0]
        self.grid = config.image_size // config.patch_size
        self.lift = nn.Linear(config.token_dim, D)
        self.spread = nn.Linear(config.num_tokens, self.grid**2, bias=False)
        self.position = nn.Parameter(torch.zeros(1, D, self.grid, self.grid))
        self.local = nn.Sequential(_block(D, D), _block(D, D))
        self.levels = nn.ModuleList(_block(i, o) for i, o in pairwise(_LEVELS))
        self.out = nn.Conv2d(_LEVELS[-1], 4, 3, padding=1)

    def forward(self, codes: Tensor) -> Tensor:
        """Decode unit-norm codes: (N, K, C) -> (N, 3, S, S), not clamped."""
        plane = self.spread(F.gelu(self.lift(codes)).transpose(1, 2))  # (N, D, P)
        y = plane.unflatten(-1, (self.grid, self.grid)) + self.position
        y = y + self.local(y)
        for level in self.levels:
            y = level(F.interpolate(y, scale_factor=2.0, mode="nearest"))
        grey = 0.5 + F.pixel_shuffle(self.out(y), 2)  # (N, 1, S, S): starts at mid-grey
        return grey.expand(-1, 3, -1, -1)


def build_decoder(config: TokenizerConfig) -> ConvDecoder | TokenDecoder:
    """The decoder that a local tokenizer is trained with."""
    return ConvDecoder(config) if config.decoder == "conv" else TokenDecoder(config)

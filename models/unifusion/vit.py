"""A small vision transformer of DINOv3's design, to be trained without labels on one's own images.

Shape letters: N batch, H height, W width, h = H / 16, w = W / 16, P = h · w patches, T tokens (class, registers, then
patches row by row), E width, M heads, C channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.tita.layers import linear
from models.unifusion.backbone import IMAGENET_MEAN, IMAGENET_STD, VisionBackbone
from models.unifusion.config import HEAD_DIM, NUM_TAPS, STRIDE
from models.unifusion.rope import AxialRotation, rotate


@dataclass(frozen=True)
class ViTConfig:
    """Size of a vision transformer.

    Attributes:
        embed_dim: Width E.
        depth: Blocks; the taps are the last of each quarter, 2, 5, 8 and 11 of 12.
        heads: Of 64 channels each.
        registers: Learned tokens that belong to no patch, beside the class token.
        mlp_ratio: Hidden channels of an MLP as a multiple of E.
        layer_scale: What the residuals are scaled by at first.
    """

    embed_dim: int = 192
    depth: int = 12
    heads: int = 3
    registers: int = 4
    mlp_ratio: int = 4
    layer_scale: float = 1.0

    @property
    def taps(self) -> tuple[int, ...]:
        """Blocks whose outputs are the taps, counted from 0."""
        return tuple(self.depth * (i + 1) // NUM_TAPS - 1 for i in range(NUM_TAPS))

    def __post_init__(self) -> None:
        if self.heads < 1 or self.embed_dim != HEAD_DIM * self.heads:
            raise ValueError(
                f"embed_dim must be {HEAD_DIM} for each head, not {self.embed_dim} for {self.heads} of them"
            )
        if self.depth < NUM_TAPS:
            raise ValueError(f"depth must be at least {NUM_TAPS}, for as many taps, not {self.depth}")
        if self.registers < 0:
            raise ValueError(f"registers must be 0 or more, not {self.registers}")
        if self.mlp_ratio < 1:
            raise ValueError(f"mlp_ratio must be 1 or more, not {self.mlp_ratio}")


class ViTFeatures(NamedTuple):
    """What the last block says, normed: the class token (N, E) and the patches (N, P, E), row by row."""

    cls: Tensor
    patches: Tensor


class SelfAttention(nn.Module):
    """Attention between all tokens; queries and keys carry their place."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = linear(config.embed_dim, 3 * config.embed_dim, bias=False)
        self.proj = linear(config.embed_dim, config.embed_dim)

    def forward(self, x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """Attend: (N, T, E) -> (N, T, E)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, HEAD_DIM)).permute(2, 0, 3, 1, 4)  # (N, M, T, C) each
        mixed = F.scaled_dot_product_attention(rotate(q, tables), rotate(k, tables), v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class ViTBlock(nn.Module):
    """Pre-norm block: attention and an MLP, each residual scaled channel by channel."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        E, hidden = config.embed_dim, config.mlp_ratio * config.embed_dim
        self.norm1 = nn.LayerNorm(E, eps=1e-5)
        self.attention = SelfAttention(config)
        self.scale1 = nn.Parameter(torch.full((E,), config.layer_scale))
        self.norm2 = nn.LayerNorm(E, eps=1e-5)
        self.mlp = nn.Sequential(linear(E, hidden), nn.GELU(), linear(hidden, E))
        self.scale2 = nn.Parameter(torch.full((E,), config.layer_scale))

    def forward(self, x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """Transform: (N, T, E) -> (N, T, E)."""
        x = x + self.scale1 * self.attention(self.norm1(x), tables)
        return x + self.scale2 * self.mlp(self.norm2(x))


class SmallViT(VisionBackbone):
    """The transformer: 5,485,248 parameters at the default size, the mask token included.

    Args:
        config: Its size.
        name: Under which checkpoints know it.
        mean: Of the three channels, subtracted from images in [0, 1].
        std: Of the three channels.
        maskable: Have a mask token; one that is never masked is better without.
    """

    def __init__(
        self,
        config: ViTConfig | None = None,
        *,
        name: str = "small-vit",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        maskable: bool = True,
    ) -> None:
        config = config or ViTConfig()
        super().__init__(name, embed_dim=config.embed_dim, taps=config.taps, mean=mean, std=std)
        self.config = config
        E = config.embed_dim
        self.patches = nn.Conv2d(3, E, STRIDE, stride=STRIDE)
        nn.init.xavier_uniform_(self.patches.weight.flatten(1))  # as the linear layer that it is; a view, so in place
        self.prefix = nn.Parameter(0.02 * torch.randn(1, 1 + config.registers, E))  # class token first
        self.mask_token = nn.Parameter(torch.zeros(E)) if maskable else None
        self.rotation = AxialRotation(HEAD_DIM, prefix=1 + config.registers)
        self.blocks = nn.ModuleList(ViTBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(E, eps=1e-5)

    @classmethod
    def random(
        cls,
        seed: int,
        config: ViTConfig | None = None,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> Self:
        """The control of our own ablation: the same architecture with random weights that nothing trains.

        Args:
            seed: Of the weights, whatever the state of the global generator, which is left as it was.
            config: Size of the network.
            mean: Of the three channels, subtracted from images in [0, 1].
            std: Of the three channels.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            vit = cls(config, name="small-vit-random", mean=mean, std=std, maskable=False)
        return vit.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """The taps, normed; see ``VisionBackbone.forward``."""
        x, h, w = self._embed(image, None)
        tables = self.rotation.tables(h, w)
        taps = []
        for index, block in enumerate(self.blocks):
            x = block(x, tables)
            if index in self.taps:
                patches = self.norm(x)[:, self.rotation.prefix :]  # (N, P, E)
                taps.append(patches.transpose(1, 2).unflatten(2, (h, w)).float())
        return taps

    def forward_features(self, image: Tensor, mask: Tensor | None = None) -> ViTFeatures:
        """What the last block says, for training without labels.

        Args:
            image: (N, 3, H, W) in [0, 1], H and W multiples of 16.
            mask: True for patches to hide behind the mask token, (N, P), bool.

        Raises:
            ValueError: The image or the mask has another shape, or there is no mask token.
        """
        x, h, w = self._embed(image, mask)
        tables = self.rotation.tables(h, w)
        for block in self.blocks:
            x = block(x, tables)
        x = self.norm(x)
        return ViTFeatures(x[:, 0], x[:, self.rotation.prefix :])

    def _embed(self, image: Tensor, mask: Tensor | None) -> tuple[Tensor, int, int]:
        """Tokens (N, T, E) and the sides h, w of their grid."""
        grid = self.patches(self.normalise(image))  # (N, E, h, w)
        x = grid.flatten(2).transpose(1, 2)  # (N, P, E)
        if mask is not None:
            x = self._hide(x, mask)
        x = torch.cat([self.prefix.expand(x.shape[0], -1, -1), x], dim=1)
        return x, grid.shape[2], grid.shape[3]

    def _hide(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.mask_token is None:
            raise ValueError(f"{self.name} has no mask token: build it with maskable=True")
        if mask.shape != x.shape[:2] or mask.dtype != torch.bool:
            raise ValueError(f"mask must be bool, {tuple(x.shape[:2])}, not {mask.dtype}, {tuple(mask.shape)}")
        return torch.where(mask.unsqueeze(-1), self.mask_token.to(x.dtype), x)

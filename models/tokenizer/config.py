"""Sizes of the tokenizers: TiTok as published, and the local T32 family for which no download is needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TokenizerConfig:
    """Architecture of one tokenizer.

    Attributes:
        name: Registry name; part of the tokenizer's identity.
        width: Transformer width W.
        layers: Encoder blocks.
        heads: Attention heads; must divide ``width``.
        num_tokens: Latent tokens K.
        token_dim: Token channels C.
        codebook_size: Number of code vectors.
        legacy: Reinterpret (K, W) as (W, K) before the output projection, as the 4096-code TiTok models do.
        image_size: Side of the square that every image is resized to.
        patch_size: Side of a patch; must divide ``image_size``.
        decoder_layers: Blocks of the pixel-head decoder used for training and diagnostics of local tokenizers.
        decoder: Which decoder a local tokenizer is trained with: ``vit`` (pixel head) or ``conv``.
        pixel_width: Base channels of the MaskGIT-VQGAN pixel decoder behind the published models; 0 for all others.
    """

    name: str
    width: int
    layers: int
    heads: int
    num_tokens: int = 32
    token_dim: int = 12
    codebook_size: int = 4096
    legacy: bool = True
    image_size: int = 256
    patch_size: int = 16
    decoder_layers: int = 0
    decoder: Literal["vit", "conv"] = "vit"
    pixel_width: int = 0

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"{self.name}: {self.heads} heads do not divide the width {self.width}")
        if self.image_size % self.patch_size:
            raise ValueError(f"{self.name}: patch {self.patch_size} does not divide image {self.image_size}")

    @property
    def num_patches(self) -> int:
        """Patch tokens per image."""
        return (self.image_size // self.patch_size) ** 2


def _published(name: str, width: int, layers: int, heads: int, num_tokens: int) -> TokenizerConfig:
    return TokenizerConfig(name, width, layers, heads, num_tokens=num_tokens, pixel_width=128)


def _local(
    name: str,
    width: int,
    layers: int,
    heads: int,
    *,
    num_tokens: int = 32,
    image_size: int = 256,
    decoder: Literal["vit", "conv"] = "vit",
) -> TokenizerConfig:
    return TokenizerConfig(
        name,
        width,
        layers,
        heads,
        num_tokens=num_tokens,
        codebook_size=1024,
        legacy=False,
        image_size=image_size,
        decoder_layers=layers if decoder == "vit" else 0,
        decoder=decoder,
    )


_ALL = (
    _published("titok-l32", 1024, 24, 16, 32),
    _published("titok-b64", 768, 12, 12, 64),
    _published("titok-s128", 512, 8, 8, 128),
    _local("t32-tiny6", 192, 6, 3),
    _local("t32-tiny12", 192, 12, 3),
    _local("t32-256", 256, 8, 4),
    _local("t32-small6", 384, 6, 6),
    _local("t32-tiny6-128", 192, 6, 3, image_size=128, decoder="conv"),
    _local("t64-tiny6-128", 192, 6, 3, num_tokens=64, image_size=128, decoder="conv"),
    _local("t128-tiny6-128", 192, 6, 3, num_tokens=128, image_size=128, decoder="conv"),
)

TOKENIZERS: dict[str, TokenizerConfig] = {config.name: config for config in _ALL}

"""A tokenizer: resize, encode, quantize. Frozen wherever a fusion model uses it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.tokenizer.checkpoint import matching_state
from models.tokenizer.config import TokenizerConfig
from models.tokenizer.encoder import TiTokEncoder
from models.tokenizer.quantizer import VectorQuantizer

ZSource = Literal["quantized", "pre_norm"]

TOKEN_MODULES = ("latent_tokens", "encoder", "quantize")
"""First parts of the names of all weights between an image and its tokens."""


class Tokenizer(nn.Module):
    """Turns a luminance image of any size into K unit-norm tokens of C channels.

    Attributes:
        config: The architecture.
        num_tokens: K.
        token_dim: C.
        z_source: What ``encode`` returns: the ``quantized`` code vectors, or the L2-normalised vectors before
            quantization (``pre_norm``; steadier from frame to frame).
    """

    def __init__(self, config: TokenizerConfig, *, z_source: ZSource = "quantized") -> None:
        super().__init__()
        if z_source not in ("quantized", "pre_norm"):
            raise ValueError(f"z_source must be 'quantized' or 'pre_norm', not {z_source!r}")
        self.config = config
        self.num_tokens = config.num_tokens
        self.token_dim = config.token_dim
        self.z_source = z_source
        self.latent_tokens = nn.Parameter(config.width**-0.5 * torch.randn(config.num_tokens, config.width))
        self.encoder = TiTokEncoder(config)
        self.quantize = VectorQuantizer(config.codebook_size, config.token_dim)

    def prepare(self, image: Tensor) -> Tensor:
        """Resize the whole frame to the square input and repeat it to three channels.

        Args:
            image: (N, 1, H, W) in [0, 1]; RGB, (N, 3, H, W), is left as it is.

        Returns:
            (N, 3, S, S) in [0, 1].
        """
        size = (self.config.image_size, self.config.image_size)
        small = F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)
        return small.expand(-1, 3, -1, -1)

    def tokens(self, square: Tensor) -> Tensor:
        """Continuous tokens of prepared images: (N, 3, S, S) -> (N, K, C)."""
        return self.encoder(square, self.latent_tokens)

    def encode(self, image: Tensor) -> Tensor:
        """Encode luminance of any size: (N, 1, H, W) in [0, 1] -> (N, K, C), each token of norm 1."""
        z = self.tokens(self.prepare(image))
        if self.z_source == "pre_norm":
            return F.normalize(z.float(), dim=-1)
        return self.quantize.lookup(self.quantize.nearest(z))

    def indices(self, image: Tensor) -> Tensor:
        """Code numbers of images of any size: (N, 1 or 3, H, W) in [0, 1] -> (N, K), int64."""
        return self.quantize.nearest(self.tokens(self.prepare(image)))

    def forward(self, image: Tensor) -> Tensor:
        """Same as ``encode``."""
        return self.encode(image)

    @property
    def weights_sha256(self) -> str:
        """Checksum over the names and float32 values of all weights that make tokens; decoders do not count."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            if name.partition(".")[0] not in TOKEN_MODULES:
                continue
            digest.update(name.encode())
            digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def tokenizer_id(self) -> str:
        """Architecture name and start of the checksum: files made for one tokenizer are refused by another."""
        return f"{self.config.name}:{self.weights_sha256[:16]}"

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Load the encoder side of a checkpoint in the published key layout; decoder tensors are ignored.

        Args:
            state: Tensors by name, as in the published safetensors files.

        Raises:
            ValueError: A needed tensor is missing or has another shape; the message names it.
        """
        self.load_state_dict(matching_state(self, state, self.config.name))

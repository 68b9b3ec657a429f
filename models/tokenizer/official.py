"""TiTok as published, with its decoder: for looking at what the tokens of official weights hold. Never fuses."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from models.tokenizer.checkpoint import describe_names
from models.tokenizer.config import TokenizerConfig
from models.tokenizer.decoder import MaskTokenDecoder
from models.tokenizer.maskgit import PixelDecoder
from models.tokenizer.tokenizer import Tokenizer, ZSource

PROXY_CODES, PROXY_DIM = 1024, 256


class ProxyDecoder(MaskTokenDecoder):
    """Codes to logits over the MaskGIT-VQGAN codebook, one set per patch: the head of the 4096-code models."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config, config.layers)
        W = config.width
        self.ffn = nn.Sequential(nn.Conv2d(W, 2 * W, 1), nn.Tanh(), nn.Conv2d(2 * W, PROXY_CODES, 1))

    def forward(self, codes: Tensor) -> Tensor:
        """Map (N, K, C) unit-norm codes to (N, 1024, S / patch, S / patch)."""
        return self.ffn(self.features(codes))


class ProxyCodebook(nn.Module):
    """The MaskGIT-VQGAN codebook, read softly: the mean code under the probabilities of all."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(PROXY_CODES, PROXY_DIM)

    def forward(self, logits: Tensor) -> Tensor:
        """Map (N, 1024, h, w) to (N, 256, h, w)."""
        return (logits.softmax(dim=1).movedim(1, -1) @ self.embedding.weight).movedim(-1, 1)


class TiTok(Tokenizer):
    """A published TiTok in full; its state dict has the names and shapes of the published files.

    Identity (``tokenizer_id``) and codes are those of a plain ``Tokenizer`` with the same weights.

    Args:
        config: One of the published sizes.
        z_source: As in ``Tokenizer``.

    Raises:
        ValueError: The tokenizer was not published with this decoder.
    """

    def __init__(self, config: TokenizerConfig, *, z_source: ZSource = "quantized") -> None:
        if config.pixel_width < 1:
            raise ValueError(f"{config.name} is not one of the published TiTok models, which have this decoder")
        super().__init__(config, z_source=z_source)
        self.decoder = ProxyDecoder(config)
        self.pixel_quantize = ProxyCodebook()
        self.pixel_decoder = PixelDecoder(PROXY_DIM, config.pixel_width)

    def decode(self, codes: Tensor) -> Tensor:
        """Image from unit-norm codes: (N, K, C) -> (N, 3, S, S), clamped to [0, 1]."""
        return self.pixel_decoder(self.pixel_quantize(self.decoder(codes))).clamp(0, 1)

    def reconstruct(self, image: Tensor) -> Tensor:
        """Encode, quantize and decode.

        Args:
            image: (N, 1, H, W) luminance or (N, 3, H, W) RGB, in [0, 1], any size.

        Returns:
            RGB in [0, 1], (N, 3, S, S).
        """
        return self.decode(self.quantize.lookup(self.indices(image)))

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Load a whole published checkpoint, decoder included.

        Raises:
            ValueError: A tensor is missing, unknown or has another shape; the message names it.
        """
        unknown = sorted(state.keys() - self.state_dict().keys())
        if unknown:
            raise ValueError(
                f"the checkpoint is not a {self.config.name}: it holds unknown tensors {describe_names(unknown)}"
            )
        super().load_published(state)

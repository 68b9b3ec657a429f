"""What all stand-ins of a tokenizer share: a square input and a checksum."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class StandInConfig:
    """Architecture of a stand-in.

    Attributes:
        name: What it is, such as ``dinov3``.
        image_size: Side S of its square input.
        num_tokens: K.
        token_dim: C.
    """

    name: str
    image_size: int
    num_tokens: int = 32
    token_dim: int = 12

    def __post_init__(self) -> None:
        if min(self.image_size, self.num_tokens, self.token_dim) < 1:
            raise ValueError(f"{self.name}: image_size, num_tokens and token_dim must be 1 or more")


class StandIn(nn.Module):
    """Base of what takes the tokenizer's place.

    Attributes:
        config: The architecture.
        num_tokens: K.
        token_dim: C.
    """

    def __init__(self, config: StandInConfig) -> None:
        super().__init__()
        self.config = config
        self.num_tokens = config.num_tokens
        self.token_dim = config.token_dim

    def prepare(self, image: Tensor) -> Tensor:
        """Resize the whole frame as a tokenizer does: (N, 1, H, W) in [0, 1] -> (N, 3, S, S) in [0, 1]."""
        size = (self.config.image_size, self.config.image_size)
        small = F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)
        return small.expand(-1, 3, -1, -1)

    @property
    def weights_sha256(self) -> str:
        """Checksum over the names and float32 values of all weights and constants."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()

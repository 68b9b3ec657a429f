"""What a fusion network and its training need of whatever makes the tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn


class SquareInput(Protocol):
    """The part of a token source's architecture that others may rely on."""

    @property
    def name(self) -> str:
        """Name of the architecture."""

    @property
    def image_size(self) -> int:
        """Side S of the square that every image is resized to."""


class TokenSource(Protocol):
    """Describes an image by K tokens of C channels: a tokenizer, or what an ablation puts in its place.

    Every implementation is an ``nn.Module``; only the members named here are used.
    """

    @property
    def config(self) -> SquareInput:
        """The architecture."""

    @property
    def num_tokens(self) -> int:
        """K."""

    @property
    def token_dim(self) -> int:
        """C."""

    @property
    def tokenizer_id(self) -> str:
        """Identity: slot files and checkpoints made with one source are refused by another."""

    @property
    def weights_sha256(self) -> str:
        """Checksum over everything that decides the tokens."""

    def prepare(self, image: Tensor) -> Tensor:
        """Resize luminance to the square input: (N, 1, H, W) in [0, 1] -> (N, 3, S, S) in [0, 1]."""

    def encode(self, image: Tensor) -> Tensor:
        """Tokens of luminance of any size: (N, 1, H, W) in [0, 1] -> (N, K, C)."""

    def eval(self) -> Self:
        """As ``nn.Module.eval``."""

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """As ``nn.Module.requires_grad_``."""

    def to(self, device: torch.device, /) -> Self:
        """As ``nn.Module.to``."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """As ``nn.Module.parameters``."""

    def state_dict(self) -> dict[str, Any]:
        """As ``nn.Module.state_dict``."""

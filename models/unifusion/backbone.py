"""What UniFusion needs of the frozen network that describes its images, and how such a network is identified.

Shape letters: N batch, H height, W width, E backbone width, h = H / 16, w = W / 16.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from models.unifusion.config import NUM_TAPS, STRIDE

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class BackboneIdentity:
    """Everything that decides what a backbone sees in an image; kept in checkpoints, which do not hold the backbone.

    Attributes:
        name: Of the architecture.
        sha256: Checksum over the names and float32 values of all weights.
        embed_dim: Channels E of a tap.
        taps: Blocks, counted from 0, whose outputs are the taps.
        mean: Of the three channels, subtracted from images in [0, 1].
        std: Of the three channels.
    """

    name: str
    sha256: str
    embed_dim: int
    taps: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def record(self) -> dict[str, Any]:
        """The same for JSON: tuples become lists."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def check(self, record: Mapping[str, Any]) -> None:
        """Refuse a checkpoint that was trained on another backbone.

        Args:
            record: What ``record`` gave for the backbone of the checkpoint.

        Raises:
            ValueError: It differs; the message names what does.
        """
        own = self.record()
        differing = [key for key in sorted({*own, *record}) if own.get(key) != record.get(key)]
        if differing:
            details = "; ".join(f"{key} {record.get(key)!r}, here {own.get(key)!r}" for key in differing)
            raise ValueError(f"the checkpoint was trained on another backbone: {details}")


class Backbone(Protocol):
    """Describes an image by four maps, shallow to deep. Every implementation is an ``nn.Module``."""

    @property
    def name(self) -> str:
        """Name of the architecture."""

    @property
    def embed_dim(self) -> int:
        """Channels E of a tap, a multiple of 16."""

    @property
    def stride(self) -> int:
        """Pixels per side of a place of a tap: 16."""

    @property
    def num_taps(self) -> int:
        """How many taps: 4."""

    @property
    def mean(self) -> Sequence[float]:
        """Of the three channels, subtracted from images in [0, 1]."""

    @property
    def std(self) -> Sequence[float]:
        """Of the three channels."""

    def __call__(self, image: Tensor) -> list[Tensor]:
        """The taps, normed: (N, 3, H, W) in [0, 1], multiples of 16 -> four (N, E, h, w), float32."""

    def identity(self) -> BackboneIdentity:
        """What a checkpoint keeps."""

    def eval(self) -> Self:
        """As ``nn.Module.eval``."""

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """As ``nn.Module.requires_grad_``."""

    def to(self, device: torch.device, /) -> Self:
        """As ``nn.Module.to``."""


class VisionBackbone(nn.Module, ABC):
    """What all our backbones share: their description, the normalisation of the input and its checks.

    Args:
        name: Of the architecture.
        embed_dim: Channels E of a tap.
        taps: Blocks, counted from 0, whose outputs are the taps.
        mean: Of the three channels.
        std: Of the three channels.
    """

    stride = STRIDE
    num_taps = NUM_TAPS
    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        name: str,
        *,
        embed_dim: int,
        taps: Sequence[int],
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.name, self.embed_dim, self.taps = name, embed_dim, tuple(taps)
        self.mean, self.std = tuple(mean), tuple(std)
        self.register_buffer("_mean", torch.tensor(self.mean).reshape(3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(self.std).reshape(3, 1, 1), persistent=False)

    @abstractmethod
    def forward(self, image: Tensor) -> list[Tensor]:
        """The taps, normed: (N, 3, H, W) in [0, 1], multiples of 16 -> four (N, E, h, w), float32, shallow to deep.

        Raises:
            ValueError: The image has another shape.
        """

    def normalise(self, image: Tensor) -> Tensor:
        """Bring an image in [0, 1] to the range that the network was trained on: (N, 3, H, W) -> (N, 3, H, W).

        Raises:
            ValueError: It is not RGB, or a side is no multiple of 16.
        """
        if image.ndim != 4 or image.shape[1] != 3 or image.shape[2] % STRIDE or image.shape[3] % STRIDE:
            raise ValueError(f"a backbone needs (N, 3, H, W), H and W multiples of {STRIDE}, not {tuple(image.shape)}")
        return (image - self._mean) / self._std

    def identity(self) -> BackboneIdentity:
        """What a checkpoint keeps; its checksum covers all weights."""
        checksum = weights_sha256(self)
        return BackboneIdentity(self.name, checksum, self.embed_dim, self.taps, self.mean, self.std)


def weights_sha256(module: nn.Module) -> str:
    """Checksum over the names and float32 values of everything in the state dict."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_backbone(backbone: Backbone, embed_dim: int) -> None:
    """Refuse a backbone that does not fit the adapters.

    Raises:
        ValueError: The message names what differs.
    """
    found = backbone.embed_dim, backbone.stride, backbone.num_taps
    if found != (embed_dim, STRIDE, NUM_TAPS):
        raise ValueError(
            f"the network needs a backbone of {embed_dim} channels, stride {STRIDE} and {NUM_TAPS} taps; "
            f"{backbone.name} has {found[0]}, {found[1]} and {found[2]}"
        )

"""The interface that every fusion model has: ``encode`` one image, ``fuse`` a pair.

Shape letters: N batch, H height, W width, K tokens, C token channels, S edit slots.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

MIN_SIZE = 32


class FusionModel(nn.Module, ABC):
    """Fuses two aligned luminance images into one.

    What ``encode`` returns depends on one image only and may be cached. ``fuse`` is all that a change of the
    edit strength re-runs.

    Attributes:
        slots: Names of the edit slots in the order of the ``edit`` columns; empty if the model has none.
        default_edit: Default strength of each slot.
    """

    slots: tuple[str, ...] = ()
    default_edit: tuple[float, ...] = ()

    @abstractmethod
    def encode(self, image: Tensor) -> Tensor:
        """Encode one image.

        Args:
            image: Luminance, (N, 1, H, W), float32 in [0, 1], H and W at least 32.

        Returns:
            The code, (N, K, C) for token models.
        """

    @abstractmethod
    def fuse_unclamped(self, a: Tensor, b: Tensor, code_a: Tensor, code_b: Tensor, edit: Tensor) -> Tensor:
        """Fuse without the final clamp. Losses use this: a clamp would kill gradients outside [0, 1]."""

    def fuse(self, a: Tensor, b: Tensor, code_a: Tensor, code_b: Tensor, edit: Tensor) -> Tensor:
        """Fuse a pair.

        Args:
            a: First source image, (N, 1, H, W), float32 in [0, 1].
            b: Second source image, same shape and range.
            code_a: ``encode(a)``.
            code_b: ``encode(b)``.
            edit: Edit strength per slot, (N, S), float32; values outside the slot's range are clipped.

        Returns:
            The fused luminance, (N, 1, H, W), in [0, 1].
        """
        return self.fuse_unclamped(a, b, code_a, code_b, edit).clamp(0.0, 1.0)

    def forward(self, a: Tensor, b: Tensor, edit: Tensor | None = None) -> Tensor:
        """Encode both images and fuse them; ``edit`` defaults to the model's defaults."""
        if edit is None:
            edit = a.new_tensor(self.default_edit).expand(a.shape[0], -1)
        return self.fuse(a, b, self.encode(a), self.encode(b), edit)


def check_sources(a: Tensor, b: Tensor) -> None:
    """Refuse two source images that are not of one shape (N, 1, H, W) with both sides at least 32.

    Raises:
        ValueError: The message names the argument, the shape wanted and the shape given.
    """
    check_image("a", a)
    check_image("b", b)
    if a.shape != b.shape:
        raise ValueError(f"a and b must have one size, not {tuple(a.shape)} and {tuple(b.shape)}")


def check_image(name: str, image: Tensor) -> None:
    """Refuse anything but (N, 1, H, W) with both sides at least 32.

    Raises:
        ValueError: The message names the argument, the shape wanted and the shape given.
    """
    if image.ndim != 4 or image.shape[1] != 1:
        raise ValueError(f"{name} must be (N, 1, H, W), not {tuple(image.shape)}")
    if image.shape[2] < MIN_SIZE or image.shape[3] < MIN_SIZE:
        raise ValueError(f"{name} must be at least {MIN_SIZE} pixels high and wide, not {tuple(image.shape)}")

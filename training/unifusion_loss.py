"""How well UniFusion's adapters keep their images: its one loss that others lack, L_rec.

Shape letters: N batch, C channels, H height, W width.
"""

from __future__ import annotations

from torch import Tensor


def reconstruction_loss(rebuilt: tuple[Tensor, Tensor], sources: tuple[Tensor, Tensor]) -> Tensor:
    """Half the mean absolute error of either image, summed over both: -> (N,), in units of the range.

    Args:
        rebuilt: Both images as the heads have them, (N, C, H, W) each, un-clamped.
        sources: Both images, the same shape.

    Raises:
        ValueError: The shapes differ: a gray image would count once for each channel of the other.
    """
    for image, source in zip(rebuilt, sources, strict=True):
        if image.shape != source.shape:
            raise ValueError(f"cannot compare {tuple(image.shape)} with a source of {tuple(source.shape)}")
    errors = [(image - source).abs().mean(dim=(1, 2, 3)) for image, source in zip(rebuilt, sources, strict=True)]
    return (errors[0] + errors[1]) / 2

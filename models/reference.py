"""What the residual of TiTok+STE is added to: one image made of both sources without learning.

All functions map two (N, 1, H, W) images in [0, 1] and their mean level (N, 1, 1, 1) to (N, 1, H, W).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.tone import compress

_KNEE = 0.2
"""Tones this close to black and white, and beyond, are compressed."""

_SPLIT, _WINDOW = 9, 15
"""Window of the two blurs that split an image, and of the comparison of its fine part with the other's, in pixels."""

_CONTRAST = 0.9
"""Of the coarse parts about the mean level."""

_SOFTNESS = 0.2
"""Relative difference of both sources' detail over which the choice moves from one to the other."""


def box_mean(x: Tensor, size: int) -> Tensor:
    """Mean over a size × size window, size odd, border replicated: (N, C, H, W) -> (N, C, H, W)."""
    p = size // 2
    x = F.avg_pool2d(F.pad(x, (p, p, p, p), mode="replicate"), (size, 1), stride=1)
    return F.avg_pool2d(x, (1, size), stride=1)


class Split(NamedTuple):
    """An image in two parts that sum to it, each (N, 1, H, W)."""

    coarse: Tensor
    fine: Tensor


def split(image: Tensor) -> Split:
    """Coarse and fine part of an image, (N, 1, H, W)."""
    coarse = box_mean(box_mean(image, _SPLIT), _SPLIT)
    return Split(coarse, image - coarse)


def centred_sum(a: Tensor, b: Tensor, centre: Tensor) -> Tensor:
    """The paper's reference A + B without its saturation: minus the mean level, its ends compressed."""
    return compress(a + b - centre, _KNEE)


def salient_sum(a: Tensor, b: Tensor, centre: Tensor) -> Tensor:
    """The centred sum of what is coarse, and of what is fine the source that shows more of it around each pixel.

    A plain sum halves the relative contrast of details that one source has and the other covers with noise. Choosing
    needs no learning, so the network does not have to spend its capacity and its first hours on it.
    """
    (low_a, fine_a), (low_b, fine_b) = split(a), split(b)
    much_a, much_b = (box_mean(x.abs(), _WINDOW) for x in (fine_a, fine_b))
    # a hard choice would fall differently from one runtime to another where both are alike
    share = (0.5 + (much_a - much_b) / (_SOFTNESS * (much_a + much_b) + 1e-4)).clamp(0.0, 1.0)
    coarse = _CONTRAST * (low_a + low_b - 2.0 * centre) + centre
    return compress(coarse + share * fine_a + (1.0 - share) * fine_b, _KNEE)


REFERENCES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "sum": lambda a, b, _: a + b,
    "centred": centred_sum,
    "salient": salient_sum,
    "mean": lambda a, b, _: 0.5 * (a + b),
    "max": lambda a, b, _: torch.maximum(a, b),
    "a": lambda a, b, _: a,
}

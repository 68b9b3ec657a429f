"""Optics: blur by a round aperture, layer behind layer, so that what is sharp leaves no ghost in what is blurred."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F


def disc_blur(x: Tensor, radius: Tensor) -> Tensor:
    """Mean over a disc with a soft rim, border repeated.

    Args:
        x: (N, C, H, W).
        radius: Of the disc in pixels, one for each image, (N, 1, 1, 1); up to a half changes nothing.
    """
    reach = ceil(float(radius.max()) - 0.5)
    if reach <= 0:
        return x
    steps = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    kernel = (radius + 0.5 - torch.hypot(steps[:, None], steps[None, :])).clamp(0, 1)  # (N, 1, K, K)
    kernel = kernel / kernel.sum(dim=(2, 3), keepdim=True)
    H, W = x.shape[2] + 2 * reach, x.shape[3] + 2 * reach
    y = torch.fft.rfft2(F.pad(x, (reach, reach, reach, reach), mode="replicate"))
    # the kernel begins in a corner, so its centre moves the image by `reach`, out of the upper and left margin
    y = torch.fft.irfft2(y * torch.fft.rfft2(kernel, s=(H, W)), s=(H, W))
    return y[..., 2 * reach :, 2 * reach :]


def continue_behind(x: Tensor, visible: Tensor, reach: int) -> Tensor:
    """Continue a layer to where something hides it, pixel by pixel inwards, each the mean of its known neighbours.

    Args:
        x: (N, C, H, W).
        visible: Where it is known, (N, 1, H, W), above 0.
        reach: How far, in pixels. Beyond it ``x`` stays.
    """
    known = (visible > 0).to(x.dtype)
    for _ in range(reach):
        near = _sum_of_nine(torch.cat([x * known, known], dim=1))
        count = near[:, -1:]
        x = torch.where((known == 0) & (count > 0), near[:, :-1] / count.clamp_min(1), x)
        known = (count > 0).to(x.dtype)
    return x


def _sum_of_nine(x: Tensor) -> Tensor:
    """Sum over 3×3 pixels, border 0; slices are much faster here than pooling."""
    y = F.pad(x, (1, 1, 1, 1))
    y = y[..., :-2, :] + y[..., 1:-1, :] + y[..., 2:, :]
    return y[..., :-2] + y[..., 1:-1] + y[..., 2:]


class Scene:
    """A scene in L layers of depth.

    Args:
        light: All of it in focus, linear, (N, C, H, W).
        nearer: L - 1 masks (N, 1, H, W) in [0, 1], each within the one before it: all that is nearer than layer l.
        largest: Radius in pixels that no blur will exceed.
    """

    def __init__(self, light: Tensor, nearer: Sequence[Tensor], largest: float) -> None:
        everything, nothing = torch.ones_like(light[:, :1]), torch.zeros_like(light[:, :1])
        masks, hiding = [everything, *nearer], [*nearer, nothing]
        visible = [mask * (1 - hidden) for mask, hidden in zip(masks, hiding, strict=True)]
        # a blurred edge shows what is behind it up to its radius, and that is a blur of what lies as far again
        reach = 2 * ceil(largest)
        behind = [continue_behind(light, share, reach) for share in visible[:-1]]
        # from far to near: light times mask, and the mask itself, (N, C + 1, H, W)
        self.layers = [torch.cat([x * mask, mask], dim=1) for x, mask in zip([*behind, light], masks, strict=True)]

    def photograph(self, radii: Sequence[Tensor]) -> Tensor:
        """What a lens sees: each layer blurred, over what is behind it, (N, C, H, W) linear.

        A blurred layer spreads over the sharp one behind it; of a blurred layer behind a sharp one only its own light
        reaches the edge, for it goes on behind (``continue_behind``).

        Args:
            radii: L radii of blur (N, 1, 1, 1) in pixels, of the farthest layer first.
        """
        seen = torch.zeros_like(self.layers[0][:, :-1])
        for layer, radius in zip(self.layers, radii, strict=True):
            blurred = disc_blur(layer, radius)
            seen = seen * (1 - blurred[:, -1:]) + blurred[:, :-1]
        return seen

"""Views of one image for training without labels: what the teacher sees, and what the student sees of it.

From every image two *canvases* are cut, the second around a place of the first. The teacher sees a canvas as a whole,
the student only a *window* of it whose patches are patches of the canvas: of each patch of the student it is known
which patch of the teacher shows the same thing. Two properties make the comparison worth something:

- Tone differs. Windows are changed strongly, polarity included, and canvases a little. Of an aligned pair the window
  may show the other sensor than the canvas. What is left to agree on is what is there.
- Place differs. The window lies anywhere in the canvas and may be mirrored. Otherwise "third patch from the left" would
  be an answer that is always right, and a network without any idea of the content would learn to give it.

Shape letters: B images, N = 2 · B canvases (the first of all images, then the second of all), R side of a window, S of
a canvas, g and G the same in patches, P = g², all in the sense of the recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from models.unifusion.config import STRIDE
from training.backbone_recipe import Source, ViewConfig
from training.data.pairs import ImagePairs
from training.data.singles import SingleImages
from training.data.tone import augment_tone

Pixels = NDArray[np.uint8]


class Views(NamedTuple):
    """One batch; images are luminance in [0, 1].

    Attributes:
        canvas: What the teacher sees, (N, 1, S, S).
        window: What the student sees, (N, 1, R, R).
        partner: The window as the teacher's sensor shows it, before any change of tone, (N, 1, R, R).
        places: Patch of the canvas that each patch of the window lies on, row by row, (N, P), int64.
        mask: Patches of the window to hide, (N, P), bool.
    """

    canvas: Tensor
    window: Tensor
    partner: Tensor
    places: Tensor
    mask: Tensor


class Box(NamedTuple):
    """A rectangle of an image in pixels."""

    top: int
    left: int
    height: int
    width: int


class ViewSampler:
    """Draws batches of views. Torch's global random numbers are all the state that an exact resume needs.

    Args:
        root: Data root.
        sources: Where the images lie.
        config: How.
        device: Where batches go.
        max_cache_mb: Most memory for the images of one source.

    Attributes:
        counts: Pairs or single images per folder.

    Raises:
        DataError: Images are missing, cannot be read, or need too much memory.
    """

    def __init__(
        self,
        root: Path,
        sources: tuple[Source, ...],
        config: ViewConfig,
        device: torch.device,
        *,
        max_cache_mb: float = 8000.0,
    ) -> None:
        self.config, self.device = config, device
        self.counts: dict[str, int] = {}
        self._shares = torch.tensor([source.share for source in sources])
        self._images: list[list[tuple[Pixels, ...]]] = []
        for source in sources:
            if source.pairs is not None:
                pairs = ImagePairs(root, [source.pairs], max_cache_mb=max_cache_mb)
                self.counts |= pairs.counts
                self._images.append(list(pairs.pairs))
            if source.images is not None:
                singles = SingleImages(root, [source.images], min_side=config.min_side, max_cache_mb=max_cache_mb)
                self.counts |= singles.counts
                self._images.append([(image,) for image in singles.images])

    def draw(self, side: int) -> Views:
        """A random batch with windows of this side in pixels."""
        c = self.config
        canvases = self._canvases(side + STRIDE * c.margin).to(self.device)  # (N, 2, S, S)
        N = len(canvases)
        first = torch.randint(2, (N,))
        other = torch.where(torch.rand(N) < c.cross, 1 - first, first)
        rows = torch.arange(N)
        g = side // STRIDE
        corners = torch.randint(c.margin + 1, (N, 2))
        mirrored = torch.rand(N) < c.mirror
        windows = cut_windows(canvases, corners, mirrored, side)  # (N, 2, R, R)
        seen = windows[rows, other].unsqueeze(1)
        return Views(
            canvas=augment_tone(canvases[rows, first].unsqueeze(1), c.teacher),
            window=augment_tone(seen, c.student),
            partner=windows[rows, first].unsqueeze(1),
            places=window_places(corners, mirrored, g, g + c.margin).to(self.device),
            mask=draw_masks(N, g, c.mask).to(self.device),
        )

    def _canvases(self, side: int) -> Tensor:
        """Both images of random pairs, (N, 2, S, S) in [0, 1]; a single image twice."""
        B = self.config.batch
        chosen = torch.multinomial(self._shares, B, replacement=True).tolist()
        canvases: list[list[Tensor]] = [[], []]
        for source in chosen:
            images = self._images[source][int(torch.randint(len(self._images[source]), ()))]
            box = None
            for part in canvases:
                box = self._box(images[0].shape, side, around=box)
                part.append(_enlarge(images, box, side))
        return torch.stack([*canvases[0], *canvases[1]])

    def _box(self, shape: tuple[int, ...], side: int, *, around: Box | None) -> Box:
        """Where a canvas lies in its image; the centre of a second one lies in the first."""
        zoom, aspect, down, across = torch.rand(4).tolist()
        low, high = self.config.zoom
        length = side * low * (high / low) ** zoom
        stretch = self.config.aspect ** (aspect - 0.5)
        ratio = min(1.0, shape[0] / (length * stretch), shape[1] * stretch / length)  # the image may be too small
        height, width = (max(1, int(length * ratio * s)) for s in (stretch, 1 / stretch))
        inside = around or Box(0, 0, shape[0], shape[1])
        top = _start(inside.top + down * inside.height, height, shape[0])
        left = _start(inside.left + across * inside.width, width, shape[1])
        return Box(top, left, height, width)


def shared_side(sides: Sequence[int], seed: int, step: int) -> int:
    """Side of a step's windows: random, but the same in all processes, whose means are over values of one shape.

    Args:
        sides: To choose from.
        seed: Of the run.
        step: Which.
    """
    return sides[int(np.random.default_rng((seed, step)).integers(len(sides)))]


def _start(centre: float, length: int, whole: int) -> int:
    """Begin of an interval around a centre, moved inside 0 … whole."""
    return min(max(0, round(centre - length / 2)), whole - length)


def _enlarge(images: tuple[Pixels, ...], box: Box, side: int) -> Tensor:
    """A part of an image, or of both of a pair, brought to a square: (2, side, side) in [0, 1]."""
    parts = [image[box.top : box.top + box.height, box.left : box.left + box.width] for image in images]
    x = torch.from_numpy(np.stack(parts)).float() / 255.0
    x = F.interpolate(x[None], (side, side), mode="bilinear", align_corners=False, antialias=True)[0]
    return x.clamp(0, 1).expand(2, -1, -1)


def cut_windows(canvases: Tensor, corners: Tensor, mirrored: Tensor, side: int) -> Tensor:
    """Cut one window of each canvas.

    Args:
        canvases: (N, C, S, S).
        corners: Top and left patch, (N, 2), int64.
        mirrored: Whether it is then mirrored, (N,), bool.
        side: Pixels R of a window.

    Returns:
        (N, C, R, R).
    """
    windows = []
    for canvas, (top, left), flip in zip(canvases, (corners * STRIDE).tolist(), mirrored.tolist(), strict=True):
        window = canvas[:, top : top + side, left : left + side]
        windows.append(window.flip(2) if flip else window)
    return torch.stack(windows)


def window_places(corners: Tensor, mirrored: Tensor, g: int, G: int) -> Tensor:
    """Patch of a G × G canvas that each patch of its g × g window lies on: (N, P), int64.

    Args:
        corners: Top and left patch of the window, (N, 2), int64.
        mirrored: Whether it is mirrored, (N,), bool.
        g: Patches per side of the window.
        G: Patches per side of the canvas.
    """
    steps = torch.arange(g)
    columns = torch.where(mirrored[:, None], g - 1 - steps, steps)  # (N, g)
    rows = corners[:, :1] + steps  # (N, g)
    return (rows[:, :, None] * G + (corners[:, 1:] + columns)[:, None]).flatten(1)


def draw_masks(count: int, g: int, share: tuple[float, float]) -> Tensor:
    """Hide random blobs of patches: single ones could be filled in from their neighbours.

    Args:
        count: Masks N.
        g: Patches per side.
        share: Smallest and largest share that is hidden; at least one patch always is, and one never.

    Returns:
        True for hidden patches, (N, P), bool.
    """
    P = g * g
    coarse = torch.rand(count, 1, (g + 1) // 2, (g + 1) // 2)
    heights = F.interpolate(coarse, (g, g), mode="bilinear", align_corners=False).flatten(1)  # (N, P)
    ranks = (heights + 0.1 * torch.rand(count, P)).argsort(dim=1).argsort(dim=1)
    hidden = torch.empty(count, 1).uniform_(*share).mul(P).round().clamp(1, P - 1)
    return ranks < hidden

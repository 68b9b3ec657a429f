"""Multi-focus pairs from one sharp image: the far part in focus in one, the near part in the other."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from training.config import Strict
from training.synthesis.depth import downward_ramp, masks_above, smooth_field, snap_to_edges
from training.synthesis.draws import Numbers, Positive, PositiveRange, Rising, Share
from training.synthesis.lens import Scene
from training.synthesis.pair import SynthesisedPair, check_image, luminance, ordered, to_8_bits

DISPLAY_GAMMA = 2.2


class FocusConfig(Strict):
    """How a multi-focus pair is made; every range is drawn from for each image.

    Attributes:
        kind: Tells these settings from those of other pairs.
        layers: Depth layers of the far part and of the near part. A part that is out of focus is the more blurred the
            farther a layer is from the other part.
        radius: Of the blur of the most blurred layer in each picture, in pixels.
        near_share: Share of the area that is near.
        cells: How many hills or valleys of depth the shorter side of the image has.
        ramp: Largest strength of a ground that comes nearer towards the bottom, relative to the hills.
        edge_width: Pixels over which one layer ends and the next begins.
        snap_probability: Share of the images whose layers tend to end where the picture has edges.
        snap_radius: In pixels, about twice as far as their ends are moved for it.
        noise_sigma: Largest standard deviation of sensor noise, drawn for each picture.
        first: Which picture is image A: that with the ``far`` part in focus, the ``near`` part, or ``random``.
    """

    kind: Literal["focus"] = "focus"
    layers: tuple[Annotated[int, Field(ge=1, le=8)], Annotated[int, Field(ge=1, le=8)]] = (2, 2)
    radius: Annotated[tuple[Positive, Annotated[float, Field(le=64)]], Rising] = (1.5, 6.0)
    near_share: Annotated[tuple[Share, Share], Rising] = (0.2, 0.8)
    cells: PositiveRange = (1.5, 5.0)
    ramp: float = Field(default=1.0, ge=0)
    edge_width: PositiveRange = (1.0, 3.0)
    snap_probability: Share = 0.5
    snap_radius: int = Field(default=8, ge=1)
    noise_sigma: float = Field(default=0.0, ge=0)
    first: Literal["far", "near", "random"] = "random"

    @property
    def margin(self) -> int:
        """Pixels at the border that would look otherwise in a larger picture: cut them off a window."""
        return ceil(self.radius[1])


@torch.no_grad()
def synthesise_focus(image: Tensor, config: FocusConfig, generator: torch.Generator | None = None) -> SynthesisedPair:
    """Two photographs of the same scene with different focus.

    Args:
        image: All in focus, (N, 1 or 3, H, W) in [0, 1], as displayed (not linear).
        config: How.
        generator: Source of the random numbers; torch's global one by default.

    Returns:
        The pair; the truth is the image itself.

    Raises:
        ValueError: The image is of another shape, type or range.
    """
    check_image(image)
    numbers = Numbers(len(image), image.device, generator)
    nearer = _nearer(luminance(image), config, numbers)
    far, near = config.layers
    scene = Scene(image**DISPLAY_GAMMA, nearer, config.radius[1])
    pictures = []
    for distances in (_distances(far, near), _distances(near, far)[::-1]):
        radius = numbers.uniform(*config.radius)
        light = scene.photograph([radius * distance for distance in distances])
        noise = numbers.uniform(0.0, config.noise_sigma) * numbers.normal(*image.shape[1:])
        pictures.append(to_8_bits(light.clamp_min(0) ** (1 / DISPLAY_GAMMA) + noise))
    swap = numbers.chosen({"far": 0.0, "near": 1.0, "random": 0.5}[config.first])
    return SynthesisedPair(*ordered(pictures[0], pictures[1], swap), truth=image)


def _distances(sharp: int, blurred: int) -> list[float]:
    """Blur of each layer relative to the most blurred one, the part in focus first."""
    return [0.0] * sharp + [(i + 1) / blurred for i in range(blurred)]


def _nearer(luma: Tensor, config: FocusConfig, numbers: Numbers) -> list[Tensor]:
    """Masks of all that is nearer than layer l, (N, 1, H, W) in [0, 1], for every layer but the nearest."""
    H, W = luma.shape[2:]
    z = smooth_field(numbers, H, W, config.cells)
    z = z + numbers.uniform(0.0, config.ramp) * downward_ramp(H, W, luma.device)
    edge_width = numbers.uniform(*config.edge_width)
    masks = masks_above(z, _shares(numbers.uniform(*config.near_share), config.layers), edge_width)
    snap = numbers.chosen(config.snap_probability)
    result: list[Tensor] = []
    for mask in masks:
        snapped = snap_to_edges(mask, luma, config.snap_radius, edge_width)
        moved = torch.where(snap, snapped, mask)
        result.append(torch.minimum(moved, result[-1]) if result else moved)
    return result


def _shares(near: Tensor, layers: Sequence[int]) -> list[Tensor]:
    """Share of the area in front of each layer, falling; the layers of a part have equal areas."""
    far_layers, near_layers = layers
    far = [1 - (1 - near) * (i + 1) / far_layers for i in range(far_layers)]
    return far + [near * (1 - (i + 1) / near_layers) for i in range(near_layers - 1)]

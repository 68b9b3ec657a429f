"""Every kind of synthesis by its settings."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from training.synthesis.exposure import ExposureConfig, synthesise_exposure
from training.synthesis.focus import FocusConfig, synthesise_focus
from training.synthesis.pair import SynthesisedPair

AnyConfig = FocusConfig | ExposureConfig
Synthesis = Annotated[AnyConfig, Field(discriminator="kind")]
"""For recipes: ``kind: focus`` or ``kind: exposure`` tells which settings follow."""

CONFIGS: dict[str, type[AnyConfig]] = {"focus": FocusConfig, "exposure": ExposureConfig}


def synthesise(image: Tensor, config: AnyConfig, generator: torch.Generator | None = None) -> SynthesisedPair:
    """A pair of each image, and what a perfect fusion of it would be.

    Args:
        image: Sharp and well exposed, (N, 1 or 3, H, W) in [0, 1], 8-bit values.
        config: How; its type tells which kind.
        generator: Source of the random numbers; torch's global one by default.

    Raises:
        ValueError: The image is of another shape, type or range.
    """
    if isinstance(config, FocusConfig):
        return synthesise_focus(image, config, generator)
    return synthesise_exposure(image, config, generator)

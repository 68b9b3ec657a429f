"""Multi-exposure pairs from one well-exposed image: the same scene taken far too bright and far too dark."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from training.config import Strict
from training.synthesis.depth import smooth_field
from training.synthesis.draws import Numbers, PositiveRange, Rising
from training.synthesis.pair import SynthesisedPair, check_image, luminance, ordered
from training.synthesis.sensor import Curve, Noise, expose

Negative = Annotated[float, Field(lt=0)]

MID_GREY = 0.18
"""Light that keeps its place when the contrast of a scene is stretched."""


class ExposureConfig(Strict):
    """How a multi-exposure pair is made; every range is drawn from for each image.

    Attributes:
        kind: Tells these settings from those of other pairs.
        over: Stops of the bright picture above the image.
        under: Stops of the dark picture, below 0.
        contrast: Exponent on the light around mid-grey. Scenes that need two exposures have more contrast than an image
            can show; the image then is what a good tone mapping would make of the scene.
        lighting: Largest strength of uneven lighting in stops: one part of the scene lies in shade.
        exponent: Of the response curve of the camera.
        shoulder: Of the response curve.
        gain: Of the sensor's noise.
        read: Noise in darkness.
        first: Which picture is image A: the ``over`` exposed one, the ``under`` exposed one, or ``random``.
    """

    kind: Literal["exposure"] = "exposure"
    over: PositiveRange = (1.5, 4.5)
    under: Annotated[tuple[Negative, Negative], Rising] = (-5.5, -2.0)
    contrast: PositiveRange = (1.0, 1.4)
    lighting: float = Field(default=0.5, ge=0)
    exponent: PositiveRange = (0.8, 1.0)
    shoulder: PositiveRange = (0.2, 0.6)
    gain: PositiveRange = (1e-5, 2e-4)
    read: PositiveRange = (5e-5, 1e-3)
    first: Literal["over", "under", "random"] = "over"

    @property
    def margin(self) -> int:
        """No pixel depends on its neighbours."""
        return 0


@torch.no_grad()
def synthesise_exposure(
    image: Tensor, config: ExposureConfig, generator: torch.Generator | None = None
) -> SynthesisedPair:
    """Two exposures of the same scene, by one camera.

    Args:
        image: Well exposed, (N, 1 or 3, H, W) in [0, 1], 8-bit values.
        config: How.
        generator: Source of the random numbers; torch's global one by default.

    Returns:
        The pair; the truth is the image itself.

    Raises:
        ValueError: The image is of another shape, type or range.
    """
    check_image(image)
    numbers = Numbers(len(image), image.device, generator)
    light = _scene(image, config, numbers)
    noise = Noise(numbers.log_uniform(*config.gain), numbers.log_uniform(*config.read))
    curve = _curve(config, numbers)
    over, under = (
        expose(light, numbers.uniform(*stops), noise, curve, numbers) for stops in (config.over, config.under)
    )
    swap = numbers.chosen({"over": 0.0, "under": 1.0, "random": 0.5}[config.first])
    return SynthesisedPair(*ordered(over, under, swap), truth=image)


def _scene(image: Tensor, config: ExposureConfig, numbers: Numbers) -> Tensor:
    """Light of a scene that the image could be a good picture of, linear, (N, C, H, W)."""
    # 8 bits are coarse in the shadows that the bright picture shows: without a dither they would become bands
    smooth = (image + numbers.dither(*image.shape[1:]) / 255).clamp(0, 1)
    light = _curve(config, numbers).invert(smooth)
    # one gain for all channels: an exponent on each would change the colours
    light = light * (luminance(light) / MID_GREY).clamp_min(1e-4) ** (numbers.uniform(*config.contrast) - 1)
    stops = numbers.uniform(0.0, config.lighting) * smooth_field(numbers, image.shape[2], image.shape[3], (1.0, 3.0))
    return light * 2**stops


def _curve(config: ExposureConfig, numbers: Numbers) -> Curve:
    return Curve(numbers.uniform(*config.exponent), numbers.uniform(*config.shoulder))

"""A camera from light to file: exposure, noise of the sensor, full well, response curve, 8 bits."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from training.synthesis.draws import Numbers
from training.synthesis.pair import to_8_bits


class Curve(NamedTuple):
    """A response curve v = (1 + s) · xⁿ / (xⁿ + s), which fits measured cameras well (Eilertsen and others, 2017).

    Attributes:
        exponent: n, (N, 1, 1, 1) above 0.
        shoulder: s, (N, 1, 1, 1) above 0; the smaller, the more the highlights are compressed.
    """

    exponent: Tensor
    shoulder: Tensor

    def apply(self, light: Tensor) -> Tensor:
        """From light in [0, 1] to values in [0, 1]."""
        power = light**self.exponent
        return (1 + self.shoulder) * power / (power + self.shoulder)

    def invert(self, values: Tensor) -> Tensor:
        """From values in [0, 1] to light in [0, 1]."""
        return (self.shoulder * values / (1 + self.shoulder - values)) ** (1 / self.exponent)


class Noise(NamedTuple):
    """Noise of a sensor, in units of its full well; its variance is ``gain`` · light + ``read``².

    Attributes:
        gain: Inverse of the number of electrons that fill a pixel, (N, 1, 1, 1).
        read: Standard deviation in darkness, (N, 1, 1, 1).
    """

    gain: Tensor
    read: Tensor


def expose(light: Tensor, stops: Tensor, noise: Noise, curve: Curve, numbers: Numbers) -> Tensor:
    """A picture of the scene, 8-bit values in [0, 1].

    Args:
        light: Linear, (N, C, H, W) from 0; 1 fills the well at 0 stops.
        stops: Exposure value, one for each image, (N, 1, 1, 1): each stop doubles the light.
        noise: Of the sensor.
        curve: Of the camera.
        numbers: Source of the noise.
    """
    caught = light * 2**stops
    deviation = (noise.gain * caught + noise.read.square()).sqrt()
    filled = (caught + deviation * numbers.normal(*light.shape[1:])).clamp(0, 1)
    return to_8_bits(curve.apply(filled))

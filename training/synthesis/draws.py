"""Random numbers of a synthesis: torch's own, or those of a generator, on any device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import AfterValidator, Field
from torch import Tensor


def _rising(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError(f"write the smaller number first, got {list(limits)}")
    return limits


Rising = AfterValidator(_rising)
Range = Annotated[tuple[float, float], Rising]
"""Least and largest value of a random draw; two equal numbers fix it."""
Positive = Annotated[float, Field(gt=0)]
PositiveRange = Annotated[tuple[Positive, Positive], Rising]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Numbers:
    """Draws for N images; each has a draw of its own.

    Attributes:
        count: N.
        device: Where the numbers are wanted.
        generator: Source of the numbers; None is torch's global one. A CPU generator gives the same numbers for every
            device.
    """

    count: int
    device: torch.device
    generator: torch.Generator | None = None

    def uniform(self, low: float, high: float) -> Tensor:
        """(N, 1, 1, 1)."""
        draw = torch.rand(self.count, 1, 1, 1, generator=self.generator, device=self._source)
        return (low + (high - low) * draw).to(self.device)

    def log_uniform(self, low: float, high: float) -> Tensor:
        """Uniform in the logarithm, (N, 1, 1, 1); both limits above 0."""
        ends = torch.tensor((low, high)).log().tolist()
        return self.uniform(*ends).exp()

    def chosen(self, probability: float) -> Tensor:
        """True with a probability, (N, 1, 1, 1)."""
        return self.uniform(0.0, 1.0) < probability

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, (N, *shape)."""
        return torch.randn(self.count, *shape, generator=self.generator, device=self._source).to(self.device)

    def dither(self, *shape: int) -> Tensor:
        """Uniform in [-0.5, 0.5], (N, *shape)."""
        return torch.rand(self.count, *shape, generator=self.generator, device=self._source).to(self.device) - 0.5

    @property
    def _source(self) -> torch.device:
        return self.device if self.generator is None else self.generator.device

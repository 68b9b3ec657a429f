"""Brings images deeper than 8 bits to the range [0, 1]."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

RangeRule = Literal["stretch", "full"]

LOW_PERCENTILE = 0.1
HIGH_PERCENTILE = 99.9
FULL_SCALE = 65535.0


def scale_deep(values: NDArray[np.generic], rule: RangeRule) -> NDArray[np.float32]:
    """Scales 16-bit, 32-bit or float grey values linearly to [0, 1].

    ``stretch`` maps the 0.1th percentile to 0 and the 99.9th to 1 and clips. Where these two are equal,
    minimum and maximum take their place; a constant image becomes 0.5. ``full`` divides integers by 65535
    and takes floats as they are, then clips. Float pixels that are not finite mean "no data": the
    percentiles skip them and they become 0.

    Args:
        values: Grey values (H, W) of any integer or float type.
        rule: Which of the two rules to use.

    Returns:
        Luminance (H, W) in [0, 1].
    """
    scaled = values.astype(np.float32)
    valid = np.isfinite(scaled)
    if rule == "full":
        low, high = 0.0, FULL_SCALE if np.issubdtype(values.dtype, np.integer) else 1.0
    else:
        low, high = _stretch_limits(scaled if valid.all() else scaled[valid])
    if high > low:
        scaled -= np.float32(low)
        scaled /= np.float32(high - low)
    else:
        scaled.fill(0.5)
    scaled[~valid] = 0.0
    return np.clip(scaled, 0.0, 1.0, out=scaled)


def _stretch_limits(values: NDArray[np.float32]) -> tuple[float, float]:
    if values.size == 0:
        return 0.0, 0.0
    low, high = np.percentile(values, [LOW_PERCENTILE, HIGH_PERCENTILE])
    if high <= low:
        low, high = values.min(), values.max()
    return float(low), float(high)

"""Ways back to full size for a pair that was fused reduced: the guided step of the service, and others beside it."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import numpy as np
from PIL import Image

from app import guided
from benchmarks.pictures import Plane

Way = Callable[[Plane, Plane, Plane, Plane, Plane], Plane]


def enlarged(a: Plane, b: Plane, low_a: Plane, low_b: Plane, low_fused: Plane) -> Plane:
    """Returns the fused picture enlarged, with no detail of the sources; arguments as of ``app.guided.enlarge``."""
    return _stretch(low_fused, a)


def larger_detail(a: Plane, b: Plane, low_a: Plane, low_b: Plane, low_fused: Plane) -> Plane:
    """Returns the fused picture enlarged, plus the larger of what both sources lost at each pixel."""
    lost_a, lost_b = a - _stretch(low_a, a), b - _stretch(low_b, b)
    fused: Plane = _stretch(low_fused, a) + np.where(np.abs(lost_a) > np.abs(lost_b), lost_a, lost_b)
    return fused


def _guided_with(constant: str, value: object) -> Way:
    """Returns the guided step with another value of one constant of ``app.guided``."""

    def way(a: Plane, b: Plane, low_a: Plane, low_b: Plane, low_fused: Plane) -> Plane:
        with patch.object(guided, constant, value):
            return guided.enlarge(a, b, low_a, low_b, low_fused)

    return way


GUIDED = "guided"
WAYS: dict[str, Way] = {
    "enlarged": enlarged,
    "larger detail": larger_detail,
    # A pull beyond every variance leaves nothing to the fit.
    "guess alone": _guided_with("NOISE", np.float32(1e6)),
    "one fit": _guided_with("DOUBT", np.float32(0)),
    "window of 9": _guided_with("RADIUS", 4),
    GUIDED: guided.enlarge,
}


def _stretch(plane: Plane, like: Plane) -> Plane:
    height, width = like.shape
    return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR))

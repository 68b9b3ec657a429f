"""How fast a model works, measured: what a waiting pair and a caller that is turned away can expect."""

from __future__ import annotations

import math
from collections import deque

RUNS = 8
LONGEST_RETRY_S = 60


class Pace:
    """Pixels a second of the last eight runs."""

    def __init__(self) -> None:
        self._runs: deque[tuple[int, float]] = deque(maxlen=RUNS)

    def note(self, pixels: int, seconds: float) -> None:
        """Records one run: pixels of image_a over the run, and seconds with the wait for other models."""
        self._runs.append((pixels, seconds))

    def usual_s(self, pixels: int) -> float:
        """Returns the seconds for so many pixels at the average pace; 0 before the first run."""
        total = sum(done for done, _ in self._runs)
        return pixels * sum(seconds for _, seconds in self._runs) / total if total else 0.0

    def least_s(self, pixels: int) -> float:
        """Returns the seconds for so many pixels at the pace of the fastest run; 0 before the first."""
        return pixels * min((seconds / done for done, seconds in self._runs), default=0.0)


def retry_after(seconds: float) -> int:
    """Returns the value of a ``Retry-After`` header: whole seconds, 1 to 60."""
    return max(1, min(LONGEST_RETRY_S, math.ceil(seconds)))

"""How fast a model works, measured: what a waiting pair and a caller that is turned away can expect."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

RUNS = 8
LONGEST_RETRY_S = 60


class WorkTime:
    """Time of a model that works in several lanes: each second is split evenly among the lanes at work.

    What the runs of all lanes take by it adds up to the time that the model took for them, whether they went side by
    side or waited for each other.

    Args:
        clock: Returns seconds; another one only for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lanes = 0
        self._now = 0.0
        self._settled_at = 0.0

    def now(self) -> float:
        """Returns the seconds by now; they stand still while no lane is at work."""
        if self._lanes:
            self._now += (self._clock() - self._settled_at) / self._lanes
        self._settled_at = self._clock()
        return self._now

    def begin(self) -> None:
        """Counts a lane that goes to work."""
        self.now()
        self._lanes += 1

    def end(self) -> None:
        """Counts a lane out."""
        self.now()
        self._lanes -= 1


class Pace:
    """Pixels a second of the last eight runs.

    Attributes:
        time: The clock to measure them by.
    """

    def __init__(self) -> None:
        self.time = WorkTime()
        self._runs: deque[tuple[int, float]] = deque(maxlen=RUNS)

    def note(self, pixels: int, seconds: float) -> None:
        """Records one run: pixels of image_a, and seconds by ``time`` with the wait for other models."""
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

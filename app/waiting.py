"""The pairs that wait for one model, in the order of their arrival, and which of them run next."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from app.engine import Fused, Job


@dataclass(frozen=True)
class BatchLimits:
    """Bounds of one model's queue and runs.

    Attributes:
        max_queue: Most waiting pairs; an empty queue takes those of any one request.
        max_batch: Most pairs in one run.
        max_pixels: Most pixels of image_a over one run; a single pair may have more.
        max_wait_s: Longest wait of the oldest pair for others of its size, in seconds.
        lanes: Most runs side by side.
        rest_after_s: Seconds without a pair after which the model gives memory back.
        restart_pause_s: Seconds after the first failed restart.
    """

    max_queue: int
    max_batch: int
    max_pixels: int
    max_wait_s: float
    lanes: int = 1
    rest_after_s: float = math.inf
    restart_pause_s: float = 1.0

    def most(self, job: Job) -> int:
        """Returns how many pairs of a job's size may run together."""
        return max(1, min(self.max_batch, self.max_pixels // job.a.size))

    def weight(self, job: Job) -> float:
        """Returns what part of the largest run a full one of a job's size is, 0 to 1."""
        return min(1.0, self.most(job) * job.a.size / self.max_pixels)


@dataclass(eq=False)
class Entry:
    """One waiting pair.

    Attributes:
        job: The pair.
        future: Takes its result and the seconds that it waited.
        caller: Id of its request.
        queued_at: When it came, by ``time.perf_counter``.
        expires_at: When its caller stops waiting, likewise.
        left: Set when its request has seen the result, or waits no more, and has taken back its other pairs.
    """

    job: Job
    future: asyncio.Future[tuple[Fused, float]]
    caller: str
    queued_at: float
    expires_at: float = math.inf
    left: asyncio.Event = field(default_factory=asyncio.Event)


class Waiting:
    """The queue of one model.

    Args:
        limits: Bounds of its runs.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._entries: list[Entry] = []
        self.pixels = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, entry: Entry) -> bool:
        return entry in self._entries

    def __iter__(self) -> Iterator[Entry]:
        return iter(tuple(self._entries))

    def add(self, entry: Entry) -> None:
        """Puts a pair at the end."""
        self._entries.append(entry)
        self.pixels += entry.job.a.size

    def remove(self, entry: Entry) -> None:
        """Takes a pair out, wherever it stands."""
        self._entries.remove(entry)
        self.pixels -= entry.job.a.size

    def due(self, now: float) -> list[Entry]:
        """Returns the pairs that should run now, without taking them out; none while it pays to wait for more.

        The oldest pair goes first, with those of its size. While it still waits for more of them, a full group of
        another size may go ahead, but never after that: a busy size cannot keep a rare one waiting.
        """
        groups: dict[tuple[int, int], list[Entry]] = {}
        for entry in self._entries:
            groups.setdefault(entry.job.size, []).append(entry)
        for group in groups.values():
            most = self._limits.most(group[0].job)
            if len(group) >= most or (group[0] is self._entries[0] and now >= self.closes_at):
                return group[:most]
        return []

    @property
    def closes_at(self) -> float:
        """When the oldest pair has waited long enough for others of its size; infinite if none waits."""
        return self._entries[0].queued_at + self._limits.max_wait_s if self._entries else math.inf

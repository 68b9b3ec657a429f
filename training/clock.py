"""Where the time of a training step goes: data, encode, forward, backward, step."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Adds up the seconds of named parts. Off by default: then a part costs nothing and waits for nothing.

    Args:
        device: A CUDA device is waited for at the end of each part while the clock runs.

    Attributes:
        running: Whether parts are measured.
        parts: Seconds per measurement of each part.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.running = device, False
        self.parts: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure what runs inside."""
        if not self.running:
            yield
            return
        began = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.parts[name].append(time.perf_counter() - began)

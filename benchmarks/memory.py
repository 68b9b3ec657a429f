"""Watches the resident memory of a process."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLE_SECONDS = 0.005
HIGH_WATER = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


@dataclass
class Peak:
    """Largest resident memory seen, in bytes."""

    bytes: int = 0


def resident_bytes(pid: int) -> int:
    """Returns the resident memory of a process at this moment."""
    size: int = psutil.Process(pid).memory_info().rss
    return size


@contextmanager
def watch_peak(pid: int) -> Iterator[Peak]:
    """Keeps the largest resident memory of a process while the body runs.

    Where the kernel keeps a high-water mark it counts as well, since samples miss short peaks; it covers
    the life of the process up to the end of the body.
    """
    peak, done = Peak(resident_bytes(pid)), threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_SECONDS):
            peak.bytes = max(peak.bytes, resident_bytes(pid))

    sampler = threading.Thread(target=sample, name="memory", daemon=True)
    sampler.start()
    try:
        yield peak
    finally:
        done.set()
        sampler.join()
        peak.bytes = max(peak.bytes, _high_water_bytes(pid))


def _high_water_bytes(pid: int) -> int:
    try:
        found = HIGH_WATER.search(Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    except OSError:
        return 0
    return int(found.group(1)) * 1024 if found else 0

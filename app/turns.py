"""Shares a device among models: together as long as memory allows it, otherwise in turn.

Small runs of several models go on side by side. The scheduler of the system, or of the GPU, then shares the device
fairly by itself, in slices far shorter than a run: behind a lock, a run of 16 ms would wait for one of 170 ms. What
it does not share is memory. So each run weighs what part it is of its model's largest run, and runs are side by side
only while they weigh one and a half in all: never two of the largest. Where one has to wait, the model that has had the
least of the device's time goes first (start-time fair queueing: P. Goyal et al., SIGCOMM 1996), and nothing passes it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

ROOM = 1.5


class Device:
    """One device. Shares may claim it from the event loop and from run threads.

    Args:
        clock: Returns seconds; another one only for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._claims: dict[Share, Future[None]] = {}
        self._held_since: dict[Share, float] = {}
        # How much time a model has had that was never idle.
        self._level = 0.0

    def claim(self, share: Share, weight: float) -> Future[None]:
        """Asks for the device; the future is done once the share holds it, and may be cancelled before.

        A share that holds it gives it back in the same step, so that it competes for its next run with the others.

        Args:
            share: Who asks.
            weight: What part its run is of its model's largest run, by memory.
        """
        future: Future[None] = Future()
        with self._lock:
            self._give_back(share)
            # Time in which a model was idle earns it nothing, else it could keep all others away for as long.
            share.had_s = max(share.had_s, self._level)
            share.weight = weight
            self._claims[share] = future
            self._grant()
        return future

    def release(self, share: Share) -> None:
        """Gives up what a share holds, if it does, for the next ones."""
        with self._lock:
            self._give_back(share)
            self._grant()

    def count_runs(self) -> int:
        """Returns how many shares hold the device."""
        with self._lock:
            return len(self._held_since)

    def _give_back(self, share: Share) -> None:
        if share in self._held_since:
            share.had_s += self._clock() - self._held_since.pop(share)

    def _grant(self) -> None:
        while self._claims:
            share = min(self._claims, key=lambda claimant: claimant.had_s)  # Of equals, the first that asked.
            future = self._claims[share]
            if not future.cancelled() and not self._fits(share):
                return
            del self._claims[share]
            if future.set_running_or_notify_cancel():
                self._held_since[share] = self._clock()
                self._level = max(self._level, share.had_s)
                future.set_result(None)

    def _fits(self, share: Share) -> bool:
        return not self._held_since or sum(held.weight for held in self._held_since) + share.weight <= ROOM


class Share:
    """A claim on a device, for one run at a time. A model that runs several side by side has one for each of them.

    Args:
        device: What to hold.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self.weight = 0.0
        self.had_s = 0.0

    async def claim(self, weight: float) -> None:
        """Returns once it holds the device for a run; one that it holds already is given back first.

        Args:
            weight: What part the run is of the model's largest run, by memory.
        """
        future = self._device.claim(self, weight)
        try:
            await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if not future.cancel():
                self.release()
            raise

    def release(self) -> None:
        """Gives the device back if it holds it."""
        self._device.release(self)

    def count_runs(self) -> int:
        """Returns how many runs go on on the device, its own included."""
        return self._device.count_runs()

    def most_of(self, weight: float) -> int:
        """Returns how many runs of a weight the device takes at once."""
        return max(1, int(ROOM / weight))

    def pass_on(self) -> None:
        """Lets others go first if it is their turn; called by the holder's run, in its thread, where it can pause."""
        self._device.claim(self, self.weight).result()

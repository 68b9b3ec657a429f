"""Shares a device among models: together as long as memory allows it, otherwise in turn.

Small runs of several models go on side by side. The scheduler of the system, or of the GPU, then shares the device
fairly by itself, in slices far shorter than a run: behind a lock, a run of 16 ms would wait for one of 170 ms. What
it does not share is memory. So each run weighs what part it is of its model's largest run, and runs are side by side
only while they weigh one and a half in all: never two of the largest. Where one has to wait, the model that has had the
least of the device's time goes first (start-time fair queueing: P. Goyal et al., SIGCOMM 1996), and nothing passes it.
Runs of one model share its time, however many they are, and none of them takes the turn of one that has begun.
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
        self._holding: set[Share] = set()
        # How much time a model has had that was never idle.
        self._level = 0.0

    def claim(self, share: Share, weight: float, *, paused: bool = False) -> Future[None]:
        """Asks for the device; the future is done once the share holds it, and may be cancelled before.

        A share that holds it gives it back in the same step, so that it competes for its next run with the others.

        Args:
            share: Who asks.
            weight: What part its run is of its model's largest run, by memory.
            paused: Whether its run has begun: then it goes before other runs of its model.
        """
        future: Future[None] = Future()
        with self._lock:
            self._give_back(share)
            account = share.account
            account.settle(self._clock())
            # Time in which a model was idle earns it nothing, else it could keep all others away for as long.
            account.had_s = max(account.had_s, self._level)
            share.weight, share.paused = weight, paused
            self._claims[share] = future
            self._grant()
        return future

    def release(self, share: Share) -> None:
        """Gives up what a share holds or has asked for, if it does, for the next ones."""
        with self._lock:
            self._claims.pop(share, None)
            self._give_back(share)
            self._grant()

    def count_runs(self) -> int:
        """Returns how many shares hold the device."""
        with self._lock:
            return len(self._holding)

    def _give_back(self, share: Share) -> None:
        if share in self._holding:
            share.account.settle(self._clock())
            share.account.holders -= 1
            self._holding.remove(share)

    def _grant(self) -> None:
        now = self._clock()
        for share in self._claims:
            share.account.settle(now)
        while self._claims:
            # Of equals, the first that asked.
            share = min(self._claims, key=lambda claimant: (claimant.account.had_s, not claimant.paused))
            future = self._claims[share]
            if not future.cancelled() and not self._fits(share):
                return
            del self._claims[share]
            if future.set_running_or_notify_cancel():
                self._holding.add(share)
                share.account.holders += 1
                self._level = max(self._level, share.account.had_s)
                future.set_result(None)

    def _fits(self, share: Share) -> bool:
        return not self._holding or sum(held.weight for held in self._holding) + share.weight <= ROOM


class Account:
    """What one model has had of a device: the time in which one of its runs or several held it."""

    def __init__(self) -> None:
        self.had_s = 0.0
        self.holders = 0
        self._settled_at = 0.0

    def settle(self, now: float) -> None:
        """Adds the time since the last call, if a run of the model has held the device since."""
        if self.holders:
            self.had_s += now - self._settled_at
        self._settled_at = now


class Share:
    """A claim on a device, for one run at a time. A model that runs several side by side has one for each of them.

    Args:
        device: What to hold.
        account: The model's, common to all its shares; one of its own without.
    """

    def __init__(self, device: Device, account: Account | None = None) -> None:
        self._device = device
        self.account = account or Account()
        self.weight = 0.0
        self.paused = False

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

    def pass_on(self) -> Future[None]:
        """Lets other models go first if it is their turn; for the holder's run, in its thread, where it can pause.

        Returns:
            Done once the run may go on; may be cancelled before, and then the share holds the device no more.
        """
        return self._device.claim(self, self.weight, paused=True)

"""Whether one model works, and its way back if it does not: a check run, then restarts at growing intervals."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from app.telemetry import Telemetry

log = logging.getLogger(__name__)

FAILURES_TO_UNHEALTHY = 3
LONGEST_PAUSE_S = 60.0
STUCK_RETRY_S = 60.0


class Health:
    """The state of one model.

    Args:
        name: The model's name, for logs and metrics.
        pause_s: Seconds after the first failed restart; each further pause is twice as long, up to a minute.
        telemetry: Receives state and restarts.
    """

    def __init__(self, name: str, pause_s: float, telemetry: Telemetry) -> None:
        self._name = name
        self._pause_s = pause_s
        self._telemetry = telemetry
        self._failures = 0
        self._next_restart: float | None = None
        self._stuck = 0
        telemetry.model_up.labels(name).set(1)

    @property
    def good(self) -> bool:
        """Whether the last three runs did not all fail, and none is stuck."""
        return not self.doubted and not self._stuck

    @property
    def doubted(self) -> bool:
        """Whether the model needs a check run before it runs again."""
        return self._failures >= FAILURES_TO_UNHEALTHY

    @property
    def down_s(self) -> float | None:
        """Seconds until a caller may try again, once a restart has failed or a run is stuck; else None."""
        if self._stuck:
            return STUCK_RETRY_S
        return None if self._next_restart is None else max(0.0, self._next_restart - time.perf_counter())

    def note_run(self) -> None:
        """Records a run that went well. One that began before the model was in doubt does not clear it."""
        if not self.doubted:
            self._failures = 0

    def note_failure(self) -> None:
        """Records a failed run."""
        self._telemetry.run_failures.labels(self._name).inc()
        self._set_failures(self._failures + 1)

    def doubt(self) -> None:
        """Demands a check run before the next run."""
        self._set_failures(FAILURES_TO_UNHEALTHY)

    def note_stuck(self) -> None:
        """Records a run that does not end though it was told to."""
        self._stuck += 1
        self._set_failures(self._failures)

    def note_loose(self) -> None:
        """Records that a stuck run has ended after all."""
        self._stuck -= 1
        self.doubt()

    async def recover(
        self, check: Callable[[], Awaitable[None]], restart: Callable[[], Awaitable[None]], on_down: Callable[[], None]
    ) -> None:
        """Returns once the model passes a check run.

        Args:
            check: Runs a known-good pair; raises if that fails.
            restart: Starts the model anew; likewise.
            on_down: Called after each failed restart, with ``down_s`` set.
        """
        pause = self._pause_s
        repaired = await self._passes(check, restarted=False)
        while not repaired:
            log.warning("model is being restarted", extra={"model": self._name})
            repaired = await self._passes(restart, check, restarted=True)
            self._telemetry.restarts.labels(self._name, "ok" if repaired else "failed").inc()
            if not repaired:
                self._next_restart = time.perf_counter() + pause
                on_down()
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
        self._next_restart = None
        self._set_failures(0)

    async def _passes(self, *steps: Callable[[], Awaitable[None]], restarted: bool) -> bool:
        facts = {"model": self._name, "restarted": restarted}
        try:
            for step in steps:
                await step()
        except Exception:  # Any failure means: still unhealthy.
            log.exception("model is unhealthy: its check failed", extra=facts)
            return False
        log.warning("model passed its check run", extra=facts)
        return True

    def _set_failures(self, failures: int) -> None:
        self._failures = failures
        self._telemetry.model_up.labels(self._name).set(self.good)

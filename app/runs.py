"""One run of a model, as those see it who started it: how wide it may be, where it pauses, and how it ends early."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.errors import AbandonedError


class Run:
    """One run of a model. One thread runs it; any thread may end it.

    Args:
        narrow: Others go on beside it: it should leave them their CPU cores.
        last: None is expected soon: it should keep no memory for the next one.
        pause: Called where it can let others go first.
    """

    def __init__(self, *, narrow: bool = False, last: bool = False, pause: Callable[[], None] = lambda: None) -> None:
        self.narrow = narrow
        self.last = last
        self._pause = pause
        self._guard = threading.Lock()
        self._stop: Callable[[], object] | None = None
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether nobody waits for its result any more."""
        return self._ended

    def end(self) -> None:
        """Ends it as soon as may be: a graph that runs is stopped, no further one is begun."""
        with self._guard:
            self._ended = True
            if self._stop is not None:
                self._stop()

    def between_tiles(self) -> None:
        """Lets others go first.

        Raises:
            AbandonedError: It has been ended.
        """
        if not self._ended:
            self._pause()
        if self._ended:
            raise AbandonedError

    @contextmanager
    def stopped_by(self, stop: Callable[[], object]) -> Iterator[None]:
        """Covers the run of one graph, or a pause.

        Args:
            stop: Lets it fail soon; called from any thread.

        Raises:
            AbandonedError: It has been ended, before that began or meanwhile.
        """
        with self._guard:
            if self._ended:
                raise AbandonedError
            self._stop = stop
        try:
            yield
        except Exception:
            if self._ended:
                raise AbandonedError from None
            raise
        finally:
            with self._guard:
                self._stop = None

"""Decides whether a request may come in: bounds on requests and pixels, and the drain at shutdown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Gauge

from app.errors import DrainingError, OverloadedError


class Gate:
    """Counts requests and pixels in the service. Used from the event loop only.

    Args:
        max_requests: Most requests at once, those that still upload included.
        max_pixels: Most pixels of decoded images at once; one pair alone always passes.
        inflight: Shows the number of requests.
    """

    def __init__(self, max_requests: int, max_pixels: int, inflight: Gauge) -> None:
        self._max_requests = max_requests
        self._max_pixels = max_pixels
        self._inflight = inflight
        self._requests = 0
        self._pixels = 0
        self._draining = False

    @property
    def draining(self) -> bool:
        """Whether new requests are turned away because the service shuts down."""
        return self._draining

    @property
    def idle(self) -> bool:
        """Whether no request is in the service."""
        return self._requests == 0

    def drain(self) -> None:
        """Turns new requests away from now on; those inside may finish."""
        self._draining = True

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Holds a place for one request.

        Raises:
            DrainingError: The service shuts down.
            OverloadedError: Every place is taken.
        """
        if self._draining:
            raise DrainingError
        if self._requests >= self._max_requests:
            raise OverloadedError(f"The service holds {self._requests} requests, as many as it may. Try again shortly.")
        self._requests += 1
        self._inflight.set(self._requests)
        try:
            yield
        finally:
            self._requests -= 1
            self._inflight.set(self._requests)

    @contextmanager
    def hold_pixels(self, pixels: int) -> Iterator[None]:
        """Holds room for the decoded images of one request.

        Raises:
            OverloadedError: Other requests hold too many pixels to add these.
        """
        if self._pixels and self._pixels + pixels > self._max_pixels:
            raise OverloadedError(
                f"The images in the service have {self._pixels} pixels; {pixels} more would pass the bound "
                f"of {self._max_pixels}. Try again shortly."
            )
        self._pixels += pixels
        try:
            yield
        finally:
            self._pixels -= pixels

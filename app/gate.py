"""Decides whether a request may come in: bounds on requests and pixels, and the drain at shutdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import Gauge

from app.errors import DrainingError, OverloadedError


class Gate:
    """Counts requests and pixels in the service. Used from the event loop only.

    Uploads are bounded by themselves: a caller who opens many connections and sends nothing must not take the
    places of those whose body has arrived.

    Args:
        max_requests: Most requests at once whose body has arrived.
        max_pixels: Most pixels of decoded images at once; one pair alone always passes.
        max_body_bytes: Most bytes of request bodies and unsent answers held at once; one body alone always passes.
        inflight: Shows the number of requests, those whose body is still on its way included.
    """

    def __init__(self, max_requests: int, max_pixels: int, max_body_bytes: int, inflight: Gauge) -> None:
        self._max_requests = max_requests
        self._max_pixels = max_pixels
        self._max_body_bytes = max_body_bytes
        self._inflight = inflight
        self._requests = 0
        self._uploads = 0
        self._body_bytes = 0
        self._pixels = 0
        self._draining = False
        self._wait_s: Callable[[], float] = lambda: 0.0

    def ask_for_waits(self, wait_s: Callable[[], float]) -> None:
        """Tells how to find out in how many seconds the work inside will be done: what ``Retry-After`` shows."""
        self._wait_s = wait_s

    def _overloaded(self, detail: str) -> OverloadedError:
        return OverloadedError(f"{detail} Try again when Retry-After says.", self._wait_s())

    @property
    def draining(self) -> bool:
        """Whether new requests are turned away because the service shuts down."""
        return self._draining

    @property
    def idle(self) -> bool:
        """Whether no request is in the service."""
        return self._requests == 0 and self._uploads == 0

    def drain(self) -> None:
        """Turns new requests away from now on; those inside may finish."""
        self._draining = True

    def _check_places(self) -> None:
        if self._requests >= self._max_requests:
            raise self._overloaded(f"The service holds {self._requests} requests, as many as it may.")

    @contextmanager
    def upload(self) -> Iterator[Callable[[int], None]]:
        """Lets a body come in, unless there is no place for its request anyway; covers the request to its end.

        Yields:
            A function to call with the size of each piece before it is kept; it raises ``OverloadedError`` when
            all bodies together would become too large.

        Raises:
            DrainingError: The service shuts down.
            OverloadedError: Every place is taken.
        """
        if self._draining:
            raise DrainingError
        self._check_places()
        self._uploads += 1
        self._inflight.set(self._uploads)
        held = 0

        def grow(size: int) -> None:
            nonlocal held
            if self._body_bytes > held and self._body_bytes + size > self._max_body_bytes:
                raise self._overloaded(f"All uploads and unsent answers together pass {self._max_body_bytes} bytes.")
            held += size
            self._body_bytes += size

        try:
            yield grow
        finally:
            self._uploads -= 1
            self._inflight.set(self._uploads)
            self._body_bytes -= held

    @contextmanager
    def answer(self, size: int) -> Iterator[None]:
        """Counts an answer of so many bytes with the bodies until it is sent; it is never refused itself."""
        self._body_bytes += size
        try:
            yield
        finally:
            self._body_bytes -= size

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Holds a place for one request whose body has arrived.

        Raises:
            OverloadedError: Every place is taken.
        """
        self._check_places()
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    @contextmanager
    def hold_pixels(self, pixels: int) -> Iterator[None]:
        """Holds room for the decoded images of one request.

        Raises:
            OverloadedError: Other requests hold too many pixels to add these.
        """
        if self._pixels and self._pixels + pixels > self._max_pixels:
            raise self._overloaded(
                f"The images in the service have {self._pixels} pixels; {pixels} more would pass the bound "
                f"of {self._max_pixels}."
            )
        self._pixels += pixels
        try:
            yield
        finally:
            self._pixels -= pixels

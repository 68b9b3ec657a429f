"""Sends an answer in pieces, so that a caller who does not read it holds little memory, and not for ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

log = logging.getLogger(__name__)

PIECE_BYTES = 2**16


class PictureResponse(Response):
    """A picture as the answer. The server takes a piece only when most of those before it are on their way.

    Args:
        body: The file.
        media_type: Its type.
        headers: Further headers.
        held: Entered while the answer is being sent.
        timeout_s: Most seconds for the caller to take one piece; then its connection is closed.
    """

    def __init__(
        self,
        body: bytes,
        media_type: str,
        headers: Mapping[str, str],
        held: AbstractContextManager[None],
        timeout_s: float,
    ) -> None:
        super().__init__(body, media_type=media_type, headers=headers)
        self._held = held
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer; of one that is not read to its end the server closes the connection."""
        with self._held:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                await self._send_body(send)
            except TimeoutError:
                log.info("caller does not read its answer", extra={"bytes": len(self.body)})

    async def _send_body(self, send: Send) -> None:
        body = memoryview(self.body)
        for start in range(0, len(body), PIECE_BYTES):
            piece, more = bytes(body[start : start + PIECE_BYTES]), start + PIECE_BYTES < len(body)
            async with asyncio.timeout(self._timeout_s):
                await send({"type": "http.response.body", "body": piece, "more_body": more})

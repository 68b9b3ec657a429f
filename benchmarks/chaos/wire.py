"""Sends raw bytes over one connection, in the way of clients that are slow, wrong, or gone."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Literal

import h11

from benchmarks.processes import HOST

CHUNK = 64 * 1024
Leaving = Literal["never", "after sending", "half", "amid the answer"]
End = Literal["answered", "left", "lost", "hung"]


@dataclass(frozen=True)
class Sending:
    """What one client does.

    Attributes:
        kind: Name of the behaviour.
        pieces: Bytes to send, one after another.
        expected: Statuses that are right answers.
        pause_s: Seconds between two pieces.
        leaves: Whether the client closes before it has the answer: after it has sent everything, only its sending
            half, or with a reset once the answer has begun.
        counted: Whether a complete head is among the bytes, so that the service sees a POST /fuse.
    """

    kind: str
    pieces: tuple[bytes, ...]
    expected: frozenset[int]
    pause_s: float = 0.0
    leaves: Leaving = "never"
    counted: bool = True


@dataclass(frozen=True)
class Outcome:
    """What became of it.

    Attributes:
        end: ``answered``: a status arrived; ``left``: the client closed first; ``lost``: the service closed without
            an answer; ``hung``: neither in time.
        status: The status, if one arrived.
        retry_after: Whether the answer said when to come back.
        body: What came after the head; part of it if the client left.
    """

    end: End
    status: int | None = None
    retry_after: bool = False
    body: bytes = b""


async def perform(port: int, sending: Sending, timeout_s: float) -> Outcome:
    """Sends and reads the answer, within a bound of time."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _perform(port, sending)
    except TimeoutError:
        return Outcome("hung")


async def _perform(port: int, sending: Sending) -> Outcome:
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return Outcome("lost")
    try:
        # Who refuses a body early may close before it is all there; the answer has arrived all the same.
        with contextlib.suppress(ConnectionError):
            await _send(writer, sending)
        if sending.leaves == "after sending":
            return Outcome("left")
        try:
            return await _receive(reader, writer, sending)
        except (ConnectionError, h11.RemoteProtocolError):
            return Outcome("left" if sending.leaves == "half" else "lost")
    finally:
        writer.close()


async def _send(writer: asyncio.StreamWriter, sending: Sending) -> None:
    for number, piece in enumerate(sending.pieces):
        if number and sending.pause_s:
            await asyncio.sleep(sending.pause_s)
        writer.write(piece)
        await writer.drain()
    if sending.leaves == "half":
        writer.write_eof()


async def _receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sending: Sending) -> Outcome:
    parser = _answer_parser()
    status, retry_after, body = None, False, bytearray()
    while True:
        event = parser.next_event()
        if event is h11.NEED_DATA:
            parser.receive_data(await reader.read(CHUNK))
        elif isinstance(event, h11.Response):
            status = event.status_code
            retry_after = any(name == b"retry-after" for name, _ in event.headers)
            if sending.leaves == "amid the answer":
                writer.transport.abort()
                break
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            break
    return Outcome("answered", status, retry_after, bytes(body))


def _answer_parser() -> h11.Connection:
    """Returns a parser that waits for an answer. The request that it is told of stands for the one really sent."""
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="POST", target="/fuse", headers=[("Host", HOST)]))
    parser.send(h11.EndOfMessage())
    return parser

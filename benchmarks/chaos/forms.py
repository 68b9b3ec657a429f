"""Puts requests together by hand, since no client library would send what is wanted here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.chaos.files import Pair

BOUNDARY = b"pairfuse-chaos"
Part = tuple[bytes, bytes]  # Header lines of the part, and its data.


def text_part(name: str, value: str) -> Part:
    """Returns a text field."""
    return f'Content-Disposition: form-data; name="{name}"'.encode(), value.encode()


def file_part(name: str, data: bytes) -> Part:
    """Returns a file field."""
    disposition = f'Content-Disposition: form-data; name="{name}"; filename="{name}"'
    return f"{disposition}\r\nContent-Type: application/octet-stream".encode(), data


def parts_of(pair: Pair, fields: Mapping[str, object] | None = None) -> list[Part]:
    """Returns the parts of a form that the service takes."""
    texts = [text_part(name, str(value)) for name, value in (fields or {}).items()]
    return [file_part("image_a", pair.a), file_part("image_b", pair.b), *texts]


def form(parts: Sequence[Part]) -> bytes:
    """Returns a complete body."""
    return b"".join(b"--%b\r\n%b\r\n\r\n%b\r\n" % (BOUNDARY, lines, data) for lines, data in parts) + end()


def end() -> bytes:
    """Returns the closing boundary."""
    return b"--%b--\r\n" % BOUNDARY


def head(length: int | None, content_type: str | None = None) -> bytes:
    """Returns the head of a POST /fuse; without a length the body is chunked."""
    kind = f"multipart/form-data; boundary={BOUNDARY.decode()}" if content_type is None else content_type
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST /fuse HTTP/1.1\r\nHost: chaos\r\nContent-Type: {kind}\r\n{size}\r\n\r\n".encode()


def whole(body: bytes, content_type: str | None = None) -> bytes:
    """Returns a complete request."""
    return head(len(body), content_type) + body


def chunked(body: bytes, size: int) -> bytes:
    """Returns a body in chunked transfer coding."""
    starts = range(0, len(body), size)
    chunks = (body[start : start + size] for start in starts)
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def cut(data: bytes, pieces: int) -> tuple[bytes, ...]:
    """Returns the data in about so many pieces of one size."""
    size = -(-len(data) // pieces)
    return tuple(data[start : start + size] for start in range(0, len(data), size))

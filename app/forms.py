"""Reads a multipart body straight into memory, within bounds.

The framework's own form parser writes parts over 1 MB to disk and has no bound on the body, so it is not
used here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from app.errors import BadFieldError, BadFormError, TooLargeError, UnsupportedTypeError, UploadTimeoutError

FILE_FIELDS = ("image_a", "image_b")
MAX_PARTS = 32
MAX_TEXT_BYTES = 1024
EXAMPLE = "curl -F image_a=@A.png -F image_b=@B.png"


class _Collector:
    """Receives the parser's events and keeps each part in memory."""

    def __init__(self) -> None:
        self.parts: dict[str, bytearray] = {}
        self.complete = False
        self._count = 0
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._name = ""

    def callbacks(self) -> Mapping[str, object]:
        names = (
            "part_begin",
            "header_field",
            "header_value",
            "header_end",
            "headers_finished",
            "part_data",
            "end",
        )
        return {f"on_{name}": getattr(self, f"on_{name}") for name in names}

    def on_part_begin(self) -> None:
        self._count += 1
        if self._count > MAX_PARTS:
            raise BadFormError(f"The form has more than {MAX_PARTS} parts. Send each field once.")
        self._disposition = b""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise BadFormError(f"A part of the form has no name. Send the form like this: {EXAMPLE}")
        self._name = options[b"name"].decode("utf-8", "replace")
        if self._name in self.parts:
            raise BadFieldError(self._name[:80], "the field is there twice.", allowed="one value")
        self.parts[self._name] = bytearray()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self.parts[self._name]
        if self._name not in FILE_FIELDS and len(part) + end - start > MAX_TEXT_BYTES:
            raise BadFieldError(self._name[:80], "the value is too long.", allowed=f"at most {MAX_TEXT_BYTES} bytes")
        part += data[start:end]

    def on_end(self) -> None:
        self.complete = True


class Form:
    """A parsed form.

    Attributes:
        fields: Text fields by name.
        image_a: File of the first image.
        image_b: File of the second image.
    """

    def __init__(self, parts: Mapping[str, bytearray]) -> None:
        for name in FILE_FIELDS:
            if name not in parts:
                raise BadFieldError(name, "the field is missing.", allowed=f"an image file, as in: {EXAMPLE}")
        self.image_a, self.image_b = (bytes(parts[name]) for name in FILE_FIELDS)
        self.fields = {name: part.decode("utf-8", "replace") for name, part in parts.items() if name not in FILE_FIELDS}


async def read_form(request: Request, max_bytes: int, timeout_s: float, grow: Callable[[int], None]) -> Form:
    """Reads the body of a request, never more than the bound of it.

    Args:
        request: A request whose body has not been read.
        max_bytes: Largest body.
        timeout_s: Most seconds for the body to arrive.
        grow: Called with the size of each piece before it is kept; may refuse it.

    Raises:
        UnsupportedTypeError: The body is not multipart/form-data.
        BadFormError: The body is malformed or ends early.
        BadFieldError: An image is missing, or a field is there twice or too long.
        TooLargeError: The body is larger than the bound, announced or not.
        UploadTimeoutError: The body took too long.
        ClientDisconnect: The caller left.
    """
    kind, parameters = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        raise UnsupportedTypeError(f"Send the images as multipart/form-data, as in: {EXAMPLE}")
    if not parameters.get(b"boundary"):
        raise BadFormError("The Content-Type has no boundary. Let the HTTP library set this header.")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(max_bytes, announced=int(announced))
    try:
        async with asyncio.timeout(timeout_s):
            return Form(await _collect(request, parameters[b"boundary"], max_bytes, grow))
    except TimeoutError:
        raise UploadTimeoutError(f"The body did not arrive within {timeout_s:g} s. Send smaller files.") from None


async def _collect(
    request: Request, boundary: bytes, max_bytes: int, grow: Callable[[int], None]
) -> dict[str, bytearray]:
    collector = _Collector()
    received = 0
    try:
        parser = MultipartParser(boundary, collector.callbacks())  # type: ignore[arg-type]
        async for chunk in request.stream():
            received += len(chunk)
            if received > max_bytes:
                raise _too_large(max_bytes)
            grow(len(chunk))
            parser.write(chunk)
    except FormParserError as error:
        raise BadFormError(f"The form is malformed: {error}. Send it like this: {EXAMPLE}") from None
    if not collector.complete:
        raise BadFormError("The form ends before its closing boundary. Send the complete body.")
    return collector.parts


def _too_large(max_bytes: int, announced: int | None = None) -> TooLargeError:
    size = f"more than {max_bytes}" if announced is None else str(announced)
    return TooLargeError(
        f"The body has {size} bytes; this service takes at most {max_bytes}. Send smaller files, or raise "
        "PAIRFUSE_MAX_UPLOAD_BYTES.",
        max_bytes=max_bytes,
    )

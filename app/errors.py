"""Every error that a caller can meet, each with its HTTP status.

Two branches: a ``ClientError`` says what the caller must change; a ``ServerError`` says when to come back
and never shows what went wrong inside. ``StartupError`` and ``BundleError`` are for the operator and end
the start, or refuse one bundle. ``AbandonedError`` is for the worker, when no caller is left. Whatever is outside
this hierarchy reaches a caller as an anonymous 500.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, ClassVar

from app.pace import retry_after


class ProblemError(Exception):
    """An error with a problem+json form (RFC 9457).

    Args:
        detail: What is wrong and what to change, in one or two sentences.
        extensions: Further members of the problem document.
    """

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal"

    def __init__(self, detail: str, **extensions: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extensions = extensions

    @property
    def title(self) -> str:
        """Short name of the kind of problem; the same for every occurrence."""
        return self.slug.replace("-", " ").capitalize()

    @property
    def headers(self) -> dict[str, str]:
        """Response headers that belong to the problem."""
        return {}


class ClientError(ProblemError):
    """The request is wrong; sending it again unchanged gives the same answer."""

    status = 400
    slug = "bad-request"


class ServerError(ProblemError):
    """The service could not do the work; the request itself may be fine."""


class BadFormError(ClientError):
    """The body is not well-formed multipart/form-data."""

    slug = "bad-form"


class NotAnImageError(ClientError):
    """An upload is empty, not an image, truncated or damaged."""

    slug = "not-an-image"


class UnknownModelError(ClientError):
    """No bundle of that name is loaded."""

    status = 404
    slug = "unknown-model"

    def __init__(self, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        super().__init__(f"No model named {name[:80]!r}. Use one of: {', '.join(names)}.", known=names)


class UploadTimeoutError(ClientError):
    """The body did not arrive in time."""

    status = 408
    slug = "upload-timeout"


class TooLargeError(ClientError):
    """Too many bytes or too many pixels."""

    status = 413
    slug = "too-large"


class UnsupportedTypeError(ClientError):
    """The body or an image is of a type that the service does not take."""

    status = 415
    slug = "unsupported-type"


class BadFieldError(ClientError):
    """One form field is missing, unknown or out of its range.

    Args:
        field: Name of the form field.
        detail: What is wrong with it.
        allowed: What the field takes, in words.
    """

    status = 422
    slug = "bad-field"

    def __init__(self, field: str, detail: str, *, allowed: str) -> None:
        super().__init__(f"{field}: {detail} Allowed: {allowed}.", errors=[{"field": field, "allowed": allowed}])
        self.field = field


class BadPairError(ClientError):
    """Both images are fine, but not as a pair or not for this model."""

    status = 422
    slug = "bad-pair"


class ClientGoneError(ClientError):
    """The caller closed the connection; nobody reads this answer, it is only counted and logged."""

    status = 499
    slug = "client-gone"


class NotReadyError(ServerError):
    """A model fails and is being restarted.

    Args:
        detail: See ``ProblemError``.
        wait_s: Seconds until it is worth to come back.
    """

    status = 503
    slug = "not-ready"

    def __init__(self, detail: str, wait_s: float = 5.0) -> None:
        super().__init__(detail)
        self._wait_s = wait_s

    @property
    def headers(self) -> dict[str, str]:
        """Asks the caller to look again after the next restart."""
        return {"Retry-After": str(retry_after(self._wait_s))}


class RunFailedError(ServerError):
    """The model run failed for this pair."""

    slug = "run-failed"

    def __init__(self) -> None:
        super().__init__(
            "The model run failed for this pair. The reason is in the service's log under this request id."
        )


class OutOfMemoryError(ServerError):
    """The device has no memory for this pair, not even alone or in tiles."""

    status = 503
    slug = "out-of-memory"

    def __init__(self, width: int, height: int) -> None:
        super().__init__(
            f"The device has no memory for a pair of {width}×{height} pixels. Send a smaller pair, or try again when "
            "less is running on the device."
        )

    @property
    def headers(self) -> dict[str, str]:
        """Asks the caller to wait: memory comes back only when other programs on the device release it."""
        return {"Retry-After": "30"}


class OverloadedError(ServerError):
    """The service holds as much work as it may, or as it can do in time.

    Args:
        detail: See ``ProblemError``.
        wait_s: Seconds until there is likely to be room.
    """

    status = 503
    slug = "queue-full"

    def __init__(self, detail: str, wait_s: float = 0.0) -> None:
        super().__init__(detail)
        self._wait_s = wait_s

    @property
    def headers(self) -> dict[str, str]:
        """Asks the caller to wait for the work before it."""
        return {"Retry-After": str(retry_after(self._wait_s))}


class DrainingError(ServerError):
    """The service is shutting down and takes no new work."""

    status = 503
    slug = "draining"

    def __init__(self) -> None:
        super().__init__("The service is shutting down. Send the request again in a few seconds.")

    @property
    def headers(self) -> dict[str, str]:
        """Asks the caller to wait until a replacement is likely to be up."""
        return {"Retry-After": "5"}


class DeadlineError(ServerError):
    """The answer was not ready in time."""

    status = 504
    slug = "deadline"


class AbandonedError(Exception):
    """A run was ended before its end because nobody waits for it; no caller sees this."""


class StartupError(Exception):
    """The service cannot start; the message says what to install, set or add."""


class BundleError(Exception):
    """One bundle is refused.

    Args:
        name: Folder name of the bundle.
        reason: Why it is refused, and what would put it right.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"bundle {name!r} refused: {reason}")
        self.name = name
        self.reason = reason


def problem_document(error: ProblemError, request_id: str) -> dict[str, Any]:
    """Returns the RFC 9457 document of an error as a JSON-ready dict."""
    return plain_problem(error.status, error.detail, request_id, slug=error.slug, title=error.title) | error.extensions


def plain_problem(
    status: int, detail: str, request_id: str, *, slug: str | None = None, title: str | None = None
) -> dict[str, Any]:
    """Returns the RFC 9457 document for a bare HTTP status.

    Args:
        status: HTTP status code.
        detail: What the caller should know or change.
        request_id: Id under which the service logged the request.
        slug: Machine-readable kind; without one the type is ``about:blank``.
        title: Short name of the kind; the HTTP reason phrase without one.
    """
    return {
        "type": f"urn:pairfuse:problem:{slug}" if slug else "about:blank",
        "title": title or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "request_id": request_id,
    }

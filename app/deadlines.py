"""How long a caller waits for its answer: the header ``X-Request-Timeout``."""

from __future__ import annotations

import math

from app.errors import BadFieldError

TIMEOUT_HEADER = "X-Request-Timeout"


def read_timeout(text: str | None, default_s: float, longest_s: float) -> float:
    """Returns the seconds that a request may take after its upload.

    Args:
        text: Value of the header, or None without it.
        default_s: What counts without the header.
        longest_s: What counts for a longer time.

    Raises:
        BadFieldError: The value is not a number of seconds above 0.
    """
    if text is None:
        return default_s
    allowed = f"seconds above 0, such as 2.5; more than {longest_s:g} count as {longest_s:g}"
    try:
        seconds = float(text)
    except ValueError:
        raise BadFieldError(TIMEOUT_HEADER, f"{text[:40]!r} is not a number.", allowed=allowed) from None
    if not (math.isfinite(seconds) and seconds > 0):
        raise BadFieldError(TIMEOUT_HEADER, f"{text[:40]} is out of range.", allowed=allowed)
    return min(seconds, longest_s)

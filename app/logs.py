"""Logs on standard error: one line an event, as JSON or as text, with the id of the request that it belongs to."""

from __future__ import annotations

import json
import logging
import re
import secrets
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from app.tracing import current_trace_id

request_id: ContextVar[str] = ContextVar("request_id", default="")

SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_PLAIN_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "color_message",
    "taskName",
}


def choose_request_id(offered: str | None) -> str:
    """Returns the caller's id if it is short and harmless to print, else a new one of 16 hex digits."""
    if offered is not None and SANE_ID.fullmatch(offered):
        return offered
    return secrets.token_hex(8)


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object; fields given as ``extra`` become members.

    Args:
        worker: Number of this worker process, shown in each line; None if there is only one process.
    """

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._always = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line without its end."""
        return json.dumps(self._entry(record), default=str, ensure_ascii=False)

    def _entry(self, record: logging.LogRecord) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        } | self._always
        if current := request_id.get():
            entry["request_id"] = current
        if trace := current_trace_id():
            entry["trace_id"] = trace
        entry |= {key: value for key, value in vars(record).items() if key not in _PLAIN_RECORD}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return entry


class TextFormatter(JsonFormatter):
    """Formats a record as time, level, logger and message, then the other fields as KEY=VALUE; an exception follows."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line without its end; only an exception makes it more than one."""
        entry = self._entry(record)
        exception = entry.pop("exception", "")
        head = [entry.pop("time"), f"{entry.pop('level'):<8}", entry.pop("logger"), _one_line(entry.pop("message"))]
        fields = [f"{key}={_one_line(value)}" for key, value in entry.items()]
        return " ".join(head + fields) + (f"\n{exception}" if exception else "")


def _one_line(value: object) -> str:
    """Returns a value with its control characters escaped: what a caller sent must not look like a line of its own."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(value))


def configure_logs(level: str, form: str = "json", worker: int | None = None) -> None:
    """Sends every log line and warning of the process to standard error.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        form: ``json`` or ``text``.
        worker: Number of this worker process, if there are several.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(TextFormatter(worker) if form == "text" else JsonFormatter(worker))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(True)
    logging.getLogger("PIL").setLevel(logging.WARNING)  # Pillow's debug lines name every chunk of every image.

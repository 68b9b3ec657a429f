"""Structured logs: one JSON object a line, with the id of the request that it belongs to."""

from __future__ import annotations

import json
import logging
import re
import secrets
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

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
    """Formats a record as one JSON object; fields given as ``extra`` become members."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line without its end."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if current := request_id.get():
            entry["request_id"] = current
        entry |= {key: value for key, value in vars(record).items() if key not in _PLAIN_RECORD}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


def configure_logs(level: str) -> None:
    """Sends every log line and warning of the process to standard error as JSON.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(True)
    logging.getLogger("PIL").setLevel(logging.WARNING)  # Pillow's debug lines name every chunk of every image.

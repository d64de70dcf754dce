"""The server's own log on stderr: one line each, for people (`key=value`) or for programs (JSON)."""

from __future__ import annotations

import logging
import re
from typing import Final

import msgspec

from ..wire import rfc3339

# The attribute of a log record that holds figures and names, beside its message.
FIELDS: Final = "runstream_fields"

# A value that stands as it is; any other is written as JSON, so that none can forge a line.
_PLAIN: Final = re.compile(r"[\w.:/{}*@+-]+", re.ASCII)


class PlainLines(logging.Formatter):
    """`2026-04-15T10:30:00.000000Z INFO runstream.requests: request method=GET status=200 …`"""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if not message.isprintable():
            message = _as_json(message)
        fields = [f" {name}={_plain(value)}" for name, value in _fields(record).items()]
        head = f"{_time(record)} {record.levelname} {record.name}: {message}"
        return "".join([head, *fields, *(f"\n{text}" for text in _traceback(self, record))])


class JsonLines(logging.Formatter):
    """One JSON object a line: `time`, `level`, `logger`, `message`, maybe `traceback`, and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        for text in _traceback(self, record):
            line["traceback"] = text
        return _as_json(line)


def set_up_logging(level: str, *, as_json: bool) -> None:
    """Send what this process logs to stderr, from `level` upwards."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if as_json else PlainLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _time(record: logging.LogRecord) -> str:
    return rfc3339(round(record.created * 1_000_000))


def _fields(record: logging.LogRecord) -> dict[str, object]:
    found: dict[str, object] = getattr(record, FIELDS, {})
    return found


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    if record.exc_info is None or record.exc_info[0] is None:
        return []
    return [formatter.formatException(record.exc_info)]


def _plain(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else _as_json(text)


def _as_json(value: object) -> str:
    # A lone surrogate (from bytes that are no text) must not cost us the line.
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        return ascii(value)

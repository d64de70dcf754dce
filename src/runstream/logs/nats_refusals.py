"""What JetStream says when it does not do what it was asked for."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from ..errors import InvalidURL, LogUnavailable, NotALog

# JetStream's own numbers for what went wrong.
WRONG_LAST_SEQUENCE: Final = {10070, 10071, 10164}
_STREAM_NOT_FOUND: Final = 10059
_NOT_REPLICATED: Final = 10074
_NOT_ENABLED: Final = {10076, 10039}
_NO_MESSAGE: Final = {10037, 10043, 10057}


class Unsure(Exception):
    """The message may have been stored: nobody said."""


class StreamGone(LogUnavailable):
    """The JetStream stream is not there (any more)."""


class NotFound(LogUnavailable):
    """There is no such message."""


def refusal(problem: dict[str, Any], shown: str) -> Exception:
    """The error of ours for one of JetStream's, of the server that may be shown so."""
    code = problem.get("err_code")
    said = f"NATS at {shown}: {problem.get('description')}"
    if code == _STREAM_NOT_FOUND:
        return StreamGone(said)
    if problem.get("code") == HTTPStatus.NOT_FOUND or code in _NO_MESSAGE:
        return NotFound(said)
    if code == _NOT_REPLICATED:
        return InvalidURL(f"{said}: several replicas take several servers (a cluster)")
    if code in _NOT_ENABLED:
        return NotALog(f"{said}: start it with -js")
    return LogUnavailable(said)

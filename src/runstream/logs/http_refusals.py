"""What a server's refusals mean: its own problems, and the pages of whatever stands in between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from ..errors import (
    Forbidden,
    LogUnavailable,
    NotALog,
    RequestTooLarge,
    RunstreamError,
    StreamingOff,
    TooManySubscribers,
    Unauthorized,
)
from ..problem import error_of
from .http_codec import read_problem

# A server may ask to stay away for so long at most: by then its operator has acted, or has forgotten.
RETRY_AFTER_S_MAX: Final = 60.0

TOO_MANY: Final = 429
SERVER_ERROR: Final = 500
BAD_GATEWAY: Final = 502
UNAVAILABLE: Final = 503
# Whoever is answered so has not been served, and may come again.
COME_BACK: Final = frozenset({TOO_MANY, UNAVAILABLE})

_TRY_AGAIN: Final = frozenset({408, UNAVAILABLE})

# What an answer means that no server of ours has written (a proxy before it, say).
_MEANINGS: Final[Mapping[int, tuple[type[RunstreamError], str]]] = {
    401: (Unauthorized, "it wants a token, and not this one"),
    403: (Forbidden, "the token does not allow this"),
    413: (RequestTooLarge, "something in between takes smaller requests only"),
    429: (TooManySubscribers, "too many requests, try again later"),
    **dict.fromkeys((408, 500, 502, 503, 504), (LogUnavailable, "try again later")),
}


class Busy(Exception):
    """The server asks to come back later; what it says, and when."""

    def __init__(self, error: RunstreamError, again_after_s: float) -> None:
        super().__init__(str(error))
        self.error = error
        self.again_after_s = again_after_s


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> RunstreamError:
    """The error that an answer tells of."""
    problem = read_problem(body) if "json" in headers.get("content-type", "") else None
    if problem is not None:
        error = error_of(problem)
        # The server's log is closed, full, in trouble, or we were too slow: try again.
        if status in _TRY_AGAIN or (status >= SERVER_ERROR and type(error) is RunstreamError):
            return LogUnavailable(problem.detail)
        return error
    said = f"the server answers {status}"
    if 300 <= status < 400:  # noqa: PLR2004 - HTTP's own
        host = urlsplit(headers.get("location", "")).hostname
        where = f" to {host}" if host else ""
        return NotALog(f"{said}, a redirect{where}, which is not followed: give its own URL")
    kind, meaning = _MEANINGS.get(
        status, (NotALog, "this does not look like a Runstream server; is the URL right?")
    )
    return kind(f"{said}: {meaning}")


def retry_after_s(headers: Mapping[str, str]) -> float:
    """How long an answer asks to wait, within reason; 0 if it does not say so in seconds."""
    text = headers.get("retry-after", "")
    return min(float(text), RETRY_AFTER_S_MAX) if text.isascii() and text.isdigit() else 0.0


def refusal_told(data: bytes) -> RunstreamError:
    """The error that a `stream.error` frame tells of: LogUnavailable to come back and resume."""
    problem = read_problem(data)
    if problem is None:
        return NotALog("the server ends the stream with an error that is not one of ours")
    error = error_of(problem)
    if problem.status == TOO_MANY or problem.status >= SERVER_ERROR:
        return LogUnavailable(str(error)) if not isinstance(error, StreamingOff) else error
    return error

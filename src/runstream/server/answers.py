"""Answers: JSON and problem JSON, as ASGI messages or as responses, with nothing of ours leaking out."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
from starlette.responses import Response
from starlette.types import Message, Send

from ..api import JSON
from ..errors import LogUnavailable, RunstreamError
from ..problem import MEDIA_TYPE, STATUS_BY_CODE, Problem, problem_of

Headers = Sequence[tuple[bytes, bytes]]

# Answers are of this moment and of this caller: nobody in between may keep them.
NO_STORE: Final = (b"cache-control", b"no-store")

# The code of a mistake of ours.
INTERNAL: Final = "internal"

_encode = msgspec.json.Encoder().encode


# What callers hear when the log behind the server cannot be used: its own words name files and hosts.
UNAVAILABLE: Final = (
    "the server's log cannot be used now: try again; the server's operator can see why"
)


class NotNow(LogUnavailable):
    """The server cannot serve at this moment, for a reason that it tells everyone."""


class Refused(Exception):
    """A request that HTTP itself has a name for: an unknown route, method, media type, a slow sender."""

    def __init__(self, code: str, detail: str, headers: Headers = ()) -> None:
        super().__init__(detail)
        self.problem = Problem(
            code=code, title=code.replace("_", " "), status=STATUS_BY_CODE[code], detail=detail
        )
        self.headers = headers


class Noting:
    """A `send` that remembers the status of the answer; 0: it has not begun. Behind its start, `past_start`
    does the same with one step less.
    """

    __slots__ = ("past_start", "status")

    def __init__(self, send: Send) -> None:
        self.past_start = send
        self.status = 0

    def __call__(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        return self.past_start(message)


def json_response(body: msgspec.Struct | dict[str, Any], status: int = 200) -> Response:
    """`body` as JSON."""
    return Response(_encode(body), status, headers={"cache-control": "no-store"}, media_type=JSON)


def problem_for(error: Exception) -> tuple[Problem, Headers]:
    """What the wire says of an error, and the headers that go with it.

    Of an error that is not one of ours it says nothing: its text could hold anything.
    """
    if isinstance(error, Refused):
        return error.problem, error.headers
    if isinstance(error, RunstreamError):
        problem = problem_of(error)
        if problem.status == HTTPStatus.SERVICE_UNAVAILABLE and not isinstance(error, NotNow):
            return msgspec.structs.replace(problem, detail=UNAVAILABLE), ()
        if problem.status != HTTPStatus.INTERNAL_SERVER_ERROR:
            return problem, _challenge(problem)
    detail = "the server made a mistake; its log has the details"
    return Problem(code=INTERNAL, title=INTERNAL, status=500, detail=detail), ()


async def send_problem(send: Send, error: Exception) -> None:
    """Answer with the problem that `error` is. Only before the response has started."""
    problem, headers = problem_for(error)
    await send_body(send, problem.status, _encode(problem), MEDIA_TYPE.encode(), headers)


async def send_body(
    send: Send, status: int, body: bytes, media_type: bytes, headers: Headers = ()
) -> None:
    """A whole answer, on the routes that speak ASGI."""
    sent = [
        (b"content-type", media_type),
        (b"content-length", b"%d" % len(body)),
        NO_STORE,
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": body})


def _challenge(problem: Problem) -> Headers:
    return ((b"www-authenticate", b"Bearer"),) if problem.status == HTTPStatus.UNAUTHORIZED else ()

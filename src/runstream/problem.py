"""Errors on the wire: RFC 9457 problem JSON, and the one table code <-> status <-> exception.

The server reads the table forwards, the client backwards, so that an error raised behind the server is
the same error in front of the client.
"""

from __future__ import annotations

from typing import Final

import msgspec

from . import errors
from .errors import GenerationChanged, PositionGone, RunstreamError

MEDIA_TYPE: Final = "application/problem+json"

# What a request asked for that HTTP itself has names for.
STATUS_BY_CODE: Final[dict[str, int]] = {
    "invalid_input": 400,
    "invalid_payload": 400,
    "invalid_url": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "run_not_found": 404,
    "workflow_not_found": 404,
    "not_found": 404,
    "method_not_allowed": 405,
    "not_acceptable": 406,
    "request_timeout": 408,
    "run_ended": 409,
    "lease_held": 409,
    "lease_lost": 409,
    "producer_fenced": 409,
    "number_gap": 409,
    "invalid_position": 409,
    "position_gone": 410,
    "generation_changed": 410,
    "payload_too_large": 413,
    "request_too_large": 413,
    "unsupported_media_type": 415,
    "too_many_subscribers": 429,
    "internal": 500,
    "streaming_off": 501,
    "log_unavailable": 503,
    "log_read_only": 503,
    "log_closed": 503,
    "not_a_log": 503,
    "queue_full": 503,
}


class Problem(msgspec.Struct, omit_defaults=True):
    """The body of an error answer. `code` is for programs, `detail` for people.

    `first_seq` (410) is the first record that is still there, `generation` the present one.
    """

    code: str
    title: str
    status: int
    detail: str
    type: str = "about:blank"
    first_seq: int | None = None
    generation: str | None = None


def problem_of(error: RunstreamError) -> Problem:
    """What the wire says of an error."""
    return Problem(
        code=error.code,
        title=error.code.replace("_", " "),
        status=STATUS_BY_CODE.get(error.code, 500),
        detail=str(error),
        first_seq=error.first_seq if isinstance(error, PositionGone) else None,
        generation=error.generation if isinstance(error, GenerationChanged) else None,
    )


def error_of(problem: Problem) -> RunstreamError:
    """The error that an answer tells of; of an unknown code, its root class."""
    if problem.code == GenerationChanged.code:
        return GenerationChanged(
            problem.detail, first_seq=problem.first_seq or 1, generation=problem.generation or ""
        )
    if problem.code == PositionGone.code:
        return PositionGone(problem.detail, first_seq=problem.first_seq or 1)
    return _CLASS_BY_CODE.get(problem.code, RunstreamError)(problem.detail)


_CLASS_BY_CODE: Final[dict[str, type[RunstreamError]]] = {
    found.code: found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, RunstreamError)
}

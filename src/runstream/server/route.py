"""One route as data: its address, who may use it, what goes in and what comes out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..api import Body
from .access import Permission, Principal
from .site import Site

# A route that answers at once, or after one wait.
Cold: TypeAlias = Callable[[Site, Principal, Request], Awaitable[Response]]
# A route that speaks ASGI itself, because every microsecond or every byte counts there. It raises
# RunstreamError only before its response has started. What it gives back is awaited in its place: a stream
# that lasts for hours does not hold what prepared it.
Raw: TypeAlias = Callable[
    [Site, Principal, str, Scope, Receive, Send], Awaitable[Awaitable[None] | None]
]

# A path's variable parts. Which run is meant is known before anything is looked up.
RUN_ID: Final = "run_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One query parameter or request header, and its JSON Schema."""

    name: str
    description: str
    schema: Mapping[str, object] = field(default_factory=lambda: {"type": "string"})
    place: str = "query"


@dataclass(frozen=True, slots=True)
class Reply:
    """A good answer: its status, what it means, the type of its JSON, or its other media types."""

    status: int
    meaning: str
    body: type[msgspec.Struct] | None = None
    media_types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path.

    `permission` is asked for the run of the address (for runs at large where it names none); without one
    the route is open to everyone.
    """

    method: str
    pattern: str
    summary: str
    cold: Cold | None = None
    raw: Raw | None = None
    permission: Permission | None = None
    # The endpoint asks for the permission, because the run is in the body.
    asks_itself: bool = False
    # Switched off with streaming.
    streams: bool = False
    body: type[Body] | None = None
    body_required: bool = True
    parameters: tuple[Parameter, ...] = ()
    answers: tuple[Reply, ...] = ()

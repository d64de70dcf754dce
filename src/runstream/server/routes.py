"""The routes, as data: from this one table come the routing, the permissions and the OpenAPI document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..api import (
    V1,
    AppendedEvents,
    AppendEvents,
    Body,
    CancelRun,
    EventsPage,
    LeaseAction,
    OpenedRun,
    OpenRun,
    RunBody,
    RunList,
    RunToken,
    Signal,
    StartRun,
    TokenRequest,
    TrimRun,
    WorkflowList,
)
from . import console, follow, health, ingest, metrics_route, runs, token_route, workflow_routes
from .access import Permission, Principal
from .site import Site

# A route that answers at once, or after one wait.
Cold: TypeAlias = Callable[[Site, Principal, Request], Awaitable[Response]]
# A route that speaks ASGI itself, because every microsecond or every byte counts there. It raises
# RunstreamError only before its response has started.
Raw: TypeAlias = Callable[[Site, Principal, str, Scope, Receive, Send], Awaitable[None]]

# A path's variable parts. Which run is meant is known before anything is looked up.
RUN_ID: Final = "run_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One query parameter or request header, and its JSON Schema."""

    name: str
    description: str
    schema: Mapping[str, object] = field(default_factory=lambda: {"type": "string"})
    place: str = "query"


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
    # Status -> what it means, and the type of its body.
    answers: Mapping[int, tuple[str, type[Body] | None]] = field(
        default_factory=dict[int, tuple[str, type[Body] | None]]
    )


_RUN: Final = f"{V1}/runs/{{{RUN_ID}}}"
_WHOLE: Final = {"type": "integer", "minimum": 0}
_SECONDS: Final = {"type": "number", "minimum": 0}
_LIMIT: Final = {"type": "integer", "minimum": 1}
_FLAG: Final = {"type": "boolean"}
_NAMES: Final = "Only these, with commas in between; gaps, drops and the end pass as well"

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="PUT",
        pattern=_RUN,
        summary="Open, create or claim a run",
        cold=runs.open_run,
        permission="runs:write",
        body=OpenRun,
        answers={
            200: ("The run was there", OpenedRun),
            201: ("The run is new", OpenedRun),
        },
    ),
    Route(
        method="GET",
        pattern=_RUN,
        summary="A run; with `wait`, once there is something new in it",
        cold=runs.get_run,
        permission="runs:read",
        parameters=(
            Parameter(name="after", description="The newest seq that is known", schema=_WHOLE),
            Parameter(name="wait", description="Seconds to wait for more", schema=_SECONDS),
        ),
        answers={200: ("The run", RunBody)},
    ),
    Route(
        method="GET",
        pattern=f"{V1}/runs",
        summary="Runs, newest first",
        cold=runs.list_runs,
        permission="runs:read",
        parameters=(
            Parameter(name="workflow", description="Only runs of this workflow"),
            Parameter(name="status", description="Only runs with this status"),
            Parameter(name="before", description="The `next` of the last page"),
            Parameter(
                name="limit",
                description="Runs in one page",
                schema={"type": "integer", "minimum": 1},
            ),
        ),
        answers={200: ("A page of runs", RunList)},
    ),
    Route(
        method="POST",
        pattern=f"{_RUN}/events",
        summary="Append events: all or none, once",
        raw=ingest.append_events,
        streams=True,
        permission="runs:write",
        body=AppendEvents,
        answers={200: ("Where they are stored", AppendedEvents)},
    ),
    Route(
        method="GET",
        pattern=f"{_RUN}/events",
        summary="Follow a run: history, then live",
        raw=follow.follow_events,
        streams=True,
        permission="runs:read",
        parameters=(
            Parameter(name="from_seq", description="The first seq wanted", schema=_WHOLE),
            Parameter(name="after", description="A cursor; `Last-Event-ID` wins over it"),
            Parameter(name="last", description="Only so many of the newest", schema=_WHOLE),
            Parameter(name="kinds", description=_NAMES),
            Parameter(name="topics", description=_NAMES),
            Parameter(name="steps", description=_NAMES),
            Parameter(name="correlation_ids", description=_NAMES),
            Parameter(name="follow", description="false: only what is stored", schema=_FLAG),
            Parameter(name="limit", description="Records in one page", schema=_LIMIT),
            Parameter(
                name="wait",
                description="Seconds to wait for the run, and a page for its first record",
                schema=_SECONDS,
            ),
            Parameter(
                name="stream", description="true: the whole stream of the run's root", schema=_FLAG
            ),
        ),
        answers={
            200: ("Records, as a stream or as a page", EventsPage),
            204: ("The run has ended, and nothing is left to come", None),
        },
    ),
    Route(
        method="POST",
        pattern=f"{_RUN}/lease",
        summary="Renew, release or expire the lease of a run",
        cold=runs.act_on_lease,
        permission="runs:write",
        body=LeaseAction,
        answers={200: ("The run", RunBody)},
    ),
    Route(
        method="POST",
        pattern=f"{_RUN}/trim",
        summary="Drop the oldest records",
        cold=runs.trim_run,
        permission="runs:write",
        body=TrimRun,
        answers={204: ("Dropped", None)},
    ),
    Route(
        method="POST",
        pattern=f"{_RUN}/cancel",
        summary="Ask the process that runs it to cancel a run",
        cold=runs.cancel_run,
        permission="runs:write",
        body=CancelRun,
        body_required=False,
        answers={202: ("The request is stored", AppendedEvents)},
    ),
    Route(
        method="POST",
        pattern=f"{_RUN}/signals",
        summary="Send an event into a run",
        cold=runs.signal_run,
        permission="runs:write",
        body=Signal,
        answers={202: ("The event is stored", AppendedEvents)},
    ),
    Route(
        method="POST",
        pattern=f"{_RUN}/tokens",
        summary="A short-lived token that reads this run, for a web page",
        cold=token_route.create_token,
        permission="runs:read",
        body=TokenRequest,
        body_required=False,
        answers={201: ("The token", RunToken)},
    ),
    Route(
        method="GET",
        pattern=f"{V1}/workflows",
        summary="The workflows that this server starts",
        cold=workflow_routes.list_workflows,
        permission="runs:start",
        answers={200: ("The workflows", WorkflowList)},
    ),
    Route(
        method="POST",
        pattern=f"{V1}/workflows/{{workflow}}/runs",
        summary="Start a run of a workflow, in the server's process",
        cold=workflow_routes.start_workflow,
        permission="runs:start",
        asks_itself=True,
        body=StartRun,
        body_required=False,
        answers={201: ("The run is under way", RunBody)},
    ),
    Route(
        method="GET",
        pattern="/metrics",
        summary="The figures of this server process, for Prometheus",
        cold=metrics_route.get_metrics,
        permission="metrics",
        answers={200: ("Prometheus' text format", None)},
    ),
    Route(
        method="GET",
        pattern="/",
        summary="The console, for people",
        cold=console.get_page,
        answers={200: ("A page", None)},
    ),
    Route(
        method="GET",
        pattern="/assets/{asset}",
        summary="A file of the console",
        cold=console.get_asset,
        answers={200: ("A script or style sheet", None)},
    ),
    Route(
        method="GET",
        pattern="/healthz",
        summary="Whether the server can serve: its log answers, and it is not about to go",
        cold=health.get_ready,
        answers={200: ("Ready", None), 503: ("Not ready", None)},
    ),
    Route(
        method="GET",
        pattern="/healthz/live",
        summary="Whether the process answers at all",
        cold=health.get_live,
        answers={200: ("Alive", None)},
    ),
)

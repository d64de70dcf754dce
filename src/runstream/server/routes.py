"""The routes, as data: from this one table come the routing, the permissions and the OpenAPI document."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from ..api import (
    JSON,
    NDJSON,
    SSE,
    V1,
    AppendedEvents,
    AppendEvents,
    CancelRun,
    EventsPage,
    Health,
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
from .access import Principal
from .openapi import make_document
from .route import RUN_ID, Parameter, Reply, Route
from .site import Site

_RUN: Final = f"{V1}/runs/{{{RUN_ID}}}"
_WHOLE: Final = {"type": "integer", "minimum": 0}
_SECONDS: Final = {"type": "number", "minimum": 0}
_LIMIT: Final = {"type": "integer", "minimum": 1}
_FLAG: Final = {"type": "boolean"}
_NAMES: Final = "Only these, with commas in between; gaps, drops and the end pass as well"


async def get_document(_site: Site, _principal: Principal, request: Request) -> Response:
    """The OpenAPI document of these routes, below the prefix under which they are asked for."""
    return Response(_document(request.scope.get("root_path", "")), media_type=JSON)


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="PUT",
        pattern=_RUN,
        summary="Open, create or claim a run",
        cold=runs.open_run,
        permission="runs:write",
        body=OpenRun,
        answers=(
            Reply(200, "The run was there", OpenedRun),
            Reply(201, "The run is new", OpenedRun),
        ),
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
        answers=(Reply(200, "The run", RunBody),),
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
        answers=(Reply(200, "A page of runs", RunList),),
    ),
    Route(
        method="POST",
        pattern=f"{_RUN}/events",
        summary="Append events: all or none, once",
        raw=ingest.append_events,
        streams=True,
        permission="runs:write",
        body=AppendEvents,
        answers=(Reply(200, "Where they are stored", AppendedEvents),),
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
        answers=(
            Reply(200, "Records, as a stream or as a page", EventsPage, (SSE, NDJSON)),
            Reply(204, "The run has ended, and nothing is left to come"),
        ),
    ),
    Route(
        method="POST",
        pattern=f"{_RUN}/lease",
        summary="Renew, release or expire the lease of a run",
        cold=runs.act_on_lease,
        permission="runs:write",
        body=LeaseAction,
        answers=(
            Reply(200, "The run, after expire", RunBody),
            Reply(204, "Renewed, or released"),
        ),
    ),
    Route(
        method="POST",
        pattern=f"{_RUN}/trim",
        summary="Drop the oldest records",
        cold=runs.trim_run,
        permission="runs:write",
        body=TrimRun,
        answers=(Reply(204, "Dropped"),),
    ),
    Route(
        method="DELETE",
        pattern=_RUN,
        summary="Remove a root run that has ended, with its children",
        cold=runs.remove_run,
        permission="runs:write",
        answers=(Reply(204, "Removed: as if it had never been"),),
    ),
    Route(
        method="POST",
        pattern=f"{_RUN}/cancel",
        summary="Ask the process that runs it to cancel a run",
        cold=runs.cancel_run,
        permission="runs:write",
        body=CancelRun,
        body_required=False,
        answers=(Reply(202, "The request is stored", AppendedEvents),),
    ),
    Route(
        method="POST",
        pattern=f"{_RUN}/signals",
        summary="Send an event into a run",
        cold=runs.signal_run,
        permission="runs:write",
        body=Signal,
        answers=(Reply(202, "The event is stored", AppendedEvents),),
    ),
    Route(
        method="POST",
        pattern=f"{_RUN}/tokens",
        summary="A short-lived token that reads this run, for a web page",
        cold=token_route.create_token,
        permission="runs:read",
        body=TokenRequest,
        body_required=False,
        answers=(Reply(201, "The token", RunToken),),
    ),
    Route(
        method="GET",
        pattern=f"{V1}/workflows",
        summary="The workflows that this server starts",
        cold=workflow_routes.list_workflows,
        permission="runs:start",
        answers=(Reply(200, "The workflows", WorkflowList),),
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
        answers=(Reply(201, "The run is under way", RunBody),),
    ),
    Route(
        method="GET",
        pattern="/metrics",
        summary="The figures of this server process, for Prometheus",
        cold=metrics_route.get_metrics,
        permission="metrics",
        answers=(Reply(200, "Prometheus' text format", media_types=("text/plain",)),),
    ),
    Route(
        method="GET",
        pattern="/openapi.json",
        summary="This document",
        cold=get_document,
        answers=(Reply(200, "An OpenAPI 3.1 document", media_types=(JSON,)),),
    ),
    Route(
        method="GET",
        pattern="/",
        summary="The console, for people",
        cold=console.get_page,
        answers=(Reply(200, "A page", media_types=("text/html",)),),
    ),
    Route(
        method="GET",
        pattern="/assets/{asset}",
        summary="A file of the console",
        cold=console.get_asset,
        answers=(
            Reply(200, "A script or style sheet", media_types=("text/javascript", "text/css")),
        ),
    ),
    Route(
        method="GET",
        pattern="/healthz",
        summary="Whether the server can serve: its log answers, and it is not about to go",
        cold=health.get_ready,
        answers=(
            Reply(200, "Ready", Health),
            Reply(503, "Not ready", Health),
        ),
    ),
    Route(
        method="GET",
        pattern="/healthz/live",
        summary="Whether the process answers at all",
        cold=health.get_live,
        answers=(Reply(200, "Alive", Health),),
    ),
)


# Prefixes are the operator's: one, or a few.
@lru_cache(maxsize=8)
def _document(prefix: str) -> bytes:
    return make_document(ROUTES, prefix)

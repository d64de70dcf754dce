"""The routes of single runs, and their list. Whoever gets here may do it: the app has asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from contextlib import nullcontext
from typing import Final, TypeVar, cast, get_args

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ..api import (
    WAIT_S_MAX,
    AppendedEvents,
    CancelRun,
    LeaseAction,
    LeaseBody,
    OpenedRun,
    OpenRun,
    RunBody,
    RunList,
    Signal,
    TrimRun,
)
from ..errors import InvalidInput, RunNotFound
from ..events import check_name
from ..log import (
    LIST_LIMIT_MAX,
    Lease,
    LeaseClaim,
    Log,
    Producer,
    Removes,
    Retains,
    RunInfo,
    Status,
)
from ..payload import encode_payload
from ..publisher import new_producer_id
from ..record import INDEX_MAX, check_run_id, make_draft
from ..retention import check_retention
from ..wire import rfc3339
from .access import Principal
from .answers import json_response
from .bodies import decode, read_body
from .query import Query
from .run_tokens import HIDDEN
from .site import Site

T = TypeVar("T")

LIST_LIMIT_DEFAULT: Final = 100
# Runs that are looked at for one page: a token for a few runs could make each request a look at all.
LIST_LOOKED_AT_MAX: Final = 10_000

_OPEN = msgspec.json.Decoder(OpenRun)
_LEASE = msgspec.json.Decoder(LeaseAction)
_TRIM = msgspec.json.Decoder(TrimRun)
_CANCEL = msgspec.json.Decoder(CancelRun)
_SIGNAL = msgspec.json.Decoder(Signal)


async def open_run(site: Site, principal: Principal, request: Request) -> Response:
    run_id, asked = _run_id(request), await _body(site, request, _OPEN)
    claim = None if asked.lease_s is None else LeaseClaim(asked.lease_s, asked.grace_s)
    if claim is None and asked.grace_s:
        raise InvalidInput("a grace_s goes with a lease_s")
    if asked.parent_run_id is not None:
        # A child's records go into its parent's stream.
        principal.require("runs:write", check_run_id(asked.parent_run_id))
    log = site.log
    if asked.retention is not None:
        check_retention(asked.retention)
        if not isinstance(log, Retains):
            raise InvalidInput("the log of this server has no limits for single runs")
    opened = await log.open(
        run_id,
        producer=asked.producer,
        workflow=asked.workflow,
        parent_run_id=asked.parent_run_id,
        claim=claim,
    )
    if asked.retention is not None and isinstance(log, Retains):
        await log.retain(run_id, None if asked.retention.is_empty else asked.retention)
    answer = OpenedRun(
        run=run_body(opened.info, with_lease=True),
        epoch=opened.epoch,
        number=opened.number,
        created=opened.created,
    )
    return json_response(answer, 201 if opened.created else 200)


async def get_run(site: Site, principal: Principal, request: Request) -> Response:
    """With `wait`: once there is a record behind `after` (or the run at all), or after that time."""
    run_id, query = _run_id(request), Query(request.scope, "after", "wait")
    after, wait_s = query.whole("after"), query.seconds("wait")
    if wait_s:
        waiting = _wait_for_news(site.log, run_id, after or 0, min(wait_s, WAIT_S_MAX))
        await _while_asked(site, request, waiting)
    elif after is not None and wait_s is None:
        raise InvalidInput("after= goes with wait=")
    info = await site.log.info(run_id)
    return json_response(run_body(info, with_lease=principal.allows("runs:write", run_id)))


async def list_runs(site: Site, principal: Principal, request: Request) -> Response:
    """Only the runs that the caller may read. A page may hold fewer than were asked for, or none, before
    the end: each is a bounded look.
    """
    query = Query(request.scope, "workflow", "status", "before", "limit")
    workflow, status, before = query.text("workflow"), query.text("status"), query.text("before")
    if workflow is not None:
        check_name(workflow, "workflow")
    if status is not None and status not in get_args(Status):
        raise InvalidInput(f"a status is one of {', '.join(get_args(Status))}, not {status!r}")
    limit = query.whole("limit")
    limit = LIST_LIMIT_DEFAULT if limit is None else limit
    if limit < 1:
        raise InvalidInput("a page holds at least one run")
    limit = min(limit, LIST_LIMIT_MAX)
    hidden = before is not None and before.startswith(HIDDEN)
    if hidden and before is not None:
        before = site.access.reveal(before)
    elif before is not None:
        principal.require("runs:read", check_run_id(before))
    try:
        shown, next_before = await _look_for_runs(
            site, principal, workflow, cast("Status | None", status), before, limit
        )
    except RunNotFound:
        if hidden:  # its name is not the caller's to know
            raise InvalidInput(
                "runs were removed meanwhile: begin again, without before="
            ) from None
        raise
    if next_before is not None and not principal.allows("runs:read", next_before):
        next_before = site.access.hide(next_before)
    body = RunList(
        runs=[
            run_body(info, with_lease=principal.allows("runs:write", info.run_id)) for info in shown
        ],
        next=next_before,
    )
    return json_response(body)


async def _look_for_runs(
    site: Site,
    principal: Principal,
    workflow: str | None,
    status: Status | None,
    before: str | None,
    limit: int,
) -> tuple[list[RunInfo], str | None]:
    """Up to `limit` runs behind `before` that the caller may read, and where to go on (None: no more)."""
    shown: list[RunInfo] = []
    looked_at, count, is_end = 0, limit, False
    while not is_end and len(shown) < limit and looked_at < LIST_LOOKED_AT_MAX:
        async with site.followers.bulk_room if looked_at else nullcontext():
            page = await site.log.list(workflow=workflow, status=status, before=before, limit=count)
        is_end = len(page) < count
        looked_at += len(page)
        for at, info in enumerate(page, 1):
            before = info.run_id
            if principal.allows("runs:read", before):
                shown.append(info)
                if len(shown) == limit:
                    is_end = is_end and at == len(page)
                    break
        count = LIST_LIMIT_MAX
        # The memory's log answers without a pause; others want their turn.
        await asyncio.sleep(0)
    return shown, None if is_end else before


async def act_on_lease(site: Site, _principal: Principal, request: Request) -> Response:
    run_id, asked = _run_id(request), await _body(site, request, _LEASE)
    if asked.action == "expire":
        if asked.lease is None or asked.owner is not None or asked.epoch is not None:
            raise InvalidInput("expire takes the whole lease that was seen to lapse, and no more")
        seen = asked.lease
        info = await site.log.expire(
            run_id,
            lease=Lease(seen.owner, seen.epoch, seen.counter, seen.lease_s, seen.grace_s),
        )
        return json_response(run_body(info, with_lease=True))
    if asked.owner is None or asked.epoch is None or asked.lease is not None:
        raise InvalidInput(
            f"{asked.action} takes the owner and the epoch of the lease, and no more"
        )
    if asked.action == "renew":
        await site.log.renew(run_id, owner=asked.owner, epoch=asked.epoch)
    else:
        await site.log.release(run_id, owner=asked.owner, epoch=asked.epoch)
    return Response(status_code=204)


async def trim_run(site: Site, _principal: Principal, request: Request) -> Response:
    asked = await _body(site, request, _TRIM)
    # (An engine may not know larger numbers, and no record has one.)
    await site.log.trim(_run_id(request), through=max(0, min(asked.through, INDEX_MAX)))
    return Response(status_code=204)


async def remove_run(site: Site, _principal: Principal, request: Request) -> Response:
    if not isinstance(site.log, Removes):
        raise InvalidInput("the log of this server removes finished runs by itself alone")
    await site.log.remove(_run_id(request))
    return Response(status_code=204)


async def cancel_run(site: Site, _principal: Principal, request: Request) -> Response:
    body = await read_body(site, request.scope, request.receive, optional=True)
    asked = decode(body, _CANCEL) if body else CancelRun()
    return await _tell(site, _run_id(request), "run.cancel_requested", {"reason": asked.reason})


async def signal_run(site: Site, _principal: Principal, request: Request) -> Response:
    asked = await _body(site, request, _SIGNAL)
    data: dict[str, object] = {"type": check_name(asked.type, "type"), "event": asked.event}
    return await _tell(site, _run_id(request), "run.signal", data)


def run_body(info: RunInfo, *, with_lease: bool) -> RunBody:
    """A run as the API shows it."""
    lease = info.lease if with_lease else None
    return RunBody(
        run_id=info.run_id,
        workflow=info.workflow,
        status=info.status,
        root_run_id=info.root_run_id,
        generation=info.generation,
        first_seq=info.first_seq,
        last_seq=info.last_seq,
        created=rfc3339(info.created),
        ended=None if info.ended is None else rfc3339(info.ended),
        parent_run_id=info.parent_run_id,
        lease=None
        if lease is None
        else LeaseBody(lease.owner, lease.epoch, lease.counter, lease.lease_s, lease.grace_s),
    )


async def _tell(site: Site, run_id: str, kind: str, data: dict[str, object]) -> Response:
    """Store a record that the run's process follows."""
    draft = make_draft(run_id, kind, encode_payload(data))
    producer = Producer(new_producer_id(), epoch=0, number=1)
    stored = await site.log.append(run_id, [draft], producer=producer)
    return json_response(AppendedEvents(stored.first_seq, stored.last_seq, stored.duplicates), 202)


def _run_id(request: Request) -> str:
    return cast(str, request.path_params["run_id"])


async def _body(site: Site, request: Request, decoder: msgspec.json.Decoder[T]) -> T:
    body = await read_body(site, request.scope, request.receive)
    return decode(body, decoder)


async def _wait_for_news(log: Log, run_id: str, after: int, wait_s: float) -> None:
    """Until the run has a record behind `after`, or is there at all if it was not.

    (The log may wake early for nothing; over a network each time costs.)
    """
    until_s = time.monotonic() + wait_s
    was_there = await _newest(log, run_id) is not None
    while (left_s := until_s - time.monotonic()) > 0:
        await log.wait(run_id, after=after, timeout=left_s)
        newest = await _newest(log, run_id)
        if newest is not None and (newest > after or not was_there):
            return


async def _newest(log: Log, run_id: str) -> int | None:
    """The newest seq of a run's stream; None: there is no such run."""
    try:
        return (await log.info(run_id)).last_seq
    except RunNotFound:
        return None


async def _while_asked(site: Site, request: Request, waiting: Awaitable[None]) -> None:
    """Wait for `waiting`, but no longer than the client does, or the server is there."""

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    asked = asyncio.ensure_future(waiting)
    gone = asyncio.ensure_future(disconnected())
    stopping = asyncio.ensure_future(site.stopping.wait())
    try:
        await asyncio.wait({asked, gone, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            asked.result()
        elif gone.done():
            raise InvalidInput("nobody waits for the answer any more")
    finally:
        for task in (asked, gone, stopping):
            task.cancel()
        await asyncio.gather(asked, gone, stopping, return_exceptions=True)

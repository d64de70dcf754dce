"""`GET /v1/runs/{id}/events`: who may follow what, in which form, from where.

The form is the client's choice (`Accept`): server-sent events, lines of JSON, or one page of JSON. A
position that is gone is a gap in a stream, which goes on behind it (an EventSource would give up after any
error), and 410 for a page.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from contextlib import nullcontext
from typing import Final

from starlette.types import Message, Receive, Scope, Send

from ..admission import check_limit
from ..api import JSON, NDJSON, SSE, WAIT_S_MAX
from ..errors import InvalidInput, RunNotFound, StreamingOff
from ..events_query import EventsQuery, parse_events_query
from ..log import READ_LIMIT_DEFAULT, READ_LIMIT_MAX, RunInfo
from ..position import first_position
from ..record import Cursor
from .access import Principal
from .answers import Refused, send_body
from .events_page import PageFollower
from .followers import Follower, stop_notice
from .packing import packing
from .request_log import shorten
from .site import Site
from .stream_follower import StreamFollower
from .stream_format import LineFormat, SseFormat, StreamFormat

_SSE: Final = SseFormat()
_LINES: Final = LineFormat()
# In the order of our preference, where a client has none.
_FORMS: Final[dict[str, StreamFormat | None]] = {SSE: _SSE, NDJSON: _LINES, JSON: None}


async def follow_events(
    site: Site, principal: Principal, run_id: str, scope: Scope, receive: Receive, send: Send
) -> Awaitable[None] | None:
    """Answer with the records of a run, as a stream until it ends (to be awaited), or as a page.

    Raises (before the response has started):
        Refused: none of the forms is acceptable.
        Forbidden: the principal may not read it.
        RunNotFound, InvalidInput, InvalidPosition, TooManySubscribers, StreamingOff, LogUnavailable.
        PositionGone, GenerationChanged: of a page.
    """
    if not site.options.streaming:
        raise StreamingOff("streaming is switched off at this server")
    principal.require("runs:read", run_id)
    form, query = _read_request(scope)
    info = await _find(site, run_id, min(query.wait_s, WAIT_S_MAX))
    if query.stream and info.root_run_id != run_id:
        principal.require("runs:read", info.root_run_id)
        info = await site.log.info(info.root_run_id)
    # Looking for the last ones that pass a filter may be as much work as a large page.
    searches = query.start.last is not None and not query.filter.is_open
    async with site.followers.bulk_room if searches else nullcontext():
        position = await first_position(site.log, info, query.start, query.filter)
    if form is None:
        await _send_page(site, info, position, query, receive, packing(site, scope, send))
        return None
    if position.seq > info.last_seq:
        # Raises, unless there are more records by now.
        await site.log.read(info.root_run_id, after=position, limit=1)
    follower = _stream_follower(site, principal, info, position, query, form, send)
    if site.owns_scopes:
        shorten(scope)
    return follower.run(_Attended(site, follower, info.root_run_id, receive))


def _read_request(scope: Scope) -> tuple[StreamFormat | None, EventsQuery]:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    form = _choose_form(headers.get(b"accept", b"").decode("latin-1"))
    query = parse_events_query(
        scope["query_string"].decode("latin-1"),
        headers.get(b"last-event-id", b"").decode("latin-1"),
    )
    if form is not None and query.limit is not None:
        raise InvalidInput(f"limit= goes with a page (Accept: {JSON})")
    return form, query


def _stream_follower(
    site: Site,
    principal: Principal,
    info: RunInfo,
    position: Cursor,
    query: EventsQuery,
    form: StreamFormat,
    send: Send,
) -> StreamFollower:
    is_root = info.run_id == info.root_run_id
    return StreamFollower(
        site.followers,
        principal,
        info,
        site.followers.view(form, info.run_id, query.filter, is_root=is_root),
        position,
        send,
        # Of a run that has ended only what is stored can come (a child's root may go on).
        stop=None if query.follow and not info.has_ended else info.last_seq,
        heartbeat_s=site.options.heartbeat_s,
        stalled_s_max=site.options.stalled_s_max,
    )


async def _send_page(
    site: Site, info: RunInfo, position: Cursor, query: EventsQuery, receive: Receive, send: Send
) -> None:
    limit = READ_LIMIT_DEFAULT if query.limit is None else check_limit(query.limit, READ_LIMIT_MAX)
    is_root = info.run_id == info.root_run_id
    view = site.followers.view(_LINES, info.run_id, query.filter, is_root=is_root)
    page = PageFollower(site.followers, site.log, info, view)
    body = b""
    if query.wait_s == 0:
        body = await page.read(position, limit, 0.0)
    else:
        with _Attended(site, page, info.root_run_id, receive):
            body = await page.read(position, limit, min(query.wait_s, WAIT_S_MAX))
        if page.cut_reason is not None:
            return
    await send_body(send, 200, body, JSON.encode())


class _Attended:
    """A follower while it is served: counted, watched by the followers' clock, ended when its client goes.

    An object, not a generator and a task: there are thousands of them.
    """

    __slots__ = ("_follower", "_followers", "_heard", "_receive", "_root_run_id")

    def __init__(self, site: Site, follower: Follower, root_run_id: str, receive: Receive) -> None:
        self._followers = site.followers
        self._follower = follower
        self._root_run_id = root_run_id
        self._receive = receive
        self._heard: asyncio.Future[Message] | None = None

    def __enter__(self) -> None:
        self._followers.enter(self._follower, self._root_run_id)
        self._listen()

    def __exit__(self, _kind: object, error: BaseException | None, _stack: object) -> bool:
        if self._heard is not None:
            self._heard.cancel()
            # What it may just have told has no meaning any more.
            self._heard = None
        self._followers.leave(self._follower, self._root_run_id)
        task = asyncio.current_task()
        if not isinstance(error, asyncio.CancelledError) or task is None:
            return False
        if self._follower.cut_reason is None:
            return False
        # It was our own doing.
        task.uncancel()
        return True

    def _listen(self) -> None:
        # (What a server gives is a future already, or else becomes a task.)
        self._heard = asyncio.ensure_future(self._receive())
        self._heard.add_done_callback(self._hear)

    def _hear(self, heard: asyncio.Future[Message]) -> None:
        if heard is not self._heard or heard.cancelled():
            return
        if heard.result()["type"] == "http.disconnect":
            self._follower.cut("gone")
        else:
            self._listen()


async def _find(site: Site, run_id: str, wait_s: float) -> RunInfo:
    """The run, which may begin within `wait_s` seconds.

    Raises:
        RunNotFound: it is not there.
        LogUnavailable: the server is stopping.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    while True:
        try:
            return await site.log.info(run_id)
        except RunNotFound:
            left_s = deadline - loop.time()
            if left_s <= 0:
                raise
        if site.stopping.is_set():
            raise stop_notice()
        waiting = asyncio.ensure_future(site.log.wait(run_id, after=0, timeout=left_s))
        stopping = asyncio.ensure_future(site.stopping.wait())
        try:
            await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                waiting.result()
        finally:
            waiting.cancel()
            stopping.cancel()
            await asyncio.gather(waiting, stopping, return_exceptions=True)


def _choose_form(accept: str) -> StreamFormat | None:
    """The form that the client likes best; None is a page. Raises Refused if it likes none."""
    ranges = list(_read_accept(accept)) or [("*/*", 1.0)]
    best, best_quality = "", 0.0
    for form in _FORMS:
        # What is named counts more than what is only covered.
        for pattern in (form, form.partition("/")[0] + "/*", "*/*"):
            found = [quality for name, quality in ranges if name == pattern]
            if found:
                if found[0] > best_quality:
                    best, best_quality = form, found[0]
                break
    if not best:
        raise Refused("not_acceptable", f"events come as {', '.join(_FORMS)}, not as {accept!r}")
    return _FORMS[best]


def _read_accept(accept: str) -> Iterable[tuple[str, float]]:
    for part in accept.split(","):
        name, *parameters = (one.strip().lower() for one in part.split(";"))
        if not name:
            continue
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        yield name, quality

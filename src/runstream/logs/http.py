"""A log behind a server: the whole contract over HTTP.

The server checks and stores, and what it refuses is raised here as the same error. What may have been
carried out although its answer was lost is done again only where that is harmless: appends go by their
producer's numbers, and one without a producer is not repeated.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import AsyncGenerator, Sequence
from typing import Final
from urllib.parse import urlencode, urlsplit

from ..admission import check_batch, check_limit, check_open, no_such_run
from ..api import EVENTS_MAX, WAIT_S_MAX, LeaseAction, OpenRun, TrimRun
from ..errors import (
    InvalidInput,
    InvalidURL,
    LeaseHeld,
    LogUnavailable,
    NotALog,
    RunNotFound,
)
from ..events_query import EventsQuery, encode_events_query
from ..filter import Filter
from ..log import (
    LIST_LIMIT_MAX,
    READ_LIMIT_DEFAULT,
    READ_LIMIT_MAX,
    Appended,
    Lease,
    LeaseClaim,
    Opened,
    Page,
    Producer,
    RunInfo,
    Status,
)
from ..record import Cursor, Draft, Origin, Record, check_run_id
from ..retention import NO_LIMITS, Retention
from ..settings import read_settings
from ..start import Start
from . import refuse_unknown
from .http_append import Append, send_events
from .http_codec import (
    encode_json,
    encode_parts,
    has_records,
    is_small,
    lease_body,
    read_opened,
    read_page,
    read_run,
    read_runs,
)
from .http_follow import Follower
from .http_transport import TIMES, Times, Transport

# (In the class, `list` is a verb.)
Pages = AsyncGenerator[list[Record], None]

# Longer than any token of use; more is a file read by mistake.
TOKEN_LENGTH_MAX: Final = 8192
# Requests that an append is for, where they are smaller than the server would have them: only the last of
# them finds nothing to share its time with.
REQUESTS_PER_APPEND: Final = 8
# Pages of one list. A server looks at 10 000 runs for a page that holds fewer than were asked for, so this
# is a log of five million of which a token may see almost nothing, or a server that never comes to an end.
LIST_PAGES_MAX: Final = 500
# Runs whose workflow and parent are remembered, for followers that begin: some hundred KB.
ORIGINS_MAX: Final = 1024
_NOT_FOUND: Final = 404
_TOKEN: Final = re.compile(rf"[!-~]{{1,{TOKEN_LENGTH_MAX}}}")


def open_url(address: str, options: dict[str, str], *, token: str | None = None) -> HttpLog:
    """`http://HOST:PORT`, `https://HOST/PREFIX`; `?ca=FILE` names the certificates to trust instead of
    the system's. Without a token: `RUNSTREAM_TOKEN`. Connects only when it is used.

    Raises:
        InvalidURL: no host, no file of that name, or a user, password or token in the URL.
    """
    refuse_unknown(options, ("ca",))
    host, _, _ = address.partition("://")[2].partition("/")
    if "@" in host:
        raise InvalidURL("a token is given as token= or RUNSTREAM_TOKEN, never in the URL")
    if not _is_host(address):
        raise InvalidURL("a server's URL is http://HOST:PORT or https://HOST, maybe with a path")
    settings = read_settings()
    return HttpLog(
        address,
        token=token or settings.token,
        ca=options.get("ca"),
        request_records_max=settings.publish_batch_size,
    )


def _is_host(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # not a port, or half an IPv6 address
        return False


class HttpLog:
    """One server's log. Safe for any event loop; connections are made with the first request."""

    def __init__(
        self,
        base: str,
        *,
        token: str | None = None,
        ca: str | None = None,
        times: Times = TIMES,
        request_records_max: int = EVENTS_MAX,
    ) -> None:
        if token is not None:
            _check_token(token)
        self._transport = Transport(base, token=token, ca=ca, times=times)
        self._origins: dict[str, Origin] = {}
        self._request_records_max = request_records_max

    @property
    def append_records(self) -> int:
        return min(self._request_records_max * REQUESTS_PER_APPEND, EVENTS_MAX)

    def __repr__(self) -> str:
        return f"<HttpLog {self._transport.base}>"

    async def open(
        self,
        run_id: str,
        *,
        producer: str | None,
        workflow: str | None = None,
        parent_run_id: str | None = None,
        claim: LeaseClaim | None = None,
    ) -> Opened:
        check_open(run_id, producer, workflow, parent_run_id, claim)
        body = OpenRun(
            workflow=workflow,
            parent_run_id=parent_run_id,
            producer=producer,
            lease_s=None if claim is None else claim.lease_s,
            grace_s=0.0 if claim is None else claim.grace_s,
        )
        answer = await self._transport.call("PUT", f"/runs/{run_id}", body=encode_json(body))
        opened = read_opened(answer.body)
        if answer.unsure and not opened.created and not await self._has_begun(opened.info):
            # Our own first attempt created it; nobody has written its first record.
            return Opened(opened.info, opened.epoch, opened.number, created=True)
        return opened

    async def _has_begun(self, info: RunInfo) -> bool:
        """Whether the run has a record. (A child's are among those of its root.)"""
        if info.last_seq == 0 or info.run_id == info.root_run_id:
            return info.last_seq > 0
        query = encode_events_query(EventsQuery(start=Start(last=1), limit=1))
        answer = await self._transport.call("GET", _path(info.run_id, "/events"), query=query)
        return has_records(answer.body)

    async def retain(self, run_id: str, retention: Retention | None) -> None:
        """As the contract says; of a run that has not ended. Raises InvalidInput: the server's log has
        no limits for single runs.
        """
        body = OpenRun(retention=retention or NO_LIMITS)
        await self._transport.call("PUT", _path(run_id), body=encode_json(body))

    async def append(
        self,
        run_id: str,
        drafts: Sequence[Draft],
        *,
        producer: Producer | None = None,
        final: bool = False,
    ) -> Appended:
        """As the contract says; but a batch beyond a request's limits goes in several, which a producer's
        numbers hold together: repeated after a failure, nothing is stored twice.
        """
        path = _path(run_id, "/events")
        if not drafts:
            check_batch(drafts, root_run_id=run_id, final=final)
        if producer is not None:
            return await self._send(run_id, drafts, producer, final=final)
        if is_small(drafts):
            _, events = next(encode_parts(run_id, drafts))
            with contextlib.suppress(LeaseHeld):
                return await send_events(self._transport, path, events, None, final=final)
        # Several requests are held together by a producer's numbers; and the server takes the lifecycle
        # of a run that a process holds only from those who have opened it.
        owner = secrets.token_hex(8)
        opened = await self.open(run_id, producer=owner)
        return await self._send(run_id, drafts, Producer(owner, opened.epoch, 1), final=final)

    async def _send(
        self, run_id: str, drafts: Sequence[Draft], producer: Producer, *, final: bool
    ) -> Appended:
        append = Append(self._transport, _path(run_id, "/events"), producer)
        return await append.send(run_id, drafts, self._request_records_max, final=final)

    async def read(self, run_id: str, *, after: Cursor, limit: int = READ_LIMIT_DEFAULT) -> Page:
        limit = check_limit(limit, READ_LIMIT_MAX)
        query = encode_events_query(EventsQuery(start=Start(after=after), limit=limit, stream=True))
        answer = await self._transport.call("GET", _path(run_id, "/events"), query=query)
        return read_page(answer.body)

    async def wait(self, run_id: str, *, after: int, timeout: float) -> None:
        wait_s = min(max(timeout, 0.0), WAIT_S_MAX)
        query = f"after={after}&wait={wait_s:.3f}"
        with contextlib.suppress(RunNotFound, LogUnavailable):
            await self._transport.call("GET", _path(run_id), query=query, wait_s=wait_s)

    async def info(self, run_id: str) -> RunInfo:
        info = read_run((await self._transport.call("GET", _path(run_id))).body)
        while len(self._origins) >= ORIGINS_MAX:
            self._origins.pop(next(iter(self._origins)), None)
        self._origins[run_id] = info.origin
        return info

    async def _origin(self, run_id: str) -> Origin:
        """What never changes of a run, so that a follower need not ask again."""
        return self._origins.get(run_id) or (await self.info(run_id)).origin

    async def renew(self, run_id: str, *, owner: str, epoch: int) -> None:
        await self._lease(run_id, LeaseAction("renew", owner=owner, epoch=epoch))

    async def release(self, run_id: str, *, owner: str, epoch: int) -> None:
        await self._lease(run_id, LeaseAction("release", owner=owner, epoch=epoch))

    async def expire(self, run_id: str, *, lease: Lease) -> RunInfo:
        answer = await self._lease(run_id, LeaseAction("expire", lease=lease_body(lease)))
        return read_run(answer)

    async def _lease(self, run_id: str, action: LeaseAction) -> bytes:
        path, body = _path(run_id, "/lease"), encode_json(action)
        try:
            return (await self._transport.call("POST", path, body=body)).body
        except NotALog as error:  # as for an append
            raise LogUnavailable(str(error)) from error

    async def trim(self, run_id: str, *, through: int) -> None:
        await self._transport.call(
            "POST", _path(run_id, "/trim"), body=encode_json(TrimRun(through))
        )

    async def remove(self, run_id: str) -> None:
        """As the contract says. A run of many records takes its time: after `LogUnavailable` the server
        may still be at it.
        """
        await self._transport.call("DELETE", _path(run_id), done=_NOT_FOUND)

    async def list(
        self,
        *,
        workflow: str | None = None,
        status: Status | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> Sequence[RunInfo]:
        limit = check_limit(limit, LIST_LIMIT_MAX)
        found: list[RunInfo] = []
        # A server looks at some at a time for those that a narrow token may see.
        for _ in range(LIST_PAGES_MAX):
            left = str(limit - len(found))
            asked = {"workflow": workflow, "status": status, "before": before, "limit": left}
            query = urlencode(
                {name: value for name, value in asked.items() if value is not None},
                errors="replace",
            )
            runs, before = read_runs((await self._transport.call("GET", "/runs", query=query)).body)
            found += runs
            if before is None or len(found) >= limit:
                return found
        raise NotALog(
            f"{self._transport.base} answers with page after page and no end of runs: is the URL right, and "
            "may the token see any of them?"
        )

    def follow(self, run_id: str, *, start: Start, filter: Filter, follow: bool) -> Pages:
        """What `Follows` promises, over server-sent events."""
        asked = EventsQuery(start=start, filter=filter, follow=follow)
        return Follower(self._transport, self._origin, run_id, asked).pages()

    async def aclose(self) -> None:
        await self._transport.aclose()


def _path(run_id: str, rest: str = "") -> str:
    """The address of a run. Raises RunNotFound for what no run can be called."""
    try:
        return f"/runs/{check_run_id(run_id)}{rest}"
    except InvalidInput as error:
        raise no_such_run(run_id) from error


def _check_token(token: str) -> None:
    """Raises InvalidInput, without showing it."""
    if not _TOKEN.fullmatch(token):
        raise InvalidInput(
            f"a token is 1 to {TOKEN_LENGTH_MAX} printable ASCII characters without spaces"
        )

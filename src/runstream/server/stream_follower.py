"""One subscriber of one run: from its position through history to live, until the end of the run.

It has a position and no queue. Live it takes shared chunks from the stream's reader; behind that one's ring
it is read from the log, a page at a time, at the pace at which its client takes what is sent.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable
from contextlib import AbstractContextManager
from types import CoroutineType
from typing import Final, Literal

from starlette.types import Send

from ..admission import LEASE_LAPSED, lost_draft
from ..api import RETRY_MS, StreamEnd
from ..errors import GenerationChanged, PositionGone, RunNotFound, RunstreamError, Unauthorized
from ..log import RunInfo
from ..position import GONE, gap_behind
from ..record import Cursor, Draft, Origin, Record
from ..sse import Control
from .access import Principal
from .answers import NO_STORE, Noting, problem_for
from .batches import Batches, Chunk, View
from .followers import Followers
from .remainder import Remainder
from .shared_reader import SharedReader

# Between two looks at whether a token still holds.
VALID_S: Final = 10.0
# Those who are all cut at once come back spread over this time (ms), beside the usual one.
RETRY_SPREAD_MS: Final = 2000

# Who is told one of these may come back and resume; others would get the same answer again.
COME_BACK: Final = frozenset({429, 500, 503})

EndReason = Literal["ended", "caught_up", "removed"]

_DONE: Final = object()

logger = logging.getLogger(__name__)


class StreamFollower:
    """A subscriber whose response has not started. `run()` serves it to the end.

    `position` is of the run's stream; `stop` is the seq at which there is nothing more to wait for (None:
    it follows).
    """

    __slots__ = (
        "_busy", "_direct", "_due", "_followers", "_generation", "_heartbeat_s", "_info", "_leaving",
        "_parked", "_principal", "_reader", "_remainder", "_seen", "_send", "_sent", "_seq", "_spoke_at",
        "_stalled_s_max", "_started", "_stop", "_task", "_told", "_valid_at", "_wake", "cut_reason", "view",
    )  # fmt: skip

    def __init__(
        self,
        followers: Followers,
        principal: Principal,
        info: RunInfo,
        view: View,
        position: Cursor,
        send: Send,
        *,
        stop: int | None,
        heartbeat_s: float,
        stalled_s_max: float,
    ) -> None:
        # Why it was cut off: its client has gone, or does not read.
        self.cut_reason: str | None = None
        self._followers = followers
        self._principal = principal
        self._info = info
        self.view = view
        self._generation = position.generation or info.generation
        self._seq = position.seq
        # Up to which seq the client can resume.
        self._told = position.seq
        self._send = send
        self._stop = stop
        self._heartbeat_s = heartbeat_s
        self._stalled_s_max = stalled_s_max
        self._reader: SharedReader | None = None
        self._task = asyncio.current_task()
        # While it waits for news (`_parked`) others may ring, and the reader may write for it (`_direct`);
        # what is left of such a write is then its own to wait for.
        self._parked = False
        self._wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._direct = False
        self._remainder: Remainder | None = None
        self._leaving: RunstreamError | None = None
        self._started = False
        # What the clock sees: writes begun, whether one is under way, and what it saw before.
        self._sent = 0
        self._busy = False
        self._due = False
        self._seen = -1
        self._spoke_at = self._valid_at = asyncio.get_running_loop().time()

    # --- what others tell it -----------------------------------------------------------------------

    @property
    def lag(self) -> int:
        # What somebody else's reader knows counts, too: this one may be stuck in the history.
        reader = self._reader or self._followers.reader(self._info.root_run_id, self._generation)
        newest = self._info.last_seq if reader is None else reader.recent.last_seq
        return max(newest - self._seq, 0)

    def ring(self) -> None:
        if self._parked and not self._wake.done():
            self._parked = False
            self._wake.set_result(None)

    def take(self, chunk: Chunk) -> bool:
        if not self._parked:
            return False
        if not self._direct or chunk.after != self._seq:
            self.ring()
            return False
        if chunk.body:
            return self._begin_write(chunk)
        self._seq = chunk.through
        return True

    def _begin_write(self, chunk: Chunk) -> bool:
        """Write for the task that waits; False if it has to take over."""
        self._sent += 1
        self._told = chunk.told
        try:
            steps = self._send(chunk.message).__await__()
            first = next(steps, _DONE)
        except Exception as error:  # noqa: BLE001 - it goes to the task
            self._parked = False
            if not self._wake.done():
                self._wake.set_exception(error)
            return False
        self._seq = chunk.through
        if first is _DONE:
            return True
        self._remainder = Remainder(first, steps)
        self._busy = True
        self._followers.metrics.delivered(chunk.records, len(chunk.body))
        self.ring()
        return False

    def leave(self, error: RunstreamError) -> None:
        """Tell the client why, and end, as soon as it has taken what is under way."""
        self._leaving = self._leaving or error
        self.ring()

    def cut(self, reason: str) -> None:
        """End at once: nobody reads any more."""
        if self.cut_reason is None and self._task is not None:
            self.cut_reason = reason
            self._task.cancel()

    def look(self, now: float) -> None:
        if self._sent != self._seen:
            self._seen = self._sent
            self._spoke_at = now
        elif self._busy:
            if now - self._spoke_at >= self._stalled_s_max:
                logger.warning(
                    "a subscriber of run %s took nothing for %.0f s and is cut off behind record %d",
                    self.view.run_id, self._stalled_s_max, self._seq,
                )  # fmt: skip
                self._followers.metrics.cut("stalled")
                self.cut("stalled")
        elif self._seq > self._told or now - self._spoke_at >= self._heartbeat_s:
            self._due = True
            self.ring()
        expires = self._principal.expires
        if expires is not None and time.time() >= expires:
            self._expire()
        elif now - self._valid_at >= VALID_S:
            self._valid_at = now
            if not self._principal.still_valid():
                self._expire()

    def _expire(self) -> None:
        if self._leaving is None:
            self._followers.metrics.cut("expired")
            self.leave(Unauthorized("the token has expired: connect again with a new one"))

    # --- the way to the end -----------------------------------------------------------------------

    async def run(self, attended: AbstractContextManager[None]) -> None:
        """Serve the subscriber, `attended` meanwhile, until its run ends or it has to leave. Its last words
        say why.

        If nothing of an ended run is left to come the answer is 204, which stops an EventSource.

        Raises:
            RunstreamError: only before the response has started.
        """
        # (It waits in this one coroutine: each more, in thousands of subscribers, costs a few hundred bytes.)
        with attended:
            reason: EndReason | None = None
            try:
                while reason is None:
                    if self._leaving is not None:
                        raise self._leaving
                    if self._due:
                        await self._say_something()
                    reason = await self._go_on()
                    if self._parked:
                        await self._wake
                        await self._finish_write()
                if not self._started and reason == "ended":
                    await self._send_no_content()
                    return
                await self._start()
                last_words = self._control("stream.end", StreamEnd(reason=reason))
            except Exception as error:
                if not self._started:
                    raise
                if not isinstance(error, RunstreamError):
                    logger.exception("following run %s failed", self.view.run_id)
                last_words = self._farewell(error)
            finally:
                self._parked = False
                self._unfollow()
            await self._write(last_words, more=False)

    async def _go_on(self) -> EndReason | None:
        """Send what there is, or else park."""
        reader = self._join()
        if reader is None:
            return await self._read_stored()
        chunk = reader.recent.chunk(self.view, self._seq)
        if chunk is not None:
            return await self._send_chunk(chunk)
        return await self._come_to_rest(reader)

    def _join(self) -> SharedReader | None:
        """The stream's reader, if it has what comes behind the position."""
        reader = self._reader
        if reader is None and self._stop is None:
            reader = self._followers.reader(self._info.root_run_id, self._generation)
        if reader is None or not reader.recent.holds(self._seq):
            return None
        self._follow(reader)
        return reader

    def _follow(self, reader: SharedReader) -> None:
        if reader is not self._reader:
            self._unfollow()
            reader.join(self.view.run_id)
            self._reader = reader

    def _unfollow(self) -> None:
        if self._reader is not None:
            self._reader.leave(self.view.run_id, self)
            self._reader = None

    async def _read_stored(self) -> EndReason | None:
        try:
            page = await self._followers.stored(self._info.root_run_id, self._cursor)
        except GONE as error:
            return await self._tell_gap(error)
        reason = await self._send_all(page.batches)
        if reason is not None:
            return reason
        if page.ended or (self._stop is not None and self._seq >= self._stop):
            return "ended" if page.ended or self._info.has_ended else "caught_up"
        if page.is_short and self._stop is None:
            # The reader goes on from here, if it is not further already.
            self._follow(self._followers.start_reader(self._info.root_run_id, self._cursor))
        return None

    async def _send_all(self, batches: Batches) -> EndReason | None:
        while (chunk := batches.chunk(self.view, self._seq)) is not None:
            reason = await self._send_chunk(chunk)
            if reason is not None:
                return reason
            if self._leaving is not None:
                raise self._leaving
            # Sending to a client that keeps up does not wait, and others want their turn.
            await asyncio.sleep(0)
        return None

    async def _come_to_rest(self, reader: SharedReader) -> EndReason | None:
        """At the newest record: park until anything happens, if nothing has yet."""
        if reader.failure is not None:
            raise reader.failure
        if reader.is_gone:
            self._unfollow()
            return None
        if not reader.lost.isdisjoint((self._info.root_run_id, self.view.run_id)):
            # The log may only be read: the run still ends for those who follow it.
            await self._tell(lost_draft(self.view.run_id, LEASE_LAPSED))
            return "ended"
        if reader.ended:
            return "ended"
        if not self._started:
            await self._start()
            return None
        self._wake = asyncio.get_running_loop().create_future()
        self._parked = True
        reader.wait(self)
        return None

    async def _finish_write(self) -> None:
        """What the reader began to write meanwhile has to wait: for the client, most likely."""
        if self._remainder is not None:
            remainder, self._remainder = self._remainder, None
            await remainder
            self._busy = False

    # --- what it says ------------------------------------------------------------------------------

    @property
    def _cursor(self) -> Cursor:
        return Cursor(self._generation, self._seq)

    async def _send_chunk(self, chunk: Chunk) -> EndReason | None:
        if chunk.body:
            if not self._started:
                await self._start()
            await self._write_chunk(chunk)
            self._busy = False
        self._seq = chunk.through
        return "ended" if chunk.ended else None

    async def _tell_gap(
        self, error: GenerationChanged | PositionGone | RunNotFound
    ) -> EndReason | None:
        gap = gap_behind(self.view.run_id, self._cursor, error)
        self._unfollow()
        if gap.goes_on is not None:
            self._generation = gap.goes_on.generation or self._generation
            self._seq = gap.goes_on.seq
            if self._stop is not None:
                self._stop = max(self._stop, self._seq)
        await self._tell(gap.draft)
        self._followers.metrics.gap(gap.reason)
        return "removed" if gap.goes_on is None else None

    async def _tell(self, draft: Draft) -> None:
        """What is not stored, so it has no seq: reading goes on at the present position."""
        origin = Origin(self._generation, self._info.workflow, None, self._info.root_run_id)
        record = Record(0, draft, origin, resume_seq=self._seq)
        await self._start()
        await self._write(self.view.form.unnumbered(record))
        self._told = self._seq

    async def _say_something(self) -> None:
        self._due = False
        await self._start()
        if self._seq > self._told:
            await self._write(self._control("stream.cursor", {}))
            self._told = self._seq
        else:
            await self._write(self.view.form.heartbeat(self._cursor))

    def _farewell(self, error: Exception) -> bytes:
        problem, _ = problem_for(error)
        retry_ms = None
        if problem.status in COME_BACK:
            retry_ms = RETRY_MS + random.randrange(RETRY_SPREAD_MS)  # noqa: S311 - no secret
        return self._control("stream.error", problem, retry_ms)

    def _control(self, kind: Control, data: object, retry_ms: int | None = None) -> bytes:
        return self.view.form.control(kind, self._cursor, data, retry_ms=retry_ms)

    async def _start(self) -> None:
        """Begin the response; at once with a cursor, so that even an early reconnection resumes."""
        if self._started:
            return
        self._started = True
        headers = [
            (b"content-type", self.view.form.media_type),
            NO_STORE,
            # nginx would keep what is live until it has a buffer full of it.
            (b"x-accel-buffering", b"no"),
        ]
        starting = self._send({"type": "http.response.start", "status": 200, "headers": headers})
        # A coroutine may depend on the task that it runs in; what a server gives itself does not.
        self._direct = not isinstance(starting, CoroutineType)
        await starting
        if isinstance(self._send, Noting):
            self._send = self._send.past_start
        await self._write(self._control("stream.cursor", {}, RETRY_MS))

    async def _send_no_content(self) -> None:
        await self._send({"type": "http.response.start", "status": 204, "headers": [NO_STORE]})
        await self._send({"type": "http.response.body", "body": b""})

    def _write_chunk(self, chunk: Chunk) -> Awaitable[None]:
        self._sent += 1
        self._busy = True
        self._told = chunk.told
        self._followers.metrics.delivered(chunk.records, len(chunk.body))
        return self._send({"type": "http.response.body", "body": chunk.body, "more_body": True})

    async def _write(self, body: bytes, *, more: bool = True) -> None:
        self._sent += 1
        self._busy = True
        await self._send({"type": "http.response.body", "body": body, "more_body": more})
        self._busy = False

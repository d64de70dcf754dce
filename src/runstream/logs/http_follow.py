"""Following a run over server-sent events: one response after the other, read as one stream.

A connection that is lost is made again and goes on behind the last record. What the server tells about
(records that are gone, the end, a refusal) becomes what a subscription in the log's own process would see.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from ..api import SSE
from ..errors import (
    Forbidden,
    GenerationChanged,
    InvalidInput,
    LogUnavailable,
    NotALog,
    PositionGone,
    RunNotFound,
    RunstreamError,
)
from ..events_query import EventsQuery, encode_events_query
from ..position import GONE, gap_behind
from ..record import TERMINAL_KINDS, Cursor, Draft, Origin, Record
from ..retry import Retry
from ..sse_parser import Frame, SseParser
from ..start import Start
from .http_codec import EnvelopeIn
from .http_refusals import Busy, refusal_told
from .http_transport import Transport

logger = logging.getLogger(__name__)

# The first pause after a loss (s): a server that was restarted is there soon, and a proxy that cut an
# old connection at once.
RECONNECT_S: Final = 0.1
# The failure in a row that is told (once): a lost connection that is there again at the first attempt
# is nobody's business.
FAILURES_TOLD: Final = 2

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)
_ENVELOPE: Final = msgspec.json.Decoder(EnvelopeIn)
_CONTROL: Final = frozenset({b"stream.gap", b"stream.end", b"stream.error", b"stream.cursor"})
_NO_CONTENT: Final = 204


class Follower:
    """One subscription to a run of a server."""

    def __init__(
        self,
        transport: Transport,
        origin: Callable[[str], Awaitable[Origin]],
        run_id: str,
        asked: EventsQuery,
    ) -> None:
        self.run_id = run_id
        self._transport = transport
        self._origin = origin
        self._asked = asked
        self._origins: dict[str, Origin] = {}
        # Where the stream stands: what the server told last, and the number of the last record.
        self._cursor = b""
        self._generation = ""
        self._prefix = b""
        self._seq = 0
        # Nothing comes behind what was handed on; or the server has ended this response early.
        self._ended = False
        self._error: RunstreamError | None = None
        self._goes_on = True
        self._retry_ms: int | None = None
        self._connected = False
        self._failures = 0
        self._failing_since = 0.0
        self._pauses = Retry(
            attempts=2**31, delay=RECONNECT_S, max_delay=transport.times.reconnect_s_max
        )

    async def pages(self) -> AsyncGenerator[list[Record], None]:
        """Records as they come, in lists, until the end."""
        while True:
            try:
                async with aclosing(self._connection()) as parts:
                    async for frames in parts:
                        records = await self._take(frames)
                        if records:
                            yield records
                        if self._error is not None:
                            raise self._error
                        if self._ended:
                            return
                return  # there is nothing (any more)
            except (Busy, LogUnavailable) as lost:
                await self._before_next(lost)
            except GONE as error:
                if isinstance(error, RunNotFound) and not self._generation:
                    raise
                gap = await self._take_gap(error)
                yield [gap]
                if not self._goes_on:
                    return

    async def _take(self, frames: list[Frame]) -> list[Record]:
        """The records of the frames; where that fails, they are asked for again."""
        self._connected = True
        if not frames:
            return []
        self._failures = 0
        before = self._seq
        try:
            records = await self._records(frames)
        except LogUnavailable:
            self._seq = before
            raise
        self._cursor = frames[-1][0] or self._cursor
        return records

    async def _before_next(self, lost: Busy | LogUnavailable) -> None:
        """Pause before the next connection. Raises why if there was none yet, and time is up."""
        error = lost.error if isinstance(lost, Busy) else lost
        self._failures += 1
        now = time.monotonic()
        if self._failures == 1:
            self._failing_since = now
        pause_s = self._pauses.pause(self._failures, random.random()) or 0.0  # noqa: S311 - jitter
        if isinstance(lost, Busy):
            pause_s = max(pause_s, lost.again_after_s)
        elif self._error is not None and self._retry_ms is not None:
            # A server that stops tells each of its followers another time, so that they don't come at once.
            pause_s = max(pause_s, self._retry_ms / 1000)
        self._error = None
        persist_s = self._transport.times.persist_s
        if not self._connected and now + pause_s > self._failing_since + persist_s:
            raise error
        if self._failures == FAILURES_TOLD:
            logger.warning("run %s: connecting again until it works: %s", self.run_id, error)
        await self._transport.pause(pause_s)

    async def _connection(self) -> AsyncGenerator[list[Frame], None]:
        """The frames of one response as they come; first an empty list, when it begins."""
        asked, headers = self._asked, {"accept": SSE}
        if self._cursor:
            asked = msgspec.structs.replace(asked, start=Start())
            headers["last-event-id"] = self._cursor.decode("latin-1")
        path, query = f"/runs/{self.run_id}/events", encode_events_query(asked)
        async with self._transport.stream(path, query, headers) as response:
            if response.status == _NO_CONTENT:
                return
            if response.content_type != SSE:
                raise NotALog(
                    f"{self._transport.base} answers with {response.content_type}, not with events: "
                    "is the URL right?"
                )
            yield []
            parser = SseParser()
            async for part in response.content.iter_any():
                frames = parser.feed(part)
                self._retry_ms = parser.retry_ms
                if frames:
                    yield frames
            raise LogUnavailable(f"{self._transport.base} ended the stream")

    async def _records(self, frames: list[Frame]) -> list[Record]:
        """The records of the frames, up to the end of the run if they tell of it."""
        records: list[Record] = []
        origins = self._origins
        for cursor, kind, data in frames:
            if kind in _CONTROL:
                await self._obey(cursor, kind, data, records)
                if self._ended or self._error is not None:
                    break
                continue
            if not cursor.startswith(self._prefix) or not self._prefix:
                self._move_to(cursor)
            found = _decode(data)
            if 0 < found.seq <= self._seq:
                continue  # it has been handed on
            origin = origins.get(found.run_id) or await self._learn(found)
            draft = _draft(found)
            if found.seq:
                self._seq = found.seq
                records.append(Record(found.seq, draft, origin))
            else:  # the end of a run that nobody could store
                records.append(Record(0, draft, origin, resume_seq=_position(cursor).seq))
            if found.kind in TERMINAL_KINDS and found.run_id == self.run_id:
                self._ended = True
                break
        return records

    async def _obey(self, cursor: bytes, kind: bytes, data: bytes, records: list[Record]) -> None:
        """What a control frame says; it is about the stream, not of it."""
        if kind == b"stream.end":
            self._ended = True
        elif kind == b"stream.error":
            self._error = refusal_told(data)
        elif kind == b"stream.cursor":
            self._move_to(cursor)
            self._seq = _position(cursor).seq
        else:
            found = _decode(data)
            self._move_to(cursor)
            self._seq = _position(cursor).seq
            origin = self._origins.get(self.run_id) or await self._learn(found)
            records.append(Record(0, _draft(found), origin, resume_seq=self._seq))

    def _move_to(self, cursor: bytes) -> None:
        """Take over the generation of a cursor; the numbers of another one begin anew."""
        generation = _position(cursor).generation
        if generation is None or generation == self._generation:
            return
        self._generation = generation
        self._prefix = generation.encode() + b"."
        self._seq = 0
        for run_id, origin in self._origins.items():
            self._origins[run_id] = msgspec.structs.replace(origin, generation=generation)

    async def _learn(self, found: EnvelopeIn) -> Origin:
        """What is known of a record's run besides its id. A child's first record says it all."""
        if found.kind == "run.started" and found.run_id != self.run_id:
            origin = _origin_told(found, self._generation)
        else:
            origin = await self._look_up(found.run_id)
        self._origins[found.run_id] = origin
        return origin

    async def _look_up(self, run_id: str) -> Origin:
        try:
            origin = await self._origin(run_id)
        except (Forbidden, RunNotFound):
            # A token for one run may see what its children write, but not ask about them.
            root = self._origins.get(self.run_id)
            return Origin(self._generation, "", None, root.root_run_id if root else self.run_id)
        return msgspec.structs.replace(origin, generation=self._generation or origin.generation)

    async def _take_gap(self, error: GenerationChanged | PositionGone | RunNotFound) -> Record:
        """What tells of the records that are gone; the next connection goes on behind them."""
        asked = self._asked.start.after or Cursor(None, (self._asked.start.from_seq or 1) - 1)
        position = Cursor(self._generation, self._seq) if self._generation else asked
        gap = gap_behind(self.run_id, position, error)
        self._goes_on = gap.goes_on is not None
        if gap.goes_on is not None:
            self._cursor = str(gap.goes_on).encode()
            self._move_to(self._cursor)
            self._seq = gap.goes_on.seq
        origin = self._origins.get(self.run_id) or await self._look_up(self.run_id)
        return Record(0, gap.draft, origin, resume_seq=(gap.goes_on or position).seq)


def _decode(data: bytes) -> EnvelopeIn:
    try:
        return _ENVELOPE.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotALog(f"the server sends something that is not a record: {error}") from error


def _draft(found: EnvelopeIn) -> Draft:
    return Draft(
        (found.time - _EPOCH) // _US,
        found.run_id,
        found.kind,
        found.data,
        found.topic,
        found.step,
        found.step_run_id,
        found.attempt,
        found.correlation_id,
        found.index,
    )


def _position(cursor: bytes) -> Cursor:
    try:
        return Cursor.parse(cursor.decode("latin-1"))
    except InvalidInput as error:
        raise NotALog(f"the server sends an event with an id that is no cursor: {error}") from error


def _origin_told(found: EnvelopeIn, generation: str) -> Origin:
    try:
        told = msgspec.json.decode(found.data, type=_Started)
    except msgspec.DecodeError:
        told = _Started()
    return Origin(generation, told.workflow, told.parent_run_id, told.root_run_id or found.run_id)


class _Started(msgspec.Struct):
    """What a `run.started` record says of its run."""

    workflow: str = ""
    parent_run_id: str | None = None
    root_run_id: str | None = None

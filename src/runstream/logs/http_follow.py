"""Following a run over server-sent events: one response after the other, read as one stream.

A connection that is lost is made again and goes on behind the last record. What the server tells about
(records that are gone, the end, a refusal) becomes what a subscription in the log's own process would see.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from ..api import SSE
from ..errors import (
    Forbidden,
    LogUnavailable,
    NotALog,
    RunNotFound,
    RunstreamError,
    TooManySubscribers,
)
from ..filter import Filter
from ..log import RunInfo
from ..record import GAP, TERMINAL_KINDS, Cursor, Draft, Origin, Record, make_draft
from ..retry import Retry
from ..sse_parser import Frame, SseParser
from ..start import Start
from .http_codec import EnvelopeIn
from .http_transport import Transport, refusal

logger = logging.getLogger(__name__)

# The pause before the first attempt after a loss (s): a server that was restarted, or a proxy that cut
# an old connection, is there at once.
RECONNECT_S: Final = 0.1

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
        info: Callable[[str], Awaitable[RunInfo]],
        run_id: str,
        path: str,
        *,
        start: Start,
        filter: Filter,
        follow: bool,
    ) -> None:
        self.run_id = run_id
        self._transport = transport
        self._info = info
        self._path = path
        self._query = _filter_query(filter) + ([] if follow else [("follow", "false")])
        self._start_query = _start_query(start)
        self._origins: dict[str, Origin] = {}
        # The last position that the server has told; records up to it have been handed on.
        self._cursor = b""
        self._generation = b""
        self._seq = 0
        self._ended = False
        self._reconnect = Retry(
            attempts=2**31, delay=RECONNECT_S, max_delay=transport.times.reconnect_s_max
        )

    async def pages(self) -> AsyncGenerator[list[Record], None]:
        """Records as they come, in lists, until the end."""
        failures, failing_since, connected = 0, 0.0, False
        while True:
            heard = False
            try:
                async for frames in self._one_connection():
                    connected = heard = True
                    failures = 0
                    records = await self._records(frames)
                    if records:
                        yield records
                    if self._ended:
                        return
                error: RunstreamError = LogUnavailable("the server ended the stream")
            except (LogUnavailable, TooManySubscribers) as lost:
                error = lost
            except RunNotFound:
                if not connected:
                    raise
                yield [self._removed()]
                return
            if self._ended:
                return
            failures += 1
            now = time.monotonic()
            if failures == 1:
                failing_since = now
            pause_s = self._reconnect.pause(failures, random.random()) or 0.0  # noqa: S311 - jitter
            if not connected and now + pause_s > failing_since + self._transport.times.persist_s:
                raise error
            if failures == 1 and connected:
                logger.log(
                    logging.INFO if heard else logging.WARNING,
                    "run %s: %s; connecting again until it answers",
                    self.run_id,
                    error,
                )
            await self._transport.pause(pause_s)

"""How the processes on a PostgreSQL log wake each other: one listening connection each, off the write path.

A commit that notifies holds a lock which all such commits of the server queue for, so an append never does:
a connection of its own tells, after the commit, what is new, in as few notifications as it can. What is lost
on the way (a broken connection, a pool in between that cannot listen) is found by looking.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

import psycopg
from psycopg import sql

from ..bell import Bell
from ..errors import LogUnavailable, RunstreamError
from .postgres_line import Line, Lines, TablesGone
from .postgres_read import Tail, tails
from .postgres_url import Address

# Streams whose end we remember, some hundred bytes each.
STREAMS_MAX: Final = 10_000
# Between two notifications of a process: what is new meanwhile shares the next one.
TELL_PAUSE_S: Final = 0.001
# The server takes less than 8000 bytes in one.
PAYLOAD_BYTES_MAX: Final = 7900
# Between two looks at the streams that somebody waits for: while the looks find what nobody told, the
# first; while they find nothing of the kind, ever longer up to the second.
LOOK_S_MIN: Final = 0.02
LOOK_S_MAX: Final = 1.0
# Streams in one look: some milliseconds of the server's time.
STREAMS_PER_LOOK: Final = 2000
# Between two attempts to reach a server that is gone.
RETRY_S: Final = 0.2
# Closing does not wait for longer until the last commits are told.
CLOSE_TELL_S: Final = 1.0

logger = logging.getLogger(__name__)

# What is told of a run: its id, its stream's generation ("-": the run is gone) and newest seq.
News = tuple[str, str, int]
GONE: Final = "-"


class Tails:
    """How far the streams of runs have got, as far as this process knows. Safe for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tails: OrderedDict[str, Tail] = OrderedDict()
        # Only while we are told of every commit is what we know worth anything.
        self._told = False

    def get(self, run_id: str) -> Tail | None:
        with self._lock:
            return self._tails.get(run_id) if self._told else None

    def knows(self, run_id: str) -> bool:
        """Whether the stream was there when somebody last looked."""
        with self._lock:
            return run_id in self._tails

    def saw(self, run_id: str, tail: Tail) -> bool:
        """Remember a look at the log; True if it is news."""
        with self._lock:
            known = self._tails.get(run_id)
            if known is not None and known[1] == tail[1] and known[2:] >= tail[2:]:
                return False
            self._tails[run_id] = tail
            self._tails.move_to_end(run_id)
            if len(self._tails) > STREAMS_MAX:
                self._tails.popitem(last=False)
            return True

    def heard(self, news: Iterable[News]) -> None:
        """Take in what was told; of streams that nobody here has asked for nothing is kept."""
        with self._lock:
            for run_id, generation, seq in news:
                known = self._tails.get(run_id)
                if known is None:
                    continue
                if known[1] != generation:
                    del self._tails[run_id]
                elif seq > known[2]:
                    self._tails[run_id] = (known[0], generation, seq, known[3])

    def forget(self, run_ids: Iterable[str] | None = None, *, told: bool | None = None) -> None:
        """Forget some streams, or all; `told`: whether we hear of every commit from now on."""
        with self._lock:
            if run_ids is None:
                self._tails.clear()
            else:
                for run_id in run_ids:
                    self._tails.pop(run_id, None)
            if told is not None:
                self._told = told


class Watcher:
    """The tasks that tell, listen and look. In the log's loop, but for `bell` and `tails`."""

    def __init__(self, address: Address, bell: Bell, lines: Lines) -> None:
        self._address = address
        self._bell = bell
        self._lines = lines
        self.tails = Tails()
        self._listener = Line(address)
        self._teller = Line(address, relaxed=True)
        self._untold: dict[str, News] = {}
        self._call_teller = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._watching = False
        self._closing = False
        # Sessions of ours: what they tell we have heard before they did.
        self._own_pid = 0

    def start(self) -> None:
        """Begin to tell others what this process commits."""
        self._tasks.append(asyncio.ensure_future(self._tell()))

    def watch(self) -> None:
        """Begin to listen and look: somebody waits."""
        if not self._watching:
            self._watching = True
            self._tasks += [
                asyncio.ensure_future(self._listen()),
                asyncio.ensure_future(self._look()),
            ]

    def committed(self, news: Sequence[News]) -> None:
        """This process has committed; wake who waits here, and have the others told."""
        self._hear(news)
        for one in news:
            self._untold[one[0]] = one
        self._call_teller.set()

    async def close(self) -> None:
        """End, when what is untold has been told; but not if the server is slow to take it."""
        self._closing = True
        self._call_teller.set()
        if self._tasks:
            await asyncio.wait(self._tasks[:1], timeout=CLOSE_TELL_S)
        self._listener.end()
        self._teller.end()

    def _hear(self, news: Sequence[News]) -> None:
        self.tails.heard(news)
        self._bell.ring(run_id for run_id, _, _ in news)

    # --- telling ---------------------------------------------------------------------------------

    async def _tell(self) -> None:
        while self._untold or not self._closing:
            await self._call_teller.wait()
            self._call_teller.clear()
            if not self._untold:
                continue
            try:
                await self._tell_all()
            except (psycopg.Error, LogUnavailable):
                if self._closing:
                    return
                # Whoever waits for it looks by itself meanwhile.
                await asyncio.sleep(RETRY_S)
                self._call_teller.set()
            else:
                await asyncio.sleep(TELL_PAUSE_S)

    async def _tell_all(self) -> None:
        untold, self._untold = self._untold, {}
        try:
            async with self._teller.used() as connection:
                self._own_pid = connection.info.backend_pid
                await connection.execute(
                    "SELECT pg_notify(%s, payload) FROM unnest(%s::text[]) AS payload",
                    [self._address.channel, as_payloads(untold.values())],
                )
        except BaseException:
            self._untold = {**untold, **self._untold}
            raise

    # --- listening -------------------------------------------------------------------------------

    async def _listen(self) -> None:
        while not self._closing:
            try:
                # (A listener is silent for as long as nothing happens.)
                async with self._listener.used(timeout_s=None) as connection:
                    channel = sql.Identifier(self._address.channel)
                    await connection.execute(sql.SQL("LISTEN {}").format(channel))
                    self.tails.forget(told=True)
                    self._bell.ring_all()
                    async for notification in connection.notifies():
                        if notification.pid != self._own_pid:
                            self._hear(as_news(notification.payload))
            except (psycopg.Error, LogUnavailable) as error:
                logger.debug("not listening to %s: %s", self._address.shown, error)
            self.tails.forget(told=False)
            self._bell.ring_all()
            await asyncio.sleep(RETRY_S)

    # --- looking ---------------------------------------------------------------------------------

    async def _look(self) -> None:
        pause_s = LOOK_S_MIN
        while not self._closing:
            await asyncio.sleep(pause_s)
            found = False
            try:
                waited = self._bell.listened
                for start in range(0, len(waited), STREAMS_PER_LOOK):
                    found |= await self._look_at(waited[start : start + STREAMS_PER_LOOK])
            except (RunstreamError, TablesGone):
                self._bell.ring_all()  # whoever waits hears it from its own next call
                pause_s = LOOK_S_MAX
                continue
            pause_s = LOOK_S_MIN if found else min(pause_s * 2, LOOK_S_MAX)

    async def _look_at(self, waited: Sequence[str]) -> bool:
        """Ring for what is new in those streams; whether there was anything."""
        there = await self._lines.look(lambda connection: tails(connection, waited))
        news: list[str] = []
        for run_id in waited:
            tail = there.get(run_id)
            if tail is None:
                if self.tails.knows(run_id):
                    news.append(run_id)  # it was there, and has been removed
            elif self.tails.saw(run_id, tail):
                news.append(run_id)
        self.tails.forget(run_id for run_id in news if run_id not in there)
        self._bell.ring(news)
        return bool(news)


def as_payloads(news: Iterable[News]) -> list[str]:
    """The texts of as few notifications as they fit into."""
    payloads: list[str] = []
    lines: list[str] = []
    size_bytes = 0
    for run_id, generation, seq in news:
        line = f"{run_id} {generation} {seq}"
        if lines and size_bytes + len(line) + 1 > PAYLOAD_BYTES_MAX:
            payloads.append("\n".join(lines))
            lines, size_bytes = [], 0
        lines.append(line)
        size_bytes += len(line) + 1
    return [*payloads, "\n".join(lines)] if lines else payloads


def as_news(payload: str) -> list[News]:
    """What a notification says. (Anybody may write to a channel: what is not ours says nothing.)"""
    news: list[News] = []
    with suppress(ValueError):
        for line in payload.splitlines():
            run_id, generation, seq = line.split(" ")
            news.append((run_id, generation, int(seq)))
    return news

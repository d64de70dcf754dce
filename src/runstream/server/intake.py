"""Appends on their way to the log: those of all connections share hand-overs, as they share commits.

A log that writes on a thread of its own fetches what waits at the moment of its commit, and the loop is
woken once per commit, not once per request. Any other log is called directly.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from ..log import Appended, FetchesAppends, Log, PendingAppend, Producer
from ..record import Draft
from .crowd import Crowd

# Appends that one commit takes: bounds how long it holds the log, and so everyone's wait.
TAKEN_MAX: Final = 512
# Those that wait while each turn of the loop brings more: with so many a commit is worth beginning, and what
# comes meanwhile shares the next one.
GATHERED_MAX: Final = 32


class Intake:
    """Of one server, in one event loop."""

    def __init__(self, log: Log) -> None:
        self._log = log
        # (Asked once: looking for the abilities of an object is slow.)
        self._fetching = log if isinstance(log, FetchesAppends) else None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[PendingAppend] = deque()
        self._outcomes: deque[tuple[asyncio.Future[Appended], Appended | Exception]] = deque()
        self._lock = threading.Lock()
        self._woken = False
        self._asked = False
        self._kick: Callable[[], None] | None = None
        # Told of each append, in a process that does nothing but serve.
        self.crowd: Crowd | None = None

    async def append(
        self, run_id: str, drafts: Sequence[Draft], *, producer: Producer | None, final: bool
    ) -> Appended:
        """`Log.append`. Cancelling only stops the waiting."""
        if self.crowd is not None:
            self.crowd.comes()
        if producer is None or self._fetching is None:
            return await self._log.append(run_id, drafts, producer=producer, final=final)
        if self._loop is None or self._kick is None:
            self._loop = asyncio.get_running_loop()
            self._kick = self._fetching.fetch_from(self._take)
        told: asyncio.Future[Appended] = self._loop.create_future()
        self._waiting.append(
            PendingAppend(
                run_id,
                drafts,
                producer,
                final,
                partial(self._done, told, self._loop),
                awaited=True,
            )
        )
        if not self._asked:
            self._asked = True
            self._loop.call_soon(self._ask, self._loop, 0)
        return await told

    def _ask(self, loop: asyncio.AbstractEventLoop, waited: int) -> None:
        """Wake the log's thread, once a turn of the loop brings nothing more.

        Before that it could only take the interpreter away from requests that would share its commit.
        """
        if waited < len(self._waiting) < GATHERED_MAX:
            loop.call_soon(self._ask, loop, len(self._waiting))
            return
        self._asked = False
        if self._kick is not None:
            self._kick()

    def _take(self) -> list[PendingAppend]:
        """On the log's thread."""
        taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), TAKEN_MAX))]
        if self._waiting and self._kick is not None:
            self._kick()  # the log may have heard of all of them by now, and would not ask again
        return taken

    def _done(
        self,
        told: asyncio.Future[Appended],
        loop: asyncio.AbstractEventLoop,
        outcome: Appended | Exception,
    ) -> None:
        """On the log's thread."""
        with self._lock:
            self._outcomes.append((told, outcome))
            if self._woken:
                return
            self._woken = True
        loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        with self._lock:
            self._woken = False
        while self._outcomes:
            told, outcome = self._outcomes.popleft()
            if told.done():
                continue
            if isinstance(outcome, Exception):
                told.set_exception(outcome)
            else:
                told.set_result(outcome)

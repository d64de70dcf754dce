"""One reader per active stream and process: it reads what is new once, for all who follow the stream live.

Its memory is a ring of the newest records. Subscribers take what is behind their own position, so none has
a queue; one that falls behind the ring is read from the log again, at its own pace, until it is back. The
reader also watches the leases of the runs that are followed, so that a run whose process vanished ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Final, Protocol

from ..errors import RunstreamError
from ..lease import LeaseWatch
from ..log import READ_LIMIT_DEFAULT, Log
from ..position import GONE
from ..record import Cursor
from .batches import Batches, Chunk, View
from .metrics import Metrics

# A reader that nobody needs goes on for this time: pages that are polled, and tabs that reload, find it.
LINGER_S: Final = 5.0

logger = logging.getLogger(__name__)


# Subscribers that are served in one go; then others have their turn (about two milliseconds).
SERVED_AT_ONCE: Final = 250


class Waiter(Protocol):
    """Who has all that there was, and wants to hear of news."""

    @property
    def view(self) -> View | None:
        """What of the stream it wants, served together with all who want the same; None: only to be rung."""
        ...

    def ring(self) -> None:
        """Something has changed: look again."""
        ...

    def take(self, chunk: Chunk) -> bool:
        """Take what is new at once; True if it goes on waiting, False if it looks by itself, or has gone."""
        ...


class SharedReader:
    """Reads one generation of one stream from a position on, while somebody uses it."""

    def __init__(
        self, log: Log, metrics: Metrics, root_run_id: str, position: Cursor, bytes_max: int
    ) -> None:
        self.root_run_id = root_run_id
        self.generation = position.generation or ""
        self.recent = Batches(self.generation, position.seq)
        # The stream's terminal record has been read.
        self.ended = False
        # It reads no more: nobody used it, or its position cannot be read from (whoever asks the log hears
        # why) …
        self.is_gone = False
        # … or the log failed.
        self.failure: Exception | None = None
        # Runs whose lease lapsed in a log that may only be read.
        self.lost: set[str] = set()
        self._log = log
        self._metrics = metrics
        self._bytes_max = bytes_max
        self._run_ids: Counter[str] = Counter({root_run_id: 1})
        # In the order in which they came.
        self._waiting: dict[View | None, dict[Waiter, None]] = {}
        self._users = 0
        self._unused: asyncio.TimerHandle | None = None
        self._task = asyncio.create_task(self._run())

    @property
    def is_usable(self) -> bool:
        """Whether somebody who comes now is served."""
        return (
            not self.is_gone and self.failure is None and not (self._task.done() and not self.ended)
        )

    @property
    def is_needed(self) -> bool:
        """Whether somebody uses it, or may soon."""
        return self._users > 0 or not self._task.done()

    def join(self, run_id: str) -> None:
        """Somebody follows this run of the stream."""
        self._users += 1
        self._run_ids[run_id] += 1
        if self._unused is not None:
            self._unused.cancel()
            self._unused = None

    def leave(self, run_id: str, waiter: Waiter) -> None:
        """The opposite of `join`."""
        self._users -= 1
        self._run_ids[run_id] -= 1
        waiting = self._waiting.get(waiter.view)
        if waiting is not None:
            waiting.pop(waiter, None)
            if not waiting:
                del self._waiting[waiter.view]
        if not self._users:
            self._unused = asyncio.get_running_loop().call_later(LINGER_S, self._stop)

    def wait(self, waiter: Waiter) -> None:
        """Serve the waiter when there are records behind the newest one; ring it when anything else has
        changed.
        """
        self._waiting.setdefault(waiter.view, {})[waiter] = None

    async def aclose(self) -> None:
        """Stop reading."""
        if self._unused is not None:
            self._unused.cancel()
        self._stop()
        await asyncio.gather(self._task, return_exceptions=True)

    def _stop(self) -> None:
        # At once, not when the task has heard of it: nobody may join meanwhile, and wait for ever.
        self.is_gone = True
        self._task.cancel()

    async def _run(self) -> None:
        try:
            await self._read()
        except GONE:
            self.is_gone = True
        except Exception as error:
            # Whoever follows hears of it, and may come back.
            if not isinstance(error, RunstreamError):
                logger.exception("reading run %s failed", self.root_run_id)
            self.failure = error
        finally:
            self._ring()

    async def _read(self) -> None:
        watch = LeaseWatch(self._log)
        while True:
            after = self.recent.last_seq
            page = await self._log.read(self.root_run_id, after=Cursor(self.generation, after))
            if page.drafts:
                self.recent.add(page.drafts)
                self.recent.shrink(self._bytes_max)
                await self._serve(after)
            if page.ended:
                self.ended = True
                return
            # Those who look by themselves do it now.
            await asyncio.sleep(0)
            if len(page.drafts) < READ_LIMIT_DEFAULT:
                await self._wait(watch)

    async def _wait(self, watch: LeaseWatch) -> None:
        left_s = watch.due_in
        if left_s > 0:
            await self._log.wait(self.root_run_id, after=self.recent.last_seq, timeout=left_s)
            if watch.due_in > 0:
                return
        silent = await watch.look([run_id for run_id, users in self._run_ids.items() if users])
        if silent is not None and silent not in self.lost:
            self.lost.add(silent)
            self._ring()

    async def _serve(self, after: int) -> None:
        """Hand what is new behind `after` to all who wait. What arrives meanwhile is the next batch."""
        number = 0
        for view, waiting in list(self._waiting.items()):
            chunk = self._for_all(view, after)
            if chunk is None:
                _ring(waiting)
                continue
            served = 0
            for waiter in list(waiting):
                if waiter.take(chunk):
                    served += 1
                else:
                    waiting.pop(waiter, None)
                number += 1
                if number % SERVED_AT_ONCE == 0:
                    await asyncio.sleep(0)
            self._metrics.delivered(served * chunk.records, served * len(chunk.body))

    def _for_all(self, view: View | None, after: int) -> Chunk | None:
        """What is new, if one write has all of it. Else each looks by itself."""
        if view is None or not self.recent.holds(after):
            return None
        chunk = self.recent.chunk(view, after)
        whole = chunk is not None and not chunk.ended and chunk.through == self.recent.last_seq
        return chunk if whole else None

    def _ring(self) -> None:
        for waiting in self._waiting.values():
            _ring(waiting)


def _ring(waiting: dict[Waiter, None]) -> None:
    for waiter in waiting:
        waiter.ring()
    waiting.clear()

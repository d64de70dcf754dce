"""All who follow runs in one server process: their number, their readers, and the clock they share.

One task looks at all of them about once a second. So heartbeats, cursors, expired tokens and subscribers
that take nothing cost no task and no timer each.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from typing import Final, Protocol
from weakref import WeakValueDictionary

from ..errors import RunstreamError, TooManySubscribers
from ..filter import Filter
from ..log import READ_LIMIT_DEFAULT, Log, Page
from ..record import Cursor
from .answers import NotNow
from .batches import Batches, View
from .metrics import Lag, Metrics
from .shared_reader import SharedReader
from .stream_format import StreamFormat

# Between two looks at everyone; less where a limit is shorter than that.
LOOK_S: Final = 1.0
# Stored pages that several subscribers want at once (a page that many reload): kept for a moment, because
# trimmed records should not be seen much longer.
PAGES_BYTES_MAX: Final = 16 * 1024 * 1024
PAGES_S_MAX: Final = 5.0
# Large pages of JSON that are read and built at the same time, and searches for the last records that pass a
# filter: each takes up to some 20 MB while it lasts, and the log's readers have others to serve.
BULK_AT_ONCE: Final = 4
# The newest records of all streams that are followed. Beyond it each stream keeps its share, and who is
# further behind is read from the log.
RECENT_BYTES_MAX: Final = 256 * 1024 * 1024

logger = logging.getLogger(__name__)


class Follower(Protocol):
    """One request that waits or streams."""

    @property
    def lag(self) -> int:
        """How many records it is behind."""
        ...

    @property
    def cut_reason(self) -> str | None:
        """Why it was cut."""
        ...

    def cut(self, reason: str) -> None:
        """End at once, without a word: cancel the task that it is in."""
        ...

    def leave(self, error: RunstreamError) -> None:
        """Tell the client why, and end."""
        ...

    def look(self, now: float) -> None:
        """Some time has passed (`now`: the loop's)."""
        ...


class StoredPage:
    """A page as it was read, cut into chunks as subscribers ask for them."""

    __slots__ = ("batches", "ended", "is_short", "read_at")

    def __init__(self, page: Page, read_at: float) -> None:
        self.batches = Batches(page.generation, page.first_seq - 1)
        self.batches.add(page.drafts)
        self.ended = page.ended
        # Little is behind it, if anything.
        self.is_short = len(page.drafts) < READ_LIMIT_DEFAULT // 8
        self.read_at = read_at


class Followers:
    """The parts of a `Site` that followers share. All of it runs in one event loop."""

    def __init__(
        self,
        log: Log,
        metrics: Metrics,
        stopping: asyncio.Event,
        *,
        look_s: float,
        bytes_max: int,
        per_run_max: int,
        subscribers_max: int,
    ) -> None:
        self.metrics = metrics
        self.stopping = stopping
        self._log = log
        self._look_s = min(LOOK_S, look_s)
        self._bytes_max = bytes_max
        self._per_run_max = per_run_max
        self._subscribers_max = subscribers_max
        self._followers: set[Follower] = set()
        self._per_run: Counter[str] = Counter()
        self._readers: dict[str, SharedReader] = {}
        self._views: WeakValueDictionary[tuple[object, ...], View] = WeakValueDictionary()
        self._reading: dict[tuple[str, Cursor], asyncio.Task[StoredPage]] = {}
        self._pages: OrderedDict[tuple[str, Cursor], StoredPage] = OrderedDict()
        self._pages_bytes = 0
        self.bulk_room: Final = asyncio.Semaphore(BULK_AT_ONCE)
        self._clock: asyncio.Task[None] | None = None
        metrics.watch_lag(self._lag)

    # --- coming and going ------------------------------------------------------------------------

    def enter(self, follower: Follower, root_run_id: str) -> None:
        """Count a follower in, and look after it until it leaves.

        Raises:
            TooManySubscribers: the run, or the server, has as many as it may have.
            LogUnavailable: the server is stopping.
        """
        if self.stopping.is_set():
            raise stop_notice()
        if self._per_run[root_run_id] >= self._per_run_max:
            raise TooManySubscribers(
                f"run {root_run_id!r} has {self._per_run_max} subscribers, as many as this server takes"
            )
        if len(self._followers) >= self._subscribers_max:
            raise TooManySubscribers(
                f"this server has {self._subscribers_max} subscribers, as many as it takes"
            )
        self._per_run[root_run_id] += 1
        self._followers.add(follower)
        self.metrics.subscribed()
        if self._clock is None:
            self._clock = asyncio.create_task(self._look_after())

    def leave(self, follower: Follower, root_run_id: str) -> None:
        """The opposite of `enter`."""
        self._followers.discard(follower)
        self.metrics.unsubscribed()
        self._per_run[root_run_id] -= 1
        if not self._per_run[root_run_id]:
            del self._per_run[root_run_id]

    async def aclose(self) -> None:
        """End what goes on in the background. Nobody may follow any more."""
        if self._clock is not None:
            self._clock.cancel()
            await asyncio.gather(self._clock, return_exceptions=True)
        for reader in list(self._readers.values()):
            await reader.aclose()
        self._readers.clear()

    # --- what they share --------------------------------------------------------------------------

    def view(self, form: StreamFormat, run_id: str, wanted: Filter, *, is_root: bool) -> View:
        """The one view of all who want the same."""
        key = (form, run_id, is_root, wanted)
        found = self._views.get(key)
        if found is None:
            found = self._views[key] = View(form, run_id, is_root, wanted)
        return found

    def reader(self, root_run_id: str, generation: str) -> SharedReader | None:
        """The stream's reader, if there is one."""
        reader = self._readers.get(root_run_id)
        if reader is None or reader.generation != generation or not reader.is_usable:
            return None
        return reader

    def start_reader(self, root_run_id: str, position: Cursor) -> SharedReader:
        """The stream's reader, or a new one from `position` on."""
        reader = self.reader(root_run_id, position.generation or "")
        if reader is None:
            reader = SharedReader(self._log, self.metrics, root_run_id, position, self._bytes_max)
            self._readers[root_run_id] = reader
        return reader

    async def stored(self, root_run_id: str, position: Cursor) -> StoredPage:
        """What is stored behind a position: read once for all who ask at the same time.

        Raises what `Log.read` does.
        """
        key = (root_run_id, position)
        page = self._pages.get(key)
        if page is not None:
            return page
        task = self._reading.get(key)
        if task is None:
            task = self._reading[key] = asyncio.create_task(self._read(root_run_id, position))
            task.add_done_callback(lambda done: self._keep(key, done))
        # Whoever goes must not take it from the others.
        return await asyncio.shield(task)

    async def _read(self, root_run_id: str, position: Cursor) -> StoredPage:
        page = await self._log.read(root_run_id, after=position)
        return StoredPage(page, time.monotonic())

    def _keep(self, key: tuple[str, Cursor], task: asyncio.Task[StoredPage]) -> None:
        del self._reading[key]
        # The end of what is stored will soon be longer.
        if not task.cancelled() and task.exception() is None and not task.result().is_short:
            self._pages[key] = page = task.result()
            self._pages_bytes += page.batches.size_bytes
            self._forget_pages()

    def _forget_pages(self) -> None:
        """Of the kept pages those that are too old, or too many. The oldest come first."""
        before = time.monotonic() - PAGES_S_MAX
        while self._pages:
            page = next(iter(self._pages.values()))
            if self._pages_bytes <= PAGES_BYTES_MAX and page.read_at > before:
                break
            self._pages.popitem(last=False)
            self._pages_bytes -= page.batches.size_bytes

    # --- the clock ---------------------------------------------------------------------------------

    async def _look_after(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.stopping.is_set():
            try:
                async with asyncio.timeout(self._look_s):
                    await self.stopping.wait()
            except TimeoutError:
                self._look(loop.time())
        for follower in list(self._followers):
            follower.leave(stop_notice())

    def _look(self, now: float) -> None:
        for follower in list(self._followers):
            try:
                follower.look(now)
            except Exception:
                logger.exception("a subscriber could not be looked after")
        self._forget_pages()
        for root_run_id, reader in list(self._readers.items()):
            if not (reader.is_usable and reader.is_needed):
                del self._readers[root_run_id]
        if sum(reader.recent.size_bytes for reader in self._readers.values()) > RECENT_BYTES_MAX:
            for reader in self._readers.values():
                reader.recent.shrink(RECENT_BYTES_MAX // len(self._readers))

    def _lag(self) -> Lag:
        lags = [follower.lag for follower in self._followers]
        return Lag(max(lags, default=0), sum(lags))


def stop_notice() -> NotNow:
    """What those hear who wait or follow when the server goes."""
    return NotNow("the server is stopping: connect again in a moment")

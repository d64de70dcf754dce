"""Subscriptions: history, then live, as one loop over `read` and `wait`.

Nothing is skipped or repeated at the hand-over, because there is none. What cannot be read any more is
told as a gap. A subscription ends after the run's terminal record; while it waits it watches the run's
lease, so that a run whose process vanished ends for it too. A log that does not answer for a while is
asked again, and reading goes on where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from copy import copy
from itertools import repeat
from types import TracebackType
from typing import Final, Self

import msgspec

from .admission import (
    LEASE_LAPSED,
    lost_draft,
)
from .errors import (
    GenerationChanged,
    LogUnavailable,
    PositionGone,
    RunNotFound,
)
from .filter import Filter
from .lease import LOOK_S_MAX, LeaseWatch
from .log import (
    READ_LIMIT_DEFAULT,
    Follows,
    Log,
    Page,
    RunInfo,
)
from .position import GONE, first_position, gap_behind
from .record import Cursor, Origin, Record
from .retry import Retry
from .start import Start

# Between two attempts to read from a log that does not answer: soon enough to be unnoticed after a hiccup,
# rare enough to leave a log in trouble alone. A follower tries for ever; who only wants what is stored gets
# the error when the last of these has failed, after about half a minute.
PAUSES: Final = Retry(attempts=20, delay=0.05, max_delay=2.0)
# A log that fails so often in a row deserves a line in the program's log.
FAILURES_TOLD: Final = 3
# Of large records so many bytes are handed out in a row: to decode them takes some milliseconds, whatever
# they hold.
SLICE_BYTES: Final = 64 * 1024
# Those of a page are large if a few of them are, on average: to weigh each would cost small ones too much.
LARGE_BYTES: Final = 1024
SAMPLE_MAX: Final = 16

logger = logging.getLogger(__name__)

# A log that is still being opened.
OpenLog = Callable[[], Awaitable[Log]]


class Subscription:
    """Records of one run for one subscriber. An async iterator; `async with` closes it promptly.

    Each one has its own position, reads at its own pace, and holds one page at a time.
    """

    def __init__(
        self,
        log: Log | OpenLog,
        run_id: str,
        *,
        filter: Filter,
        start: Start,
        follow: bool = True,
        wait: bool = False,
    ) -> None:
        self.run_id = run_id
        self._open_log = log if callable(log) else None
        if not callable(log):
            self._log = log
        self._filter = filter
        self._start = start
        self._follow = follow
        self._wait_for_run = wait
        self._origins: dict[str, Origin] = {}
        self._is_root = True
        self._records: AsyncGenerator[Record, None] | None = None

    def __aiter__(self) -> AsyncIterator[Record]:
        if self._records is None:
            # What is left behind in the middle (`break`) ends at once, not when the collector finds it: so
            # this may refer to the one that reads, and that one not to this.
            self._records = _flatten(copy(self))
        return self._records

    async def __anext__(self) -> Record:
        return await anext(self.__aiter__())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop; the iterator ends."""
        if self._records is not None:
            await self._records.aclose()

    async def pages(self) -> AsyncGenerator[list[Record], None]:
        """The same records, in the lists that they were read in (never empty)."""
        info = await self._find_run()
        pages = (
            self._log.follow(
                self.run_id, start=self._start, filter=self._filter, follow=self._follow
            )
            if isinstance(self._log, Follows)
            else self._read_and_wait(info)
        )
        async with aclosing(pages):
            async for records in pages:
                yield records

    async def _read_and_wait(self, info: RunInfo) -> AsyncGenerator[list[Record], None]:
        position = await first_position(self._log, info, self._start, self._filter)
        watch = LeaseWatch(self._log)
        watch.saw(info)
        # Of a run that has ended only what is stored can come (a child's root may go on).
        stop = None if self._follow and not info.has_ended else info.last_seq
        failures = 0
        while True:
            try:
                page = await self._log.read(info.root_run_id, after=position)
                records, ended = await self._records_of(page)
            except GONE as error:
                gap, goes_on = self._gap(position, error)
                yield [gap]
                if goes_on is None:
                    return
                position = goes_on
                stop = stop and max(stop, position.seq)
                continue
            except LogUnavailable as error:
                failures += 1
                await self._rest(failures, error, follow=stop is None)
                watch.forget()
                continue
            failures = 0
            position = Cursor(page.generation, page.last_seq)
            if records:
                yield records
            if ended or page.ended or (stop is not None and position.seq >= stop):
                return
            # Readers of a busy stream never have to wait; the rest of the program wants its turn.
            await asyncio.sleep(0)
            if len(page.drafts) < READ_LIMIT_DEFAULT and stop is None:
                lost = await self._wait(watch, info.root_run_id, position)
                if lost is not None:
                    yield [lost]
                    return

    async def _rest(self, failures: int, error: LogUnavailable, *, follow: bool) -> None:
        """Leave a log that does not answer alone for a moment. Raises the error if it is time for it."""
        attempt = min(failures, PAUSES.attempts - 1) if follow else failures
        pause_s = PAUSES.pause(attempt, random.random())  # noqa: S311 - jitter
        if pause_s is None:
            raise error
        if failures == FAILURES_TOLD:
            logger.warning("run %s: reading again until it works: %s", self.run_id, error)
        await asyncio.sleep(pause_s)

    async def _find_run(self) -> RunInfo:
        if self._open_log is not None:
            self._log = await self._open_log()
        answered, failures = False, 0
        while True:
            try:
                info = await self._log.info(self.run_id)
            except RunNotFound:
                if not self._wait_for_run:
                    raise
                answered, failures = True, 0
                with contextlib.suppress(LogUnavailable):  # the next look says the same
                    await self._log.wait(self.run_id, after=0, timeout=LOOK_S_MAX)
            except LogUnavailable as error:
                # (At first that is for the caller to know: the address may be wrong.)
                if not answered:
                    raise
                failures += 1
                await self._rest(failures, error, follow=True)
            else:
                self._origins[info.run_id] = info.origin
                self._is_root = info.run_id == info.root_run_id
                return info

    async def _records_of(self, page: Page) -> tuple[list[Record], bool]:
        """What of a page this subscriber gets, and whether its run ends there."""
        first_seq, drafts = page.first_seq, page.drafts
        if not drafts:
            return [], False
        last = drafts[-1]
        if self._is_root and self._filter.is_open and last.run_id == self.run_id:
            origin = self._origins[self.run_id]
            # Compared rather than put into a set: text that was just read has no hash yet.
            if [draft.run_id for draft in drafts].count(self.run_id) == len(drafts):
                seqs = range(first_seq, first_seq + len(drafts))
                return list(map(Record, seqs, drafts, repeat(origin))), last.is_terminal
        records: list[Record] = []
        for seq, draft in enumerate(drafts, first_seq):
            if not self._is_root and draft.run_id != self.run_id:
                continue
            if self._filter.passes(draft):
                origin = self._origins.get(draft.run_id) or await self._learn(draft.run_id)
                records.append(Record(seq, draft, origin))
            if draft.is_terminal and draft.run_id == self.run_id:
                return records, True
        return records, False

    async def _learn(self, run_id: str) -> Origin:
        origin = (await self._log.info(run_id)).origin
        self._origins[run_id] = origin
        return origin

    def _gap(
        self, position: Cursor, error: GenerationChanged | PositionGone | RunNotFound
    ) -> tuple[Record, Cursor | None]:
        """The record that tells of the hole, and where to go on (None: nowhere)."""
        gap = gap_behind(self.run_id, position, error)
        goes_on = gap.goes_on
        origin = self._origins[self.run_id]
        if goes_on is not None and goes_on.generation is not None:
            origin = msgspec.structs.replace(origin, generation=goes_on.generation)
            self._origins = {self.run_id: origin}
        return Record(0, gap.draft, origin, resume_seq=(goes_on or position).seq), goes_on

    async def _wait(self, watch: LeaseWatch, root: str, position: Cursor) -> Record | None:
        """Wait for news; a record if the run was lost and only this subscriber can say so."""
        left = watch.due_in
        try:
            if left > 0:
                await self._log.wait(root, after=position.seq, timeout=left)
                if watch.due_in > 0:
                    return None
            if await watch.look(dict.fromkeys((root, self.run_id))) is None:
                return None
        except RunNotFound:
            return None  # the next read says the same, as a gap
        except LogUnavailable as error:
            await self._rest(1, error, follow=True)
            watch.forget()
            return None
        # This follower may only read: the run still ends for it.
        lost = lost_draft(self.run_id, LEASE_LAPSED)
        return Record(0, lost, self._origins[self.run_id], resume_seq=position.seq)


async def _flatten(subscription: Subscription) -> AsyncGenerator[Record, None]:
    async with aclosing(subscription.pages()) as pages:
        async for page in pages:
            sample = page[:: len(page) // SAMPLE_MAX + 1]
            if sum(map(_size_bytes, sample)) < LARGE_BYTES * len(sample):
                for record in page:
                    yield record
                continue
            size_bytes = 0
            for record in page:
                yield record
                # To decode it may have taken its time, and others want their turn.
                size_bytes += _size_bytes(record)
                if size_bytes >= SLICE_BYTES:
                    size_bytes = 0
                    await asyncio.sleep(0)


def _size_bytes(record: Record) -> int:
    return len(record.draft.data)

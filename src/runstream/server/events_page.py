"""`GET /v1/runs/{id}/events` as one page of JSON, with a long poll for those who cannot stream.

A large page is some 20 ms of work. It is done in slices, and a few pages at a time: however many are asked
for, whoever shares the event loop waits for some slices and no longer.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import Final

import msgspec

from ..errors import RunstreamError
from ..log import READ_LIMIT_DEFAULT, Log, Page, RunInfo
from ..record import Cursor
from ..wire import encode_drafts
from .batches import Chunk, View, choose
from .followers import Followers

# Payloads of one page: what a log gives at once, however large its records are.
PAGE_BYTES_MAX: Final = 4 * 1024 * 1024
# Records that a filter leaves out, before the page is answered with a cursor behind them.
SKIPPED_MAX: Final = 5 * READ_LIMIT_DEFAULT
# Records that are filtered and encoded in one go: half a millisecond, a few if they are large.
SLICE_RECORDS: Final = 256


class PageFollower:
    """One request for a page, which may wait for its first record. Use it within that request."""

    def __init__(self, followers: Followers, log: Log, info: RunInfo, view: View) -> None:
        # Why it was cut off: its client has gone.
        self.cut_reason: str | None = None
        self.lag = 0
        # It reads by itself: the reader need not make anything ready for it.
        self.view = None
        self._followers = followers
        self._log = log
        self._info = info
        self._view = view
        self._task = asyncio.current_task()
        self._wake: asyncio.Future[None] | None = None
        self._leaving = False

    async def read(self, position: Cursor, limit: int, wait_s: float) -> bytes:
        """The page behind `position` as JSON; without a record at once, up to `wait_s` seconds later.

        Raises what `Log.read` does.
        """
        deadline = asyncio.get_running_loop().time() + wait_s
        while True:
            behind = self._info.last_seq - position.seq
            is_large = (min(behind, limit) if self._view.is_open else behind) > SLICE_RECORDS
            async with self._followers.bulk_room if is_large else nullcontext():
                found = await self._read(position, limit)
            # Behind a child's end its root may go on.
            if self._info.has_ended and found.position.seq >= self._info.last_seq:
                found.ended = True
            if found.records or found.ended:
                break
            position = found.position
            if not found.is_short:
                break
            if not await self._wait(position, deadline):
                break
        return found.encoded()

    async def _read(self, position: Cursor, limit: int) -> _Found:
        found = _Found(position)
        while not found.ended and found.records < limit:
            count = limit if self._view.is_open else READ_LIMIT_DEFAULT
            page = await self._log.read(self._info.root_run_id, after=found.position, limit=count)
            found.is_short = not page.drafts
            found.position = Cursor(page.generation, page.first_seq - 1)
            await self._take(found, page, limit)
            found.ended |= page.ended and found.position.seq == page.last_seq
            if self._view.is_open or not page.drafts or found.is_enough:
                break
        return found

    async def _take(self, found: _Found, page: Page, limit: int) -> None:
        """Add what the view gets of a page, slice by slice."""
        for start in range(0, len(page.drafts), SLICE_RECORDS):
            if start:
                await asyncio.sleep(0)
            first_seq, drafts = page.first_seq + start, page.drafts[start : start + SLICE_RECORDS]
            left = limit - found.records
            chosen, through, found.ended = choose(self._view, drafts, first_seq, left)
            if chosen:
                lines = encode_drafts(first_seq, drafts[: chosen[-1] + 1])
                found.pieces.append(b",".join([lines[at] for at in chosen]))
                found.first_seq = found.first_seq or first_seq + chosen[0]
            found.records += len(chosen)
            found.size_bytes += sum(len(drafts[at].data) for at in chosen)
            found.skipped += len(drafts) - len(chosen)
            found.position = Cursor(page.generation, through)
            if found.ended or found.records == limit:
                break

    async def _wait(self, position: Cursor, deadline: float) -> bool:
        """Wait for news of the stream behind `position`; False after the deadline (the loop's time)."""
        loop = asyncio.get_running_loop()
        if self._leaving or loop.time() >= deadline:
            return False
        reader = self._followers.start_reader(self._info.root_run_id, position)
        if reader.recent.last_seq > position.seq or reader.ended:
            return True
        self._wake = loop.create_future()
        timer = loop.call_at(deadline, self.ring)
        reader.join(self._view.run_id)
        reader.wait(self)
        try:
            await self._wake
        finally:
            timer.cancel()
            reader.leave(self._view.run_id, self)
        if reader.failure is not None:
            raise reader.failure
        return True

    def ring(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def take(self, chunk: Chunk) -> bool:  # noqa: ARG002 - see `view`
        self.ring()
        return False

    def leave(self, error: RunstreamError) -> None:  # noqa: ARG002 - an empty page says it as well
        self._leaving = True
        self.ring()

    def cut(self, reason: str) -> None:
        """End at once: nobody reads any more."""
        if self.cut_reason is None and self._task is not None:
            self.cut_reason = reason
            self._task.cancel()

    def look(self, now: float) -> None:
        """It waits for a bounded time: there is nothing to look after."""


class _Found(msgspec.Struct):
    """A page so far: records that were encoded, and how far the stream was looked at."""

    position: Cursor
    ended: bool = False
    # Nothing more was stored behind `position`.
    is_short: bool = False
    first_seq: int = 0
    records: int = 0
    pieces: list[bytes] = []
    size_bytes: int = 0
    skipped: int = 0

    @property
    def is_enough(self) -> bool:
        return self.size_bytes > PAGE_BYTES_MAX or self.skipped >= SKIPPED_MAX

    def encoded(self) -> bytes:
        generation = (self.position.generation or "").encode()
        first_seq = self.first_seq or self.position.seq + 1
        ended = b"true" if self.ended else b"false"
        head = b'{"generation":"%b","first_seq":%d,"records":[' % (generation, first_seq)
        tail = b'],"cursor":"%b","ended":%b}' % (str(self.position).encode(), ended)
        # Joined once: it is megabytes.
        parts = self.pieces or [b""]
        parts[0] = head + parts[0]
        parts[-1] += tail
        return b",".join(parts)

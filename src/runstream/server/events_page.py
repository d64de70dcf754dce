"""`GET /v1/runs/{id}/events` as one page of JSON, with a long poll for those who cannot stream."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from ..errors import RunstreamError
from ..log import READ_LIMIT_DEFAULT, Log, RunInfo
from ..record import Cursor
from ..wire import encode_drafts
from .batches import Batches, View, choose
from .followers import Followers

# Payloads of one page: what a log gives at once, however large its records are.
PAGE_BYTES_MAX: Final = 4 * 1024 * 1024
# Records that a filter leaves out, before the page is answered with a cursor behind them.
SKIPPED_MAX: Final = 5 * READ_LIMIT_DEFAULT


class PageFollower:
    """One request for a page, which may wait for its first record. Use it within that request."""

    def __init__(self, followers: Followers, log: Log, info: RunInfo, view: View) -> None:
        # Why it was cut off: its client has gone.
        self.cut_reason: str | None = None
        self.lag = 0
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
            page = await _read_page(self._log, self._info, self._view, position, limit)
            # Behind a child's end its root may go on.
            if self._info.has_ended and page.position.seq >= self._info.last_seq:
                page.ended = True
            if page.lines or page.ended:
                break
            position = page.position
            if not page.is_short:
                break
            if not await self._wait(position, deadline):
                break
        return b'{"generation":"%b","first_seq":%d,"records":[%b],"cursor":"%b","ended":%b}' % (
            (page.position.generation or "").encode(),
            page.first_seq,
            b",".join(page.lines),
            str(page.position).encode(),
            b"true" if page.ended else b"false",
        )

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

    def take(self, recent: Batches) -> bool:  # noqa: ARG002 - it reads by itself
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


class _Page(msgspec.Struct):
    lines: list[bytes]
    first_seq: int
    position: Cursor
    ended: bool
    # Nothing more was stored behind `position`.
    is_short: bool


async def _read_page(log: Log, info: RunInfo, view: View, position: Cursor, limit: int) -> _Page:
    found = _Page([], position.seq + 1, position, ended=False, is_short=False)
    size = skipped = 0
    while not found.ended and len(found.lines) < limit:
        count = limit if view.is_open else READ_LIMIT_DEFAULT
        page = await log.read(info.root_run_id, after=found.position, limit=count)
        found.is_short = not page.drafts
        chosen, through, found.ended = choose(
            view, page.drafts, page.first_seq, limit - len(found.lines)
        )
        found.ended |= page.ended and through == page.last_seq
        if chosen:
            if not found.lines:
                found.first_seq = page.first_seq + chosen[0]
            lines = encode_drafts(page.first_seq, page.drafts[: chosen[-1] + 1])
            found.lines += [lines[at] for at in chosen]
        size += sum(len(page.drafts[at].data) for at in chosen)
        skipped += len(page.drafts) - len(chosen)
        found.position = Cursor(page.generation, through)
        if view.is_open or not page.drafts or size > PAGE_BYTES_MAX or skipped >= SKIPPED_MAX:
            break
    if not found.lines:
        found.first_seq = found.position.seq + 1
    return found

"""One stream in NATS, as this process knows it: its state, its decisions, and where its records are.

Decisions that come at once go into one message. It counts only behind the message that they were made
from; if another process was faster, they are made again. So numbers are dense, and nobody holds a lock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec

from ..admission import check_position, no_such_run
from ..errors import LogUnavailable, RunstreamError
from ..log import Page, ProducerState, RunInfo
from ..record import Cursor, Draft
from .nats_chain import Chain, decode_change
from .nats_decisions import Decision, answer, awaited, decide_all
from .nats_line import FETCHED_MAX, Line, Stored
from .nats_pages import FETCHED_MIN, Pages
from .nats_refusals import StreamGone, Unsure
from .nats_state import Change, Pending, Run, State
from .nats_subjects import Subjects

# Decisions in one message: what waits while one is on its way.
DECISIONS_MAX: Final = 1000
# Another process may be faster; after so many times the stream is too busy for us.
TRIES_MAX: Final = 200
# Of a message: headers, the state of the root, and JSON's own marks.
MARGIN_BYTES: Final = 16 * 1024
# Changes behind the last whole state: read by whoever opens the stream anew, in a few milliseconds.
CHANGES_BYTES_MAX: Final = 256 * 1024
# Newest records kept in memory, for readers that follow.
RECENT_BYTES_MAX: Final = 2 * 1024 * 1024
# Of a message: its generation and nonce, by which it is told from all others.
MARK_BYTES: Final = 64

T = TypeVar("T")

_encode = msgspec.json.Encoder().encode
_decode_state = msgspec.json.Decoder(tuple[dict[str, Run], dict[str, ProducerState]]).decode


class Stream:
    """The stream of one root run. In the log's own loop only."""

    def __init__(
        self, line: Line, subjects: Subjects, root: str, grown: Callable[[Stream], None]
    ) -> None:
        self._line, self._subjects, self.root_run_id = line, subjects, root
        self._grown = grown
        self._subject = subjects.changes(root)
        self._chain = Chain(line, subjects, root)
        self.state = State()
        # The newest message, which may not count, and how it begins.
        self._tail, self._mark = 0, b""
        self._waiting: deque[Decision] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._looking = asyncio.Lock()
        # Messages that were sent and not acknowledged, and the one of them that was seen.
        self._sent: set[str] = set()
        self._seen = ""
        # (first seq, records) of the newest messages, without holes, and their bytes.
        self._recent: deque[tuple[int, Sequence[Draft], int]] = deque()
        self._recent_bytes = 0
        self._pages = Pages(line, subjects, root, self._chain)

    async def decide(self, decide: Callable[[Pending], T]) -> T:
        """Make a decision; when this returns, it is stored. Cancelled, it is only if it is on its way."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(Decision(decide, done))
        if self._worker is None:
            self._worker = asyncio.ensure_future(self._work())
        return await done

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft()]
                while self._waiting and len(batch) < DECISIONS_MAX:
                    batch.append(self._waiting.popleft())
                await self._settle(batch)
        finally:
            self._worker = None
            for left in self._waiting:
                if not left.done.done():
                    left.done.set_exception(LogUnavailable("NATS: the stream's writer has ended"))
            self._waiting.clear()

    async def _settle(self, batch: list[Decision]) -> None:
        """Every decision of the batch gets its outcome."""
        try:
            left = batch
            while left := awaited(left):
                left = await self._commit(left)
        except RunstreamError as error:
            for one in batch:
                if not one.done.done():
                    one.done.set_exception(error)
        except BaseException as error:
            for one in batch:
                if not one.done.done():
                    one.done.set_exception(LogUnavailable(f"NATS: {error!r}"))
            raise

    async def _commit(self, batch: list[Decision]) -> list[Decision]:
        """Make as many decisions as fit into one message; what is left."""
        is_fresh = False
        if self._line.is_replicated and not self._tail:
            await self.refresh()  # what comes too late would be stored, too
        # What was sent under a nonce, and what was left for the next message.
        sent: dict[str, tuple[list[tuple[Decision, Any]], list[Decision]]] = {}
        self._sent.clear()
        self._seen = ""
        for _ in range(TRIES_MAX):
            pending = Pending(self.state, self.root_run_id)
            outcomes, left = decide_all(pending, batch)
            refused = any(isinstance(outcome, RunstreamError) for _, outcome in outcomes)
            if (refused or not pending.is_changed) and not is_fresh:
                # Only the newest state may say no.
                await self.refresh(surely=True)
                is_fresh = True
                continue
            if not pending.is_changed:
                answer(outcomes)
                return left
            change = pending.change(CHANGES_BYTES_MAX)
            sent[change.nonce] = outcomes, left
            self._sent.add(change.nonce)
            try:
                if await self._store(change):
                    answer(outcomes)
                    return left
            except Unsure:
                pass
            except StreamGone:
                if is_fresh and not self.state.at:
                    raise  # it is to be begun, and there is nothing to begin it in
            await self.refresh()
            if self._seen:
                # It was stored, only its answer was lost.
                outcomes, left = sent[self._seen]
                answer(outcomes)
                return left
            is_fresh = not self._line.is_replicated
        raise LogUnavailable(f"stream {self.root_run_id!r} is written by too many others at once")

    async def _store(self, change: Change) -> bool:
        """Store the change behind the state; False if another one came first."""
        base, tail = self.state.at, self._tail
        limit = self._line.payload_bytes_max - MARGIN_BYTES
        data, drafts, stored = _encode(change), change.drafts, change
        if len(data) > limit and drafts:
            parts = await self._store_parts(_encode(drafts))
            stored = msgspec.structs.replace(change, drafts=(), parts=parts)
            data = _encode(stored)
        if len(data) > limit:
            parts = await self._store_parts(_encode((change.children, change.producers)))
            stored = msgspec.structs.replace(stored, children={}, producers={}, state_parts=parts)
            data = _encode(stored)
        at = await self._line.store(self._subject, data, expected=tail)
        if at is None:
            return False
        if self._line.is_replicated:
            mine = Stored(at, self._subject, data)
            if await self._chain.rival(tail + 1, mine) is not None:
                return False
        if self.state.at == base:  # (else a reader has seen it before us)
            self._take(change, at, len(data), drafts)
            self._tail, self._mark = at, data[:MARK_BYTES]
        await self._line.tell(self._subjects.news(self.root_run_id), b"")
        return True

    async def _store_parts(self, data: bytes) -> list[int]:
        """What is too large for one message, in pieces."""
        size = self._line.payload_bytes_max - MARGIN_BYTES
        subject = self._subjects.parts(self.root_run_id)
        places: list[int] = []
        for start in range(0, len(data), size):
            at = await self._line.store(subject, data[start : start + size], expected=None)
            if at is None:
                raise Unsure
            places.append(at)
        return places

    def _take(
        self, change: Change, at: int, size_bytes: int, drafts: Sequence[Draft] | None
    ) -> None:
        """The next message is known: go on from it. Without `drafts` they are not in memory."""
        before = self.state.next_seq if change.generation == self.state.generation else None
        self.state.apply(change, at, size_bytes)
        if change.first_seq != before:
            self._recent.clear()
            self._recent_bytes = 0
            self._pages.clear()
        if change.records or change.drafts:
            self._pages.note(change.first_seq, at)
            if drafts is None:
                self._recent.clear()
                self._recent_bytes = 0
            else:
                self._recent.append((change.first_seq, drafts, size_bytes))
                self._recent_bytes += size_bytes
        while self._recent_bytes > RECENT_BYTES_MAX:
            self._recent_bytes -= self._recent.popleft()[2]
        self._grown(self)

    # --- knowing the newest state ----------------------------------------------------------------

    async def refresh(self, *, surely: bool = False) -> None:
        """Look at the newest message, and catch up with it; `surely` also with what was acknowledged
        just before the leader was lost, of which the new one may hear a little later.

        Raises LogUnavailable. A stream that is not there leaves an empty state.
        """
        async with self._looking:
            is_sure = not self._line.is_replicated
            for tried in range(TRIES_MAX):
                before = self.state.at
                try:
                    if surely and not is_sure:
                        await self._line.settle(self._subjects.name)
                        is_sure = True
                    newest = await self._chain.last()
                except StreamGone:
                    newest, is_sure = None, True
                if newest is None and before and not is_sure:
                    surely = True
                    continue
                if newest is None:
                    if before and self.state.at == before:
                        self._forget()
                    self._tail = self.state.at
                    return
                if self._is_tail(newest) or await self._catch_up(newest, is_first=not tried):
                    return
            raise LogUnavailable(f"stream {self.root_run_id!r} is trimmed faster than it is read")

    def _is_tail(self, newest: Stored) -> bool:
        return newest.seq == self._tail and newest.data.startswith(self._mark)

    async def _catch_up(self, newest: Stored, *, is_first: bool) -> bool:
        """False if messages were dropped meanwhile: there is a newer one."""
        change, state = decode_change(newest.data), self.state
        follows = state.at > 0 and change.generation == state.generation
        if follows and newest.seq < self._tail:
            return True  # who answered does not know all
        since = newest.seq if change.since is None else change.since
        is_far = since > state.at and change.behind > state.at
        # Every message, where one of ours may be among them.
        is_jump = not follows or (is_far and not (is_first and self._sent))
        if (is_jump and not await self._jump(newest)) or not await self._walk(newest):
            return False
        self._tail, self._mark = newest.seq, newest.data[:MARK_BYTES]
        return True

    async def _jump(self, newest: Stored) -> bool:
        """Go on from the last whole state before `newest`."""
        whole = await self._chain.whole(newest)
        if whole is None:
            return False
        is_ours = decode_change(whole.data).generation == self.state.generation
        if is_ours and whole.seq <= self.state.at:
            return True
        return await self._take_stored(whole, is_anew=True)

    async def _walk(self, newest: Stored) -> bool:
        """Take message after message."""
        begin, seen = self.state.at + 1, 0
        while begin < newest.seq:
            # (Who follows has one or two to take, who comes anew up to a thousand.)
            wanted = FETCHED_MAX if seen >= FETCHED_MIN else 1
            found = await self._pages.ahead(begin, wanted)
            if not found:
                return False
            for stored in found:
                if stored.seq < newest.seq and not await self._take_stored(stored):
                    return False
            seen += len(found)
            begin = found[-1].seq + 1
        return await self._take_stored(newest)

    async def _take_stored(self, stored: Stored, *, is_anew: bool = False) -> bool:
        """Go on with a message if it counts; False if others are missing before it."""
        change = decode_change(stored.data)
        if not is_anew and change.behind != self.state.at:
            return change.behind < self.state.at
        in_memory = None if change.parts else change.drafts
        if change.state_parts:
            data = await self._pages.parts(change.state_parts)
            if data is None:
                return False
            change.children, change.producers = _decode_state(data)
        if change.nonce in self._sent:
            self._seen = change.nonce
        if is_anew or change.behind == self.state.at:  # (else a writer was faster)
            self._take(change, stored.seq, len(stored.data), in_memory)
        return True

    def _forget(self) -> None:
        self.state = State()
        self._tail = 0
        self._recent.clear()
        self._recent_bytes = 0
        self._pages.clear()
        self._grown(self)

    async def info(self, run_id: str) -> RunInfo:
        """Raises RunNotFound, LogUnavailable."""
        return await self._newest(lambda: self.state.info(run_id))

    async def _newest(self, look: Callable[[], T]) -> T:
        """What `look` finds in the newest state. Only what is sure to be that may say no."""
        await self.refresh()
        try:
            return look()
        except RunstreamError:
            if not self._line.is_replicated:
                raise
        await self.refresh(surely=True)
        return look()

    # --- reading ---------------------------------------------------------------------------------

    async def read(self, after: Cursor, limit: int) -> Page:
        """What `Log.read` promises, of this stream."""
        # (Others may have trimmed or removed what is in memory here.)
        await self._newest(lambda: check_position(self.state.info(self.root_run_id), after))
        found = self._read_recent(after, limit)
        if found is None:
            found = await self._read_stored(after.seq + 1, limit)
        state = self.state
        root = state.root
        if root is None:
            raise no_such_run(self.root_run_id)
        ended = root.ended is not None and after.seq + len(found) == state.next_seq - 1
        return Page(state.generation, after.seq + 1, found, ended)

    def _read_recent(self, after: Cursor, limit: int) -> list[Draft] | None:
        """Records behind the position, if they are in memory; None if they are not, or not there."""
        seq = after.seq + 1
        if not self._recent or not self._recent[0][0] <= seq < self.state.next_seq:
            return None
        found: list[Draft] = []
        for first_seq, drafts, _ in self._recent:
            begin = seq + len(found) - first_seq
            if begin < len(drafts):
                found += drafts[begin : begin + limit - len(found)]
            if len(found) == limit:
                break
        return found

    async def _read_stored(self, seq: int, limit: int) -> list[Draft]:
        if seq >= self.state.next_seq:
            return []
        return await self._pages.read(seq, limit, self.state.at)

    async def drop_trimmed(self) -> None:
        """Drop the messages whose records are all gone. (The newest one holds the whole state.)"""
        state, first = self.state, None
        if state.first_seq < state.next_seq:
            first = await self._pages.find(state.first_seq, state.at)
        # The newest whole state stays: what comes behind it says only what became different.
        before = min(state.at if first is None else first.seq, state.since)
        kept = await self._line.at(self._subjects.name, before)
        if kept is None:
            return  # somebody else does it
        # Parts are stored before the message that needs them, and behind the one before that.
        change = decode_change(kept.data)
        parts = min([before, *change.parts, *change.state_parts])
        await self._line.purge(self._subjects.name, self._subject, before=before)
        await self._line.purge(
            self._subjects.name, self._subjects.parts(self.root_run_id), before=parts
        )

"""One stream in NATS, as this process knows it: its state, its decisions, and where its records are.

Decisions that come at once go into one message. It is stored only behind the message that they were made
from; if another process was faster, they are made again. So numbers are dense, and nobody holds a lock.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec

from ..admission import check_position
from ..errors import LogUnavailable, RunNotFound, RunstreamError
from ..log import Page, RunInfo
from ..record import Cursor, Draft
from .nats_line import Line, Stored, StreamGone, Unsure
from .nats_state import Change, Pending, State
from .nats_subjects import Subjects

# Decisions in one message: what waits while one is on its way.
DECISIONS_MAX: Final = 1000
RECORDS_MAX: Final = 1000
# Another process may be faster; after so many times the stream is too busy for us.
TRIES_MAX: Final = 200
# Of a message: headers, the state of the root, and JSON's own marks.
MARGIN_BYTES: Final = 16 * 1024
# Changes behind the last whole state: read by whoever opens the stream anew, in a few milliseconds.
CHANGES_BYTES_MAX: Final = 256 * 1024
# Newest records kept in memory, for readers that follow.
RECENT_BYTES_MAX: Final = 2 * 1024 * 1024
# Known places of records; between two of them one is searched in a few steps.
PLACES_MAX: Final = 4096
# Of one page.
PAGE_BYTES_MAX: Final = 4 * 1024 * 1024

T = TypeVar("T")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Change).decode
_decode_drafts = msgspec.json.Decoder(list[Draft]).decode


class Decision(msgspec.Struct):
    """What a caller wants of the stream, and who waits for the outcome."""

    decide: Callable[[Pending], Any]
    done: asyncio.Future[Any]


class Stream:
    """The stream of one root run. In the log's own loop only."""

    def __init__(
        self, line: Line, subjects: Subjects, root: str, grown: Callable[[Stream], None]
    ) -> None:
        self._line, self._subjects, self.root_run_id = line, subjects, root
        self._grown = grown
        self._subject = subjects.changes(root)
        self.state = State()
        self._waiting: deque[Decision] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._looking = asyncio.Lock()
        # (first seq, records) of the newest messages, without holes, and their bytes.
        self._recent: deque[tuple[int, Sequence[Draft], int]] = deque()
        self._recent_bytes = 0
        # (first seq, sequence in NATS), ascending.
        self._places: list[tuple[int, int]] = []

    async def decide(self, decide: Callable[[Pending], T]) -> T:
        """Make a decision; when this returns, it is stored. Cancelled, it may still be made."""
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
                left.done.cancel()

    async def _settle(self, batch: list[Decision]) -> None:
        """Every decision of the batch gets its outcome."""
        try:
            left = batch
            while left:
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
        nonces: dict[str, list[tuple[Decision, Any]]] = {}
        for _ in range(TRIES_MAX):
            pending = Pending(self.state, self.root_run_id)
            outcomes, left = _decide_all(pending, batch)
            refused = any(isinstance(outcome, RunstreamError) for _, outcome in outcomes)
            if (refused or not pending.is_changed) and not is_fresh:
                # Only the newest state may say no.
                await self.refresh()
                is_fresh = True
                continue
            if not pending.is_changed:
                _answer(outcomes)
                return left
            change = pending.change(CHANGES_BYTES_MAX)
            nonces[change.nonce] = outcomes
            try:
                if await self._store(change):
                    _answer(outcomes)
                    return left
            except Unsure:
                pass
            except StreamGone:
                if is_fresh and not self.state.at:
                    raise  # it is to be begun, and there is nothing to begin it in
            for seen in await self.refresh():
                if seen in nonces:
                    # It was stored, only its answer was lost.
                    _answer(nonces[seen])
                    return left
            is_fresh = True
        raise LogUnavailable(f"stream {self.root_run_id!r} is written by too many others at once")

    async def _store(self, change: Change) -> bool:
        """Store the change behind the state; False if another one came first."""
        data = _encode(change)
        drafts = change.drafts
        if len(data) > self._line.payload_bytes_max - MARGIN_BYTES:
            change.parts = await self._store_parts(_encode(drafts))
            change.drafts = ()
            data = _encode(change)
        at = await self._line.store(self._subject, data, expected=self.state.at)
        if at is None:
            return False
        self._take(change, at, len(data), drafts)
        await self._line.tell(self._subjects.news(self.root_run_id), b"")
        return True

    async def _store_parts(self, data: bytes) -> list[int]:
        """Records that are too many for one message, in pieces."""
        size = self._line.payload_bytes_max - MARGIN_BYTES
        subject = self._subjects.parts(self.root_run_id)
        places: list[int] = []
        for start in range(0, len(data), size):
            at = await self._line.store(subject, data[start : start + size], expected=None)
            places.append(at or 0)
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
            self._places.clear()
        if change.records or change.drafts:
            self._note_place(change.first_seq, at)
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

    async def refresh(self) -> list[str]:
        """Look at the newest message, and catch up with it; the nonces of the new ones.

        Raises LogUnavailable. A stream that is not there leaves an empty state.
        """
        async with self._looking:
            try:
                newest = await self._line.last(self._subjects.name, self._subject)
            except StreamGone:
                newest = None
            if newest is None:
                if self.state.at:
                    self._forget()
                return []
            if newest.seq == self.state.at:
                return []
            return await self._catch_up(newest)

    async def _catch_up(self, newest: Stored) -> list[str]:
        change = _decode(newest.data)
        follows = change.generation == self.state.generation and self.state.at < newest.seq
        if follows and change.since is not None and change.since <= self.state.at:
            begin = self.state.at + 1
        elif change.since is None:
            begin = newest.seq
        else:
            begin = change.since
        nonces: list[str] = []
        while begin < newest.seq:
            stored = await self._line.next(self._subjects.name, self._subject, begin)
            if stored is None or stored.seq >= newest.seq:
                break
            nonces.append(self._take_stored(stored))
            begin = stored.seq + 1
        nonces.append(self._take_stored(newest))
        return nonces

    def _take_stored(self, stored: Stored) -> str:
        change = _decode(stored.data)
        in_memory = None if change.parts else change.drafts
        if stored.seq > self.state.at or change.generation != self.state.generation:
            self._take(change, stored.seq, len(stored.data), in_memory)
        return change.nonce

    def _forget(self) -> None:
        self.state = State()
        self._recent.clear()
        self._recent_bytes = 0
        self._places.clear()
        self._grown(self)

    async def info(self, run_id: str) -> RunInfo:
        """Raises RunNotFound, LogUnavailable."""
        await self.refresh()
        return self.state.info(run_id)

    # --- reading ---------------------------------------------------------------------------------

    async def read(self, after: Cursor, limit: int) -> Page:
        """What `Log.read` promises, of this stream."""
        # (Others may have trimmed or removed what is in memory here.)
        await self.refresh()
        check_position(self.state.info(self.root_run_id), after)
        found = self._read_recent(after, limit)
        if found is None:
            found = await self._read_stored(after.seq + 1, limit)
        state = self.state
        root = state.root
        if root is None:
            raise RunNotFound(f"no run {self.root_run_id!r} in this log")
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
        found: list[Draft] = []
        size_bytes = 0
        stored = await self._find(seq)
        while stored is not None:
            change = _decode(stored.data)
            drafts = await self._drafts_of(change)
            if drafts:
                if change.first_seq > seq + len(found):
                    break  # trimmed meanwhile: the next call says so
                self._note_place(change.first_seq, stored.seq)
                begin = seq + len(found) - change.first_seq
                found += drafts[begin : begin + limit - len(found)]
            size_bytes += len(stored.data)
            enough = len(found) >= limit or size_bytes >= PAGE_BYTES_MAX
            if enough or stored.seq >= self.state.at:
                break
            stored = await self._line.next(self._subjects.name, self._subject, stored.seq + 1)
        return found

    async def _drafts_of(self, change: Change) -> Sequence[Draft]:
        if not change.parts:
            return change.drafts
        parts = [await self._line.at(self._subjects.name, at) for at in change.parts]
        if None in parts:
            return ()
        return _decode_drafts(b"".join(part.data for part in parts if part is not None))

    async def _find(self, seq: int) -> Stored | None:
        """The message that holds record `seq`: from the nearest known place, else by halving."""
        at = bisect_right(self._places, (seq, 2**63)) - 1
        low = self._places[at][1] if at >= 0 else 1
        high = self._places[at + 1][1] if at + 1 < len(self._places) else self.state.at
        middle = low
        while low <= high:
            stored = await self._line.next(self._subjects.name, self._subject, middle)
            if stored is None or stored.seq > high:
                high = middle - 1
            else:
                change = _decode(stored.data)
                if change.first_seq <= seq < change.next_seq:
                    return stored
                if change.next_seq <= seq:
                    low = stored.seq + 1
                else:
                    high = middle - 1
            middle = (low + high) // 2
        return None

    def _note_place(self, first_seq: int, at: int) -> None:
        place = (first_seq, at)
        index = bisect_right(self._places, place)
        if index == 0 or self._places[index - 1] != place:
            self._places.insert(index, place)
            if len(self._places) > PLACES_MAX:
                del self._places[1::2]

    async def drop_trimmed(self) -> None:
        """Drop the messages whose records are all gone. (The newest one holds the whole state.)"""
        stored = await self._find(self.state.first_seq)
        before = self.state.at if stored is None else stored.seq
        await self._line.purge(self._subjects.name, self._subject, before=before)


def _decide_all(
    pending: Pending, batch: list[Decision]
) -> tuple[list[tuple[Decision, Any]], list[Decision]]:
    """The outcome of each decision that goes into this change, and the decisions for the next one."""
    outcomes: list[tuple[Decision, Any]] = []
    for number, decision in enumerate(batch):
        if outcomes and len(pending.drafts) >= RECORDS_MAX:
            return outcomes, batch[number:]
        try:
            outcomes.append((decision, decision.decide(pending)))
        except RunstreamError as error:
            outcomes.append((decision, error))
    return outcomes, []


def _answer(outcomes: list[tuple[Decision, Any]]) -> None:
    for decision, outcome in outcomes:
        if decision.done.done():
            continue
        if isinstance(outcome, RunstreamError):
            decision.done.set_exception(outcome)
        else:
            decision.done.set_result(outcome)

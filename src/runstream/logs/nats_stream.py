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
from ..log import Page, ProducerState, RunInfo
from ..record import Cursor, Draft
from .nats_line import Line, Stored, StreamGone, Unsure
from .nats_state import Change, Pending, Run, State
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

# From so many messages on they are fetched together: that costs two round trips more.
FETCHED_MIN: Final = 8

T = TypeVar("T")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Change).decode
_decode_state = msgspec.json.Decoder(tuple[dict[str, Run], dict[str, ProducerState]]).decode
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
        # Messages that were sent and not acknowledged, and the one of them that was seen.
        self._sent: set[str] = set()
        self._seen = ""
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
                if not left.done.done():
                    left.done.set_exception(LogUnavailable("NATS: the stream's writer has ended"))
            self._waiting.clear()

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
        self._sent.clear()
        self._seen = ""
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
            self._sent.add(change.nonce)
            try:
                if await self._store(change):
                    _answer(outcomes)
                    return left
            except Unsure:
                pass
            except StreamGone:
                if is_fresh and not self.state.at:
                    raise  # it is to be begun, and there is nothing to begin it in
            await self.refresh()
            if self._seen:
                # It was stored, only its answer was lost.
                _answer(nonces[self._seen])
                return batch[len(nonces[self._seen]) :]
            is_fresh = True
        raise LogUnavailable(f"stream {self.root_run_id!r} is written by too many others at once")

    async def _store(self, change: Change) -> bool:
        """Store the change behind the state; False if another one came first."""
        expected, limit = self.state.at, self._line.payload_bytes_max - MARGIN_BYTES
        data, drafts, stored = _encode(change), change.drafts, change
        if len(data) > limit and drafts:
            parts = await self._store_parts(_encode(drafts))
            stored = msgspec.structs.replace(change, drafts=(), parts=parts)
            data = _encode(stored)
        if len(data) > limit:
            parts = await self._store_parts(_encode((change.children, change.producers)))
            stored = msgspec.structs.replace(stored, children={}, producers={}, state_parts=parts)
            data = _encode(stored)
        at = await self._line.store(self._subject, data, expected=expected)
        if at is None:
            return False
        if self.state.at == expected:  # (else a reader has seen it before us)
            self._take(change, at, len(data), drafts)
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

    async def refresh(self) -> None:
        """Look at the newest message, and catch up with it.

        Raises LogUnavailable. A stream that is not there leaves an empty state.
        """
        async with self._looking:
            for _ in range(TRIES_MAX):
                before = self.state.at
                try:
                    newest = await self._line.last(self._subjects.name, self._subject)
                except StreamGone:
                    newest = None
                if newest is None:
                    if self.state.at and self.state.at == before:
                        self._forget()
                    return
                if newest.seq == self.state.at or await self._catch_up(newest):
                    return
            raise LogUnavailable(f"stream {self.root_run_id!r} is trimmed faster than it is read")

    async def _catch_up(self, newest: Stored) -> bool:
        """False if messages were dropped meanwhile: there is a newer one."""
        change = _decode(newest.data)
        follows = change.generation == self.state.generation and self.state.at
        if follows and newest.seq < self.state.at:
            return True
        since = newest.seq if change.since is None else change.since
        begin = since
        # Every message, where one of ours may be among them.
        if follows and (since <= self.state.at or self._sent):
            begin = self.state.at + 1
        while begin < newest.seq:
            stored = await self._line.next(self._subjects.name, self._subject, begin)
            if stored is None or (begin == since and stored.seq != since):
                return False
            if stored.seq >= newest.seq:
                break
            if not await self._take_stored(stored):
                return False
            begin = stored.seq + 1
        return await self._take_stored(newest)

    async def _take_stored(self, stored: Stored) -> bool:
        change = _decode(stored.data)
        in_memory = None if change.parts else change.drafts
        if change.state_parts:
            data = await self._parts_of(change.state_parts)
            if data is None:
                return False
            change.children, change.producers = _decode_state(data)
        if change.nonce in self._sent:
            self._seen = change.nonce
        if stored.seq > self.state.at or change.generation != self.state.generation:
            self._take(change, stored.seq, len(stored.data), in_memory)
        return True

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
        ahead: deque[Stored] = deque()
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
            if not ahead:
                wanted = (limit - len(found)) // max(len(drafts), 1) + 1
                ahead = deque(await self._ahead(stored.seq + 1, wanted))
            stored = ahead.popleft() if ahead else None
        return found

    async def _ahead(self, begin: int, wanted: int) -> list[Stored]:
        """The next messages: about as many as are wanted."""
        name, subject = self._subjects.name, self._subject
        found: list[Stored] = []
        if wanted >= FETCHED_MIN:
            found = await self._line.fetch(name, subject, begin, wanted)
        if not found:
            # (A replica that is behind may have none for a fetch.)
            one = await self._line.next(name, subject, begin)
            found = [] if one is None else [one]
        return found

    async def _drafts_of(self, change: Change) -> Sequence[Draft]:
        if not change.parts:
            return change.drafts
        data = await self._parts_of(change.parts)
        return () if data is None else _decode_drafts(data)

    async def _parts_of(self, places: Sequence[int]) -> bytes | None:
        """What was stored in pieces; None if it is not there any more."""
        found = await asyncio.gather(
            *(self._line.at(self._subjects.name, place) for place in places)
        )
        parts = [part.data for part in found if part is not None]
        return b"".join(parts) if len(parts) == len(places) else None

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
        first = await self._find(self.state.first_seq)
        # The newest whole state stays: what comes behind it says only what became different.
        before = min(self.state.at if first is None else first.seq, self.state.since)
        kept = await self._line.at(self._subjects.name, before)
        if kept is None:
            return  # somebody else does it
        # Parts are stored before the message that needs them, and behind the one before that.
        change = _decode(kept.data)
        parts = min([before, *change.parts, *change.state_parts])
        await self._line.purge(self._subjects.name, self._subject, before=before)
        await self._line.purge(
            self._subjects.name, self._subjects.parts(self.root_run_id), before=parts
        )


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

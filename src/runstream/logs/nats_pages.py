"""Where the records of a stream in NATS are, and reading them from there."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec

from ..record import Draft
from .nats_chain import Chain, decode_change
from .nats_line import Line, Stored
from .nats_state import Change
from .nats_subjects import Subjects

# Known places of records; between two of them one is searched in a few steps.
PLACES_MAX: Final = 4096
# Of one page.
PAGE_BYTES_MAX: Final = 4 * 1024 * 1024
# From so many messages on they are fetched together: that costs two round trips more.
FETCHED_MIN: Final = 8

_decode_drafts = msgspec.json.Decoder(list[Draft]).decode


class Pages:
    """The stored records of one root run. All of it raises LogUnavailable."""

    def __init__(self, line: Line, subjects: Subjects, root: str, chain: Chain) -> None:
        self._line, self._name, self._chain = line, subjects.name, chain
        self._subject = subjects.changes(root)
        # (first seq, sequence in NATS) of messages that count, ascending.
        self._places: list[tuple[int, int]] = []

    def clear(self) -> None:
        """Nothing is where it was."""
        self._places.clear()

    def note(self, first_seq: int, at: int) -> None:
        """A message counts, and its records begin with that one."""
        place = (first_seq, at)
        index = bisect_right(self._places, place)
        if index == 0 or self._places[index - 1] != place:
            self._places.insert(index, place)
            if len(self._places) > PLACES_MAX:
                del self._places[1::2]

    async def read(self, seq: int, limit: int, newest_at: int) -> list[Draft]:
        """Records from `seq` on, in messages up to that at `newest_at`; fewer where some were dropped."""
        found: list[Draft] = []
        size_bytes = 0
        ahead: deque[Stored] = deque()
        at: int | None = None
        stored = await self.find(seq, newest_at)
        while stored is not None:
            change = decode_change(stored.data)
            if at is not None and change.behind > at:
                break  # trimmed meanwhile, or who answered does not know all: the next call says so
            if at is None or change.behind == at:
                at = stored.seq
                drafts = await self._drafts_of(change)
                if drafts:
                    if change.first_seq > seq + len(found):
                        break
                    self.note(change.first_seq, stored.seq)
                    begin = seq + len(found) - change.first_seq
                    found += drafts[begin : begin + limit - len(found)]
            size_bytes += len(stored.data)
            enough = len(found) >= limit or size_bytes >= PAGE_BYTES_MAX
            if enough or stored.seq >= newest_at:
                break
            if not ahead:
                wanted = (limit - len(found)) // max(change.records, 1) + 1
                ahead = deque(await self.ahead(stored.seq + 1, wanted))
            stored = ahead.popleft() if ahead else None
        return found

    async def ahead(self, begin: int, wanted: int) -> list[Stored]:
        """The next messages: about as many as are wanted."""
        found: list[Stored] = []
        if wanted >= FETCHED_MIN:
            found = await self._line.fetch(self._name, self._subject, begin, wanted)
        if not found:
            # (A replica that is behind may have none for a fetch.)
            one = await self._chain.next(begin)
            found = [] if one is None else [one]
        return found

    async def _drafts_of(self, change: Change) -> Sequence[Draft]:
        if not change.parts:
            return change.drafts
        data = await self.parts(change.parts)
        return () if data is None else _decode_drafts(data)

    async def parts(self, places: Sequence[int]) -> bytes | None:
        """What was stored in pieces; None if it is not there any more."""
        found = await asyncio.gather(*(self._line.at(self._name, place) for place in places))
        parts = [part.data for part in found if part is not None]
        return b"".join(parts) if len(parts) == len(places) else None

    async def find(self, seq: int, newest_at: int) -> Stored | None:
        """The message with record `seq`, if there is one up to `newest_at`."""
        index = bisect_right(self._places, (seq, 2**63)) - 1
        known = self._places[index][1] if index >= 0 else 0
        high = self._places[index + 1][1] if index + 1 < len(self._places) else newest_at
        begin, at = known, known
        # Whoever reads on wants the one that is known, or the next one.
        for _ in range(2 if known else 0):
            stored = await self._chain.next(begin)
            if stored is None or stored.seq > high:
                break
            change = decode_change(stored.data)
            if stored.seq == known or change.behind == at:
                if change.first_seq <= seq < change.next_seq:
                    return stored
                at = stored.seq
            begin = stored.seq + 1
        stored = await self._halve(seq, begin, high)
        if stored is not None and await self._chain.counts(stored):
            return stored
        # One that does not count has misled us.
        return await self._walk(seq, known, high)

    async def _halve(self, seq: int, low: int, high: int) -> Stored | None:
        middle = (low + high) // 2
        while low <= high:
            stored = await self._chain.next(middle)
            if stored is None or stored.seq > high:
                high = middle - 1
            else:
                change = decode_change(stored.data)
                if change.first_seq <= seq < change.next_seq:
                    return stored
                if change.next_seq <= seq:
                    low = stored.seq + 1
                else:
                    high = middle - 1
            middle = (low + high) // 2
        return None

    async def _walk(self, seq: int, known: int, high: int) -> Stored | None:
        begin, at = known, known
        while True:
            stored = await self._chain.next(begin)
            if stored is None or stored.seq > high:
                return None
            change = decode_change(stored.data)
            # (What is dropped is dropped up to one that counts.)
            if not at or stored.seq == known or change.behind == at:
                if change.first_seq <= seq < change.next_seq:
                    return stored
                at = stored.seq
            begin = stored.seq + 1

"""Which messages of a stream count.

A NATS with several replicas looks whether a message comes behind the one that its writer has seen, but not
always in the moment in which it stores it: two that are on their way at once may both be stored. So each
message says itself behind which one it belongs. Of those that belong behind the same one the first counts,
for everybody; all others are passed over. (One server alone stores no message that does not count.)
"""

from __future__ import annotations

from typing import Final

import msgspec

from .nats_line import Line, Stored
from .nats_refusals import Unsure
from .nats_state import Change
from .nats_subjects import Subjects

decode_change: Final = msgspec.json.Decoder(Change).decode


class Chain:
    """The messages of one root run. All of it raises LogUnavailable."""

    def __init__(self, line: Line, subjects: Subjects, root: str) -> None:
        self._line, self._name, self._subject = line, subjects.name, subjects.changes(root)

    async def last(self) -> Stored | None:
        """The newest message, which may not count. Raises StreamGone."""
        return await self._line.last(self._name, self._subject)

    async def next(self, begin: int) -> Stored | None:
        """The first message with that sequence or a later one."""
        return await self._line.next(self._name, self._subject, begin)

    async def rival(self, begin: int, stored: Stored) -> Stored | None:
        """Why a message does not count: another one, stored before it, that belongs behind the same one
        or, if that was dropped, a later one that does count. None if it counts. What is below `begin`
        is known to be no rival.

        Raises:
            Unsure: who answered does not know the message; or it was dropped.
        """
        behind, generation, _ = _links(stored)
        while begin < stored.seq:
            other = await self.next(begin)
            if other is None or other.seq > stored.seq:
                raise Unsure
            if other.seq == stored.seq:
                break
            place, born, _ = _links(other)
            # (Nobody belongs behind a message that does not count.)
            if place == behind or (place > behind and born == generation):
                return other
            begin = other.seq + 1
        return None

    async def counts(self, stored: Stored) -> bool:
        """Whether a message counts; not, too, if it is not there any more."""
        try:
            return await self.rival(_links(stored)[0] + 1, stored) is None
        except Unsure:
            return False

    async def newest(self) -> Stored | None:
        """The newest message that counts. Raises StreamGone."""
        last = await self.last()
        if last is None or not self._line.is_replicated or await self.counts(last):
            return last
        newest: Stored | None = None
        at: int | None = None
        begin = await self._start(last)
        while begin <= last.seq:
            stored = await self.next(begin)
            if stored is None or stored.seq > last.seq:
                break
            if at is None or _links(stored)[0] == at:
                newest, at = stored, stored.seq
            begin = stored.seq + 1
        return newest

    async def whole(self, last: Stored) -> Stored | None:
        """A message that counts and has the whole state: the newest one of which message `last` knows.
        None if messages were dropped meanwhile, or if there is none that counts.
        """
        at: int | None = None
        begin = await self._start(last)
        while begin <= last.seq:
            stored = await self.next(begin)
            if stored is None or stored.seq > last.seq:
                break
            behind, _, since = _links(stored)
            if at is None or behind == at:
                if since is None:
                    return stored
                at = stored.seq
            begin = stored.seq + 1
        return None

    async def _start(self, last: Stored) -> int:
        """From where to go through the messages: the first one that is found there counts."""
        while True:
            behind, _, since = _links(last)
            begin = last.seq if since is None else since
            if since is None:
                try:
                    rival = await self.rival(behind + 1, last)
                except Unsure:
                    break
                if rival is not None:
                    last = rival
                    continue
            stored = await self.next(begin)
            if stored is None or stored.seq != begin:
                break
            return begin
        # What it belongs behind was dropped. Messages are dropped up to one that counts.
        return 1


def _links(stored: Stored) -> tuple[int, str, int | None]:
    """Behind which message it belongs, of which generation it is, and where the last whole state is."""
    change = decode_change(stored.data)
    return change.behind, change.generation, change.since

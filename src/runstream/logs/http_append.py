"""Appending over HTTP: in requests of a size that a server takes; of small ones several are under way.

The next small request goes out while the answers to those before it are awaited, on another connection. A
producer's numbers keep the order: what comes before its predecessor leaves a hole, so the server stores
nothing of it and says so, and it goes again. Repeated after a failure, nothing is stored twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec

from ..errors import LogUnavailable, NotALog, NumberGap, RequestTooLarge
from ..log import Appended, Producer
from ..record import Draft
from .http_codec import encode_append, encode_parts, read_appended
from .http_transport import Transport

# Requests of one append: while one is at the server's disk, another is at the server, and a third is made.
UNDER_WAY_MAX: Final = 3
# Beyond this size a request takes its time for what it holds and not for the way; and what is sent behind it
# might well arrive before it.
SMALL_BYTES_MAX: Final = 32 * 1024


class _Part(msgspec.Struct, frozen=True):
    """One request: events, the first of which has the producer's number `number`."""

    number: int
    events: Sequence[bytes]
    final: bool

    @property
    def is_small(self) -> bool:
        return sum(map(len, self.events)) <= SMALL_BYTES_MAX


class Append:
    """One append of a producer's records to the run at `path`. Used once."""

    def __init__(self, transport: Transport, path: str, producer: Producer) -> None:
        self._transport = transport
        self._path = path
        self._producer = producer
        self._under_way: deque[tuple[_Part, asyncio.Task[Appended]]] = deque()
        self._answers: list[Appended] = []
        self._overtaken = False

    async def send(
        self, run_id: str, drafts: Sequence[Draft], records_max: int, *, final: bool
    ) -> Appended:
        """What `Log.append` promises, with at most so many records in a request; it is all or none for
        each request, and for all of them once it is repeated.
        """
        try:
            for start, events in encode_parts(run_id, drafts, records_max):
                is_last = start + len(events) == len(drafts)
                part = _Part(self._producer.number + start, events, final and is_last)
                if len(events) == len(drafts):
                    return await self._send_part(part)
                await self._start(part)
            while self._under_way:
                await self._settle()
        finally:
            for _, task in self._under_way:
                task.cancel()
            await asyncio.gather(*(task for _, task in self._under_way), return_exceptions=True)
        return _joined(self._answers)

    async def _start(self, part: _Part) -> None:
        """Send it, beside those before it if all are small."""
        while self._under_way and not (part.is_small and self._has_room()):
            await self._settle()
        self._under_way.append((part, asyncio.create_task(self._send_part(part))))
        if part.is_small:
            # It goes out in this turn, and the next one is encoded meanwhile.
            await asyncio.sleep(0)
        else:
            await self._settle()

    def _has_room(self) -> bool:
        _, oldest = self._under_way[0]
        return len(self._under_way) < UNDER_WAY_MAX and not self._overtaken and not oldest.done()

    async def _settle(self) -> None:
        """Wait for the first of those under way."""
        part, task = self._under_way[0]
        try:
            answer = await task
        except NumberGap:
            if not self._answers:
                raise
            # It has overtaken one before it; all of those are stored by now.
            self._overtaken = True
            answer = await self._send_part(part)
        self._under_way.popleft()
        self._answers.append(answer)

    async def _send_part(self, part: _Part) -> Appended:
        """One request; or several, where something before the server takes only smaller ones."""
        producer = Producer(self._producer.id, self._producer.epoch, part.number)
        try:
            return await send_events(
                self._transport, self._path, part.events, producer, final=part.final
            )
        except RequestTooLarge:
            if len(part.events) == 1:
                raise
            half = len(part.events) // 2
            first = _Part(part.number, part.events[:half], final=False)
            rest = _Part(part.number + half, part.events[half:], part.final)
            return _joined([await self._send_part(first), await self._send_part(rest)])


def _joined(answers: Sequence[Appended]) -> Appended:
    duplicates = sum(answer.duplicates for answer in answers)
    return Appended(answers[0].first_seq, answers[-1].last_seq, duplicates)


async def send_events(
    transport: Transport,
    path: str,
    events: Sequence[bytes],
    producer: Producer | None,
    *,
    final: bool,
) -> Appended:
    """One request. Raises RequestTooLarge, and what `Log.append` does."""
    try:
        answer = await transport.call(
            "POST",
            path,
            body=encode_append(events, producer, final=final),
            repeatable=producer is not None,
        )
        stored = read_appended(answer.body)
    except NotALog as error:
        # A proxy's page, most likely: the run was there, and will be again.
        raise LogUnavailable(str(error)) from error
    if answer.unsure and stored.last_seq:
        # What our own first attempt stored is no duplicate of anything the caller sent before.
        return Appended(stored.first_seq, stored.last_seq)
    return stored

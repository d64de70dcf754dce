"""In which order the runs in NATS were born, as far as this process has looked: a list costs what is new.

The streams are the truth. An entry whose stream was never begun, because its writer died in between, is
passed over by whoever looks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any, Final

import msgspec

from .nats_line import FETCHED_MAX, Line
from .nats_refusals import StreamGone
from .nats_subjects import Subjects

# Entries that are handed out at once: one look at each of them is asked for together.
WINDOW: Final = 256
# Newest entries that are kept in memory (some 300 bytes each); older ones are read again for each list.
KEPT_MAX: Final = 100_000


class Born(msgspec.Struct, frozen=True):
    """That a run was begun, and in whose stream."""

    run_id: str
    root: str
    workflow: str


class Entry(msgspec.Struct, frozen=True):
    """Where in the index that is said."""

    seq: int
    born: Born


_decode = msgspec.json.Decoder(Born).decode


class Index:
    """The entries, newest first. In the log's own loop only."""

    def __init__(self, line: Line, subjects: Subjects) -> None:
        self._line, self._subjects = line, subjects
        self._reading = asyncio.Lock()
        # All entries from `_low` up to and with `_high`, oldest first; None: none were read yet.
        self._kept: deque[Entry] = deque()
        self._low = self._high = 0
        # A stream that somebody has made anew is another one.
        self._made = ""

    async def newest_first(
        self, before: int | None, workflow: str | None
    ) -> AsyncGenerator[list[Entry]]:
        """The entries, some at a time, those before the one at `before` or all; of a workflow or all."""
        first = await self._catch_up()
        below = self._high + 1 if before is None else before
        kept = [entry for entry in self._kept if entry.seq < below and _is_of(entry, workflow)]
        below = min(below, self._low)
        # (While others read on, this one goes through what it has.)
        while kept:
            yield kept[: -WINDOW - 1 : -1]
            del kept[-WINDOW:]
        while below > first:
            window = max(below - FETCHED_MAX, first)
            found = await self._read(window, below)
            async with self._reading:
                if self._low == below and len(self._kept) + len(found) <= KEPT_MAX:
                    self._kept.extendleft(reversed(found))
                    self._low = window
            wanted = [entry for entry in reversed(found) if _is_of(entry, workflow)]
            for start in range(0, len(wanted), WINDOW):
                yield wanted[start : start + WINDOW]
            below = window

    async def _catch_up(self) -> int:
        """Read what is new; the sequence of the first entry there is."""
        async with self._reading:
            info: dict[str, Any] = {"created": "", "state": {"first_seq": 1, "last_seq": 0}}
            with contextlib.suppress(StreamGone):
                info = await self._line.api(f"STREAM.INFO.{self._subjects.runs}")
            first = max(1, int(info["state"]["first_seq"]))  # (0 where there was none yet)
            last = int(info["state"]["last_seq"])
            is_same = info["created"] == self._made and last >= self._high
            if not is_same or last - self._high > KEPT_MAX:
                self._kept.clear()
                self._made = info["created"]
                # The newest ones will do for most; the others are read when somebody asks for them.
                self._high = max(first - 1, last - FETCHED_MAX)
                self._low = self._high + 1
            while self._high < last:
                upto = min(last + 1, self._high + 1 + FETCHED_MAX)
                self._kept.extend(await self._read(self._high + 1, upto))
                self._high = upto - 1
            while self._kept and (len(self._kept) > KEPT_MAX or self._kept[0].seq < first):
                self._low = self._kept.popleft().seq + 1
            return first

    async def _read(self, begin: int, end: int) -> list[Entry]:
        """The entries from `begin` up to, not with, `end`: at most `FETCHED_MAX`."""
        subject = self._subjects.born_any()
        found: list[Entry] = []
        while begin < end:
            count = end - begin
            messages = await self._line.fetch(self._subjects.runs, subject, begin, count)
            if not messages:
                # There are no more, or the server that was asked is behind: the leader knows.
                newer = await self._line.next(self._subjects.runs, subject, begin)
                messages = [newer] if newer else []
            if not messages:
                break
            found += [Entry(one.seq, _decode(one.data)) for one in messages if one.seq < end]
            begin = messages[-1].seq + 1
        return found


def _is_of(entry: Entry, workflow: str | None) -> bool:
    return workflow in (None, entry.born.workflow)

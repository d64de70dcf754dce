"""The record queue: what waits to be sent, in its order, with a mark where records had to be dropped.

Beside drafts it holds tickets (whoever waits until everything before is stored) and slots (a draft that a
newer one may replace until it is taken).
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from itertools import repeat
from typing import cast

from .events import RESERVED_PREFIXES
from .record import DROPPED, Draft, make_draft


class Dropped:
    """Stands where records were dropped: how many, by run."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, draft: Draft) -> None:
        self.counts[draft.run_id] = self.counts.get(draft.run_id, 0) + 1

    def drafts(self) -> list[Draft]:
        """One record for each run that lost some, so that each run's followers learn of it."""
        return [
            make_draft(run_id, DROPPED, {"count": count, "reason": "queue_full"})
            for run_id, count in self.counts.items()
        ]


class LatestSlot:
    """A queued draft that may be replaced until it is taken. `lock` is that of the queue."""

    __slots__ = ("_draft", "_fixed", "_lock")

    def __init__(self, draft: Draft, lock: threading.Lock) -> None:
        self._draft = draft
        self._fixed = False
        self._lock = lock

    def replace(self, draft: Draft) -> bool:
        if self._fixed:
            return False
        with self._lock:
            if not self._fixed:
                self._draft = draft
            return not self._fixed

    def settle(self) -> None:
        self._fixed = True

    def take(self) -> Draft:
        """For the queue, whose lock is held."""
        self._fixed = True
        return self._draft


Entry = Draft | Dropped | LatestSlot | Future[bool]


class RecordQueue:
    """Any thread may append drafts to `entries` as it is; all else needs the owner's lock."""

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque()
        # Entries that are not drafts: without any, the common batch is taken without a look at each.
        self._special = 0
        # Up to here there is nothing that may be dropped.
        self._drop_from = 0

    def enter(self, entry: Dropped | LatestSlot | Future[bool]) -> None:
        """Append what is not a draft."""
        self.entries.append(entry)
        self._special += 1

    def drop_oldest(self, new: Draft) -> bool:
        """Make room for `new`; False if nothing else could be dropped, so that `new` was.

        Only users' records are dropped; a mark takes the place of each row of them.
        """
        entries = self.entries
        at, end = self._drop_from, len(entries)
        while at < end and not _is_users(entries[at]):
            at += 1
        self._drop_from = at
        before = entries[at - 1] if at else None
        mark = before if isinstance(before, Dropped) else Dropped()
        if at == end:
            mark.add(new)
            if mark is not before:
                self.enter(mark)
            return False
        mark.add(cast(Draft, entries[at]))
        if mark is before:
            del entries[at]
        else:
            entries[at] = mark
            self._special += 1
            self._drop_from += 1
        return True

    def pop(self, limit: int | None) -> tuple[list[Draft], list[Future[bool]]]:
        """The oldest drafts, `limit` or (where records were dropped) a few more, and the tickets
        between them.
        """
        self._drop_from = 0
        entries = self.entries
        if not self._special:
            count = len(entries) if limit is None else min(len(entries), limit)
            queue = cast("deque[Draft]", entries)
            return list(map(deque[Draft].popleft, repeat(queue, count))), []
        drafts: list[Draft] = []
        tickets: list[Future[bool]] = []
        while entries and (limit is None or len(drafts) < limit):
            entry = entries.popleft()
            if isinstance(entry, Draft):
                drafts.append(entry)
                continue
            self._special -= 1
            if isinstance(entry, Dropped):
                drafts += entry.drafts()
            elif isinstance(entry, LatestSlot):
                drafts.append(entry.take())
            else:
                tickets.append(entry)
        return drafts, tickets

    def drop_users(self) -> tuple[int, list[Future[bool]]]:
        """Take every user's record out, and the tickets: how many records that were. What else waits
        keeps its order.
        """
        kept: list[Entry] = []
        tickets: list[Future[bool]] = []
        dropped = 0
        # Entry by entry: others append without the lock meanwhile.
        for _ in range(len(self.entries)):
            entry = self.entries.popleft()
            if isinstance(entry, Future):
                tickets.append(entry)
            elif _is_users(entry):
                dropped += 1
            else:
                kept.append(entry)
        self.entries.extendleft(reversed(kept))
        self._special -= len(tickets)
        self._drop_from = 0
        return dropped, tickets

    def settle_slots(self) -> None:
        """Nothing here will be sent by this process (it was forked): make no slot wait for it."""
        for entry in self.entries:
            if isinstance(entry, LatestSlot):
                entry.settle()


def _is_users(entry: Entry) -> bool:
    return isinstance(entry, Draft) and not entry.kind.startswith(RESERVED_PREFIXES)

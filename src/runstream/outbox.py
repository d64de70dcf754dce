"""The outbox: the bounded queue between one run's code in this process and the log.

`put` costs a microsecond and never touches the log. What the queue cannot take is blocked, dropped or
refused as the policy says; a drop is marked at its place in the stream. Every record gets the producer's
next number when it is taken, and a batch that may not have arrived is taken again, unchanged.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, cast

import msgspec

from .errors import LogUnavailable, QueueFull, RunEnded, RunstreamError
from .events import RESERVED_PREFIXES
from .log import Producer
from .record import DROPPED, Draft, make_draft
from .settings import Overflow

# How long `publish` may block: beyond it the log is not keeping up, and the caller should know.
BLOCK_S: Final = 5.0

logger = logging.getLogger(__name__)


class Dropped:
    """Stands in the queue where records were dropped."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 1


class LatestSlot:
    """A queued draft that may be replaced until it is taken."""

    __slots__ = ("_draft", "_fixed", "_lock")

    def __init__(self, draft: Draft, lock: threading.Lock) -> None:
        self._draft = draft
        self._fixed = False
        self._lock = lock

    def replace(self, draft: Draft) -> bool:
        with self._lock:
            if not self._fixed:
                self._draft = draft
                return True
            return False

    def settle(self) -> None:
        self._fixed = True

    def take(self) -> Draft:
        """For the outbox, which holds the lock."""
        self._fixed = True
        return self._draft


class Batch(msgspec.Struct, frozen=True):
    """Records on their way, and who waits for them to be stored."""

    producer: Producer
    drafts: list[Draft]
    final: bool
    tickets: list[Future[bool]]


class Counts(msgspec.Struct):
    """What became of an outbox's records."""

    stored: int = 0
    dropped: int = 0
    failed: int = 0


_Entry = Draft | Dropped | LatestSlot | Future[bool]


class Outbox:
    """One run's queue in this process. Any thread may put; one sender takes and settles.

    `kick` is called when the queue has something for a sender that is not looking.
    """

    def __init__(
        self,
        *,
        url: str,
        run_id: str,
        root_run_id: str,
        producer_id: str,
        epoch: int,
        number: int,
        records_max: int,
        size_bytes_max: int,
        overflow: Overflow,
        kick: Callable[[], None],
        linger_s: float = 0.0,
    ) -> None:
        self.url = url
        self.run_id = run_id
        self.root_run_id = root_run_id
        self.producer_id = producer_id
        self.epoch = epoch
        self.size_bytes_max = size_bytes_max
        self.overflow: Overflow = overflow
        # How long a record may wait for others to share its batch; `priority` cuts it short.
        self.linger_s = linger_s
        self.counts = Counts()
        self.muted = False
        self.urgent = False
        # Why the log refuses this producer for good, or does not answer now.
        self.closed_by: RunstreamError | None = None
        self.failing: RunstreamError | None = None
        self._number = number
        self._records_max = records_max
        self._kick = kick
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._blocked = 0
        self._room_waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._queue: deque[_Entry] = deque()
        # Entries that are not drafts, so that the common batch is taken without a look at each.
        self._special = 0
        self._drop_from = 0
        self._asked = False
        self._sending: Batch | None = None

    def start_over(self, producer_id: str, *, kick: Callable[[], None]) -> None:
        """In a forked child: the queue is the parent's to send, here everything begins anew."""
        self.producer_id = producer_id
        self.epoch = 0
        self.counts = Counts()
        self._number = 0
        self._kick = kick
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._blocked = 0
        self._room_waiters = []
        self._queue = deque()
        self._special = 0
        self._drop_from = 0
        self._asked = False
        self._sending = None
        self.failing = None

    def connect(self, kick: Callable[[], None]) -> None:
        """Have another sender called from now on."""
        self._kick = kick

    # --- the producer's side ---------------------------------------------------------------------

    def put(self, draft: Draft, *, priority: bool = False) -> None:
        """Queue a user's record.

        Raises:
            RunEnded, ProducerFenced, …: the log has refused this producer for good.
            QueueFull: no room (policy `raise`, or `block` for more than BLOCK_S).
            LogUnavailable: no room, and the log is failing (policy `block`).
        """
        if self.closed_by is not None:
            raise self.closed_by
        if len(self._queue) >= self._records_max:
            with self._lock:
                if len(self._queue) >= self._records_max and not self._make_room():
                    return
        # Without the lock: `append` is one step, and the sender clears `_asked` before it looks, so
        # either it finds this draft or this finds `_asked` cleared. (N threads may so overshoot the
        # bound by N.)
        self._queue.append(draft)
        if priority:
            self.urgent = True
        elif self._asked:
            return
        self._asked = True
        self._kick()

    def put_always(self, draft: Draft) -> None:
        """Queue a record that is never dropped, room or not (there are few of them)."""
        if self.closed_by is not None:
            raise self.closed_by
        self._enter(draft)

    def offer(self, draft: Draft) -> bool:
        if self.closed_by is not None:
            raise self.closed_by
        with self._lock:
            if len(self._queue) >= self._records_max:
                return False
            self._queue.append(draft)
            if self._asked:
                return True
            self._asked = True
        self._kick()
        return True

    def put_latest(self, draft: Draft) -> LatestSlot:
        if self.closed_by is not None:
            raise self.closed_by
        slot = LatestSlot(draft, self._lock)
        self._enter(slot)
        return slot

    async def wait_room(self) -> None:
        if len(self._queue) < self._records_max:
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._lock:
            if len(self._queue) < self._records_max:
                return
            self._room_waiters.append((loop, future))
        await future

    def ticket(self) -> Future[bool]:
        """A future that is True once everything queued before is stored, False if it cannot be."""
        ticket: Future[bool] = Future()
        if self.closed_by is not None and not self._queue and self._sending is None:
            ticket.set_result(True)
        else:
            self._enter(ticket)
        return ticket

    def _enter(self, entry: _Entry) -> None:
        with self._lock:
            self._queue.append(entry)
            if not isinstance(entry, Draft):
                self._special += 1
            if self._asked:
                return
            self._asked = True
        self._kick()

    def _make_room(self) -> bool:
        """With the lock held: True if the new record may be queued, False if it has been dropped."""
        if self.overflow == "raise":
            raise QueueFull(f"{self._records_max} records of run {self.run_id!r} wait to be stored")
        if self.overflow == "drop_oldest":
            return self._drop_oldest()
        self._wait_for_room()
        return True

    def _wait_for_room(self) -> None:
        deadline = time.monotonic() + BLOCK_S
        self._blocked += 1
        try:
            while len(self._queue) >= self._records_max:
                if self.closed_by is not None:
                    raise self.closed_by
                if self.failing is not None:
                    raise LogUnavailable(
                        f"the queue is full and the log is failing: {self.failing}"
                    ) from self.failing
                left = deadline - time.monotonic()
                if left <= 0:
                    raise QueueFull(
                        f"the log has not taken a record of run {self.run_id!r} for {BLOCK_S:.0f} s"
                    )
                self._room.wait(left)
        finally:
            self._blocked -= 1

    def _drop_oldest(self) -> bool:
        queue = self._queue
        at = self._drop_from
        while at < len(queue):
            entry = queue[at]
            if isinstance(entry, Draft) and not entry.kind.startswith(RESERVED_PREFIXES):
                break
            at += 1
        self._drop_from = at
        self.counts.dropped += 1
        before = queue[at - 1] if at else None
        if isinstance(before, Dropped):
            before.count += 1
            if at == len(queue):
                return False  # nothing to drop but the new record, which this marks
            del queue[at]
        elif at == len(queue):
            queue.append(Dropped())
            self._special += 1
            self._drop_from += 1
            return False
        else:
            queue[at] = Dropped()
            self._special += 1
            self._drop_from += 1
        if self.counts.dropped == 1:
            logger.warning(
                "run %s: more than %d records wait to be stored; the oldest are dropped, and marked so",
                self.run_id,
                self._records_max,
            )
        return len(queue) < self._records_max + 1

    # --- the sender's side -----------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Records queued or on their way."""
        sending = self._sending
        return len(self._queue) + (len(sending.drafts) if sending else 0)

    def take(self, limit: int | None = None) -> Batch | None:
        """The next batch: the one that was not settled, unchanged, or what is queued."""
        if self._sending is not None:
            return self._sending
        with self._lock:
            self._asked = False
            self.urgent = False
            drafts, tickets = self._pop(limit)
            self._drop_from = 0
            if self._blocked:
                self._room.notify_all()
            waiters, self._room_waiters = self._room_waiters, []
        for loop, future in waiters:
            loop.call_soon_threadsafe(_resolve, future)
        if not drafts:
            for ticket in tickets:
                _answer(ticket, stored=True)
            return None
        last = drafts[-1]
        self._sending = Batch(
            Producer(self.producer_id, self.epoch, self._number + 1),
            drafts,
            last.is_terminal and last.run_id == self.root_run_id,
            tickets,
        )
        return self._sending

    def _pop(self, limit: int | None) -> tuple[list[Draft], list[Future[bool]]]:
        queue = self._queue
        if not self._special:
            count = len(queue) if limit is None else min(len(queue), limit)
            popleft = cast("deque[Draft]", queue).popleft
            return [popleft() for _ in range(count)], []
        drafts: list[Draft] = []
        tickets: list[Future[bool]] = []
        while queue and (limit is None or len(drafts) < limit):
            entry = queue.popleft()
            if isinstance(entry, Draft):
                drafts.append(entry)
                continue
            self._special -= 1
            if isinstance(entry, Dropped):
                drafts.append(
                    make_draft(self.run_id, DROPPED, {"count": entry.count, "reason": "queue_full"})
                )
            elif isinstance(entry, LatestSlot):
                drafts.append(entry.take())
            else:
                tickets.append(entry)
        return drafts, tickets

    def stored(self, batch: Batch) -> None:
        """The log has the batch."""
        self._number += len(batch.drafts)
        self.counts.stored += len(batch.drafts)
        self.failing = None
        self._sending = None
        if batch.final:
            self.close(RunEnded(f"run {self.root_run_id!r} has ended"))
        for ticket in batch.tickets:
            _answer(ticket, stored=True)

    def refused(self, batch: Batch, error: RunstreamError) -> None:
        """The log will never take this batch, nor anything behind it."""
        self.counts.failed += len(batch.drafts)
        self._sending = None
        logger.warning(
            "run %s: %d records could not be stored: %s", self.run_id, len(batch.drafts), error
        )
        for ticket in batch.tickets:
            _answer(ticket, stored=False)
        self.close(error)

    def failed(self, error: RunstreamError) -> None:
        """The log does not take the batch now; it will be taken again."""
        if self.failing is None:
            logger.warning("run %s: the log is failing, still trying: %s", self.run_id, error)
        self.failing = error
        with self._lock:
            self._room.notify_all()

    def close(self, error: RunstreamError) -> None:
        """Refuse from now on, with `error`; what is still queued is counted as failed."""
        with self._lock:
            self.closed_by = error
            drafts, tickets = self._pop(None)
            self._room.notify_all()
            waiters, self._room_waiters = self._room_waiters, []
        for loop, future in waiters:
            loop.call_soon_threadsafe(_resolve, future)
        if drafts:
            self.counts.dropped += len(drafts)
            logger.warning("run %s: %d queued records dropped: %s", self.run_id, len(drafts), error)
        for ticket in tickets:
            _answer(ticket, stored=not drafts)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _answer(ticket: Future[bool], *, stored: bool) -> None:
    if ticket.set_running_or_notify_cancel():
        ticket.set_result(stored)

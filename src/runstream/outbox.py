"""The outbox: the bounded queue between one run's code in this process and the log.

`put` costs a microsecond and never touches the log. What the queue cannot take is blocked, dropped or
refused as the policy says; a drop is marked at its place in the stream. Every record gets the producer's
next number when it is taken, and a batch that may not have arrived is taken again, unchanged.

Both sides are in this one file, because they share a lock and a queue, and what one may do without the lock
depends on what the other does.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from .batch import Batch, Counts, answer, cut_after_end
from .errors import LogUnavailable, QueueFull, RunEnded, RunstreamError
from .log import Producer
from .record import Draft
from .record_queue import LatestSlot, RecordQueue
from .room import Room, wake
from .settings import Overflow

# How long `publish` may block: beyond it the log is not keeping up, and the caller should know.
BLOCK_S: Final = 5.0
# How long `publish` gives way to a sender that makes its batch ready: as long as the interpreter itself lets
# a thread go on while another waits. Beyond that it is not us that the sender waits for.
GIVE_WAY_S: Final = 0.005

logger = logging.getLogger(__name__)


class Outbox:
    """One run's queue in this process. Any thread may put; one sender takes and settles.

    `kick` is called with it when the queue has something for a sender that is not looking.
    """

    # For `put`: beyond some thirty attributes the interpreter has no short way to them but this.
    __slots__ = (
        "_asked", "_block_s", "_entries", "_give_way_s", "_half", "_kick", "_lock", "_lost", "_number",
        "_over", "_queue", "_records_max", "_room", "_sealed", "_sending", "_warned", "_watermark",
        "closed_by", "counts", "ending", "epoch", "failing", "linger_s", "muted", "overflow",
        "preparing", "producer_id", "root_run_id", "run_id", "size_bytes_max", "urgent", "url",
    )  # fmt: skip

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
        kick: Callable[[Outbox], None],
        linger_s: float = 0.0,
        block_s: float = BLOCK_S,
        give_way_s: float = GIVE_WAY_S,
    ) -> None:
        self.url = url
        self.run_id = run_id
        self.root_run_id = root_run_id
        self.producer_id = producer_id
        self.epoch = epoch
        self.size_bytes_max = size_bytes_max
        self.overflow: Overflow = overflow
        # How long a record may wait for others to share its batch; `priority` and tickets cut it short.
        self.linger_s = linger_s
        self.counts = Counts()
        self.muted = False
        self.urgent = False
        # Why nothing more is taken in, or why the log does not answer now.
        self.closed_by: RunstreamError | None = None
        self.failing: RunstreamError | None = None
        self._number = number
        self._records_max = records_max
        self._block_s = block_s
        self._give_way_s = give_way_s
        # From here on `put` looks twice: half way, once for each batch, and at the bound.
        self._half = (records_max + 1) // 2 if linger_s > 0 or overflow == "block" else records_max
        self._start(kick)

    def _start(self, kick: Callable[[Outbox], None]) -> None:
        self._kick = kick
        self._lock = threading.Lock()
        self._room = Room(self._lock)
        self._watermark = self._half
        # The sender is at work on a batch, and needs the interpreter for it as the producers do.
        self.preparing = False
        self._queue = RecordQueue()
        self._entries = self._queue.entries
        self._asked = False
        # A terminal record is queued, or was.
        self.ending = False
        # Runs of this stream whose terminal record has been taken: nothing of theirs may follow.
        self._over: set[str] = set()
        # Nobody looks into the queue any more.
        self._sealed = self.closed_by is not None
        self._lost = False
        self._warned = False
        self._sending: Batch | None = None

    def start_over(self, producer_id: str, *, kick: Callable[[Outbox], None]) -> None:
        """In a forked child: the queue is the parent's to send, here everything begins anew."""
        self._queue.settle_slots()
        self.producer_id = producer_id
        self.epoch = 0
        self.counts = Counts()
        self.failing = None
        self.urgent = False
        self.muted = False
        self._number = 0
        self._start(kick)

    def connect(self, kick: Callable[[Outbox], None]) -> None:
        """Have another sender called from now on."""
        self._kick = kick

    def forget_kick(self) -> None:
        """The last kick came to nothing: let the next record kick again."""
        self._asked = False

    # --- the producer's side ---------------------------------------------------------------------

    def put(self, draft: Draft, priority: bool = False) -> None:
        """Queue a user's record.

        Raises:
            RunEnded, ProducerFenced, …: nothing more is taken in, for good.
            QueueFull: no room (policy `raise`, or `block` for longer than its limit).
            LogUnavailable: no room, and the log is failing (policy `block`).
        """
        if self.closed_by is not None:
            raise self._refusal()
        if len(self._entries) >= self._watermark and not self._make_room(draft):
            return
        # Without the lock: `append` is one step, and the sender clears `_asked` before it looks, so
        # either it finds this draft or this finds `_asked` cleared. (N threads may so overshoot the
        # bound by N.)
        self._entries.append(draft)
        if self._sealed:
            self._sweep()
        if priority:
            self.urgent = True
        elif self._asked:
            return
        self._asked = True
        self._kick(self)

    def put_always(self, draft: Draft) -> None:
        """Queue a record that is never dropped, room or not (there are few of them).

        The root run's terminal record is the last that is taken in.
        """
        with self._lock:
            if self.closed_by is not None:
                raise self._refusal()
            self._entries.append(draft)
            if draft.is_terminal:
                self.ending = True
                if draft.run_id == self.root_run_id:
                    self.closed_by = _ended(self.root_run_id)
        self._ask()

    def offer(self, draft: Draft) -> bool:
        """Queue a record if there is room. Raises as `put` does when nothing more is taken in."""
        with self._lock:
            if self.closed_by is not None:
                raise self._refusal()
            if self._is_full():
                return False
            self._entries.append(draft)
        self._ask()
        return True

    def put_latest(self, draft: Draft) -> LatestSlot:
        """Queue a record, room or not, that may be replaced until it is taken."""
        with self._lock:
            if self.closed_by is not None:
                raise self._refusal()
            slot = LatestSlot(draft, self._lock)
            self._queue.enter(slot)
        self._ask()
        return slot

    async def wait_room(self) -> None:
        """Wait until there is room, or the log fails (then waiting is no use). Safe to cancel."""
        if not self._is_full():
            return
        with self._lock:
            if not self._is_full() or self._is_in_trouble():
                return
            waiter = self._room.enter()
        try:
            await waiter
        finally:
            with self._lock:
                self._room.leave(waiter)

    def ticket(self) -> Future[bool]:
        """A future that is True once everything queued before is stored, False if it cannot be."""
        ticket: Future[bool] = Future()
        with self._lock:
            if self._sealed and self._sending is None:
                ticket.set_result(not self._lost)
                return ticket
            if self.muted and not self.ending:
                ticket.set_result(False)
                return ticket
            self._queue.enter(ticket)
            self.urgent = True
            self._asked = True
        self._kick(self)
        return ticket

    def _ask(self) -> None:
        if not self._asked:
            self._asked = True
            self._kick(self)

    def _is_full(self) -> bool:
        return len(self._entries) >= self._records_max

    def _is_in_trouble(self) -> bool:
        """Whether waiting for room is no use."""
        return self.closed_by is not None or self.failing is not None

    def _refusal(self) -> RunstreamError:
        """The error to raise; without the traceback of the last time, which would only grow."""
        assert self.closed_by is not None  # noqa: S101 - every caller has looked
        return self.closed_by.with_traceback(None)

    def _make_room(self, draft: Draft) -> bool:
        """True if the draft may be queued, False if it has been dropped."""
        if self.linger_s > 0 and not self.urgent and not self.muted:
            self.urgent = self._asked = True
            self._kick(self)
        with self._lock:
            if self.muted:
                self.counts.dropped += 1
                return False
            if self._watermark < self._records_max:
                self._watermark = self._records_max
                self._give_way()
            if not self._is_full():
                return True
            if self.overflow == "raise":
                raise QueueFull(
                    f"{self._records_max} records of run {self.run_id!r} wait to be stored"
                )
            if self.overflow == "block":
                self._wait_for_room()
                return True
            self.counts.dropped += 1
            queued = self._queue.drop_oldest(draft)
            warned, self._warned = self._warned, True
        if not warned:
            logger.warning(
                "run %s: more than %d records wait to be stored; the oldest are dropped, and marked so",
                self.run_id,
                self._records_max,
            )
        return queued

    def _give_way(self) -> None:
        """With the lock held, which is given up meanwhile.

        A sender that had to fight for the interpreter at every step would be ready only when the queue is
        full. So it gets it now, and the rest of the queue is filled while the disk is at work.
        """
        if self.preparing:
            self._room.wait(self._give_way_s, lambda: not self.preparing)

    def _wait_for_room(self) -> None:
        """With the lock held, which is given up meanwhile."""
        self._room.wait(self._block_s, lambda: not self._is_full() or self._is_in_trouble())
        if self.closed_by is not None:
            raise self._refusal()
        if not self._is_full():
            return
        if self.failing is not None:
            raise LogUnavailable(
                f"the queue is full and the log is failing: {self.failing}"
            ) from self.failing
        raise QueueFull(
            f"the log has not taken a record of run {self.run_id!r} for {self._block_s:g} s"
        )

    def _sweep(self) -> None:
        """A draft was queued at the very moment of the closing: nobody else would find it."""
        with self._lock:
            drafts, tickets = self._queue.pop(None)
            self.counts.dropped += len(drafts)
        answer(tickets, stored=not self._lost)
        raise self._refusal()

    # --- the sender's side -----------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Records queued or on their way."""
        sending = self._sending
        return len(self._entries) + (len(sending.drafts) if sending else 0)

    def take(self, limit: int | None = None, *, prepares: bool = False) -> Batch | None:
        """The next batch: the one that was not settled, unchanged, or what is queued.

        A sender that `prepares` works on it in this process, and calls `prepared` when that is done.
        """
        if self._sending is not None:
            return self._sending
        with self._lock:
            self._asked = False
            self.urgent = False
            self._watermark = self._half
            drafts, tickets = self._queue.pop(limit)
            late = cut_after_end(drafts, self.root_run_id, self._over) if self.ending else 0
            while late and not drafts and self._entries:
                # All of it came too late, and there is more, which nobody would ask for again.
                drafts, behind = self._queue.pop(limit)
                tickets += behind
                late += cut_after_end(drafts, self.root_run_id, self._over)
            self.counts.dropped += late
            if drafts:
                last = drafts[-1]
                self._sending = Batch(
                    Producer(self.producer_id, self.epoch, self._number + 1),
                    drafts,
                    last.is_terminal and last.run_id == self.root_run_id,
                    tickets,
                )
                self.preparing = prepares and self.overflow == "block"
            waiters = self._room.tell_all()
        wake(waiters)
        if late:
            self._warn(late, RunEnded("they came too late for the end of their run"))
        if not drafts:
            answer(tickets, stored=not self._lost)
        return self._sending

    def prepared(self) -> None:
        """Now the sender waits for the disk, or has failed: producers need not give way any more."""
        with self._lock:
            self.preparing = False
            self._room.tell_threads()

    def stored(self, batch: Batch) -> None:
        """The log has the batch."""
        if self._sending is not batch:
            return  # it was given up meanwhile
        if self.muted:
            self.muted, self._watermark = False, self._half
        self._number += len(batch.drafts)
        self.counts.stored += len(batch.drafts)
        self.failing = None
        self._sending = None
        if batch.final:
            # Behind the end there is only what came too late for it: no ticket is about that.
            self._seal(_ended(self.root_run_id), None, queued_in_time=False)
        answer(batch.tickets, stored=True)

    def refused(self, batch: Batch, error: RunstreamError) -> None:
        """The log will never take this batch, nor anything behind it."""
        if self._sending is batch:
            self._sending = None
            self._seal(error, batch)

    def failed(self, error: RunstreamError) -> None:
        """The log does not take the batch now; it will be taken again."""
        with self._lock:
            news = self.failing is None
            self.failing = error
            waiters = self._room.tell_all()
        wake(waiters)
        if news:
            logger.warning("run %s: the log is failing, still trying: %s", self.run_id, error)

    def mute(self, error: RunstreamError) -> bool:
        """The log wants no records of ours: users' records are dropped from now on, those that wait
        too, until it takes the batch that is on its way. Returns whether that is news.
        """
        with self._lock:
            news = not self.muted
            self.muted = True
            self.failing = error
            # From now on `put` looks twice at once.
            self._watermark = 0
            dropped, tickets = self._queue.drop_users()
            self.counts.dropped += dropped
            if self._sending is not None:
                tickets += self._sending.tickets
                self._sending.tickets.clear()
            waiters = self._room.tell_all()
        wake(waiters)
        answer(tickets, stored=False)
        return news

    def recovered(self) -> None:
        """The log answers again."""
        if self._sending is None:
            self.failing = None

    def close(self, error: RunstreamError) -> None:
        """Take nothing more in, because of `error`; what is queued is dropped, and counted so."""
        self._seal(error, None)

    def give_up(self, error: RunstreamError) -> None:
        """Nobody sends any more: close, and answer for the batch that is on its way, too."""
        batch, self._sending = self._sending, None
        self._seal(self.closed_by if self._sealed and self.closed_by else error, batch)

    def _seal(
        self, error: RunstreamError, batch: Batch | None, *, queued_in_time: bool = True
    ) -> None:
        """`batch` was on its way and will not arrive."""
        lost = list(batch.drafts) if batch else []
        with self._lock:
            self.closed_by = error
            self._sealed = True
            drafts, tickets = self._queue.pop(None)
            if isinstance(error, RunEnded):
                self.counts.dropped += len(lost)
            else:
                self.counts.failed += len(lost)
            self.counts.dropped += len(drafts)
            self._lost = self._lost or bool(lost or (drafts and queued_in_time))
            waiters = self._room.tell_all()
        wake(waiters)
        if lost or drafts:
            self._warn(len(lost) + len(drafts), error)
        answer([*(batch.tickets if batch else ()), *tickets], stored=not self._lost)

    def _warn(self, count: int, error: RunstreamError) -> None:
        logger.warning("run %s: %d records could not be stored: %s", self.run_id, count, error)


def _ended(run_id: str) -> RunEnded:
    return RunEnded(f"run {run_id!r} has ended")

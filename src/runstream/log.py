"""The log contract: what every backend that stores streams promises.

A stream is the ordered log of a root run; child runs write into their root's stream. The log is the
truth: it pushes nothing, `wait` only says that `read` is worth calling. So "history, then live" is one
loop over the two, written once, with no hand-over that could lose or repeat a record.

Every method may be cancelled: that only stops the waiting, the log stays whole and usable. After
`aclose()` every call raises `LogClosed`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Final, Literal, Protocol, runtime_checkable

import msgspec

from .filter import Filter
from .record import Cursor, Draft, Origin, Record
from .retention import Retention
from .start import Start

Status = Literal[
    "running", "waiting", "stalled", "completed", "failed", "cancelled", "timed_out", "lost"
]

# The status that a record gives to its run.
STATUS_BY_KIND: Final[dict[str, Status]] = {
    "run.started": "running",
    "run.resumed": "running",
    "run.waiting": "waiting",
    "run.stalled": "stalled",
    "run.completed": "completed",
    "run.failed": "failed",
    "run.cancelled": "cancelled",
    "run.timed_out": "timed_out",
    "run.lost": "lost",
}
END_STATUSES: Final[frozenset[str]] = frozenset(
    {"completed", "failed", "cancelled", "timed_out", "lost"}
)

# A page of history: large enough to make the cost per call vanish, small enough to hold many at once.
READ_LIMIT_DEFAULT: Final = 4096
READ_LIMIT_MAX: Final = 10_000
# A page of runs.
LIST_LIMIT_MAX: Final = 1000


class Producer(msgspec.Struct, frozen=True):
    """Who sends a batch: the writer's id, its epoch, and the number of the batch's first record.

    Numbers are 1, 2, 3 … per producer and run. Epoch 0 is for ids drawn at random, which need no
    `open`; `open` raises the epoch of an id, which fences every older one.
    """

    id: str
    epoch: int
    number: int


class ProducerState(msgspec.Struct, frozen=True):
    """What a log remembers of a producer: its epoch, its last number, and its last batch."""

    epoch: int = 0
    number: int = 0
    batch_number: int = 0
    first_seq: int = 0
    last_seq: int = 0


class Appended(msgspec.Struct, frozen=True):
    """The answer to an append. `duplicates` of the drafts were there already.

    A repeat of the producer's last batch is answered with its original seqs; of an older batch the
    log no longer knows them, and both are 0.
    """

    first_seq: int
    last_seq: int
    duplicates: int = 0


class LeaseClaim(msgspec.Struct, frozen=True):
    """A wish to hold a run: renewed within `lease_s` seconds; once lapsed, the run is `stalled` for
    `grace_s` seconds (0: the run cannot be resumed) and then `lost`.
    """

    lease_s: float
    grace_s: float = 0.0


class Lease(msgspec.Struct, frozen=True):
    """The claim of the process that runs a run. `owner` is a producer id.

    It has lapsed when an observer has seen the same counter for `lease_s` on its own clock.
    """

    owner: str
    epoch: int
    counter: int
    lease_s: float
    grace_s: float


class RunInfo(msgspec.Struct, frozen=True):
    """What a log knows of a run. Seqs are those of its stream (the root's).

    `first_seq` is the first record still there; `last_seq` the newest (0: none yet).
    """

    run_id: str
    root_run_id: str
    parent_run_id: str | None
    workflow: str
    status: Status
    generation: str
    first_seq: int
    last_seq: int
    created: int
    ended: int | None = None
    lease: Lease | None = None

    @property
    def has_ended(self) -> bool:
        return self.status in END_STATUSES

    @property
    def origin(self) -> Origin:
        return Origin(self.generation, self.workflow, self.parent_run_id, self.root_run_id)


class Opened(msgspec.Struct, frozen=True):
    """The answer to `open`: the run, and the producer's new epoch and last number."""

    info: RunInfo
    epoch: int
    number: int
    created: bool


class Page(msgspec.Struct, frozen=True):
    """Consecutive records: `drafts[i]` has the number `first_seq + i`.

    `ended` says that the stream was final when this was read and that the page reaches its end.
    """

    generation: str
    first_seq: int
    drafts: Sequence[Draft]
    ended: bool

    @property
    def last_seq(self) -> int:
        return self.first_seq + len(self.drafts) - 1


class Log(Protocol):
    """A backend. The conformance suite (`runstream check URL`) is this text in executable form."""

    async def open(
        self,
        run_id: str,
        *,
        producer: str | None,
        workflow: str | None = None,
        parent_run_id: str | None = None,
        claim: LeaseClaim | None = None,
    ) -> Opened:
        """Create the run if `workflow` is given and it is not there; claim it if `claim` is given.

        The producer's epoch is raised, so that older writers under its id are fenced (None: no
        producer comes with it). A claim makes the producer the owner of the lease, and the run
        `running` from then on.

        Raises:
            RunNotFound: no such run (and no `workflow`), or no such parent.
            RunEnded: the run, or the root that a child would join, has ended.
            InvalidInput: a claim without a producer or for an impossible time, or an impossible name.
            LeaseHeld: a claim, while the run is `running` and another owner holds its lease.
        """
        ...

    async def append(
        self,
        run_id: str,
        drafts: Sequence[Draft],
        *,
        producer: Producer | None = None,
        final: bool = False,
    ) -> Appended:
        """Store the drafts in the stream of `run_id`'s root: all or none, in order, consecutive.

        When it returns they are durable, and every `read` sees them. With a `producer` a repeat is
        harmless. `final` goes with a last draft that ends the root; children that are still running
        are ended as lost just before it, between it and the other drafts.

        Raises:
            RunNotFound: there is no such run.
            RunEnded: the stream has its terminal record, or a draft is of a child that has ended.
            ProducerFenced: a newer epoch of this producer exists.
            NumberGap: the numbers leave a hole, or overlap partly with what is stored.
            InvalidInput: no drafts, one of a run that is not in the stream, or `final` does not agree
                with the last of them.
            LogUnavailable: nothing was stored; the same call may be made again.
        """
        ...

    async def read(self, run_id: str, *, after: Cursor, limit: int = READ_LIMIT_DEFAULT) -> Page:
        """The records of the run's stream behind `after`, at most `limit`; never waits for news.

        A page may hold fewer than there are (a log bounds it in bytes, or has the rest elsewhere):
        only an empty one says that nothing is behind `after`. A limit beyond the most is lowered.

        Raises:
            InvalidInput: a limit below 1.
            RunNotFound: no such run.
            GenerationChanged: the cursor is of another generation.
            PositionGone: records behind the cursor have been trimmed.
            InvalidPosition: the cursor is past the newest record.
        """
        ...

    async def wait(self, run_id: str, *, after: int, timeout: float) -> None:
        """Return soon after the stream has a record behind `after`, or after `timeout` seconds.

        May return early for nothing; never misses an append that finished before the call. For a run
        that is not there, returns soon after it is opened. A log that cannot be asked now is not told
        here: whoever waits is about to read, and hears of it there.
        """
        ...

    async def info(self, run_id: str) -> RunInfo:
        """Raises RunNotFound."""
        ...

    async def renew(self, run_id: str, *, owner: str, epoch: int) -> None:
        """Raise the lease's counter. Raises LeaseLost if it is no longer the caller's."""
        ...

    async def release(self, run_id: str, *, owner: str, epoch: int) -> None:
        """Give the lease up, so that the run can be claimed at once (it parked). Raises LeaseLost."""
        ...

    async def expire(self, run_id: str, *, lease: Lease) -> RunInfo:
        """End the claim that an observer saw lapse; harmless if the lease has moved on meanwhile.

        In one step: compare the lease, fence the owner's epoch, and append `run.stalled` (a running
        run with a grace) or else the final `run.lost`. A stalled run has a lease that is nobody's: it
        lapses after the grace, unless the run is claimed before.
        """
        ...

    async def trim(self, run_id: str, *, through: int) -> None:
        """Drop the records up to and including `through`; numbers go on.

        Readers in other processes may get them a little longer.
        """
        ...

    async def list(
        self,
        *,
        workflow: str | None = None,
        status: Status | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> Sequence[RunInfo]:
        """Runs, newest first; `before` is the run id that the last page ended with.

        Raises:
            RunNotFound: there is no run `before` (any more).
            InvalidInput: a limit below 1; one beyond the most is lowered.
        """
        ...

    async def aclose(self) -> None:
        """Close; waiters and callers get `LogClosed`. Calling it again does nothing."""
        ...


class PendingAppend(msgspec.Struct, frozen=True):
    """An append that a log fetches when it is about to commit; `done` gets the answer or the error.

    `prepared` is called before, when all that is left of the work on it is the disk's. `awaited`: somebody
    waits for the answer before there will be more, so putting a commit off for more gains nothing.
    """

    run_id: str
    drafts: Sequence[Draft]
    producer: Producer
    final: bool
    done: Callable[[Appended | Exception], None]
    prepared: Callable[[], None] | None = None
    awaited: bool = False


@runtime_checkable
class Retains(Protocol):
    """The ability to remember how much of a run is to be kept."""

    async def retain(self, run_id: str, retention: Retention | None) -> None:
        """Set the limits of the stream of `run_id`'s root; None takes them away.

        They are enforced in the background, a little later, by servers and by processes that publish.

        Raises RunNotFound.
        """
        ...


@runtime_checkable
class TellsLimits(Protocol):
    """The ability of a log that is stored here to tell of what `retain` has set."""

    async def retained(self) -> Mapping[str, Retention]:
        """The limits that were set, by the ids of root runs."""
        ...


@runtime_checkable
class Removes(Protocol):
    """The ability to remove whole runs."""

    async def remove(self, run_id: str) -> None:
        """Remove a root run that has ended, with its children: as if it had never been.

        In steps that others don't notice: a reader meanwhile gets a gap. Cancelled, it leaves the run
        whole or shortened, and may be called again.

        Raises:
            RunNotFound: it is not there (any more).
            InvalidInput: it has not ended, or is a child.
        """
        ...


@runtime_checkable
class FetchesAppends(Protocol):
    """The ability of a log that writes on a thread of its own in this process.

    It saves a hand-over per batch: the thread takes what is queued at the moment of its commit.
    """

    def fetch_from(self, take: Callable[[], Sequence[PendingAppend]]) -> Callable[[], None]:
        """Call `take` (on the writing thread) before every commit; returns the call, for any thread
        and cheap, that says there is something to take.
        """
        ...


@runtime_checkable
class SendsInParts(Protocol):
    """The ability of a log elsewhere to send an append in several requests, each of the size that the
    settings say, and the next one while the last is under way.
    """

    @property
    def append_records(self) -> int:
        """Records that an append should have, if there are as many."""
        ...


@runtime_checkable
class PausesForFork(Protocol):
    """The ability to let go of what a forked child must not inherit, and to go on afterwards."""

    def pause(self, timeout: float) -> bool:
        """Let go; callers wait until `resume()`. False if that is not possible within `timeout` seconds."""
        ...

    def resume(self) -> None:
        """Go on, in the parent."""
        ...


@runtime_checkable
class ClosesNow(Protocol):
    """The ability to close without an event loop, for the interpreter's exit."""

    def close(self) -> None:
        """As `aclose()`, blocking."""
        ...


@runtime_checkable
class Follows(Protocol):
    """The ability of a log elsewhere to serve a whole subscription: it filters at the source, watches
    the run's lease, and pushes what is new.
    """

    def follow(
        self, run_id: str, *, start: Start, filter: Filter, follow: bool
    ) -> AsyncGenerator[list[Record], None]:
        """What `Subscription.pages()` promises: records of the run in lists (never empty), gaps among
        them, until its terminal record; `follow=False` ends at what is stored now.

        A lost connection is made again and goes on behind the last record (never a hole or a repeat).

        Raises (while iterating):
            RunNotFound, InvalidPosition, Unauthorized, Forbidden, StreamingOff: the log's answer.
            LogUnavailable: it did not answer at all, from the first call on.
        """
        ...

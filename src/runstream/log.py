"""The log contract: what every backend that stores streams promises.

A stream is the ordered log of a root run; child runs write into their root's stream. The log is the
truth: it pushes nothing, `wait` only says that `read` is worth calling. So "history, then live" is one
loop over the two, written once, with no hand-over that could lose or repeat a record.

Every method may be cancelled: that only stops the waiting, the log stays whole and usable. After
`aclose()` every call raises `LogClosed`.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from typing import Final, Literal, Protocol, runtime_checkable

import msgspec

from .errors import (
    GenerationChanged,
    InvalidInput,
    InvalidPosition,
    LeaseLost,
    NumberGap,
    PositionGone,
    ProducerFenced,
    RunEnded,
)
from .events import check_name
from .record import TERMINAL_KINDS, Cursor, Draft, Origin, check_run_id, make_draft

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
READ_LIMIT_DEFAULT: Final = 1024
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
        producer comes with it). A claim makes the producer the owner of the lease.

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
        that is not there, returns soon after it is opened.
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
    """An append that a log fetches when it is about to commit; `done` gets the answer or the error."""

    run_id: str
    drafts: Sequence[Draft]
    producer: Producer
    final: bool
    done: Callable[[Appended | Exception], None]


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
class ClosesNow(Protocol):
    """The ability to close without an event loop, for the interpreter's exit."""

    def close(self) -> None:
        """As `aclose()`, blocking."""
        ...


# --- rules that all logs share, as pure functions ------------------------------------------------


def new_generation() -> str:
    """Drawn when a stream is first written: a rebuilt stream must not look like the old one."""
    return secrets.token_hex(6)


def admit(
    state: ProducerState | None, producer: Producer, count: int
) -> tuple[ProducerState, Appended | None]:
    """Decide on a batch: (the state to go on from, None) for a new one, else (…, the answer).

    Raises:
        ProducerFenced: a newer epoch exists, or this one was never opened here.
        NumberGap: the numbers leave a hole or overlap partly.
    """
    state = state or ProducerState()
    if producer.epoch != state.epoch:
        raise ProducerFenced(
            f"producer {producer.id!r} has epoch {state.epoch} here, the batch carries {producer.epoch}: "
            "another process has taken its place"
            if producer.epoch < state.epoch
            else f"producer {producer.id!r} has not opened this run with epoch {producer.epoch}"
        )
    last = producer.number + count - 1
    if producer.number == state.number + 1:
        return state, None
    if producer.number >= 1 and last <= state.number:
        same = producer.number == state.batch_number and last == state.number
        seqs = (state.first_seq, state.last_seq) if same else (0, 0)
        return state, Appended(*seqs, duplicates=count)
    raise NumberGap(
        f"producer {producer.id!r} sent numbers {producer.number}…{last}, "
        f"the next one here is {state.number + 1}"
    )


def check_open(
    run_id: str,
    producer: str | None,
    workflow: str | None,
    parent_run_id: str | None,
    claim: LeaseClaim | None,
) -> None:
    """Raises InvalidInput for names that cannot be, or a claim that nobody makes or nobody could keep."""
    check_run_id(run_id)
    if workflow is not None:
        check_name(workflow, "workflow")
    if parent_run_id is not None:
        check_run_id(parent_run_id)
    if producer is not None:
        check_name(producer, "producer id")
    if claim is None:
        return
    if producer is None:
        raise InvalidInput("a lease needs an owner: open with a producer")
    if not 0 < claim.lease_s < math.inf or not 0 <= claim.grace_s < math.inf:
        raise InvalidInput(
            f"a lease is for a time above 0 and a grace for one from 0 (seconds), not {claim}"
        )


def check_limit(limit: int, most: int) -> int:
    """The limit of a page, lowered to the `most` that there may be. Raises InvalidInput below 1."""
    if limit < 1:
        raise InvalidInput(f"a page holds at least one entry, not {limit}")
    return min(limit, most)


def check_batch(drafts: Sequence[Draft], *, root_run_id: str, final: bool) -> None:
    """Raises InvalidInput unless the drafts may be appended together, `final` or not."""
    if not drafts:
        raise InvalidInput("an append needs at least one record")
    ends = [
        number
        for number, draft in enumerate(drafts, 1)
        if draft.kind in TERMINAL_KINDS and draft.run_id == root_run_id
    ]
    if ends != ([len(drafts)] if final else []):
        raise InvalidInput(
            f"final={final} goes with exactly one record that ends the root run {root_run_id!r}, the last"
            if final
            else f"a record that ends the root run {root_run_id!r} must be the last, with final=True"
        )


def check_children(
    drafts: Sequence[Draft], *, root_run_id: str, status_of: Callable[[str], Status | None]
) -> None:
    """Check the drafts of children; `status_of` gives the status of a run of this stream, else None.

    Raises:
        InvalidInput: a draft of a run that is not in the stream.
        RunEnded: a draft of a child that has ended, or ends earlier in the batch.
    """
    children = {draft.run_id for draft in drafts}
    children.discard(root_run_id)
    if not children:
        return
    ended: set[str] = set()
    for run_id in children:
        status = status_of(run_id)
        if status is None:
            raise InvalidInput(f"run {run_id!r} is not in the stream of {root_run_id!r}")
        if status in END_STATUSES:
            ended.add(run_id)
    for draft in drafts:
        if draft.run_id in ended:
            raise RunEnded(
                f"run {draft.run_id!r} has ended, nothing can follow its terminal record"
            )
        if draft.is_terminal:
            ended.add(draft.run_id)


def check_position(info: RunInfo, after: Cursor) -> None:
    """Raises what `Log.read` promises for a cursor that cannot be read from."""
    if after.generation is not None and after.generation != info.generation:
        raise GenerationChanged(
            f"the stream of run {info.run_id!r} was rebuilt: its generation is {info.generation}, "
            f"the cursor's {after.generation}",
            first_seq=info.first_seq,
            generation=info.generation,
        )
    if after.seq > info.last_seq:
        raise InvalidPosition(
            f"run {info.run_id!r} has {info.last_seq} records, nothing can follow number {after.seq} yet"
        )
    if after.seq + 1 < info.first_seq:
        raise PositionGone(
            f"records {after.seq + 1} to {info.first_seq - 1} of run {info.run_id!r} have been trimmed",
            first_seq=info.first_seq,
        )


def check_owner(lease: Lease | None, run_id: str, owner: str, epoch: int) -> None:
    """Raises LeaseLost unless (owner, epoch) holds the lease."""
    if lease is None or (lease.owner, lease.epoch) != (owner, epoch):
        raise LeaseLost(f"the lease of run {run_id!r} is no longer held by {owner!r}")


def stalled_lease(lease: Lease, epoch: int) -> Lease:
    """The lease of a run that has stalled: of the `epoch` that fences its owner, so nobody can renew it,
    and another one than what observers saw lapse, so only the first of them acts.
    """
    return Lease(lease.owner, epoch, lease.counter + 1, lease.lease_s, lease.grace_s)


def renewed_lease(lease: Lease) -> Lease:
    """The lease after a sign of life."""
    return Lease(lease.owner, lease.epoch, lease.counter + 1, lease.lease_s, lease.grace_s)


def lost_draft(run_id: str, reason: str) -> Draft:
    """The terminal record that a log writes for a run whose process cannot."""
    return make_draft(run_id, "run.lost", {"reason": reason})


def stalled_draft(run_id: str, grace_s: float) -> Draft:
    """The record for a run whose process vanished and may come back within the grace."""
    return make_draft(run_id, "run.stalled", {"reason": LEASE_LAPSED, "grace_s": grace_s})


LEASE_LAPSED: Final = "the process that ran it stopped renewing its lease"
PARENT_ENDED: Final = "its parent run ended"

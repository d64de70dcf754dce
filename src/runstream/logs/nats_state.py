"""A stream as its messages tell it: each message is a `Change`, and all of them in order give a `State`.

Nothing here knows NATS. A decision looks at a state and adds to the change to come (`Pending`); the change
is right only behind the very message that the state was read from, which it names.
"""

from __future__ import annotations

import secrets
from collections import ChainMap
from collections.abc import Sequence
from typing import Final

import msgspec

from ..admission import (
    LEASE_LAPSED,
    PARENT_ENDED,
    admit,
    cannot_begin_again,
    check_batch,
    check_children,
    check_owner,
    lost_draft,
    new_generation,
    no_such_run,
    renewed_lease,
    stalled_draft,
    stalled_lease,
)
from ..errors import LeaseHeld, RunEnded
from ..log import (
    STATUS_BY_KIND,
    Appended,
    Lease,
    LeaseClaim,
    Opened,
    Producer,
    ProducerState,
    RunInfo,
    Status,
)
from ..record import Draft, now_us
from ..retention import Retention

# Producers that a stream remembers. Each signal from outside is one; a batch is sent again within minutes.
PRODUCERS_MAX: Final = 10_000


class Run(msgspec.Struct, array_like=True, frozen=True):
    """What a stream knows of the root or of a child."""

    run_id: str
    parent_run_id: str | None
    workflow: str
    created: int
    status: Status = "running"
    ended: int | None = None
    lease: Lease | None = None


class Change(msgspec.Struct, array_like=True):
    """One message of a stream: records, and what else became different with them.

    `root`, `first_seq` and `kept_from` are in each, so that the newest message alone says how the run
    stands. `nonce` tells a writer whose answer was lost whether the message is its own. `since` is the
    message with the whole state from which this one can be reached (None: this one has it).
    """

    generation: str
    nonce: str
    root: Run
    first_seq: int
    kept_from: int
    drafts: Sequence[Draft] = ()
    since: int | None = None
    children: dict[str, Run] = {}
    producers: dict[str, ProducerState] = {}
    retention: Retention | None = None
    # Sequences of the messages that hold the records, where they were too many for this one.
    parts: Sequence[int] = ()
    records: int = 0
    # The same for the children and producers.
    state_parts: Sequence[int] = ()
    # The message that it belongs behind: it counts if no other one came first (see nats_chain).
    behind: int = 0

    @property
    def next_seq(self) -> int:
        return self.first_seq + max(self.records, len(self.drafts))


class State:
    """A stream as it was behind message `at` of NATS."""

    def __init__(self) -> None:
        self.at = 0
        self.generation = ""
        self.root: Run | None = None
        self.first_seq = 1
        self.next_seq = 1
        self.children: dict[str, Run] = {}
        self.producers: dict[str, ProducerState] = {}
        self.retention: Retention | None = None
        # Where the last whole state is, and how many bytes of changes came behind it.
        self.since = 0
        self.size_bytes_since = 0

    def apply(self, change: Change, at: int, size_bytes: int) -> None:
        """Go on with the next message."""
        self.generation = change.generation
        self.root = change.root
        self.first_seq, self.next_seq = change.kept_from, change.next_seq
        self.retention = change.retention
        if change.since is None:
            self.children, self.producers = dict(change.children), dict(change.producers)
            self.since, self.size_bytes_since = at, 0
        else:
            self.children.update(change.children)
            for name, producer in change.producers.items():
                self.producers.pop(name, None)
                self.producers[name] = producer
            self.size_bytes_since += size_bytes
        while len(self.producers) > PRODUCERS_MAX:
            del self.producers[next(iter(self.producers))]
        self.at = at

    def find(self, run_id: str) -> Run:
        """Raises RunNotFound."""
        run = self.root if self.root and self.root.run_id == run_id else self.children.get(run_id)
        if run is None:
            raise no_such_run(run_id)
        return run

    def info(self, run_id: str) -> RunInfo:
        """Raises RunNotFound."""
        return _info(self.find(run_id), self.root, self.generation, self.first_seq, self.next_seq)


class Pending:
    """The next change of a stream, while decisions are made. A decision that raises leaves no trace."""

    def __init__(self, state: State, root_run_id: str) -> None:
        self._root_run_id = root_run_id
        self._state = state
        self.generation = state.generation
        self.root = state.root
        self.kept_from = state.first_seq
        self.retention = state.retention
        self.drafts: list[Draft] = []
        self.children: dict[str, Run] = {}
        self.producers: dict[str, ProducerState] = {}
        # Something is to be written, though there may be no records.
        self.is_changed = False
        # Older messages are to go: the new one must stand for itself.
        self.is_whole = False
        self._all_children = ChainMap(self.children, state.children)
        self._all_producers = ChainMap(self.producers, state.producers)

    @property
    def next_seq(self) -> int:
        return self._state.next_seq + len(self.drafts)

    def change(self, whole_from_bytes: int) -> Change:
        """The message; with the whole state when many changes have come behind the last one."""
        state = self._state
        is_whole = self.is_whole or not state.since or state.size_bytes_since > whole_from_bytes
        return Change(
            generation=self.generation,
            nonce=secrets.token_hex(8),
            root=self._find(self._root_run_id),
            first_seq=state.next_seq,
            kept_from=self.kept_from,
            drafts=self.drafts,
            since=None if is_whole else state.since,
            children=dict(self._all_children) if is_whole else self.children,
            producers=self._whole_producers() if is_whole else self.producers,
            retention=self.retention,
            records=len(self.drafts),
            behind=state.at,
        )

    def _whole_producers(self) -> dict[str, ProducerState]:
        """Those that spoke last at the end: the oldest are forgotten first."""
        older = {k: v for k, v in self._state.producers.items() if k not in self.producers}
        return {**older, **self.producers}

    # --- decisions -------------------------------------------------------------------------------

    def open(
        self,
        run_id: str,
        producer: str | None,
        workflow: str | None,
        parent_run_id: str | None,
        claim: LeaseClaim | None,
    ) -> Opened:
        known = self._find_or_none(run_id)
        run = known or self._new_run(run_id, workflow, parent_run_id)
        if run.ended is not None:
            raise cannot_begin_again(run_id, run.status)
        if claim and run.lease and run.status == "running" and run.lease.owner != producer:
            raise LeaseHeld(f"run {run_id!r} is being run by {run.lease.owner!r}")
        before, epoch = ProducerState(), 0
        if producer is not None:
            before = self._all_producers.get(producer, before)
            epoch = before.epoch + 1
        if claim and producer is not None:
            counter = run.lease.counter + 1 if run.lease else 1
            lease = Lease(producer, epoch, counter, claim.lease_s, claim.grace_s)
            run = msgspec.structs.replace(run, lease=lease, status="running")
        if not self.generation:
            self.generation = new_generation()
        if producer is not None:
            self._set_producer(producer, _with_epoch(before, epoch))
        if run is not known:
            self._set(run)
        return Opened(self.info(run_id), epoch, before.number, created=known is None)

    def _new_run(self, run_id: str, workflow: str | None, parent_run_id: str | None) -> Run:
        if workflow is None:
            raise no_such_run(run_id)
        if parent_run_id is not None:
            parent = self._find(parent_run_id)
            if parent.ended is not None:
                raise RunEnded(f"the parent run {parent_run_id!r} has ended ({parent.status})")
        return Run(run_id, parent_run_id, workflow, now_us())

    def append(
        self, drafts: Sequence[Draft], producer: Producer | None, *, final: bool
    ) -> Appended:
        root = self._find(self._root_run_id)
        check_batch(drafts, root_run_id=root.run_id, final=final)
        before = ProducerState()
        if producer is not None:
            before, answer = admit(self._all_producers.get(producer.id), producer, len(drafts))
            if answer is not None:
                return answer
        if root.ended is not None:
            raise RunEnded(f"run {root.run_id!r} has ended ({root.status})")
        check_children(drafts, root_run_id=root.run_id, status_of=self._status_of)
        first = self.next_seq
        self._store(drafts[:-1])
        if final:
            self._lose_children()
        self._store(drafts[-1:])
        last = self.next_seq - 1
        if producer is not None:
            number = producer.number + len(drafts) - 1
            after = ProducerState(before.epoch, number, producer.number, first, last)
            self._set_producer(producer.id, after)
            root = self._find(root.run_id)
            if root.lease and root.lease.owner == producer.id:
                self._set(msgspec.structs.replace(root, lease=renewed_lease(root.lease)))
        return Appended(first, last)

    def renew(self, run_id: str, owner: str, epoch: int) -> None:
        run = self._find(run_id)
        check_owner(run.lease, run_id, owner, epoch)
        if run.lease is not None:
            self._set(msgspec.structs.replace(run, lease=renewed_lease(run.lease)))

    def release(self, run_id: str, owner: str, epoch: int) -> None:
        run = self._find(run_id)
        check_owner(run.lease, run_id, owner, epoch)
        self._set(msgspec.structs.replace(run, lease=None))

    def expire(self, run_id: str, lease: Lease) -> RunInfo:
        run = self._find(run_id)
        if run.lease != lease or run.ended is not None or run.status == "waiting":
            return self.info(run_id)
        fenced = self._all_producers.get(lease.owner, ProducerState())
        epoch = fenced.epoch + 1
        self._set_producer(lease.owner, _with_epoch(fenced, epoch))
        if run.status == "running" and lease.grace_s > 0:
            self._set(msgspec.structs.replace(run, lease=stalled_lease(lease, epoch)))
            self._store([stalled_draft(run_id, lease.grace_s)])
        else:
            if run_id == self._root_run_id:
                self._lose_children()
            self._store([lost_draft(run_id, LEASE_LAPSED)])
        return self.info(run_id)

    def trim(self, through: int) -> None:
        self._find(self._root_run_id)
        kept_from = min(through + 1, self.next_seq)
        if kept_from > self.kept_from:
            self.kept_from = kept_from
            self.is_changed = self.is_whole = True

    def stand_alone(self) -> None:
        """The newest message shall be enough, while the others are dropped one by one."""
        self._find(self._root_run_id)
        self.is_changed = self.is_whole = True

    def retain(self, retention: Retention | None) -> None:
        self._find(self._root_run_id)
        if retention != self.retention:
            self.retention = retention
            self.is_changed = True

    def info(self, run_id: str) -> RunInfo:
        """The run as it will be."""
        run = self._find(run_id)
        return _info(run, self.root, self.generation, self.kept_from, self.next_seq)

    # --- what they are made of -------------------------------------------------------------------

    def _find_or_none(self, run_id: str) -> Run | None:
        if run_id == self._root_run_id:
            return self.root
        return self._all_children.get(run_id)

    def _find(self, run_id: str) -> Run:
        run = self._find_or_none(run_id)
        if run is None:
            raise no_such_run(run_id)
        return run

    def _status_of(self, run_id: str) -> Status | None:
        run = self._all_children.get(run_id)
        return None if run is None else run.status

    def _set(self, run: Run) -> None:
        self.is_changed = True
        if run.run_id == self._root_run_id:
            self.root = run
        else:
            self.children[run.run_id] = run

    def _set_producer(self, name: str, state: ProducerState) -> None:
        self.is_changed = True
        self.producers[name] = state

    def _lose_children(self) -> None:
        running = [child for child in self._all_children.values() if child.ended is None]
        running.sort(key=lambda child: child.created, reverse=True)
        self._store([lost_draft(child.run_id, PARENT_ENDED) for child in running])

    def _store(self, drafts: Sequence[Draft]) -> None:
        self.is_changed = self.is_changed or bool(drafts)
        self.drafts.extend(drafts)
        for draft in drafts:
            status = STATUS_BY_KIND.get(draft.kind)
            run = self._find_or_none(draft.run_id) if status is not None else None
            if run is not None and status is not None:
                ended = now_us() if draft.is_terminal else run.ended
                self._set(msgspec.structs.replace(run, status=status, ended=ended))


def info_of(change: Change) -> RunInfo:
    """The root run as its newest message says."""
    root = change.root
    return _info(root, root, change.generation, change.kept_from, change.next_seq)


def _info(run: Run, root: Run | None, generation: str, first_seq: int, next_seq: int) -> RunInfo:
    return RunInfo(
        run_id=run.run_id,
        root_run_id=root.run_id if root else run.run_id,
        parent_run_id=run.parent_run_id,
        workflow=run.workflow,
        status=run.status,
        generation=generation,
        first_seq=first_seq,
        last_seq=next_seq - 1,
        created=run.created,
        ended=run.ended,
        lease=run.lease,
    )


def _with_epoch(state: ProducerState, epoch: int) -> ProducerState:
    return ProducerState(epoch, state.number, state.batch_number, state.first_seq, state.last_seq)

"""Admission: what every log lets in, what it refuses, and what it writes itself, as pure functions.

They hold no state and do no I/O: a log calls them inside its transaction with what it has stored.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from typing import Final

from .errors import (
    GenerationChanged,
    InvalidInput,
    InvalidPosition,
    LeaseLost,
    NumberGap,
    PositionGone,
    ProducerFenced,
    RunEnded,
    RunNotFound,
)
from .events import check_name
from .log import (
    END_STATUSES,
    Appended,
    Lease,
    LeaseClaim,
    Producer,
    ProducerState,
    RunInfo,
    Status,
)
from .record import TERMINAL_KINDS, Cursor, Draft, check_run_id, make_draft

# Why a log ended a run itself, or let it stall.
LEASE_LAPSED: Final = "the process that ran it stopped renewing its lease"
PARENT_ENDED: Final = "its parent run ended"


def no_such_run(run_id: str) -> RunNotFound:
    """The error for a run that a log does not have. It names no log: a server passes it on."""
    return RunNotFound(
        f"no run {run_id!r} in this log: it may be in another one (url=, RUNSTREAM_URL), have been removed, "
        "or not have begun (wait=True waits for it); `runstream ls` lists those that are here"
    )


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


def cannot_begin_again(run_id: str, status: Status) -> RunEnded:
    """The error for opening a run that is over."""
    return RunEnded(
        f"run {run_id!r} has ended ({status}) and cannot begin again: choose another run_id, or none"
    )


def check_removable(info: RunInfo) -> None:
    """Raises InvalidInput unless the run is a root that has ended."""
    if info.run_id != info.root_run_id:
        raise InvalidInput(f"run {info.run_id!r} is a child: it goes with its root")
    if not info.has_ended:
        raise InvalidInput(
            f"run {info.run_id!r} is {info.status}: only an ended run can be removed"
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
    if not final and TERMINAL_KINDS.isdisjoint({draft.kind for draft in drafts}):
        return
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
            f"run {info.run_id!r} has {info.last_seq} records; a position after number {after.seq} "
            "is beyond its end"
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

"""What changes a PostgreSQL log, as plain code over the rows that a transaction has loaded.

Each piece checks everything before it changes anything, so that one that is refused leaves the others of
the same transaction untouched.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
from .postgres_read import CHUNK_RECORDS_MAX
from .postgres_unit import Chunk, Run, Unit

# Larger rows would make a reader fetch much for a few records.
CHUNK_SIZE_BYTES_MAX: Final = 256 * 1024

_encode = msgspec.json.Encoder().encode


class Piece(msgspec.Struct, frozen=True):
    """Consecutive drafts, encoded as they are stored."""

    count: int
    encoded: bytes


def cut(drafts: Sequence[Draft]) -> list[Piece]:
    """Encode drafts in pieces of the size that a chunk may have."""
    pieces: list[Piece] = []
    for start in range(0, len(drafts), CHUNK_RECORDS_MAX):
        _cut(drafts[start : start + CHUNK_RECORDS_MAX], pieces)
    return pieces


def _cut(drafts: Sequence[Draft], pieces: list[Piece]) -> None:
    encoded = _encode(drafts)
    if len(encoded) > CHUNK_SIZE_BYTES_MAX and len(drafts) > 1:
        half = len(drafts) // 2
        _cut(drafts[:half], pieces)
        _cut(drafts[half:], pieces)
        return
    pieces.append(Piece(len(drafts), encoded))


def open_run(
    unit: Unit,
    run_id: str,
    producer: str | None,
    workflow: str | None,
    parent_run_id: str | None,
    claim: LeaseClaim | None,
) -> Opened:
    run = unit.find(run_id)
    created = run is None
    if run is None:
        run = _new_run(unit, run_id, workflow, parent_run_id)
    if run.ended is not None:
        raise cannot_begin_again(run_id, run.status)
    if claim and run.owner is not None and run.status == "running" and run.owner != producer:
        raise LeaseHeld(f"run {run_id!r} is being run by {run.owner!r}")
    if created:
        unit.add(run)
    before = ProducerState()
    epoch = 0
    if producer is not None:
        before = unit.producers.get((run.root, producer), before)
        epoch = before.epoch + 1
        unit.put_producer(run.root, producer, msgspec.structs.replace(before, epoch=epoch))
    if claim:
        run.counter = run.counter + 1 if run.owner is not None else 1
        run.owner, run.epoch = producer, epoch
        run.lease_s, run.grace_s = claim.lease_s, claim.grace_s
        run.status = "running"
        unit.change(run)
    return Opened(unit.info(run), epoch, before.number, created)


def _new_run(unit: Unit, run_id: str, workflow: str | None, parent_run_id: str | None) -> Run:
    if workflow is None:
        raise no_such_run(run_id)
    root: int | None = None
    if parent_run_id is not None:
        parent = unit.get(parent_run_id)
        if parent.ended is not None:
            raise RunEnded(f"the parent run {parent_run_id!r} has ended ({parent.status})")
        root = parent.root
    row_id = next(unit.new_ids)
    return Run(
        row_id, root or row_id, run_id, parent_run_id, workflow, "running", new_generation(), 1, 0,
        now_us(),
    )  # fmt: skip


def append(
    unit: Unit,
    run_id: str,
    drafts: Sequence[Draft],
    pieces: list[Piece],
    producer: Producer | None,
    final: bool,
) -> Appended:
    root = unit.root_of(unit.get(run_id))
    check_batch(drafts, root_run_id=root.run_id, final=final)
    state, count = ProducerState(), len(drafts)
    if producer is not None:
        state, answer = admit(unit.producers.get((root.id, producer.id)), producer, count)
        if answer is not None:
            return answer
    if root.ended is not None:
        raise RunEnded(f"run {root.run_id!r} has ended ({root.status})")

    def status_of(child: str) -> Status | None:
        run = unit.find(child)
        return run.status if run is not None and run.root == root.id else None

    check_children(drafts, root_run_id=root.run_id, status_of=status_of)
    if final:
        ended = {draft.run_id for draft in drafts if draft.is_terminal}
        lost = _lost_children(unit, root, ended)
        if lost:
            drafts = [*drafts[:-1], *lost, drafts[-1]]
            pieces = cut(drafts)
    first = root.last_seq + 1
    if producer is not None and root.owner == producer.id:
        root.counter += 1  # writing is a sign of life, as good as a renewal
    _store(unit, root, drafts, pieces)
    if producer is not None:
        number = producer.number + count - 1
        unit.put_producer(
            root.id,
            producer.id,
            ProducerState(state.epoch, number, producer.number, first, root.last_seq),
        )
    return Appended(first, root.last_seq)


def _store(unit: Unit, root: Run, drafts: Sequence[Draft], pieces: Sequence[Piece]) -> None:
    for piece in pieces:
        last = root.last_seq + piece.count
        unit.chunks.append(Chunk(root.id, root.last_seq + 1, last, piece.encoded))
        root.last_seq = last
    unit.change(root)
    for draft in drafts:
        status = STATUS_BY_KIND.get(draft.kind)
        run = unit.find(draft.run_id) if status else None
        if run is not None and status is not None and run.root == root.id:
            run.status = status
            run.ended = now_us() if draft.is_terminal else None
            unit.change(run)


def _lost_children(unit: Unit, root: Run, ended: Collection[str] = ()) -> list[Draft]:
    """The ends of the children that run, but for those that the same append ends."""
    return [
        lost_draft(child.run_id, PARENT_ENDED)
        for child in unit.running_children(root)
        if child.run_id not in ended
    ]


def renew(unit: Unit, run_id: str, owner: str, epoch: int) -> None:
    run = unit.get(run_id)
    check_owner(run.lease, run_id, owner, epoch)
    run.counter += 1
    unit.change(run)


def release(unit: Unit, run_id: str, owner: str, epoch: int) -> None:
    run = unit.get(run_id)
    check_owner(run.lease, run_id, owner, epoch)
    run.owner = None
    unit.change(run)


def expire(unit: Unit, run_id: str, lease: Lease) -> RunInfo:
    run = unit.get(run_id)
    if run.lease != lease or run.ended is not None or run.status == "waiting":
        return unit.info(run)
    fenced = unit.producers.get((run.root, lease.owner), ProducerState())
    epoch = fenced.epoch + 1
    unit.put_producer(run.root, lease.owner, msgspec.structs.replace(fenced, epoch=epoch))
    root = unit.root_of(run)
    if run.status == "running" and lease.grace_s > 0:
        stalled = stalled_lease(lease, epoch)
        run.epoch, run.counter = stalled.epoch, stalled.counter
        unit.change(run)
        drafts = [stalled_draft(run_id, lease.grace_s)]
    else:
        children = _lost_children(unit, root) if run.id == run.root else []
        drafts = [*children, lost_draft(run_id, LEASE_LAPSED)]
    _store(unit, root, drafts, cut(drafts))
    return unit.info(run)


def trim(unit: Unit, run_id: str, through: int) -> None:
    """Whole chunks go; `first_seq` hides the rest of the one that the limit falls into."""
    root = unit.root_of(unit.get(run_id))
    through = min(through, root.last_seq)
    if through >= root.first_seq:
        root.first_seq = through + 1
        unit.trims[root.id] = max(through, unit.trims.get(root.id, 0))
        unit.change(root)

"""What changes an SQLite log, as SQL inside a transaction that the caller owns.

Each operation checks everything before it writes anything, so that one that is refused leaves the others
of the same group commit untouched.
"""

from __future__ import annotations

import sqlite3
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
from .sqlite_known import Known, Stream
from .sqlite_read import Run, find_run, get_run

# A row is read and decoded whole: few enough records to resume in microseconds, enough to make the cost
# of a row vanish.
CHUNK_RECORDS_MAX: Final = 256
CHUNK_SIZE_BYTES_MAX: Final = 256 * 1024

# Variables of a statement: four a row, and SQLite has allowed 32 766 since 2020 (999 before).
ROWS_PER_STATEMENT_MAX: Final = 240

_encode = msgspec.json.Encoder().encode

_INSERT_CHUNKS: Final = "INSERT INTO chunk (run, first_seq, last_seq, drafts) VALUES (?, ?, ?, ?)"


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """Consecutive drafts as they were stored; `size_bytes` is that of their JSON."""

    first_seq: int
    drafts: Sequence[Draft]
    size_bytes: int


class Stored(msgspec.Struct, frozen=True):
    """What a commit added to one stream."""

    root_run_id: str
    generation: str
    last_seq: int
    chunks: list[Chunk]


class Removed(msgspec.Struct, frozen=True):
    """A stream that a commit took something away from."""

    root_run_id: str


def open_run(
    connection: sqlite3.Connection,
    run_id: str,
    producer: str | None,
    workflow: str | None,
    parent_run_id: str | None,
    claim: LeaseClaim | None,
) -> Opened:
    run = find_run(connection, run_id)
    created = run is None
    if run is None:
        run = _create_run(connection, run_id, workflow, parent_run_id)
    info = run.info
    if info.has_ended:
        raise cannot_begin_again(run_id, info.status)
    lease = info.lease
    if claim and lease and info.status == "running" and lease.owner != producer:
        raise LeaseHeld(f"run {run_id!r} is being run by {lease.owner!r}")
    before = ProducerState()
    epoch = 0
    if producer is not None:
        before = _producer_state(connection, run.root, producer) or before
        epoch = before.epoch + 1
        _set_epoch(connection, run.root, producer, epoch)
    if claim:
        counter = lease.counter + 1 if lease else 1
        connection.execute(
            "UPDATE run SET status = 'running', owner = ?, epoch = ?, counter = ?, lease_s = ?, "
            "grace_s = ? WHERE id = ?",
            (producer, epoch, counter, claim.lease_s, claim.grace_s, run.id),
        )
    return Opened(get_run(connection, run_id).info, epoch, before.number, created)


def _create_run(
    connection: sqlite3.Connection, run_id: str, workflow: str | None, parent_run_id: str | None
) -> Run:
    if workflow is None:
        raise no_such_run(run_id)
    root: int | None = None
    if parent_run_id is not None:
        parent = get_run(connection, parent_run_id)
        if parent.info.has_ended:
            raise RunEnded(f"the parent run {parent_run_id!r} has ended ({parent.info.status})")
        root = parent.root
    cursor = connection.execute(
        "INSERT INTO run (run_id, root, parent_run_id, workflow, status, generation, first_seq, last_seq,"
        " created) VALUES (?, ?, ?, ?, 'running', ?, 1, 0, ?)",
        (run_id, root or 0, parent_run_id, workflow, new_generation(), now_us()),
    )
    if root is None:
        connection.execute("UPDATE run SET root = id WHERE id = ?", (cursor.lastrowid,))
    return get_run(connection, run_id)


def append(
    connection: sqlite3.Connection,
    known: Known,
    run_id: str,
    drafts: Sequence[Draft],
    producer: Producer | None,
    final: bool,
) -> tuple[Appended, Stored | None]:
    stream = known.streams.get(run_id) or _find_stream(connection, known, run_id)
    check_batch(drafts, root_run_id=stream.run_id, final=final)
    state, count = None, len(drafts)
    if producer is not None:
        state = known.producers.get((stream.id, producer.id))
        state = state or _producer_state(connection, stream.id, producer.id)
        state, answer = admit(state, producer, count)
        if answer is not None:
            return answer, None
    if stream.ended_as is not None:
        raise RunEnded(f"run {stream.run_id!r} has ended ({stream.ended_as})")
    check_children(
        drafts,
        root_run_id=stream.run_id,
        status_of=lambda child: _child_status(connection, stream, child),
    )
    if final:
        ended = {draft.run_id for draft in drafts if draft.is_terminal}
        drafts = [*drafts[:-1], *_lost_children(connection, stream.id, ended), drafts[-1]]
    first = stream.last_seq + 1
    # Writing is a sign of life, as good as a renewal.
    alive = producer is not None and stream.owner == producer.id
    stored = _store(connection, stream, drafts, alive=alive)
    if producer is not None and state is not None:
        state = ProducerState(
            state.epoch, producer.number + count - 1, producer.number, first, stored.last_seq
        )
        connection.execute(
            "INSERT INTO producer VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "number = excluded.number, batch_number = excluded.batch_number, "
            "first_seq = excluded.first_seq, last_seq = excluded.last_seq",
            (stream.id, producer.id, *msgspec.structs.astuple(state)),
        )
        known.keep_producer(stream.id, producer.id, state)
    if final:
        stream.ended_as = STATUS_BY_KIND[drafts[-1].kind]
    known.keep_stream(run_id, stream)
    return Appended(first, stored.last_seq), stored


def _find_stream(connection: sqlite3.Connection, known: Known, run_id: str) -> Stream:
    """Raises RunNotFound."""
    run = get_run(connection, run_id)
    if run.id == run.root:
        return _stream(run)
    root_run_id = run.info.root_run_id
    return known.streams.get(root_run_id) or _stream(get_run(connection, root_run_id))


def _stream(root: Run) -> Stream:
    info = root.info
    return Stream(
        root.id,
        info.run_id,
        info.generation,
        info.last_seq,
        None if info.lease is None else info.lease.owner,
        info.status if info.has_ended else None,
    )


def _store(
    connection: sqlite3.Connection, stream: Stream, drafts: Sequence[Draft], *, alive: bool = False
) -> Stored:
    chunks: list[Chunk] = []
    rows: list[object] = []
    for start in range(0, len(drafts), CHUNK_RECORDS_MAX):
        piece = drafts[start : start + CHUNK_RECORDS_MAX]
        _cut(stream.id, stream.last_seq + 1 + start, piece, rows, chunks)
    # One statement for all: each one costs a hand-over of the interpreter to the producer and back.
    for start in range(0, len(rows), 4 * ROWS_PER_STATEMENT_MAX):
        some = rows[start : start + 4 * ROWS_PER_STATEMENT_MAX]
        connection.execute(_INSERT_CHUNKS + ", (?, ?, ?, ?)" * (len(some) // 4 - 1), some)
    stream.last_seq += len(drafts)
    connection.execute(
        "UPDATE run SET last_seq = ?, counter = counter + ? WHERE id = ?",
        (stream.last_seq, alive, stream.id),
    )
    if not STATUS_BY_KIND.keys().isdisjoint({draft.kind for draft in drafts}):
        _set_statuses(connection, stream, drafts)
    return Stored(stream.run_id, stream.generation, stream.last_seq, chunks)


def _set_statuses(connection: sqlite3.Connection, stream: Stream, drafts: Sequence[Draft]) -> None:
    for draft in drafts:
        if draft.kind in STATUS_BY_KIND:
            connection.execute(
                "UPDATE run SET status = ?, ended = ? WHERE run_id = ? AND root = ?",
                (
                    STATUS_BY_KIND[draft.kind],
                    now_us() if draft.is_terminal else None,
                    draft.run_id,
                    stream.id,
                ),
            )


def _cut(
    root: int, first: int, drafts: Sequence[Draft], rows: list[object], chunks: list[Chunk]
) -> None:
    encoded = _encode(drafts)
    if len(encoded) > CHUNK_SIZE_BYTES_MAX and len(drafts) > 1:
        half = len(drafts) // 2
        _cut(root, first, drafts[:half], rows, chunks)
        _cut(root, first + half, drafts[half:], rows, chunks)
        return
    rows += (root, first, first + len(drafts) - 1, encoded)
    chunks.append(Chunk(first, drafts, len(encoded)))


def _child_status(connection: sqlite3.Connection, stream: Stream, run_id: str) -> Status | None:
    row = connection.execute(
        "SELECT status FROM run WHERE run_id = ? AND root = ?", (run_id, stream.id)
    ).fetchone()
    return None if row is None else row[0]


def _lost_children(
    connection: sqlite3.Connection, root: int, ended: Collection[str] = ()
) -> list[Draft]:
    """The ends of the children that run, but for those that the same append ends."""
    rows = connection.execute(
        "SELECT run_id FROM run WHERE root = ? AND root <> id AND ended IS NULL ORDER BY id DESC",
        (root,),
    )
    return [lost_draft(run_id, PARENT_ENDED) for (run_id,) in rows if run_id not in ended]


def renew(connection: sqlite3.Connection, run_id: str, owner: str, epoch: int) -> None:
    run = get_run(connection, run_id)
    check_owner(run.info.lease, run_id, owner, epoch)
    connection.execute("UPDATE run SET counter = counter + 1 WHERE id = ?", (run.id,))


def release(connection: sqlite3.Connection, run_id: str, owner: str, epoch: int) -> None:
    run = get_run(connection, run_id)
    check_owner(run.info.lease, run_id, owner, epoch)
    connection.execute("UPDATE run SET owner = NULL WHERE id = ?", (run.id,))


def expire(
    connection: sqlite3.Connection, run_id: str, lease: Lease
) -> tuple[RunInfo, Stored | None]:
    run = get_run(connection, run_id)
    info = run.info
    if info.lease != lease or info.has_ended or info.status == "waiting":
        return info, None
    fenced = _producer_state(connection, run.root, lease.owner) or ProducerState()
    epoch = fenced.epoch + 1
    _set_epoch(connection, run.root, lease.owner, epoch)
    root = run if run.id == run.root else get_run(connection, info.root_run_id)
    if info.status == "running" and lease.grace_s > 0:
        stalled = stalled_lease(lease, epoch)
        connection.execute(
            "UPDATE run SET epoch = ?, counter = ? WHERE id = ?",
            (stalled.epoch, stalled.counter, run.id),
        )
        drafts = [stalled_draft(run_id, lease.grace_s)]
    else:
        children = _lost_children(connection, root.id) if run.id == run.root else []
        drafts = [*children, lost_draft(run_id, LEASE_LAPSED)]
    stored = _store(connection, _stream(root), drafts)
    return get_run(connection, run_id).info, stored


def trim(connection: sqlite3.Connection, run_id: str, through: int) -> Removed | None:
    """Whole chunks go; `first_seq` hides the rest of the one that the limit falls into."""
    run = get_run(connection, run_id)
    through = min(through, run.info.last_seq)
    if through < run.info.first_seq:
        return None
    connection.execute("DELETE FROM chunk WHERE run = ? AND last_seq <= ?", (run.root, through))
    connection.execute("UPDATE run SET first_seq = ? WHERE id = ?", (through + 1, run.root))
    return Removed(run.info.root_run_id)


def _producer_state(
    connection: sqlite3.Connection, root: int, producer: str
) -> ProducerState | None:
    row = connection.execute(
        "SELECT epoch, number, batch_number, first_seq, last_seq FROM producer "
        "WHERE run = ? AND producer_id = ?",
        (root, producer),
    ).fetchone()
    return None if row is None else ProducerState(*row)


def _set_epoch(connection: sqlite3.Connection, root: int, producer: str, epoch: int) -> None:
    connection.execute(
        "INSERT INTO producer VALUES (?, ?, ?, 0, 0, 0, 0) "
        "ON CONFLICT DO UPDATE SET epoch = excluded.epoch",
        (root, producer, epoch),
    )

"""The contract's operations as SQL, each on a connection that the caller owns.

The writing ones run inside the caller's transaction and check everything before they write anything, so
that one refused operation leaves the others of the same group commit untouched.
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
    check_batch,
    check_children,
    check_owner,
    check_position,
    lost_draft,
    new_generation,
    stalled_draft,
    stalled_lease,
)
from ..errors import LeaseHeld, RunEnded, RunNotFound
from ..log import (
    STATUS_BY_KIND,
    Appended,
    Lease,
    LeaseClaim,
    Opened,
    Page,
    Producer,
    ProducerState,
    RunInfo,
    Status,
)
from ..record import Cursor, Draft, now_us

# A row is read and decoded whole: few enough records to resume in microseconds, enough to make the cost
# of a row vanish.
CHUNK_RECORDS_MAX: Final = 256
CHUNK_SIZE_BYTES_MAX: Final = 256 * 1024

# Records of large payloads make a short page: it is held in memory whole, once for each reader.
# Variables of a statement: four a row, and SQLite has allowed 32 766 since 2020 (999 before).
ROWS_PER_STATEMENT_MAX: Final = 240
PAGE_SIZE_BYTES_MAX: Final = 4 * 1024 * 1024

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[Draft]).decode

_INFO: Final = """
SELECT run.id, run.root, run.run_id, root.run_id, run.parent_run_id, run.workflow, run.status,
       root.generation, root.first_seq, root.last_seq, run.created, run.ended,
       run.owner, run.epoch, run.counter, run.lease_s, run.grace_s
FROM run JOIN run AS root ON root.id = run.root
"""

_INSERT_CHUNKS: Final = "INSERT INTO chunk (run, first_seq, last_seq, drafts) VALUES (?, ?, ?, ?)"


class Run(msgspec.Struct, frozen=True):
    """A run with its row's id and its root's."""

    id: int
    root: int
    info: RunInfo


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


def find_run(connection: sqlite3.Connection, run_id: str) -> Run | None:
    try:
        row = connection.execute(_INFO + "WHERE run.run_id = ?", (run_id,)).fetchone()
    except UnicodeEncodeError:
        return None  # half a surrogate pair: no run can have such an id
    return None if row is None else _run(row)


def get_run(connection: sqlite3.Connection, run_id: str) -> Run:
    run = find_run(connection, run_id)
    if run is None:
        raise RunNotFound(f"no run {run_id!r} in this log")
    return run


_Row = tuple[
    int, int, str, str, str | None, str, Status, str, int, int, int, int | None,
    str | None, int, int, float, float,
]  # fmt: skip


def _run(row: _Row) -> Run:
    (row_id, root, run_id, root_run_id, parent, workflow, status, generation, first, last, created,
     ended, owner, epoch, counter, lease_s, grace_s) = row  # fmt: skip
    lease = None if owner is None else Lease(owner, epoch, counter, lease_s, grace_s)
    info = RunInfo(
        run_id, root_run_id, parent, workflow, status, generation, first, last, created, ended, lease
    )  # fmt: skip
    return Run(row_id, root, info)


# --- writing, inside a transaction ---------------------------------------------------------------


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
        raise RunEnded(f"run {run_id!r} has ended ({info.status})")
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
        raise RunNotFound(f"no run {run_id!r} in this log")
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
    run_id: str,
    drafts: Sequence[Draft],
    producer: Producer | None,
    final: bool,
) -> tuple[Appended, Stored | None]:
    run = get_run(connection, run_id)
    check_batch(drafts, root_run_id=run.info.root_run_id, final=final)
    state, count = ProducerState(), len(drafts)
    if producer is not None:
        state, answer = admit(_producer_state(connection, run.root, producer.id), producer, count)
        if answer is not None:
            return answer, None
    root = run if run.id == run.root else get_run(connection, run.info.root_run_id)
    if root.info.has_ended:
        raise RunEnded(f"run {root.info.run_id!r} has ended ({root.info.status})")
    check_children(
        drafts,
        root_run_id=root.info.run_id,
        status_of=lambda child: _child_status(connection, root, child),
    )
    if final:
        ended = {draft.run_id for draft in drafts if draft.is_terminal}
        drafts = [*drafts[:-1], *_lost_children(connection, root, ended), drafts[-1]]
    lease = root.info.lease
    # Writing is a sign of life, as good as a renewal.
    alive = lease is not None and producer is not None and lease.owner == producer.id
    stored = _store(connection, root, drafts, alive=alive)
    first = root.info.last_seq + 1
    if producer is not None:
        number = producer.number + count - 1
        connection.execute(
            "INSERT INTO producer VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "number = excluded.number, batch_number = excluded.batch_number, "
            "first_seq = excluded.first_seq, last_seq = excluded.last_seq",
            (run.root, producer.id, state.epoch, number, producer.number, first, stored.last_seq),
        )
    return Appended(first, stored.last_seq), stored


def _store(
    connection: sqlite3.Connection, root: Run, drafts: Sequence[Draft], *, alive: bool = False
) -> Stored:
    chunks: list[Chunk] = []
    rows: list[object] = []
    for start in range(0, len(drafts), CHUNK_RECORDS_MAX):
        piece = drafts[start : start + CHUNK_RECORDS_MAX]
        _cut(root.id, root.info.last_seq + 1 + start, piece, rows, chunks)
    # One statement for all: each one costs a hand-over of the interpreter to the producer and back.
    for start in range(0, len(rows), 4 * ROWS_PER_STATEMENT_MAX):
        some = rows[start : start + 4 * ROWS_PER_STATEMENT_MAX]
        connection.execute(_INSERT_CHUNKS + ", (?, ?, ?, ?)" * (len(some) // 4 - 1), some)
    last = root.info.last_seq + len(drafts)
    connection.execute(
        "UPDATE run SET last_seq = ?, counter = counter + ? WHERE id = ?", (last, alive, root.id)
    )
    if not STATUS_BY_KIND.keys().isdisjoint({draft.kind for draft in drafts}):
        _set_statuses(connection, root, drafts)
    return Stored(root.info.run_id, root.info.generation, last, chunks)


def _set_statuses(connection: sqlite3.Connection, root: Run, drafts: Sequence[Draft]) -> None:
    for draft in drafts:
        if draft.kind in STATUS_BY_KIND:
            connection.execute(
                "UPDATE run SET status = ?, ended = ? WHERE run_id = ? AND root = ?",
                (
                    STATUS_BY_KIND[draft.kind],
                    now_us() if draft.is_terminal else None,
                    draft.run_id,
                    root.id,
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


def _child_status(connection: sqlite3.Connection, root: Run, run_id: str) -> Status | None:
    row = connection.execute(
        "SELECT status FROM run WHERE run_id = ? AND root = ?", (run_id, root.id)
    ).fetchone()
    return None if row is None else row[0]


def _lost_children(
    connection: sqlite3.Connection, root: Run, ended: Collection[str] = ()
) -> list[Draft]:
    """The ends of the children that run, but for those that the same append ends."""
    rows = connection.execute(
        "SELECT run_id FROM run WHERE root = ? AND root <> id AND ended IS NULL ORDER BY id DESC",
        (root.id,),
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
        children = _lost_children(connection, root) if run.id == run.root else []
        drafts = [*children, lost_draft(run_id, LEASE_LAPSED)]
    stored = _store(connection, root, drafts)
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


# --- reading -------------------------------------------------------------------------------------


def read_page(connection: sqlite3.Connection, run_id: str, after: Cursor, limit: int) -> Page:
    """One consistent look: the run's row and its records are of the same moment."""
    connection.execute("BEGIN")
    try:
        run = get_run(connection, run_id)
        root = run if run.id == run.root else get_run(connection, run.info.root_run_id)
        check_position(root.info, after)
        drafts = _read_drafts(connection, root.id, after.seq, limit)
    finally:
        # Some faults (I/O) end the transaction by themselves.
        if connection.in_transaction:
            connection.execute("COMMIT")
    at_end = after.seq + len(drafts) == root.info.last_seq
    return Page(root.info.generation, after.seq + 1, drafts, root.info.has_ended and at_end)


def _read_drafts(connection: sqlite3.Connection, root: int, after: int, limit: int) -> list[Draft]:
    drafts: list[Draft] = []
    size_bytes = 0
    for first_seq, encoded in connection.execute(
        "SELECT first_seq, drafts FROM chunk WHERE run = ? AND last_seq > ? ORDER BY last_seq",
        (root, after),
    ):
        found = _decode(encoded)
        drafts.extend(found[after + 1 - first_seq :] if first_seq <= after else found)
        size_bytes += len(encoded)
        if len(drafts) >= limit or size_bytes >= PAGE_SIZE_BYTES_MAX:
            break
    del drafts[limit:]
    return drafts


def list_runs(
    connection: sqlite3.Connection,
    workflow: str | None,
    status: Status | None,
    before: str | None,
    limit: int,
) -> list[RunInfo]:
    where = ["1"]
    values: list[object] = []
    if workflow is not None:
        where.append("run.workflow = ?")
        values.append(workflow)
    if status is not None:
        where.append("run.status = ?")
        values.append(status)
    if before is not None:
        where.append("run.id < ?")
        values.append(get_run(connection, before).id)
    rows = connection.execute(
        f"{_INFO} WHERE {' AND '.join(where)} ORDER BY run.id DESC LIMIT ?", (*values, limit)
    )
    return [_run(row).info for row in rows]


def newest_chunk(connection: sqlite3.Connection) -> int:
    """The id of the newest chunk; 0 if there is none."""
    newest: int = connection.execute("SELECT coalesce(max(id), 0) FROM chunk").fetchone()[0]
    return newest


def new_tails(
    connection: sqlite3.Connection, after_id: int
) -> tuple[int, list[tuple[str, str, int]]]:
    """What any process appended behind chunk `after_id`: the newest chunk's id, and for each stream its
    root's run id, generation and last seq.
    """
    rows = connection.execute(
        "SELECT max(chunk.id), run.run_id, run.generation, max(chunk.last_seq) "
        "FROM chunk JOIN run ON run.id = chunk.run WHERE chunk.id > ? GROUP BY chunk.run",
        (after_id,),
    ).fetchall()
    return max((row[0] for row in rows), default=after_id), [row[1:] for row in rows]

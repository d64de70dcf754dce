"""What an SQLite log answers, as SQL: runs, pages of records, and what is new. Each function looks on a
connection that the caller owns.
"""

from __future__ import annotations

import sqlite3
from typing import Final

import msgspec

from ..admission import check_position, no_such_run
from ..log import Lease, Page, RunInfo, Status
from ..record import Cursor, Draft

# Records of large payloads make a short page: it is held in memory whole, once for each reader.
PAGE_SIZE_BYTES_MAX: Final = 4 * 1024 * 1024

_decode = msgspec.json.Decoder(list[Draft]).decode

_INFO: Final = """
SELECT run.id, run.root, run.run_id, root.run_id, run.parent_run_id, run.workflow, run.status,
       root.generation, root.first_seq, root.last_seq, run.created, run.ended,
       run.owner, run.epoch, run.counter, run.lease_s, run.grace_s
FROM run JOIN run AS root ON root.id = run.root
"""


class Run(msgspec.Struct, frozen=True):
    """A run with its row's id and its root's."""

    id: int
    root: int
    info: RunInfo


def find_run(connection: sqlite3.Connection, run_id: str) -> Run | None:
    try:
        row = connection.execute(_INFO + "WHERE run.run_id = ?", (run_id,)).fetchone()
    except UnicodeEncodeError:
        return None  # half a surrogate pair: no run can have such an id
    return None if row is None else _run(row)


def get_run(connection: sqlite3.Connection, run_id: str) -> Run:
    run = find_run(connection, run_id)
    if run is None:
        raise no_such_run(run_id)
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
    for first_seq, last_seq, encoded in connection.execute(
        "SELECT first_seq, last_seq, drafts FROM chunk WHERE run = ? AND last_seq > ? ORDER BY last_seq",
        (root, after),
    ):
        if drafts and last_seq - after > limit:
            break
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
    if status is not None:
        where.append("run.status = ?")
        values.append(status)
    by_status = status not in (None, "completed")
    if by_status:
        where.append("run.status <> 'completed'")  # as the index has it
    if workflow is not None:
        # (The plus keeps the index of workflows out of it, which would find far more runs.)
        where.append("+run.workflow = ?" if by_status else "run.workflow = ?")
        values.append(workflow)
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

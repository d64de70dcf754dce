# ruff: noqa: S608 - the statements below are put together from literals of this file
"""What a PostgreSQL log answers, as SQL: runs, pages of records, and how far streams have got. Each function
looks on a connection that the caller owns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, LiteralString, cast

import msgspec

from ..admission import check_position, no_such_run
from ..errors import PositionGone
from ..log import Lease, Page, RunInfo, Status
from ..record import Cursor, Draft
from .postgres_line import Connection

# A row is read and decoded whole: few enough records to resume in microseconds, enough to make the cost
# of a row vanish.
CHUNK_RECORDS_MAX: Final = 256
# Records of large payloads make a short page: it is held in memory whole, once for each reader.
PAGE_SIZE_BYTES_MAX: Final = 4 * 1024 * 1024

_decode = msgspec.json.Decoder(list[Draft]).decode

_INFO: Final[LiteralString] = """
SELECT run.run_id, root.run_id, run.parent_run_id, run.workflow, run.status,
       root.generation, root.first_seq, root.last_seq, run.created, run.ended,
       run.owner, run.epoch, run.counter, run.lease_s, run.grace_s"""
_FROM: Final[LiteralString] = " FROM run JOIN run AS root ON root.id = run.root "

# One statement is one consistent look. The numbers bound the rows by the index, without a look at what
# lies behind the page; a compressed value's length is known without unpacking it.
_PAGE: Final[LiteralString] = (
    _INFO
    + """, root.ended IS NOT NULL, found.first_seq, found.drafts
FROM run JOIN run AS root ON root.id = run.root
LEFT JOIN LATERAL (
    SELECT first_seq, drafts FROM (
        SELECT first_seq, drafts, last_seq,
               sum(octet_length(drafts)) OVER (ORDER BY last_seq) - octet_length(drafts) AS before
        FROM chunk
        WHERE chunk.run = root.id AND last_seq > %(after)s
          AND last_seq < %(after)s::bigint + %(limit)s + %(chunk)s
          AND first_seq <= %(after)s::bigint + %(limit)s
    ) AS summed
    WHERE before < %(bytes)s
) AS found ON true
WHERE run.run_id = %(run)s
ORDER BY found.first_seq"""
)

# A stream: its root's run id, generation, newest seq, and whether it has ended.
Tail = tuple[str, str, int, bool]


def could_be_stored(name: str) -> bool:
    """Whether the server could know such a name: half a surrogate pair and NUL cannot be sent."""
    try:
        return b"\0" not in name.encode()
    except UnicodeEncodeError:
        return False


async def find_info(connection: Connection, run_id: str) -> RunInfo | None:
    if not could_be_stored(run_id):
        return None
    found = await connection.execute(_INFO + _FROM + "WHERE run.run_id = %s", [run_id])
    row = await found.fetchone()
    return None if row is None else _info(row)


async def get_info(connection: Connection, run_id: str) -> RunInfo:
    info = await find_info(connection, run_id)
    if info is None:
        raise no_such_run(run_id)
    return info


def _info(row: Sequence[Any]) -> RunInfo:
    (run_id, root_run_id, parent, workflow, status, generation, first, last, created,
     ended, owner, epoch, counter, lease_s, grace_s) = row  # fmt: skip
    lease = None if owner is None else Lease(owner, epoch, counter, lease_s, grace_s)
    return RunInfo(
        run_id, root_run_id, parent, workflow, status, generation, first, last, created, ended, lease
    )  # fmt: skip


async def read_page(connection: Connection, run_id: str, after: Cursor, limit: int) -> Page:
    if not could_be_stored(run_id):
        raise no_such_run(run_id)
    cursor = connection.cursor(binary=True)
    await cursor.execute(
        _PAGE,
        {
            "run": run_id,
            "after": after.seq,
            "limit": limit,
            "chunk": CHUNK_RECORDS_MAX,
            "bytes": PAGE_SIZE_BYTES_MAX,
        },
    )
    rows = await cursor.fetchall()
    if not rows:
        raise no_such_run(run_id)
    info, ended = _info(rows[0][:-3]), bool(rows[0][-3])
    check_position(info, after)
    drafts: list[Draft] = []
    for *_, first_seq, encoded in rows:
        next_seq = after.seq + len(drafts) + 1
        if first_seq is None or first_seq > next_seq:
            break  # somebody has taken rows away
        drafts += _decode(encoded)[next_seq - first_seq :]
    del drafts[limit:]
    if not drafts and after.seq < info.last_seq:
        left = rows[0][-2]
        raise PositionGone(
            f"records behind {after.seq} of run {run_id!r} are missing from the table",
            first_seq=info.last_seq + 1 if left is None else left,
        )
    at_end = after.seq + len(drafts) == info.last_seq
    return Page(info.generation, after.seq + 1, drafts, ended and at_end)


async def list_runs(
    connection: Connection,
    workflow: str | None,
    status: Status | None,
    before: str | None,
    limit: int,
) -> list[RunInfo]:
    if workflow is not None and not could_be_stored(workflow):
        return []
    where: list[LiteralString] = ["true"]
    values: list[object] = []
    if workflow is not None:
        where.append("run.workflow = %s")
        values.append(workflow)
    if status is not None:
        where.append("run.status = %s")
        values.append(status)
    if before is not None:
        await get_info(connection, before)
        where.append("run.id < (SELECT id FROM run WHERE run_id = %s)")
        values.append(before)
    chosen: LiteralString = " AND ".join(where)
    query = _INFO + _FROM + " WHERE " + chosen + " ORDER BY run.id DESC LIMIT %s"
    found = await connection.execute(query, [*values, limit])
    return [_info(row) for row in await found.fetchall()]


async def tails(connection: Connection, run_ids: Sequence[str]) -> dict[str, Tail]:
    """The streams of those runs that are there, by run id."""
    found = await connection.execute(
        "SELECT run.run_id, root.run_id, root.generation, root.last_seq, root.ended IS NOT NULL"
        + _FROM
        + "WHERE run.run_id = ANY(%s)",
        [[run_id for run_id in run_ids if could_be_stored(run_id)]],
    )
    return {row[0]: cast(Tail, row[1:]) for row in await found.fetchall()}

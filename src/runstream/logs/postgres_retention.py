"""How a PostgreSQL log becomes smaller: runs are removed a slice at a time, so that nobody waits for it long.

Finished runs age out by one process at a time, on a connection that is there only while it looks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

import msgspec
import psycopg

from ..admission import check_removable, no_such_run
from ..errors import LogUnavailable
from ..record import now_us
from ..retention import Retention
from .postgres_line import Connection, Line
from .postgres_read import could_be_stored, get_info
from .postgres_url import Address
from .postgres_watcher import GONE, News

# A removal is a transaction like any other, and holds its stream as long as one: some 4 MiB of records.
CHUNKS_PER_REMOVAL: Final = 500
# Between two slices: whoever writes meanwhile gets most of the time.
SLICE_PAUSE_S: Final = 0.05
# Between two looks, when nothing was due: at most a tenth of the retention, and this.
LOOK_S_MAX: Final = 600.0

logger = logging.getLogger(__name__)


class AgeOut:
    """Removes the runs that ended more than `retention_s` ago, by this machine's clock.

    Looks for the first time when it is started; every process does, but whoever finds another one at it
    leaves it alone. `removed` is told of the runs that are gone.
    """

    def __init__(
        self, address: Address, retention_s: float, removed: Callable[[list[News]], None]
    ) -> None:
        self._address = address
        self._retention_s = retention_s
        self._removed = removed
        self._line = Line(address)
        self._ending = asyncio.Event()

    async def serve(self) -> None:
        """Look again and again, until `end`."""
        while not self._ending.is_set():
            try:
                await self._look(self._line)
            except (psycopg.Error, LogUnavailable) as error:
                if not self._ending.is_set():
                    logger.warning("cannot remove runs that have aged out: %s", error)
            # (With the connection goes its lock.)
            self._line.end()
            with contextlib.suppress(TimeoutError):
                pause_s = min(self._retention_s / 10, LOOK_S_MAX)
                await asyncio.wait_for(self._ending.wait(), pause_s)
            self._line = Line(self._address)

    def end(self) -> None:
        """Stop, now. In the loop of `serve`."""
        self._ending.set()
        self._line.end()

    async def _look(self, line: Line) -> None:
        async with line.used() as connection:
            # Of this connection, so that it goes with it.
            found = await connection.execute(
                "SELECT pg_try_advisory_lock(hashtextextended(%s, 1))", [self._address.channel]
            )
            if not (await found.fetchone() or (False,))[0]:
                return
        while True:
            before = now_us() - round(self._retention_s * 1_000_000)
            async with line.used() as connection:
                gone = await remove_ended(connection, before)
            if gone is None:
                return
            self._removed([(run_id, GONE, 0) for run_id in gone])
            await asyncio.sleep(SLICE_PAUSE_S)


async def remove_ended(connection: Connection, before: int) -> list[str] | None:
    """Remove a slice of the stream that ended first, if it did before that time (µs): its oldest records,
    or with the last of them everything. The runs that are gone; None if nothing is due.

    Raises the driver's errors; then nothing was removed.
    """
    await connection.execute("BEGIN")
    found = await connection.execute(
        "SELECT id FROM run WHERE ended < %s AND root = id ORDER BY ended LIMIT 1 FOR UPDATE",
        [before],
    )
    row = await found.fetchone()
    gone = None if row is None else await _remove_slice(connection, row[0])
    await connection.execute("COMMIT")
    return gone


async def remove(connection: Connection, run_id: str) -> list[str]:
    """Remove a slice of an ended root's stream; the runs that are gone, with the last of them.

    Raises RunNotFound, InvalidInput, and the driver's errors; then nothing was removed.
    """
    check_removable(await get_info(connection, run_id))
    await connection.execute("BEGIN")
    found = await connection.execute("SELECT id FROM run WHERE run_id = %s FOR UPDATE", [run_id])
    row = await found.fetchone()
    if row is None:
        raise no_such_run(run_id)
    gone = await _remove_slice(connection, row[0])
    await connection.execute("COMMIT")
    return gone


async def retain(connection: Connection, run_id: str, limits: Retention | None) -> None:
    """Note the limits of a run's stream. Raises RunNotFound, and the driver's errors."""
    if not could_be_stored(run_id):
        raise no_such_run(run_id)
    await connection.execute("BEGIN")
    found = await connection.execute(
        "SELECT id FROM run WHERE id = (SELECT root FROM run WHERE run_id = %s) FOR UPDATE",
        [run_id],
    )
    row = await found.fetchone()
    if row is None:
        raise no_such_run(run_id)
    await connection.execute("DELETE FROM retention WHERE run = %s", [row[0]])
    if limits is not None:
        encoded = msgspec.json.encode(limits).decode()
        await connection.execute(
            "INSERT INTO retention (run, limits) VALUES (%s, %s)", [row[0], encoded]
        )
    await connection.execute("COMMIT")


async def retained(connection: Connection) -> dict[str, Retention]:
    """The limits of all runs that have some, by the ids of their roots."""
    found = await connection.execute(
        "SELECT run.run_id, limits::text FROM retention JOIN run ON run.id = retention.run"
    )
    return {
        run_id: msgspec.json.decode(limits, type=Retention)
        for run_id, limits in await found.fetchall()
    }


async def _remove_slice(connection: Connection, root: int) -> list[str]:
    old = await connection.execute(
        "DELETE FROM chunk WHERE run = %(run)s AND last_seq <= (SELECT max(last_seq) FROM ("
        "SELECT last_seq FROM chunk WHERE run = %(run)s ORDER BY last_seq LIMIT %(most)s) AS old)"
        " RETURNING last_seq",
        {"run": root, "most": CHUNKS_PER_REMOVAL},
    )
    removed = [seq for (seq,) in await old.fetchall()]
    if len(removed) >= CHUNKS_PER_REMOVAL:
        await connection.execute(
            "UPDATE run SET first_seq = %s, revision = revision + 1 WHERE id = %s",
            [max(removed) + 1, root],
        )
        return []
    await connection.execute("DELETE FROM producer WHERE run = %s", [root])
    await connection.execute("DELETE FROM retention WHERE run = %s", [root])
    # (The root is not among its children for the index on them.)
    gone = await connection.execute(
        "DELETE FROM run WHERE (root = %(run)s AND root <> id) OR id = %(run)s RETURNING run_id",
        {"run": root},
    )
    return [run_id for (run_id,) in await gone.fetchall()]

"""Finished runs age out: found and removed by the writer's thread, between the commits of its callers."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from typing import Any, Final

import msgspec

from ..admission import check_removable
from ..record import now_us
from ..retention import Retention
from .sqlite_read import find_run, get_run
from .sqlite_store import Removed, trim
from .sqlite_writer import Job

# A removal is a commit like any other and must not take longer than one: at most 4 MiB of records.
CHUNKS_PER_REMOVAL: Final = 16
ROWS_PER_REMOVAL: Final = 1000
# Between two slices: whoever writes meanwhile gets most of the time.
SLICE_PAUSE_S: Final = 0.05
# Between two looks, when nothing was due: at most a tenth of the retention, and this.
LOOK_S_MAX: Final = 600.0

logger = logging.getLogger(__name__)


class AgeOut:
    """The chore of a writer that removes the runs which ended more than `retention_s` ago.

    By this machine's clock, which gave the runs their time of ending; `note` is told what was removed.
    """

    def __init__(self, retention_s: float, note: Callable[[Removed], None]) -> None:
        self._retention_s = retention_s
        self._note = note
        self._pause_s = 0.0

    def pause_s(self) -> float:
        return self._pause_s

    def look(self, connection: sqlite3.Connection) -> Job | None:
        before = now_us() - round(self._retention_s * 1_000_000)
        self._pause_s = min(self._retention_s / 10, LOOK_S_MAX)
        try:
            # A look needs no lock; a transaction would, and mostly for nothing.
            if find_ended(connection, before) is None:
                return None
        except sqlite3.Error:
            logger.warning("cannot look for runs that have aged out", exc_info=True)
            return None

        def work(db: sqlite3.Connection) -> None:
            removed = remove_ended(db, before)
            if removed is not None:
                self._note(removed)

        return Job(work, self._done)

    def _done(self, outcome: Any) -> None:
        if isinstance(outcome, BaseException):
            logger.warning("cannot remove a run that has aged out: %s", outcome)
        else:
            self._pause_s = SLICE_PAUSE_S


def find_ended(connection: sqlite3.Connection, before: int) -> tuple[int, str] | None:
    """The row's id and the run id of the root that ended first, if it did before that time (µs)."""
    row: tuple[int, str] | None = connection.execute(
        "SELECT id, run_id FROM run WHERE ended < ? AND root = id ORDER BY ended LIMIT 1", (before,)
    ).fetchone()
    return row


def remove_ended(connection: sqlite3.Connection, before: int) -> Removed | None:
    """Remove a slice of the stream that ended first, if it did before that time (µs)."""
    found = find_ended(connection, before)
    return None if found is None else remove_slice(connection, *found)


def remove_run(
    connection: sqlite3.Connection, run_id: str, note: Callable[[Removed], None]
) -> bool:
    """Remove a slice of an ended root run; whether there is more of it.

    Raises:
        RunNotFound: it is not there.
        InvalidInput: it has not ended, or is a child.
    """
    run = get_run(connection, run_id)
    check_removable(run.info)
    removed = remove_slice(connection, run.id, run_id)
    if removed is not None:
        note(removed)
    return find_run(connection, run_id) is not None


def remove_slice(connection: sqlite3.Connection, root: int, run_id: str) -> Removed | None:
    """Remove a slice of a run, so that no transaction is long enough for a writer to notice: first its
    records, the oldest first, then its producers and child runs, at last the run.
    """
    last_seqs = connection.execute(
        "SELECT last_seq FROM chunk WHERE run = ? ORDER BY last_seq LIMIT ?",
        (root, CHUNKS_PER_REMOVAL),
    ).fetchall()
    if last_seqs:
        return trim(connection, run_id, last_seqs[-1][0])
    children = connection.execute(
        "DELETE FROM run WHERE id IN (SELECT id FROM run WHERE root = ? AND root <> id LIMIT ?)",
        (root, ROWS_PER_REMOVAL),
    )
    producers = connection.execute(
        "DELETE FROM producer WHERE run = ?1 AND producer_id IN "
        "(SELECT producer_id FROM producer WHERE run = ?1 LIMIT ?2)",
        (root, ROWS_PER_REMOVAL),
    )
    if max(children.rowcount, producers.rowcount) < ROWS_PER_REMOVAL:
        if has_limits(connection):
            connection.execute("DELETE FROM retention WHERE run = ?", (root,))
        connection.execute("DELETE FROM run WHERE id = ?", (root,))
    return Removed(run_id)


# --- the limits that single runs have ------------------------------------------------------------


def retain(connection: sqlite3.Connection, run_id: str, retention: Retention | None) -> None:
    """Note the limits of a run's stream. Their table is made with the first of them.

    Raises RunNotFound.
    """
    root = get_run(connection, run_id).root
    if not has_limits(connection):
        connection.execute("CREATE TABLE retention (run INTEGER PRIMARY KEY, limits BLOB NOT NULL)")
    connection.execute("DELETE FROM retention WHERE run = ?", (root,))
    if retention is not None:
        limits = msgspec.json.encode(retention)
        connection.execute("INSERT INTO retention VALUES (?, ?)", (root, limits))


def retained(connection: sqlite3.Connection) -> dict[str, Retention]:
    """The limits of all runs that have some, by the ids of their roots."""
    if not has_limits(connection):
        return {}
    rows = connection.execute(
        "SELECT run.run_id, limits FROM retention JOIN run ON run.id = retention.run"
    )
    return {run_id: msgspec.json.decode(limits, type=Retention) for run_id, limits in rows}


def has_limits(connection: sqlite3.Connection) -> bool:
    """Whether a run has ever had limits of its own in this file."""
    found = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'retention'").fetchone()
    return found is not None

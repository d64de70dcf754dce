"""Finished runs age out: found and removed by the writer's thread, between the commits of its callers."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from typing import Any, Final

from ..record import now_us
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


class Retention:
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
    """Remove a slice of the stream that ended first, if it did before that time (µs).

    A slice at a time, so that no transaction is long enough for a writer to notice: first its records,
    the oldest first, then its producers and child runs, at last the run.
    """
    found = find_ended(connection, before)
    if found is None:
        return None
    root, run_id = found
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
        connection.execute("DELETE FROM run WHERE id = ?", (root,))
    return Removed(run_id)

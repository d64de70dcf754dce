"""Notices what other processes append to the file, and rings for it.

Asks `PRAGMA data_version` on a connection of its own: a few microseconds that read no data. It looks only
while somebody listens, so an idle process costs nothing.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from typing import Final

from ..bell import Bell
from . import sqlite_store
from .sqlite_recent import Recent

# Half of what we promise (a record of another process wakes a subscriber within 50 ms), and 0.4 % of a core.
POLL_S: Final = 0.02

logger = logging.getLogger(__name__)


class Watcher:
    """A thread that watches for other processes' commits while anyone listens."""

    def __init__(self, connection: sqlite3.Connection, bell: Bell, recent: Recent) -> None:
        self._connection = connection
        self._bell = bell
        self._recent = recent
        self._listening = threading.Event()
        self._closing = threading.Event()
        self._version: int | None = None
        self._newest = 0
        self._thread = threading.Thread(target=self._run, name="runstream-watcher", daemon=True)
        self._thread.start()

    def start_watching(self) -> None:
        """Somebody listens: look now, and go on looking. Any thread; cheap."""
        if not self._listening.is_set():
            self._listening.set()

    def close(self) -> None:
        """Stop. Blocks until the thread has ended."""
        self._closing.set()
        self._listening.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._newest = self._connection.execute(
                "SELECT coalesce(max(id), 0) FROM chunk"
            ).fetchone()[0]
            while not self._closing.is_set():
                if not self._bell.listened:
                    self._listening.clear()
                    # Somebody may have come between the question and the clearing.
                    if not self._bell.listened:
                        self._listening.wait()
                try:
                    self._look()
                except sqlite3.Error:
                    # A passing fault (locked, I/O): the next look finds the same records.
                    logger.warning("cannot look for other processes' records", exc_info=True)
                self._closing.wait(POLL_S)
        finally:
            self._connection.close()

    def _look(self) -> None:
        version = self._connection.execute("PRAGMA data_version").fetchone()[0]
        if version == self._version:
            return
        self._version = version
        self._newest, appended = sqlite_store.new_chunks(self._connection, self._newest)
        for root_run_id, last_seq in appended:
            self._recent.saw_tail(root_run_id, last_seq)
        opened = [
            run_id
            for run_id in self._bell.listened
            if self._recent.tail(run_id) is None
            and sqlite_store.find_run(self._connection, run_id) is not None
        ]
        self._bell.ring([*(root for root, _ in appended), *opened])

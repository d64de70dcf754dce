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
from . import sqlite_read
from .sqlite_lines import Line
from .sqlite_recent import Recent
from .sqlite_shared import Shared

# Half of what we promise (a record of another process wakes a subscriber within 50 ms), and less than 1 % of
# a core.
POLL_S: Final = 0.02

logger = logging.getLogger(__name__)


class Watcher:
    """A thread that watches for other processes' commits while anyone listens."""

    def __init__(self, line: Line, bell: Bell, recent: Recent, shared: Shared) -> None:
        self._line = line
        self._asked: sqlite3.Connection | None = None
        self._bell = bell
        self._recent = recent
        self._shared = shared
        self._listening = threading.Event()
        self._closing = threading.Event()
        self._failing = False
        self._seen: tuple[int, int] | None = None
        # Now, not in the thread: what is appended after this call must be noticed.
        with line.used() as connection:
            self._newest = sqlite_read.newest_chunk(connection)
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
        while not self._closing.is_set():
            if not self._bell.listened:
                self._listening.clear()
                # Somebody may have come, or closed us, between the question and the clearing.
                if not self._bell.listened and not self._closing.is_set():
                    self._listening.wait()
            try:
                with self._line.used() as connection:
                    self._look(connection)
                self._failing = False
            except Exception:
                # Have everyone look for themselves: if it is no passing fault, that tells them.
                if not self._failing:
                    logger.warning("cannot look for other processes' records", exc_info=True)
                self._failing = True
                self._bell.ring_all()
            self._closing.wait(POLL_S)

    def _look(self, connection: sqlite3.Connection) -> None:
        if connection is not self._asked:  # versions of another connection say nothing
            self._asked, self._seen = connection, None
        removals = self._shared.removals
        version = connection.execute("PRAGMA data_version").fetchone()[0]
        if (version, removals) == self._seen:
            return
        newest, tails = sqlite_read.new_tails(connection, self._newest)
        for root_run_id, generation, last_seq in tails:
            self._recent.saw_tail(root_run_id, generation, last_seq)
        if self._seen is None or removals != self._seen[1]:
            # What was appended and removed between two looks has left no trace.
            self._bell.ring_all()
        else:
            opened = [
                run_id
                for run_id in self._bell.listened
                if self._recent.tail(run_id) is None
                and sqlite_read.find_run(connection, run_id) is not None
            ]
            self._bell.ring([*(root for root, _, _ in tails), *opened])
        self._newest = newest
        self._seen = version, removals

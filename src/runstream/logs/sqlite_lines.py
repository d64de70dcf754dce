"""Lines to an SQLite file: connections that are closed while the process forks.

SQLite keeps in the process's memory which locks it holds on a file. A forked child would inherit that memory
without the locks: it could wait for ever for one that nobody holds, or rely on one that it does not have,
and lose what it writes. So nothing is open at the moment of a fork; afterwards each line opens again when
it is next used.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Generator


class Line:
    """A connection, used by one thread at a time."""

    def __init__(self, opener: Callable[[], sqlite3.Connection], door: threading.Lock) -> None:
        self._opener = opener
        self._door = door
        self.in_use = threading.Lock()
        self._connection: sqlite3.Connection | None = opener()

    @contextlib.contextmanager
    def used(self) -> Generator[sqlite3.Connection]:
        """The connection, for the time of the block; a fork waits for its end.

        Raises what opening raises: it may have to be opened anew.
        """
        with (
            self._door
        ):  # who wants to fork holds it, so that it need not wait for a gap in our use
            self.in_use.acquire()
        try:
            if self._connection is None:
                self._connection = self._opener()
            yield self._connection
        finally:
            self.in_use.release()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Lines:
    """All lines of one log."""

    def __init__(self) -> None:
        self._door = threading.Lock()
        self._lines: list[Line] = []
        self._paused: list[Line] = []

    def add(self, opener: Callable[[], sqlite3.Connection]) -> Line:
        """Open a line. Raises what opening raises."""
        with self._door:
            line = Line(opener, self._door)
            self._lines.append(line)
            return line

    def pause(self, timeout: float) -> bool:
        """Close all connections until `resume()`. False (and nothing done) if one is in use for longer."""
        deadline = time.monotonic() + timeout
        if not self._door.acquire(timeout=timeout):
            return False
        for line in self._lines:
            if not line.in_use.acquire(timeout=max(deadline - time.monotonic(), 0)):
                self.resume()
                return False
            self._paused.append(line)
        for line in self._paused:
            line.close()
        return True

    def resume(self) -> None:
        """Go on after `pause()`, in the process that called it."""
        for line in self._paused:
            line.in_use.release()
        self._paused.clear()
        self._door.release()

    def close(self) -> None:
        """Close what is open. Nobody may be using it."""
        for line in self._lines:
            line.close()

"""The one thread that writes to an SQLite log: group commit, in fair turns with other processes.

Whatever is waiting when a commit ends goes into the next one, whichever run or caller it came from.
Cancelling a caller only stops its waiting: the thread owns the connection and the transaction.
"""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

from ..errors import LogClosed, RunstreamError
from .sqlite_file import BUSY_TIMEOUT_S, translate
from .sqlite_store import Stored

try:
    import fcntl
except ImportError:  # Windows: SQLite's own lock alone, fair enough between few processes
    fcntl = None  # type: ignore[assignment]

# Pending calls in one transaction: bounds how long a commit, and so the wait of the next caller, gets.
JOBS_PER_COMMIT_MAX: Final = 512
# Between two looks at a lock that another process holds. Far below the time of a commit.
LOCK_POLL_S: Final = 0.0005

Work = Callable[[sqlite3.Connection], Any]


class Job:
    """One piece of work for the next transaction, and where its outcome goes."""

    __slots__ = ("done", "outcome", "work")

    def __init__(self, work: Work, done: Callable[[Any], None]) -> None:
        self.work = work
        # Called once, on the writer's thread, with the result or the exception, after the commit.
        self.done = done
        self.outcome: Any = None


class Writer:
    """Runs jobs in transactions on its own thread until it is closed.

    `on_commit` is called after each commit, with what was stored, before the callers are told: so
    whoever they tell can already read it.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        on_commit: Callable[[list[Stored]], None],
    ) -> None:
        self._path = path
        self._connection = connection
        self._on_commit = on_commit
        self._turn = Turn(path)
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._sources: list[Callable[[], list[Job]]] = []
        self._stored: list[Stored] = []
        self._closing = False
        self._thread = threading.Thread(
            target=self._run, name=f"runstream-writer-{path.name}", daemon=True
        )
        self._thread.start()

    def submit(self, work: Work) -> Future[Any]:
        """Run `work` in the next transaction; the future fails with our errors only."""
        future: Future[Any] = Future()

        def done(outcome: Any) -> None:
            # A caller that has gone away meanwhile changes nothing: what is queued is written.
            if not future.set_running_or_notify_cancel():
                return
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        if self._closing:
            raise LogClosed(f"the log {self._path} has been closed")
        self._queue.put(Job(work, done))
        return future

    def note(self, stored: Stored) -> None:
        """For work that stored records: tell the others after the commit."""
        self._stored.append(stored)

    def add_source(self, take: Callable[[], list[Job]]) -> None:
        """Ask `take` for jobs before every transaction; `kick()` when there are some."""
        self._sources.append(take)

    def kick(self) -> None:
        """Have the thread look at its sources. Any thread; cheap."""
        self._queue.put(None)

    def close(self) -> None:
        """Finish what is queued, then stop. Blocks until the thread has ended."""
        self._closing = True
        self._queue.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while True:
            waiting = self._queue.get()
            jobs = [waiting] if waiting else []
            while len(jobs) < JOBS_PER_COMMIT_MAX:
                try:
                    waiting = self._queue.get_nowait()
                except queue.Empty:
                    break
                if waiting:
                    jobs.append(waiting)
            for take in self._sources:
                jobs.extend(take())
            if jobs:
                self._commit(jobs)
            elif self._closing and self._queue.empty():
                break
        self._turn.close()
        self._connection.close()

    def _commit(self, jobs: list[Job]) -> None:
        faulty = self._transact(jobs)
        if faulty is not None:
            # A mistake in one piece of work must not cost the others their commit.
            self._commit([job for job in jobs if job is not faulty])
            faulty.done(faulty.outcome)
            return
        if self._stored:
            stored, self._stored = self._stored, []
            self._on_commit(stored)
        for job in jobs:
            job.done(job.outcome)

    def _transact(self, jobs: list[Job]) -> Job | None:
        """Run all jobs in one transaction. A job that raises what it should not is handed back, with
        nothing of the transaction done.
        """
        job: Job | None = None
        try:
            with self._turn.taken():
                self._begin()
            for job in jobs:
                try:
                    job.outcome = job.work(self._connection)
                except RunstreamError as error:
                    # Refused before it wrote anything: the others go on.
                    job.outcome = error
            self._connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            self._roll_back()
            outcome = translate(self._path, error)
            for job in jobs:
                job.outcome = outcome
        except Exception as error:
            self._roll_back()
            if job is None:
                raise
            job.outcome = error
            return job
        return None

    def _begin(self) -> None:
        """Start the transaction; wait for another process's commit in small steps.

        SQLite's own waiting backs off to 100 ms, which starves one of two saturating writers.
        """
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        self._connection.execute("PRAGMA busy_timeout = 0")
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorname.startswith("SQLITE_BUSY")
                if not busy or time.monotonic() > deadline:
                    raise
                time.sleep(LOCK_POLL_S)
            else:
                return

    def _roll_back(self) -> None:
        self._stored.clear()
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")


class Turn:
    """The queue of the processes that want to write: held from asking for the lock to having it.

    Who has just committed must queue behind the one that is waiting, so two saturating writers
    alternate. A lock that the system drops with the process; never held while writing.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(f"{path}-turn", "ab") if fcntl else None  # noqa: SIM115 - closed by close()

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        if self._file is None:
            yield
            return
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    break  # SQLite's lock decides, and says what is wrong
                time.sleep(LOCK_POLL_S)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

"""The one thread that writes to an SQLite log: group commit, in fair turns with other processes.

Whatever is waiting when a commit ends goes into the next one, whichever run or caller it came from.
Cancelling a caller only stops its waiting: the thread owns the connection and the transaction. If the
thread itself should fail, everyone who waits for it is told, and so is everyone who comes later.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, Protocol

from ..errors import LogClosed, RunstreamError
from .sqlite_file import BUSY_TIMEOUT_S, LOCK_POLL_S, bound_wal, is_fault_of_file, translate
from .sqlite_known import Known
from .sqlite_lines import Line
from .sqlite_shared import Shared
from .sqlite_store import Removed, Stored

# Pending calls in one transaction: bounds how long a commit, and so the wait of the next caller, gets.
JOBS_PER_COMMIT_MAX: Final = 512
# Between two looks at the length of the write-ahead log: some 20 MB at full speed.
WAL_LOOK_S: Final = 0.1
# The same while a reader is in the way, so that waiting for it costs a tenth of the time at most.
WAL_RETRY_S: Final = 1.0

# While a publisher's records come faster than some ten thousand a second, a commit waits this long for
# more of them: it saves hand-overs between its thread and ours, which cost more than the records. Batches
# below come too slowly to wait for; with one above somebody may already wait for room.
LINGER_S: Final = 0.002
LINGER_FROM: Final = 16
LINGER_BELOW: Final = 1024

# The same for a lock that another process holds while the log is being closed: whoever waits for that (a
# process that wants to end, say) has waited for its records before.
CLOSING_BUSY_S: Final = 1.0

Work = Callable[[sqlite3.Connection], Any]

logger = logging.getLogger(__name__)


class Job:
    """One piece of work for the next transaction, and where its outcome goes."""

    __slots__ = ("awaited", "done", "outcome", "prepared", "work")

    def __init__(
        self,
        work: Work,
        done: Callable[[Any], None],
        prepared: Callable[[], None] | None = None,
        *,
        awaited: bool = True,
    ) -> None:
        self.work = work
        # Whether somebody waits for it, and the next one comes only after that.
        self.awaited = awaited
        # Called once, on the writer's thread, with the result or the exception, after the commit.
        self.done = done
        # Called when the transaction is complete and only the disk's part of the commit is left.
        self.prepared = prepared
        self.outcome: Any = None


class Chore(Protocol):
    """Work that the thread finds for itself between the callers' commits."""

    def pause_s(self) -> float:
        """How long (seconds) until `look` is worth calling."""
        ...

    def look(self, connection: sqlite3.Connection) -> Job | None:
        """What there is to do now, small enough for one commit. Never raises."""
        ...


class Writer:
    """Runs jobs in transactions on its own thread until it is closed.

    `on_commit` is called after each commit, with what it changed, before the callers are told: so
    whoever they tell can already read it. The chores begin with the first commit: a process that only
    looks at a log changes nothing in it.
    """

    def __init__(
        self,
        path: Path,
        line: Line,
        shared: Shared,
        on_commit: Callable[[Sequence[Stored | Removed]], None],
        chores: tuple[Chore, ...] = (),
    ) -> None:
        self._path = path
        self._line = line
        self._shared = shared
        self._on_commit = on_commit
        self.known = Known()
        self._chores = chores
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._sources: list[Callable[[], list[Job]]] = []
        self._changes: list[Stored | Removed] = []
        self._bound_wal_at = 0.0
        self._closing = False
        self._unfinished: list[Job] = []
        # Set when the thread has ended: what everyone is told from then on.
        self._ended: RunstreamError | None = None
        self._refusing = threading.Lock()
        self._may_linger = False
        self._last_count = 0
        self._thread = threading.Thread(
            target=self._run, name=f"runstream-writer-{path.name}", daemon=True
        )
        self._thread.start()

    def submit(self, work: Work) -> Future[Any]:
        """Run `work` in the next transaction; the future gets its result or its error.

        Raises LogClosed if the writer has been closed, or has failed.
        """
        future: Future[Any] = Future()

        def done(outcome: Any) -> None:
            # A caller that has gone away meanwhile changes nothing: what is queued is written.
            if not future.set_running_or_notify_cancel():
                return
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        if self._ended or self._closing:
            raise self._ended or self._closed()
        self._queue.put(Job(work, done))
        if self._ended:
            self._refuse_rest()
        return future

    def note(self, change: Stored | Removed) -> None:
        """For work that changed a stream: tell the others after the commit."""
        self._changes.append(change)

    def add_source(self, take: Callable[[], list[Job]]) -> None:
        """Ask `take` for jobs before every transaction; `kick()` when there are some."""
        self._sources.append(take)

    def kick(self) -> None:
        """Have the thread look at its sources. Any thread; cheap."""
        self._queue.put(None)
        if self._ended:
            self._refuse_rest()

    def close(self) -> None:
        """Finish what is queued, then stop. Blocks until the thread has ended."""
        self._closing = True
        self._queue.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _closed(self) -> LogClosed:
        return LogClosed(f"the log {self._path} has been closed")

    # --- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        ended: RunstreamError = self._closed()
        try:
            self._serve()
        except BaseException as error:
            logger.critical("the writer of %s has failed", self._path, exc_info=True)
            ended = LogClosed(
                f"the writer of {self._path} has failed ({error!r}): nothing more is stored, open it again"
            )
        finally:
            self._ended = ended
        self._refuse_rest()

    def _serve(self) -> None:
        look_at = math.inf
        while True:
            closing = self._closing
            self._unfinished = jobs = self._wait_jobs(look_at)
            try:
                with self._line.used() as self._connection:
                    look_at = self._work(jobs, look_at)
            except RunstreamError as error:  # it could not be opened again after a fork
                for job in jobs:
                    _tell(job, error)
            self._unfinished = []
            if closing and len(jobs) < JOBS_PER_COMMIT_MAX:
                return  # all that was queued before the call to close, and not what comes meanwhile

    def _work(self, jobs: list[Job], look_at: float) -> float:
        """Do the jobs, then the chores when it is time for them; when that is again."""
        if jobs:
            self._commit(jobs)
            busy = LINGER_FROM <= self._last_count < LINGER_BELOW
            awaited = any(job.awaited for job in jobs)
            self._may_linger = busy and not awaited and not self._queue.empty()
            self._bound_wal()
            if look_at == math.inf:
                look_at = 0.0
        if self._closing or time.monotonic() < look_at:
            return look_at
        for chore in self._chores:
            job = chore.look(self._connection)
            if job is not None:
                self._commit([job])
        pauses = [chore.pause_s() for chore in self._chores]
        return time.monotonic() + min(pauses, default=math.inf)

    def _bound_wal(self) -> None:
        now = time.monotonic()
        if now >= self._bound_wal_at:
            done = bound_wal(self._connection, self._path)
            self._bound_wal_at = now + (WAL_LOOK_S if done else WAL_RETRY_S)

    def _wait_jobs(self, look_at: float) -> list[Job]:
        """What waits now; blocks until there is something, or it is time to look at the chores."""
        timeout = None if look_at == math.inf else max(0.0, look_at - time.monotonic())
        if self._closing:
            timeout = 0.0  # the call to close may have come among the last jobs
        jobs: list[Job] = []
        with contextlib.suppress(queue.Empty):
            waiting = self._queue.get(timeout=timeout)
            while True:
                if waiting:
                    jobs.append(waiting)
                if len(jobs) >= JOBS_PER_COMMIT_MAX:
                    break
                waiting = self._queue.get_nowait()
        if not jobs and self._may_linger and not self._closing:
            # Only a publisher has called, and records keep coming: nobody waits for this commit, and
            # a moment later it holds more of them. A caller, or an urgent record, ends the moment.
            with contextlib.suppress(queue.Empty):
                waiting = self._queue.get(timeout=LINGER_S)
                if waiting:
                    jobs.append(waiting)
        for take in self._sources:
            jobs.extend(take())
        return jobs

    def _commit(self, jobs: list[Job]) -> None:
        try:
            self._transact_or_isolate(jobs)
        except Exception as error:  # noqa: BLE001 - the callers get it
            self._roll_back()
            outcome = translate(self._path, error) if is_fault_of_file(error) else error
            for job in jobs:
                job.outcome = outcome
        self._last_count = 0
        if self._changes:
            changes, self._changes = self._changes, []
            self._last_count = sum(
                len(chunk.drafts)
                for change in changes
                if isinstance(change, Stored)
                for chunk in change.chunks
            )
            self._on_commit(changes)
        for job in jobs:
            _tell(job, job.outcome)

    def _transact_or_isolate(self, jobs: list[Job]) -> None:
        try:
            self._transact(jobs, isolated=False)
        except Exception as error:
            if is_fault_of_file(error):
                raise
            # A mistake in one piece of work must not cost the others their commit.
            self._roll_back()
            self._transact(jobs, isolated=True)

    def _transact(self, jobs: list[Job], *, isolated: bool) -> None:
        """Run all jobs in one transaction; `isolated`: each can fail alone, for two statements more."""
        connection = self._connection
        with self._shared.turn():
            self._begin()
        self.known.begin(connection)
        for job in jobs:
            if isolated:
                connection.execute("SAVEPOINT job")
            try:
                job.outcome = job.work(connection)
            except RunstreamError as error:
                # Refused before it wrote anything: the others go on.
                job.outcome = error
            except Exception as error:
                if not isolated or is_fault_of_file(error):
                    raise
                connection.execute("ROLLBACK TO job")
                self.known.forget()
                job.outcome = error
            if isolated:
                connection.execute("RELEASE job")
        for job in jobs:
            if job.prepared is not None:
                job.prepared()
        connection.execute("COMMIT")

    def _begin(self) -> None:
        """Start the transaction; wait for another process's commit in small steps.

        SQLite's own waiting backs off to 100 ms, which starves one of two saturating writers: the
        connection must come without it.
        """
        since = time.monotonic()
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorname.startswith("SQLITE_BUSY")
                patience_s = CLOSING_BUSY_S if self._closing else BUSY_TIMEOUT_S
                if not busy or time.monotonic() - since > patience_s:
                    raise
                time.sleep(LOCK_POLL_S)
            else:
                return

    def _roll_back(self) -> None:
        self._changes.clear()
        self.known.forget()
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    def _refuse_rest(self) -> None:
        """After the end: whoever waits, or comes too late, hears so. Any thread."""
        ended = self._ended
        with self._refusing:
            jobs, self._unfinished = self._unfinished, []
            with contextlib.suppress(queue.Empty):
                while True:
                    waiting = self._queue.get_nowait()
                    if waiting:
                        jobs.append(waiting)
            for job in jobs:
                _tell(job, ended)
            for take in self._sources:
                for job in take():
                    _tell(job, ended)


def _tell(job: Job, outcome: Any) -> None:
    try:
        job.done(outcome)
    except Exception:
        # The caller's own loop may be gone; the others still want to hear.
        logger.exception("nobody took the outcome of a write")

"""The one task that writes to a PostgreSQL log for this process: group commit.

Whatever is waiting when a commit ends goes into the next one, whichever run or caller it came from. A
commit whose answer was lost is looked up, not guessed: its callers hear what became of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from typing import Any, Final

import psycopg

from ..errors import LogClosed, LogUnavailable, RunstreamError
from .postgres_known import Known
from .postgres_line import Broken, Connection, Line, TablesGone, damaged, translate
from .postgres_unit import Attempt, Needs, Unit
from .postgres_url import Address

# Pieces of work in one transaction, and bytes: they bound how long a commit, and so the wait of the next
# caller, gets.
JOBS_PER_COMMIT_MAX: Final = 512
SIZE_BYTES_PER_COMMIT_MAX: Final = 8 * 1024 * 1024
# Two processes may create one run at the same moment: the second one finds it when it tries again.
ATTEMPTS_MAX: Final = 5
# Another process that writes to the same streams can come between our look and our write; after so many
# times we keep it away while we look.
LOOKS_BEFORE_LOCK: Final = 3
# A commit without an answer is looked up for this long: an engine that crashed is back by then. (Not for
# callers that can send it again without harm: they soon hear that the log does not answer.)
SETTLE_S: Final = 30.0
SETTLE_PAUSE_S: Final = 0.1

logger = logging.getLogger(__name__)


class Job:
    """A piece of work for the next transaction, and where its outcome goes."""

    __slots__ = ("future", "needs", "repeatable", "size_bytes", "work")

    def __init__(
        self,
        needs: Needs,
        work: Callable[[Unit], Any],
        future: Future[Any],
        *,
        size_bytes: int = 0,
        repeatable: bool = True,
    ) -> None:
        self.needs = needs
        self.work = work
        self.future = future
        self.size_bytes = size_bytes
        # Whether its caller may just make it again when it is unknown what became of it.
        self.repeatable = repeatable


class Writer:
    """Runs jobs in transactions, in the loop that `serve` runs in.

    `on_commit` is called after each commit with the streams that it touched (run id, generation, newest
    seq), before the callers are told. `restore` makes dropped tables again.
    """

    def __init__(
        self,
        address: Address,
        line: Line,
        on_commit: Callable[[Sequence[tuple[str, str, int]]], None],
        restore: Callable[[], Any],
    ) -> None:
        self._address = address
        self._line = line
        self._on_commit = on_commit
        self._restore = restore
        self._queue: deque[Job] = deque()
        self._called = asyncio.Event()
        self._closing = False
        self._known = Known()

    def put(self, job: Job) -> None:
        """Have a job done. In the writer's loop."""
        if self._closing:
            _tell(job, self._closed())
            return
        self._queue.append(job)
        self._called.set()

    def close(self) -> None:
        """Have `serve` end when it has done what is queued. In the writer's loop."""
        self._closing = True
        self._called.set()

    async def serve(self) -> None:
        """Do jobs until the writer is closed, or this is cancelled: then what is left hears `LogClosed`."""
        jobs: list[Job] = []
        try:
            while True:
                await self._called.wait()
                self._called.clear()
                while jobs := self._next_jobs():
                    await self._commit(jobs)
                if self._closing:
                    return
        except Exception:
            logger.critical("the writer of %s has failed", self._address.shown, exc_info=True)
            raise
        finally:
            self._closing = True
            for job in (*jobs, *self._queue):
                _tell(job, self._closed())

    def _closed(self) -> LogClosed:
        return LogClosed(f"the log {self._address.shown} has been closed")

    def _next_jobs(self) -> list[Job]:
        jobs: list[Job] = []
        size_bytes = 0
        while self._queue and len(jobs) < JOBS_PER_COMMIT_MAX:
            size_bytes += self._queue[0].size_bytes
            if jobs and size_bytes > SIZE_BYTES_PER_COMMIT_MAX:
                break
            jobs.append(self._queue.popleft())
        return jobs

    async def _commit(self, jobs: list[Job]) -> None:
        """Do the jobs and tell their outcomes."""
        try:
            outcomes = await self._outcomes(jobs)
        except Exception as error:  # noqa: BLE001 - the callers get it
            mistake = not isinstance(error, RunstreamError) or type(error) is RunstreamError
            if mistake and len(jobs) > 1:
                # It is in one of them, and must not cost the others their commit.
                for job in jobs:
                    await self._commit([job])
                return
            if self._closing and isinstance(error, LogUnavailable):
                error = LogClosed(str(error))
            outcomes = [error] * len(jobs)
        for job, outcome in zip(jobs, outcomes, strict=True):
            _tell(job, outcome)

    async def _outcomes(self, jobs: list[Job]) -> list[Any]:
        try:
            return await self._attempts(jobs)
        except TablesGone:
            await self._restore()
        try:
            return await self._attempts(jobs)
        except TablesGone as error:
            raise damaged(self._address, error) from error

    async def _attempts(self, jobs: list[Job]) -> list[Any]:
        """The jobs' outcomes, of the attempt that was committed. Raises what keeps it from that."""
        loop = asyncio.get_running_loop()
        unsure: Attempt | None = None
        settle_at = loop.time() + SETTLE_S
        repeatable = all(job.repeatable for job in jobs)
        attempts = 0
        while True:
            attempts += 1
            problem: Exception
            try:
                return await self._transact(jobs, unsure)
            except _Unsure as error:
                unsure = error.attempt
                problem = LogUnavailable(str(error))
            except (Broken, _Conflict) as error:
                problem = LogUnavailable(str(error))
            except LogUnavailable as error:
                if unsure is None:
                    raise
                problem = error
            if unsure is None:
                if attempts >= ATTEMPTS_MAX:
                    raise problem
                continue
            enough = loop.time() > settle_at or (repeatable and attempts >= ATTEMPTS_MAX)
            if enough or self._closing:
                raise LogUnavailable(f"{problem}: what became of the last append is not known")
            await asyncio.sleep(SETTLE_PAUSE_S)

    async def _transact(self, jobs: list[Job], unsure: Attempt | None) -> list[Any]:
        needs = [job.needs for job in jobs]
        async with self._line.used() as connection:
            if unsure is None:
                outcomes = await self._guess(connection, jobs, needs)
                if outcomes is not None:
                    return outcomes
            for attempt in range(LOOKS_BEFORE_LOCK + 1):
                lock = attempt == LOOKS_BEFORE_LOCK
                unit = Unit()
                try:
                    committed = await unit.load(connection, needs, unsure, lock=lock)
                except psycopg.Error as error:
                    raise translate(self._address, error, connection) from error
                if unsure is not None and committed:
                    self._on_commit(unsure.news)
                    return unsure.outcomes
                outcomes = [_outcome(job, unit) for job in jobs]
                if not unit.writes or await self._write(connection, unit, outcomes, lock=lock):
                    return outcomes
        raise _Conflict("rows have changed while they were locked")

    async def _guess(
        self, connection: Connection, jobs: list[Job], needs: list[Needs]
    ) -> list[Any] | None:
        """Do the jobs on what we know, without a look before; None if that is not possible."""
        unit = self._known.unit_for(needs)
        if unit is None:
            return None
        outcomes = [_outcome(job, unit) for job in jobs]
        if not unit.chunks or any(isinstance(outcome, Exception) for outcome in outcomes):
            return None  # what is refused is refused on what is so, not on what was
        return outcomes if await self._write(connection, unit, outcomes, lock=False) else None

    async def _write(
        self, connection: Connection, unit: Unit, outcomes: list[Any], *, lock: bool
    ) -> bool:
        """Commit the unit; False if another process has changed its rows meanwhile."""
        with self._translated(connection, unit, outcomes):
            if not await unit.write(connection):
                self._known.was_wrong(unit)
                return False
            if lock:
                await connection.execute("COMMIT")
        self._committed(unit)
        return True

    def _committed(self, unit: Unit) -> None:
        news = unit.touched()
        self._known.keep(unit)
        self._on_commit(news)

    @contextlib.contextmanager
    def _translated(
        self, connection: Connection, unit: Unit, outcomes: list[Any]
    ) -> Generator[None]:
        try:
            yield
        except _CONFLICTS as error:
            raise _Conflict(str(error)) from error
        except psycopg.Error as error:
            problem = translate(self._address, error, connection)
            attempt = unit.attempt(outcomes) if isinstance(problem, Broken) else None
            if attempt is not None:
                raise _Unsure(str(problem), attempt) from error
            raise problem from error


# Another process has created the same run since we looked; or two wait for each other's streams.
_CONFLICTS: Final = (psycopg.errors.UniqueViolation, psycopg.errors.DeadlockDetected)


class _Conflict(Exception):
    """Another process came in between: looking again settles it."""


class _Unsure(Exception):
    """The connection broke between the commit and its answer."""

    def __init__(self, message: str, attempt: Attempt) -> None:
        super().__init__(message)
        self.attempt = attempt


def _outcome(job: Job, unit: Unit) -> Any:
    try:
        return job.work(unit)
    except RunstreamError as error:
        return error


def _tell(job: Job, outcome: Any) -> None:
    # A caller that has gone away meanwhile changes nothing: what is queued is written.
    if job.future.done() or not job.future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, BaseException):
        job.future.set_exception(outcome)
    else:
        job.future.set_result(outcome)

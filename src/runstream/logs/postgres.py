"""The PostgreSQL log: one schema in a database, any number of processes and machines.

Appends of all runs and callers of a process share transactions; a commit is on the server's disk before
anyone sees its records. A root's row is locked from the check of its number to the commit, so numbers are in
the order of commits. Readers wake by notifications, and find by looking what was not told.

A process holds at most eight connections for a log: one that writes, one that listens, one that tells
others, four that read (`?readers=`), and for moments one that removes old runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Final, TypeVar

from ..admission import check_limit, check_open
from ..bell import Bell
from ..errors import InvalidInput, InvalidURL, LogUnavailable, RunNotFound
from ..log import (
    LIST_LIMIT_MAX,
    READ_LIMIT_DEFAULT,
    READ_LIMIT_MAX,
    Appended,
    Lease,
    LeaseClaim,
    Opened,
    Page,
    Producer,
    RunInfo,
    Status,
)
from ..own_loop import OwnLoop
from ..record import Cursor, Draft
from ..retention import Retention
from . import postgres_read, postgres_retention, postgres_schema, postgres_work
from .postgres_line import Connection, Line, Lines, TablesGone, damaged, is_refusal
from .postgres_read import Tail
from .postgres_retention import SLICE_PAUSE_S, AgeOut
from .postgres_unit import Needs, Unit
from .postgres_url import Address, parse
from .postgres_watcher import GONE, Watcher
from .postgres_writer import Job, Writer

# What is queued when the log is closed is given this long to be stored.
CLOSE_S: Final = 5.0

T = TypeVar("T")


def open_url(address: str, options: dict[str, str]) -> PostgresLog:
    """`postgresql://USER:PASSWORD@HOST:PORT/DATABASE` with libpq's options, and of ours:

    `?durability=power` (default) or `process`, `?require=durable`, `?retention=` a time such as 7d, or `off`,
    `?schema=` where the tables are (`runstream`), `?readers=` how many connections may read at once (4).
    """
    return PostgresLog(parse(address, options))


class PostgresLog:
    """The log contract on one schema of a database. Opening blocks; everything else is async.

    Its connections live in a loop of its own, so that any loop and thread may use it. `promise` says in
    words what an acknowledged append survives, with the server's settings when it was opened.

    Raises (on opening):
        InvalidURL: the server does not want this user, password or database; or `require=durable`, and an
            append may be lost.
        NotALog: too old a server, or tables that are not ours.
        LogUnavailable: nobody answers, or the role lacks a right.
    """

    promise: str

    def __init__(self, address: Address) -> None:
        self._address = address
        self._bell = Bell()
        self._loop = OwnLoop("postgres", address.shown)
        self._loop.open(self._start(), self._disconnect)

    async def _start(self) -> None:
        self._lines = Lines(self._address, self._address.readers)
        self._writing = Line(self._address)
        self._watcher = Watcher(self._address, self._bell, self._lines)
        self._writer = Writer(self._address, self._writing, self._committed, self._restore)
        self._age_out: AgeOut | None = None
        try:
            self.promise = await self._lines.look(
                lambda line: postgres_schema.prepare(line, self._address)
            )
        except LogUnavailable as error:
            if is_refusal(error):
                raise InvalidURL(str(error)) from error
            raise
        self._serving = asyncio.ensure_future(self._writer.serve())
        self._watcher.start()

    async def _disconnect(self) -> None:
        self._lines.end()
        self._writing.end()

    async def open(
        self,
        run_id: str,
        *,
        producer: str | None,
        workflow: str | None = None,
        parent_run_id: str | None = None,
        claim: LeaseClaim | None = None,
    ) -> Opened:
        check_open(run_id, producer, workflow, parent_run_id, claim)
        runs = frozenset({run_id, parent_run_id or run_id})
        # (A new child finds the producer in its parent's stream.)
        producers = () if producer is None else tuple((run, producer) for run in runs)
        needs = Needs(runs, producers, creates=workflow is not None)
        return await self._write(
            needs,
            lambda unit: postgres_work.open_run(
                unit, run_id, producer, workflow, parent_run_id, claim
            ),
        )

    async def append(
        self,
        run_id: str,
        drafts: Sequence[Draft],
        *,
        producer: Producer | None = None,
        final: bool = False,
    ) -> Appended:
        drafts = tuple(drafts)
        if producer is not None and not postgres_read.could_be_stored(producer.id):
            raise InvalidInput(f"not a producer id: {producer.id!r}")
        # Encoded here: the writer's loop serves everybody.
        pieces = postgres_work.cut(drafts)
        needs = Needs(
            frozenset([run_id, *(draft.run_id for draft in drafts)]),
            () if producer is None else ((run_id, producer.id),),
            frozenset([run_id]) if final else frozenset(),
        )
        return await self._write(
            needs,
            lambda unit: postgres_work.append(unit, run_id, drafts, pieces, producer, final),
            size_bytes=sum(len(piece.encoded) for piece in pieces),
            repeatable=producer is not None,
        )

    async def read(self, run_id: str, *, after: Cursor, limit: int = READ_LIMIT_DEFAULT) -> Page:
        limit = check_limit(limit, READ_LIMIT_MAX)
        return await self._read(lambda line: postgres_read.read_page(line, run_id, after, limit))

    async def wait(self, run_id: str, *, after: int, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        with self._bell.listen(run_id) as listener:
            # Not before listening: whoever closes the log rings once.
            self._loop.check_open()
            self._loop.call_soon(self._watcher.watch)
            tail = self._watcher.tails.get(run_id)
            if tail is None:
                try:
                    async with asyncio.timeout(timeout):
                        tail, is_news = await self._tail(run_id)
                except (LogUnavailable, TimeoutError):
                    is_news = True  # whoever waits is about to read, and hears of it there
                if is_news:
                    # It may have been opened since the call, which the caller wants to hear.
                    self._loop.check_open()
                    return
            root_run_id = run_id if tail is None else tail[0]
            if root_run_id == run_id and (tail is None or not _is_behind(tail, after)):
                await listener.wait(deadline - time.monotonic())
        if root_run_id != run_id:
            await self.wait(root_run_id, after=after, timeout=deadline - time.monotonic())
        self._loop.check_open()

    async def _tail(self, run_id: str) -> tuple[Tail | None, bool]:
        """How far the run's stream has got, and whether that is news to this process."""
        knew = self._watcher.tails.knows(run_id)
        found = await self._read(lambda line: postgres_read.tails(line, [run_id]))
        tail = found.get(run_id)
        if tail is None:
            return None, False
        is_news = self._watcher.tails.saw(run_id, tail)
        if is_news:
            # Nobody may have told it; then whoever else waits would not find it by looking any more.
            self._bell.ring([run_id])
        # (Somebody else may have been first to see what had not been there when we asked.)
        return tail, is_news or not knew

    async def info(self, run_id: str) -> RunInfo:
        return await self._read(lambda line: postgres_read.get_info(line, run_id))

    async def renew(self, run_id: str, *, owner: str, epoch: int) -> None:
        await self._write(
            _only(run_id), lambda unit: postgres_work.renew(unit, run_id, owner, epoch)
        )

    async def release(self, run_id: str, *, owner: str, epoch: int) -> None:
        await self._write(
            _only(run_id), lambda unit: postgres_work.release(unit, run_id, owner, epoch)
        )

    async def expire(self, run_id: str, *, lease: Lease) -> RunInfo:
        family = frozenset([run_id])
        return await self._write(
            Needs(family, ((run_id, lease.owner),), family),
            lambda unit: postgres_work.expire(unit, run_id, lease),
        )

    async def trim(self, run_id: str, *, through: int) -> None:
        await self._write(_only(run_id), lambda unit: postgres_work.trim(unit, run_id, through))

    async def list(
        self,
        *,
        workflow: str | None = None,
        status: Status | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> Sequence[RunInfo]:
        most = check_limit(limit, LIST_LIMIT_MAX)
        return await self._read(
            lambda line: postgres_read.list_runs(line, workflow, status, before, most)
        )

    async def retain(self, run_id: str, retention: Retention | None) -> None:
        await self._read(lambda line: postgres_retention.retain(line, run_id, retention))

    async def retained(self) -> Mapping[str, Retention]:
        return await self._read(postgres_retention.retained)

    async def remove(self, run_id: str) -> None:
        await self._loop.run(self._remove(run_id), to_end=True)

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """As `aclose()`, blocking: at the interpreter's exit there is no loop and no new thread."""
        self._loop.close(self._shut_down)

    async def _shut_down(self) -> None:
        self._bell.ring_all()
        self._writer.close()
        await asyncio.wait([self._serving], timeout=CLOSE_S)
        await self._watcher.close()
        # What has lost its connection ends by itself; to cancel it would ask the server's cooperation.
        await self._disconnect()
        if self._age_out is not None:
            self._age_out.end()

    # --- in the log's own loop --------------------------------------------------------------------

    def _committed(self, news: Sequence[tuple[str, str, int]]) -> None:
        self._watcher.committed(news)
        if self._age_out is None and self._address.retention_s is not None:
            # Not before the first commit: a process that only looks at a log changes nothing in it.
            age_out = AgeOut(self._address, self._address.retention_s, self._watcher.committed)
            self._age_out = age_out
            self._aging = asyncio.ensure_future(age_out.serve())

    async def _remove(self, run_id: str) -> None:
        gone = await self._look(lambda line: postgres_retention.remove(line, run_id))
        try:
            while not gone:
                await asyncio.sleep(SLICE_PAUSE_S)
                gone = await self._look(lambda line: postgres_retention.remove(line, run_id))
        except RunNotFound:  # somebody else has removed the rest
            return
        self._watcher.committed([(one, GONE, 0) for one in gone])

    async def _restore(self) -> None:
        """Make the tables again that somebody has dropped."""
        await self._lines.look(lambda line: postgres_schema.prepare(line, self._address))

    async def _look(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        try:
            return await self._lines.look(work)
        except TablesGone:
            await self._restore()
        try:
            return await self._lines.look(work)
        except TablesGone as error:
            raise damaged(self._address, error) from error

    # --- from any loop ---------------------------------------------------------------------------

    async def _read(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        return await self._loop.run(self._look(work), to_end=True)

    async def _write(
        self,
        needs: Needs,
        work: Callable[[Unit], T],
        *,
        size_bytes: int = 0,
        repeatable: bool = True,
    ) -> T:
        future: Future[T] = Future()
        job = Job(needs, work, future, size_bytes=size_bytes, repeatable=repeatable)
        self._loop.call_soon(self._writer.put, job)
        return await self._loop.wait(future)


def _only(run_id: str) -> Needs:
    return Needs(frozenset([run_id]))


def _is_behind(tail: Tail, after: int) -> bool:
    """Whether there is a record behind `after`, or there will be none."""
    return tail[2] > after or tail[3]

"""The SQLite log: one file, any number of processes, nothing to run.

Appends of all runs and callers share commits; a commit is on the disk before anyone sees its records
(`synchronous=FULL`; `?durability=process` in the URL is the cheaper, explicit choice). Live readers in the
writing process are served from memory, others wake within 50 ms.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, TypeVar, cast
from urllib.parse import unquote

from ..admission import (
    check_limit,
    check_open,
)
from ..bell import Bell
from ..errors import InvalidURL, LogClosed, LogUnavailable, RunNotFound
from ..log import (
    LIST_LIMIT_MAX,
    READ_LIMIT_DEFAULT,
    READ_LIMIT_MAX,
    Appended,
    Lease,
    LeaseClaim,
    Opened,
    Page,
    PendingAppend,
    Producer,
    RunInfo,
    Status,
)
from ..record import Cursor, Draft
from ..retention import Retention
from . import (
    refuse_unknown,
    retention_option,
    sqlite_file,
    sqlite_read,
    sqlite_retention,
    sqlite_store,
)
from .sqlite_lines import Line, Lines
from .sqlite_recent import Recent
from .sqlite_retention import SLICE_PAUSE_S, AgeOut
from .sqlite_shared import Shared
from .sqlite_store import Removed, Stored
from .sqlite_watcher import Watcher
from .sqlite_writer import Job, Writer

# Readers that wait for the disk at the same time; the interpreter lets one at a time decode anyway.
READER_THREADS: Final = 4

T = TypeVar("T")


def open_url(address: str, options: dict[str, str]) -> SqliteLog:
    """`sqlite:PATH` or `sqlite:///ABSOLUTE/PATH`, with `?durability=power` (default) or `process`, and
    `?retention=` a time after which finished runs are removed, such as 90s, 30m, 12h, 7d, or `off`.
    """
    refuse_unknown(options, ("durability", "retention"))
    durability = _durability(options.get("durability", "power"))
    path = unquote(address.removeprefix("sqlite:").removeprefix("//"))
    if not path or path.endswith("/") or "\0" in path:
        raise InvalidURL(
            "an sqlite URL names a file: sqlite:events.db or sqlite:///var/lib/events.db"
        )
    return SqliteLog(Path(path).expanduser().absolute(), durability, retention_option(options))


def _durability(text: str) -> sqlite_file.Durability:
    match text:
        case "power" | "process":
            return text
        case _:
            raise InvalidURL(f"durability is power or process, not {text!r}")


class SqliteLog:
    """The log contract on one SQLite file. Opening blocks for the disk; everything else is async."""

    def __init__(
        self,
        path: Path,
        durability: sqlite_file.Durability = "power",
        retention_s: float | None = None,
    ) -> None:
        self.path = path
        self._closed = False
        self._closing = threading.Lock()
        self._lines = Lines()
        self._reader = threading.local()
        with ExitStack() as opened:
            opened.callback(self._lines.close)
            writing = self._lines.add(lambda: sqlite_file.open_writer(path, durability))
            watching = self._lines.add(lambda: sqlite_file.open_reader(path))
            self._shared = Shared(path)
            self._bell = Bell()
            self._recent = Recent(lambda: self._shared.removals)
            self._watcher = Watcher(watching, self._bell, self._recent, self._shared)
            opened.pop_all()
        chores = () if retention_s is None else (AgeOut(retention_s, self._note_removal),)
        self._writer = Writer(path, writing, self._shared, self._committed, chores)
        self._pool = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="runstream-reader")

    def fetch_from(self, take: Callable[[], Sequence[PendingAppend]]) -> Callable[[], None]:
        def jobs() -> list[Job]:
            return [
                Job(
                    self._append_work(one.run_id, one.drafts, one.producer, one.final),
                    one.done,
                    one.prepared,
                    awaited=one.awaited,
                )
                for one in take()
            ]

        self._writer.add_source(jobs)
        return self._writer.kick

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
        opened: Opened = await self._write(
            lambda db: sqlite_store.open_run(db, run_id, producer, workflow, parent_run_id, claim)
        )
        if opened.created and opened.info.root_run_id == run_id:
            # A reader that waits for its first record need not look into the file for it.
            self._recent.saw_tail(run_id, opened.info.generation, opened.info.last_seq)
        self._bell.ring([run_id])
        return opened

    async def append(
        self,
        run_id: str,
        drafts: Sequence[Draft],
        *,
        producer: Producer | None = None,
        final: bool = False,
    ) -> Appended:
        self._check_open()
        work = self._append_work(run_id, tuple(drafts), producer, final)
        appended: Appended = await asyncio.wrap_future(self._writer.submit(work))
        return appended

    def _append_work(
        self, run_id: str, drafts: Sequence[Draft], producer: Producer | None, final: bool
    ) -> Callable[[sqlite3.Connection], Appended]:
        def work(db: sqlite3.Connection) -> Appended:
            appended, stored = sqlite_store.append(
                db, self._writer.known, run_id, drafts, producer, final
            )
            if stored is not None:
                self._writer.note(stored)
            return appended

        return work

    async def read(self, run_id: str, *, after: Cursor, limit: int = READ_LIMIT_DEFAULT) -> Page:
        limit = check_limit(limit, READ_LIMIT_MAX)
        self._check_open()
        page = self._recent.read(run_id, after, limit)
        if page is not None:
            return page
        return await self._read(lambda db: sqlite_read.read_page(db, run_id, after, limit))

    async def wait(self, run_id: str, *, after: int, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        root_run_id = run_id
        with self._bell.listen(run_id) as listener:
            # Not before listening: whoever closes the log rings once.
            self._check_open()
            self._watcher.start_watching()
            tail = self._recent.tail(run_id)
            if tail is None:
                try:
                    run = await self._read(lambda db: sqlite_read.find_run(db, run_id))
                except LogUnavailable:
                    return  # whoever waits is about to read, and hears of it there
                if run is not None:
                    root_run_id, tail = run.info.root_run_id, run.info.last_seq
                    self._recent.saw_tail(root_run_id, run.info.generation, tail)
            if root_run_id == run_id and (tail is None or tail <= after):
                await listener.wait(deadline - time.monotonic())
        if root_run_id != run_id:
            # (It looks again once it listens there.)
            await self.wait(root_run_id, after=after, timeout=deadline - time.monotonic())
        self._check_open()

    async def info(self, run_id: str) -> RunInfo:
        return (await self._read(lambda db: sqlite_read.get_run(db, run_id))).info

    async def renew(self, run_id: str, *, owner: str, epoch: int) -> None:
        await self._write(lambda db: sqlite_store.renew(db, run_id, owner, epoch))

    async def release(self, run_id: str, *, owner: str, epoch: int) -> None:
        await self._write(lambda db: sqlite_store.release(db, run_id, owner, epoch))

    async def expire(self, run_id: str, *, lease: Lease) -> RunInfo:
        def work(db: sqlite3.Connection) -> RunInfo:
            info, stored = sqlite_store.expire(db, run_id, lease)
            if stored is not None:
                self._writer.note(stored)
            return info

        return cast(RunInfo, await self._write(work))

    async def trim(self, run_id: str, *, through: int) -> None:
        def work(db: sqlite3.Connection) -> None:
            removed = sqlite_store.trim(db, run_id, through)
            if removed is not None:
                self._note_removal(removed)

        await self._write(work)

    async def retain(self, run_id: str, retention: Retention | None) -> None:
        await self._write(lambda db: sqlite_retention.retain(db, run_id, retention))

    async def retained(self) -> Mapping[str, Retention]:
        return await self._read(sqlite_retention.retained)

    async def remove(self, run_id: str) -> None:
        def work(db: sqlite3.Connection) -> bool:
            return sqlite_retention.remove_run(db, run_id, self._note_removal)

        more = await self._write(work)
        while more:
            await asyncio.sleep(SLICE_PAUSE_S)
            try:
                more = await self._write(work)
            except RunNotFound:  # somebody else has removed the rest
                return

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
            lambda db: sqlite_read.list_runs(db, workflow, status, before, most)
        )

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """As `aclose()`, blocking: at the interpreter's exit there is no loop and no new thread."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self._bell.ring_all()
        self._writer.close()
        self._watcher.close()
        self._pool.shutdown()
        self._lines.close()
        self._shared.close()

    def pause(self, timeout: float) -> bool:
        return self._lines.pause(timeout)

    def resume(self) -> None:
        self._lines.resume()

    def _check_open(self) -> None:
        if self._closed:
            raise LogClosed(f"the log {self.path} has been closed")

    def _note_removal(self, removed: Removed) -> None:
        self._writer.known.forget()
        self._shared.add_removal()
        self._writer.note(removed)

    def _committed(self, changes: Sequence[Stored | Removed]) -> None:
        for change in changes:
            if isinstance(change, Stored):
                self._recent.add(change)
            else:
                self._shared.add_removal()
        self._bell.ring({change.root_run_id for change in changes})

    async def _write(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        """For all but appends: what they know may be true no more."""
        self._check_open()

        def forgetting(db: sqlite3.Connection) -> Any:
            self._writer.known.forget()
            return work(db)

        return await asyncio.wrap_future(self._writer.submit(forgetting))

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self._check_open()
        try:
            future = self._pool.submit(self._look, work)
        except RuntimeError:  # the pool was shut down meanwhile
            raise LogClosed(f"the log {self.path} has been closed") from None
        return await asyncio.wrap_future(future)

    def _look(self, work: Callable[[sqlite3.Connection], T]) -> T:
        line: Line | None = getattr(self._reader, "line", None)
        if line is None:
            line = self._reader.line = self._lines.add(lambda: sqlite_file.open_reader(self.path))
        with line.used() as connection, sqlite_file.translated(self.path):
            return work(connection)

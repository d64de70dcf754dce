"""Lines to a PostgreSQL server: connections that are opened when they are needed, and again after they broke;
and what the server's errors mean.

No call waits for ever: one that is not answered in time has its connection cut, and fails as one whose
server has vanished.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, Final, TypeVar

import psycopg
from psycopg import pq
from psycopg.rows import tuple_row

from ..errors import LogReadOnly, LogUnavailable, NotALog, RunstreamError
from .postgres_url import Address

# Longer than any call of ours takes; a server that is silent for longer is stopped, or gone.
CALL_S_MAX: Final = 30.0
# A writer of another process that stopped in the middle of a transaction (Ctrl-Z, a dead network) holds
# its streams for this long; then the server ends it.
IDLE_IN_TRANSACTION_S: Final = 5
# So an append waits longer than that for its stream, and gives up before the call itself is given up.
LOCK_S: Final = 15

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

T = TypeVar("T")

# Every statement of ours finds its rows by an index. A plan that the server keeps from the time when a
# table was small would scan it; a plan for each call would cost more than the call.
_SESSION: Final = """
SELECT set_config('search_path', %(schema)s, false),
       set_config('idle_in_transaction_session_timeout', %(idle)s, false),
       set_config('lock_timeout', %(lock)s, false),
       set_config('statement_timeout', '0', false),
       set_config('plan_cache_mode', 'force_generic_plan', false),
       set_config('enable_seqscan', 'off', false),
       set_config('enable_hashjoin', 'off', false),
       set_config('enable_mergejoin', 'off', false),
       set_config('synchronous_commit', CASE
           WHEN %(relaxed)s THEN 'off'
           WHEN current_setting('synchronous_commit') = 'off' THEN 'on'
           ELSE current_setting('synchronous_commit') END, false)
"""


class TablesGone(Exception):
    """Somebody has dropped our tables: this is an empty log, whose tables must be made again."""


class Line:
    """One connection, used by one task at a time. Lives in one event loop."""

    def __init__(self, address: Address, *, relaxed: bool = False) -> None:
        self._address = address
        # Whether what this line commits may be lost in a crash.
        self._relaxed = relaxed or address.durability == "process"
        self._lock = asyncio.Lock()
        self._connection: Connection | None = None
        self._opening: asyncio.Task[Connection] | None = None
        self._ended = False

    @contextlib.asynccontextmanager
    async def used(self, *, timeout_s: float | None = CALL_S_MAX) -> AsyncGenerator[Connection]:
        """The connection, for the time of the block; what the block leaves undone is rolled back.

        Raises LogUnavailable if it cannot be opened; the driver's errors come as they are.
        """
        async with self._lock:
            connection = self._connection
            if connection is None or not _is_alive(connection):
                connection = await self._open()
            with self._cut_after(timeout_s, connection):
                try:
                    yield connection
                finally:
                    try:
                        if connection.pgconn.transaction_status != pq.TransactionStatus.IDLE:
                            await self._tidy(connection)
                    finally:
                        if self._ended:
                            connection.pgconn.finish()

    def end(self) -> None:
        """Close for good, now: whoever waits for an answer gets an error."""
        self._ended = True
        if self._opening is not None:
            self._opening.cancel()
        connection = self._connection
        if connection is None or connection.closed:
            return
        if self._lock.locked():
            cut(connection)
        else:
            connection.pgconn.finish()

    async def _open(self) -> Connection:
        shown = self._address.shown
        if self._ended:
            raise LogUnavailable(f"{shown}: this connection has been closed")
        # A task of its own, which `end` can cancel: there is no connection to cut yet.
        opening = self._opening = asyncio.ensure_future(_connect(self._address))
        try:
            self._connection = connection = await opening
            with self._cut_after(CALL_S_MAX, connection):
                await self._set_up(connection)
        except asyncio.CancelledError:
            # (It may have come just when this was cancelled.)
            if opening.done() and not opening.cancelled() and opening.exception() is None:
                opening.result().pgconn.finish()
            if not self._ended:
                raise
            raise LogUnavailable(f"{shown}: this connection has been closed") from None
        except psycopg.Error as error:
            raise LogUnavailable(f"{shown} cannot be used: {_said(error)}") from error
        finally:
            self._opening = None
        return connection

    async def _set_up(self, connection: Connection) -> None:
        try:
            await connection.execute(
                _SESSION,
                {
                    "schema": self._address.schema,
                    "idle": f"{IDLE_IN_TRANSACTION_S}s",
                    "lock": f"{LOCK_S}s",
                    "relaxed": self._relaxed,
                },
            )
        except BaseException:
            await connection.close()
            raise

    @contextlib.contextmanager
    def _cut_after(self, timeout_s: float | None, connection: Connection) -> Generator[None]:
        if timeout_s is None:
            yield
            return
        timer = asyncio.get_running_loop().call_later(timeout_s, cut, connection)
        try:
            yield
        finally:
            timer.cancel()

    async def _tidy(self, connection: Connection) -> None:
        try:
            await connection.rollback()
        except psycopg.Error:
            await connection.close()


async def _connect(address: Address) -> Connection:
    # (The driver keeps to the URL's connect_timeout, for each of its hosts.)
    return await psycopg.AsyncConnection.connect(
        address.conninfo, autocommit=True, prepare_threshold=0, row_factory=tuple_row
    )


def _is_alive(connection: Connection) -> bool:
    """False if the server has ended it while nobody looked: now it costs nothing to know so, after a
    statement has been sent it would be unknown what became of that.
    """
    if connection.closed:
        return False
    try:
        connection.pgconn.consume_input()  # does not wait
    except psycopg.OperationalError:
        connection.pgconn.finish()
        return False
    return True


def cut(connection: Connection) -> None:
    """Break a connection under whoever waits for it: closing it would need the server's cooperation."""
    with contextlib.suppress(psycopg.Error, OSError):
        end = socket.socket(fileno=os.dup(connection.fileno()))
        try:
            end.shutdown(socket.SHUT_RDWR)
        finally:
            end.close()


class Lines:
    """A bounded number of lines for whoever looks: the last used one first, so that few are opened."""

    def __init__(self, address: Address, count: int) -> None:
        self._address = address
        self._room = asyncio.Semaphore(count)
        self._idle = [Line(address) for _ in range(count)]
        self._all = tuple(self._idle)

    async def look(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do `work` on a connection; once more on a new one if that one proves to be broken.

        Raises LogUnavailable, TablesGone.
        """
        async with self._room:
            line = self._idle.pop()
            try:
                try:
                    return await self._try(line, work)
                except Broken:
                    return await self._try(line, work)
            except Broken as broken:
                raise LogUnavailable(str(broken)) from broken
            finally:
                self._idle.append(line)

    async def _try(self, line: Line, work: Callable[[Connection], Awaitable[T]]) -> T:
        async with line.used() as connection:
            try:
                return await work(connection)
            except psycopg.Error as error:
                raise translate(self._address, error, connection) from error

    def end(self) -> None:
        """Close all of them for good, now."""
        for line in self._all:
            line.end()


class Broken(Exception):
    """The connection broke: whether the server did what it was asked is not known."""


# Of the words with which a server refuses a connection; in another language it is an unavailable one.
_REFUSED: Final = re.compile(
    r"password authentication failed|no password supplied|no pg_hba\.conf entry"
    r"|(role|database) \"[^\"]*\" does not exist"
)


def is_refusal(error: LogUnavailable) -> bool:
    """Whether a server is there that does not want what the URL says."""
    return _REFUSED.search(str(error)) is not None


def damaged(address: Address, error: TablesGone) -> NotALog:
    """The error for a log that still lacks a table when its tables have been made again."""
    return NotALog(
        f"{address.shown} has lost some of its tables ({error}): restore them from a copy or, to begin "
        f"anew, DROP SCHEMA {address.schema} CASCADE"
    )


def translate(address: Address, error: psycopg.Error, connection: Connection) -> Exception:
    """Our error for one of the driver's, with what to do about it; Broken and TablesGone are for us."""
    if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.InvalidSchemaName):
        return TablesGone(_said(error))
    if connection.closed or connection.broken:
        return Broken(f"{address.shown} has broken the connection: {_said(error)}")
    code = error.sqlstate or ""
    for prefix, (our_error, advice) in _ADVICE.items():
        if code.startswith(prefix):
            return our_error(f"{address.shown} {advice} ({_said(error)})")
    if isinstance(error, psycopg.OperationalError):
        return LogUnavailable(f"{address.shown}: {_said(error)}")
    return RunstreamError(f"{address.shown} refuses what no server should refuse: {_said(error)}")


def _said(error: psycopg.Error) -> str:
    return " ".join(str(error).split()) or type(error).__name__


_ADVICE: Final[dict[str, tuple[type[RunstreamError], str]]] = {
    "53100": (
        LogUnavailable,
        "has no space left on its disk: free some and go on, nothing stored was lost",
    ),
    "53": (LogUnavailable, "has run out of something"),
    "57": (LogUnavailable, "is being stopped, or has ended the connection"),
    "58": (LogUnavailable, "cannot read or write its files: is the disk failing?"),
    "25006": (LogReadOnly, "is read-only: is it a standby?"),
    "42501": (LogReadOnly, "refuses: the role in the URL lacks a right"),
    "55P03": (
        LogUnavailable,
        f"has had the stream locked by another process for {LOCK_S} s: is that stopped?",
    ),
    "40": (LogUnavailable, "was asked for too much at once"),
    "XX001": (NotALog, "has damaged data: restore it from a copy"),
    # A file that may not grow (a quota) comes as this one.
    "XX": (LogUnavailable, "has failed inside: has it room on its disk, within its quota?"),
}

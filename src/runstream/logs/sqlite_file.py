"""The SQLite file: opening it, its schema and version, and what its errors mean.

A log is one file in WAL mode. `synchronous=FULL` makes a commit survive a power cut;
`durability=process` only the death of the process, at a fraction of the cost.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from ..errors import LogReadOnly, LogUnavailable, NotALog, RunstreamError

Durability = Literal["power", "process"]

# "RunS" as a big-endian number: tells our files from every other SQLite file.
APPLICATION_ID: Final = 0x52756E53
VERSION: Final = 1
# Pages of the write-ahead log before a checkpoint: 16 MiB keeps checkpoints rare and each one short.
CHECKPOINT_PAGES: Final = 4000
# Beyond this the log is begun anew by force: four times what it reaches when nobody is in the way.
WAL_SIZE_BYTES_MAX: Final = 64 * 1024 * 1024
# Readers look for milliseconds; all writers wait as long as this does.
WAL_WAIT_S: Final = 0.1
# Between two looks at a lock that another process holds. Far below the time of a commit.
LOCK_POLL_S: Final = 0.0005
# Longer than any commit of ours; a lock held beyond it is a stopped process, and worth an error.
BUSY_TIMEOUT_S: Final = 30.0

# `chunk` holds consecutive drafts as one JSON array. Its id grows with every append to the file (and is
# never given twice), which is how other processes find what is new; (run, last_seq) finds a position.
_SCHEMA: Final = """
CREATE TABLE run (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id        TEXT NOT NULL UNIQUE,
    root          INTEGER NOT NULL,
    parent_run_id TEXT,
    workflow      TEXT NOT NULL,
    status        TEXT NOT NULL,
    generation    TEXT NOT NULL,
    first_seq     INTEGER NOT NULL,
    last_seq      INTEGER NOT NULL,
    created       INTEGER NOT NULL,
    ended         INTEGER,
    owner         TEXT,
    epoch         INTEGER,
    counter       INTEGER,
    lease_s       REAL,
    grace_s       REAL
);
CREATE INDEX run_children ON run (root) WHERE root <> id;
CREATE INDEX run_ended ON run (ended) WHERE ended IS NOT NULL AND root = id;
CREATE TABLE producer (
    run          INTEGER NOT NULL,
    producer_id  TEXT NOT NULL,
    epoch        INTEGER NOT NULL,
    number       INTEGER NOT NULL,
    batch_number INTEGER NOT NULL,
    first_seq    INTEGER NOT NULL,
    last_seq     INTEGER NOT NULL,
    PRIMARY KEY (run, producer_id)
) WITHOUT ROWID;
CREATE TABLE chunk (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    run       INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq  INTEGER NOT NULL,
    drafts    BLOB NOT NULL
);
CREATE UNIQUE INDEX chunk_position ON chunk (run, last_seq);
"""
# What lists of few among many runs go by; an append to a run touches neither. (Of those that completed, which
# most have, a list finds a page at once.) Files of earlier versions get them when they are opened to write.
_LIST_INDEXES: Final = (
    "CREATE INDEX IF NOT EXISTS run_status ON run (status) WHERE status <> 'completed'",
    "CREATE INDEX IF NOT EXISTS run_workflow ON run (workflow)",
)


def open_writer(path: Path, durability: Durability) -> sqlite3.Connection:
    """A connection that writes; the log is created if there is no file yet. The caller owns it.

    It never waits for a lock by itself (`PRAGMA busy_timeout` is 0).

    Raises:
        NotALog: another kind of file, or a log of a newer version.
        LogUnavailable: it cannot be opened or created (no such folder, read-only, disk full).
    """
    with translated(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = _connect(f"{path.as_uri()}?mode=rwc")
        try:
            if not _is_log(connection, path):
                _create(connection)
            # Written by `journal_mode` once, unless some tool has copied the file without it.
            _use_wal(connection)
            connection.execute(
                f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}"
            )
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            _index_lists(connection)
            connection.execute("PRAGMA busy_timeout = 0")
        except BaseException:
            connection.close()
            raise
        return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection to a log that `open_writer` has opened; it takes no lock that a writer waits for."""
    with translated(path):
        # Never makes a file: one that has been removed meanwhile is missed, not replaced by an empty one.
        connection = _connect(f"{path.as_uri()}?mode=rw")
        connection.execute("PRAGMA query_only = 1")
        return connection


def _connect(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(
        uri, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_S
    )


def _is_log(connection: sqlite3.Connection, path: Path) -> bool:
    """False: the file is empty. One look in a transaction, as another process may just be creating it."""
    connection.execute("BEGIN")
    try:
        application_id, version, tables = connection.execute(
            "SELECT (SELECT application_id FROM pragma_application_id),"
            " (SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_schema)"
        ).fetchone()
    finally:
        connection.execute("ROLLBACK")
    if application_id == 0 and not tables:
        return False
    if application_id != APPLICATION_ID:
        raise NotALog(f"{path} is an SQLite file of another program, not a Runstream log")
    if version > VERSION:
        raise NotALog(
            f"{path} is a log of version {version}, this Runstream reads up to {VERSION}: "
            "install a newer Runstream"
        )
    return True


def _use_wal(connection: sqlite3.Connection) -> None:
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # Of two processes that switch at once SQLite refuses one, without waiting.
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                raise
            time.sleep(LOCK_POLL_S)
        else:
            return


def _create(connection: sqlite3.Connection) -> None:
    _use_wal(connection)
    # Several processes may open a new file at once: only the first one finds it empty.
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _index_lists(connection: sqlite3.Connection) -> None:
    try:
        for statement in _LIST_INDEXES:
            connection.execute(statement)
    except sqlite3.OperationalError as error:
        # Who may only read goes without: a list of few then looks at every run.
        if not error.sqlite_errorname.startswith("SQLITE_READONLY"):
            raise


def bound_wal(connection: sqlite3.Connection, path: Path) -> bool:
    """Begin the write-ahead log anew if it has grown too long; False if a reader is in the way.

    SQLite begins it anew by itself when no reader looks at it at that moment, which under constant reading
    may never come. Waits for the readers for up to `WAL_WAIT_S`, on a connection that may write.
    """
    try:
        if Path(f"{path}-wal").stat().st_size <= WAL_SIZE_BYTES_MAX:
            return True
        connection.execute(f"PRAGMA busy_timeout = {round(WAL_WAIT_S * 1000)}")
        try:
            busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        finally:
            connection.execute("PRAGMA busy_timeout = 0")
    except (sqlite3.Error, OSError):
        return False  # a fault that matters shows itself in the next commit
    return not busy


@contextmanager
def translated(path: Path) -> Generator[None]:
    """Turn the driver's errors into ours, each with what to do."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise translate(path, error) from error


def is_fault_of_file(error: Exception) -> bool:
    """Whether it is the file or the disk that fails, and not what was asked of it."""
    return isinstance(error, OSError) or type(error) in (
        sqlite3.OperationalError,
        sqlite3.DatabaseError,
    )


def translate(path: Path, error: Exception) -> RunstreamError:
    """Our error for one of the driver's, with what to do about it."""
    code: str = getattr(error, "sqlite_errorname", None) or _CODES.get(type(error), "")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        code = "SQLITE_FULL"
    if os.path.isdir(path):  # noqa: PTH112 - unlike Path's it answers where we may not even look
        code = "folder"
    for prefix, (our_error, advice) in _ADVICE.items():
        if code.startswith(prefix):
            return our_error(f"{path} {advice} ({error})")
    return LogUnavailable(f"{path}: {error}")


_CODES: Final[dict[type[Exception], str]] = {PermissionError: "SQLITE_READONLY"}
_ADVICE: Final[dict[str, tuple[type[RunstreamError], str]]] = {
    "folder": (LogUnavailable, "is a folder: name a file in it"),
    "SQLITE_NOTADB": (NotALog, "is not a Runstream log, nor any SQLite file"),
    "SQLITE_CORRUPT": (NotALog, "is damaged: restore it from a copy"),
    "SQLITE_FULL": (
        LogUnavailable,
        "has no space left on its disk: free some and go on, nothing stored was lost",
    ),
    "SQLITE_READONLY": (LogReadOnly, "is read-only: make the file and its folder writable"),
    "SQLITE_CANTOPEN": (
        LogUnavailable,
        "cannot be opened: is its folder there, are both writable?",
    ),
    "SQLITE_BUSY": (
        LogUnavailable,
        f"has been locked by another process for {BUSY_TIMEOUT_S:.0f} s: is that stopped?",
    ),
    "SQLITE_IOERR": (LogUnavailable, "cannot be read or written: is the disk full or failing?"),
}

"""The SQLite file: opening it, its schema and version, and what its errors mean.

A log is one file in WAL mode. `synchronous=FULL` makes a commit survive a power cut;
`durability=process` only the death of the process, at a fraction of the cost.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from ..errors import LogUnavailable, NotALog, RunstreamError

Durability = Literal["power", "process"]

# "RunS" as a big-endian number: tells our files from every other SQLite file.
APPLICATION_ID: Final = 0x52756E53
VERSION: Final = 1
# Pages of the write-ahead log before a checkpoint: 16 MiB keeps checkpoints rare and each one short.
CHECKPOINT_PAGES: Final = 4000
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


def connect(path: Path, durability: Durability) -> sqlite3.Connection:
    """Open the log in `path`, and create it if there is no file yet. The caller owns the connection.

    Raises:
        NotALog: another kind of file, or a log of a newer version.
        LogUnavailable: it cannot be opened or written (read-only, no such folder, disk full).
    """
    with translated(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_S
        )
        try:
            _check_version(connection, path)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(
                f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}"
            )
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            _create(connection)
        except BaseException:
            connection.close()
            raise
        return connection


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    if application_id == APPLICATION_ID:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise NotALog(
                f"{path} is a log of version {version}, this Runstream reads up to {VERSION}: "
                "install a newer Runstream"
            )
        return
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if application_id != 0 or tables:
        raise NotALog(f"{path} is an SQLite file of another program, not a Runstream log")
    if not os.access(path, os.W_OK):
        raise LogUnavailable(f"{path} is read-only and holds no log yet")


def _create(connection: sqlite3.Connection) -> None:
    # Two processes may open a new file at once: only the first one finds it empty.
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


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn the driver's errors into ours, each with what to do."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise translate(path, error) from error


def translate(path: Path, error: sqlite3.Error | OSError) -> RunstreamError:
    """Our error for one of the driver's."""
    code = getattr(error, "sqlite_errorname", "") or ""
    if code.startswith("SQLITE_NOTADB") or code.startswith("SQLITE_CORRUPT"):
        return NotALog(f"{path} is not a Runstream log, or is damaged: {error}")
    if code.startswith("SQLITE_FULL"):
        return LogUnavailable(f"no space left for {path}: free some, nothing stored was lost")
    if code.startswith("SQLITE_READONLY") or isinstance(error, PermissionError):
        return LogUnavailable(
            f"{path} is read-only: make the file and its folder writable ({error})"
        )
    if code.startswith("SQLITE_CANTOPEN"):
        return LogUnavailable(f"{path} cannot be opened: does its folder exist, is it writable?")
    if code.startswith("SQLITE_BUSY"):
        return LogUnavailable(
            f"{path} has been locked by another process for {BUSY_TIMEOUT_S:.0f} s: is it stopped?"
        )
    return LogUnavailable(f"{path}: {error}")

"""What an SQLite log says to a file that it cannot use, and that it leaves such a file alone."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from urllib.parse import quote

import pytest

from programs import run_program
from runstream.errors import InvalidURL, LogUnavailable, NotALog, RunstreamError
from runstream.logs import open_log
from runstream.logs.sqlite import SqliteLog
from runstream.logs.sqlite_file import VERSION
from runstream.record import Cursor, make_draft

# They start processes, and wait for them where nothing else runs.
pytestmark = pytest.mark.allow_blocking

NOBODY = 65534


async def write_log(path: Path, records: int = 3) -> None:
    log = SqliteLog(path)
    await log.open("r", producer=None, workflow="w")
    await log.append("r", [make_draft("r", "token", {"text": "x" * 200}) for _ in range(records)])
    await log.aclose()


async def count_records(path: Path) -> int:
    log = SqliteLog(path)
    try:
        return (await log.read("r", after=Cursor(None, 0))).last_seq
    finally:
        await log.aclose()


def write_text(path: Path) -> None:
    path.write_text("Dear diary, today I was no database.\n" * 100)


def write_short_text(path: Path) -> None:
    path.write_text("hello")


def write_other_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE customer (name TEXT)")
    connection.close()


def write_other_application(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA application_id = 42")
    connection.close()


def write_newer_log(path: Path) -> None:
    asyncio.run(write_log(path))
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()


def write_truncated_log(path: Path) -> None:
    asyncio.run(write_log(path, records=1000))
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_text, "not a Runstream log"),
        (write_short_text, "not a Runstream log"),
        (write_other_database, "another program"),
        (write_other_application, "another program"),
        (write_newer_log, "install a newer Runstream"),
        (write_truncated_log, "damaged"),
    ],
)
def test_a_file_that_is_no_log_of_ours_is_refused_and_left_as_it_was(
    write: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "events.db"
    write(path)
    before = path.read_bytes()
    with pytest.raises(NotALog, match=message) as refused:
        open_log(f"sqlite:{path}")
    assert str(path) in str(refused.value)
    assert path.read_bytes() == before


async def test_an_empty_file_becomes_a_log(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    path.touch()
    await write_log(path)
    assert await count_records(path) == 3


async def test_missing_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "events.db"
    await write_log(path)
    assert await count_records(path) == 3


def test_a_folder_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailable, match="folder: name a file"):
        open_log(f"sqlite:{tmp_path}")


def test_a_file_in_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LogUnavailable, match="file"):
        open_log(f"sqlite:{tmp_path}/file/events.db")


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:",
        "sqlite://",
        "sqlite:folder/",
        "sqlite:a%00b",
        "sqlite:x.db?mode=ro",
        "sqlite:x.db?durability=maybe",
        "sqlite:x.db?retention=soon",
        "sqlite:x.db?retention=0s",
        "sqlite:x.db?retention=-1d",
        "sqlite:x.db?retention=1.5d",
    ],
)
def test_a_url_that_names_no_log_is_refused(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidURL):
        open_log(url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a b.db", "what?.db", "a#b.db", "100%.db", "%41.db", "ü→漢.db"])
async def test_any_file_name_can_be_written_in_a_url(name: str, tmp_path: Path) -> None:
    log = open_log(f"sqlite:{quote(str(tmp_path / name))}")
    await log.open("r", producer=None, workflow="w")
    await log.aclose()
    assert (tmp_path / name).is_file()
    connection = sqlite3.connect(tmp_path / name)
    assert connection.execute("SELECT run_id FROM run").fetchall() == [("r",)]
    connection.close()


READ_AND_WRITE = """
import asyncio, os, sys
from pathlib import Path
from runstream.errors import RunstreamError
from runstream.logs.sqlite import SqliteLog
from runstream.record import Cursor, make_draft

async def main():
    try:
        log = SqliteLog(Path(sys.argv[1]))
    except RunstreamError as error:
        print("open", error.code, error)
        return
    print("read", (await log.read("r", after=Cursor(None, 0))).last_seq)
    try:
        await log.append("r", [make_draft("r", "token", {})])
    except RunstreamError as error:
        print("append", error.code, error)
    await log.aclose()

if os.getuid() == 0:
    os.setgroups([])
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
asyncio.run(main())
"""


@pytest.fixture
def shared_folder() -> Generator[Path]:
    """A folder that another user can reach (pytest closes its own to others)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        folder.chmod(0o755)


async def test_a_log_that_may_only_be_read_is_read(shared_folder: Path) -> None:
    """The owner has it open: its shared memory is there for others to use."""
    path = shared_folder / "events.db"
    await write_log(path)
    owner = SqliteLog(path)
    await owner.info("r")
    for file in shared_folder.iterdir():
        file.chmod(0o444)
    shared_folder.chmod(0o555)
    with run_program(READ_AND_WRITE, path, NOBODY) as program:
        read, append = program.finish().splitlines()
    shared_folder.chmod(0o755)
    await owner.aclose()
    assert read == "read 3"
    assert append.startswith("append log_read_only")
    assert "read-only" in append
    assert await count_records(path) == 3


async def test_a_folder_that_may_not_be_written_is_told(shared_folder: Path) -> None:
    path = shared_folder / "events.db"
    await write_log(path)
    path.chmod(0o444)
    shared_folder.chmod(0o555)
    with run_program(READ_AND_WRITE, path, NOBODY) as program:
        answer = program.finish()
    shared_folder.chmod(0o755)
    assert answer.startswith("open log_read_only")
    assert "writable" in answer
    assert await count_records(path) == 3


async def test_no_file_is_made_where_none_may_be_made(shared_folder: Path) -> None:
    shared_folder.chmod(0o555)
    with run_program(READ_AND_WRITE, shared_folder / "events.db", NOBODY) as program:
        answer = program.finish()
    shared_folder.chmod(0o755)
    assert answer.startswith("open log_unavailable")
    assert list(shared_folder.iterdir()) == []


async def test_a_file_that_was_removed_is_missed_and_not_made_anew(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "events.db")
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(LogUnavailable, match="cannot be opened"):
        await log.info("r")
    await log.aclose()
    assert not (tmp_path / "events.db").exists()


def test_every_refusal_is_one_of_our_errors(tmp_path: Path) -> None:
    (tmp_path / "events.db-wal").mkdir()
    with pytest.raises(RunstreamError):
        open_log(f"sqlite:{tmp_path}/events.db")

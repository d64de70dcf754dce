"""A list of few among very many runs in an SQLite file looks at those few."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from runstream.log import Status
from runstream.logs.sqlite import SqliteLog
from runstream.logs.sqlite_file import open_reader, open_writer
from runstream.logs.sqlite_read import list_runs
from runstream.record import make_draft

# What SQLite does for a page of few runs, in steps of its machine; for each run that it looks at, some ten.
STEPS_MAX = 1000
MANY = 3000


def write_many(path: Path) -> None:
    """Ended runs, and one that runs, is the oldest, and alone of its workflow."""
    connection = open_writer(path, "process")
    connection.execute("BEGIN")
    for number in range(1, MANY + 1):
        is_first = number == 1
        connection.execute(
            "INSERT INTO run (run_id, root, workflow, status, created, ended, "
            "generation, first_seq, last_seq) "
            "VALUES (?, ?, ?, ?, ?, ?, 'abcdef', 1, 0)",
            (
                f"r{number}",
                number,
                "rare" if is_first else "frequent",
                "running" if is_first else "completed",
                number,
                None if is_first else number,
            ),
        )
    connection.execute("COMMIT")
    connection.close()


def list_counted(
    path: Path, *, workflow: str | None = None, status: Status | None = None
) -> tuple[list[str], int]:
    """The ids of a page, and the steps that it took."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    connection = open_reader(path)
    connection.set_progress_handler(count, 1)
    found = list_runs(connection, workflow, status, None, 10)
    connection.close()
    return [info.run_id for info in found], steps


@pytest.mark.parametrize(
    ("workflow", "status", "found"),
    [
        (None, "running", ["r1"]),
        (None, "failed", []),
        ("rare", None, ["r1"]),
        ("rare", "running", ["r1"]),
        ("rare", "completed", []),
        ("frequent", "failed", []),
        ("frequent", "completed", [f"r{MANY - place}" for place in range(10)]),
    ],
)
@pytest.mark.allow_blocking  # for the disk
def test_a_list_of_few_looks_at_few(
    workflow: str | None, status: Status | None, found: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "events.db"
    write_many(path)
    listed, steps = list_counted(path, workflow=workflow, status=status)
    assert listed == found
    assert steps < STEPS_MAX


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A file as the versions wrote it that knew no indexes for lists."""
    path = tmp_path / "events.db"
    write_many(path)
    connection = sqlite3.connect(path)
    connection.execute("DROP INDEX run_status")
    connection.execute("DROP INDEX run_workflow")
    connection.close()
    return path


@pytest.mark.allow_blocking
async def test_a_file_of_an_earlier_version_is_indexed_when_it_is_opened(earlier: Path) -> None:
    _, steps = list_counted(earlier, status="running")
    assert steps > STEPS_MAX
    log = SqliteLog(earlier)
    assert [info.run_id for info in await log.list(status="running")] == ["r1"]
    await log.append("r1", [make_draft("r1", "run.failed", {})], final=True)
    assert await log.list(status="running") == []
    assert [info.run_id for info in await log.list(status="failed")] == ["r1"]
    await log.aclose()
    _, steps = list_counted(earlier, status="running")
    assert steps < STEPS_MAX

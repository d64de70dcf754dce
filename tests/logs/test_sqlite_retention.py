"""Finished runs age out of an SQLite log, a slice at a time, and their ids are free again."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from runstream.errors import GenerationChanged, PositionGone, RunNotFound
from runstream.filter import make_filter
from runstream.log import READ_LIMIT_DEFAULT, Log
from runstream.logs import open_log
from runstream.logs.sqlite import SqliteLog
from runstream.logs.sqlite_file import open_writer
from runstream.logs.sqlite_retention import (
    CHUNKS_PER_REMOVAL,
    ROWS_PER_REMOVAL,
    find_ended,
    remove_ended,
)
from runstream.logs.sqlite_store import Removed
from runstream.record import Cursor, make_draft, now_us
from runstream.start import make_start
from runstream.subscription import Subscription

FAR_FUTURE = now_us() + 10**15


async def write_run(log: Log, run_id: str, records: int = 1, *, end: bool = True) -> None:
    await log.open(run_id, producer="p", workflow="w")
    await log.open(f"{run_id}.child", producer="q", workflow="w", parent_run_id=run_id)
    drafts = [make_draft(run_id, "token", {"text": "x" * 1000}) for _ in range(records)]
    await log.append(run_id, drafts)
    if end:
        await log.append(run_id, [make_draft(run_id, "run.completed", {})], final=True)


async def is_gone(log: Log, run_id: str) -> bool:
    try:
        await log.info(run_id)
    except RunNotFound:
        return True
    return False


async def wait_for(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(90):
        while not await condition():
            await asyncio.sleep(0.01)


async def test_ended_runs_age_out_and_running_ones_stay(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    log = SqliteLog(path, retention_s=0.2)
    await write_run(log, "going", end=False)
    await write_run(log, "ended")
    await wait_for(lambda: is_gone(log, "ended"))
    assert (await log.info("going")).last_seq == 1
    await log.aclose()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT run_id FROM run").fetchall() == [("going",), ("going.child",)]
    assert connection.execute("SELECT DISTINCT run FROM producer").fetchall() == [(1,)]
    assert connection.execute("SELECT DISTINCT run FROM chunk").fetchall() == [(1,)]
    connection.close()


async def test_a_removed_id_begins_anew_with_another_generation(tmp_path: Path) -> None:
    log, other = (
        SqliteLog(tmp_path / "events.db", retention_s=retention) for retention in (None, 0.1)
    )
    await write_run(log, "r", records=5)
    old = Cursor((await log.read("r", after=Cursor(None, 0), limit=2)).generation, 2)
    await write_run(other, "another", end=False)  # the first write begins the chores
    await wait_for(lambda: is_gone(other, "r"))
    # This one wrote it, and may not serve it from memory now.
    with pytest.raises(RunNotFound):
        await log.read("r", after=Cursor(None, 0))
    await other.open("r", producer=None, workflow="w")
    await other.append("r", [make_draft("r", "token", {})])
    page = await log.read("r", after=Cursor(None, 0))
    assert (page.generation != old.generation, page.last_seq) == (True, 1)
    with pytest.raises(GenerationChanged):
        await log.read("r", after=old)
    # What it remembers of the old one's end must not look like news for ever.
    for _ in range(100):
        waiting = asyncio.create_task(log.wait("r", after=1, timeout=60))
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        if not done:
            break
    else:
        pytest.fail("waiting for news returns again and again without any")
    await other.append("r", [make_draft("r", "token", {})])
    async with asyncio.timeout(90):
        await waiting
    await log.aclose()
    await other.aclose()


async def test_a_reader_behind_a_removal_is_told(tmp_path: Path) -> None:
    log, other = (
        SqliteLog(tmp_path / "events.db", retention_s=retention) for retention in (None, 0.1)
    )
    await write_run(log, "r", records=READ_LIMIT_DEFAULT + 1)
    subscription = Subscription(log, "r", filter=make_filter(), start=make_start(None, None, None))
    pages = subscription.pages()
    first = await anext(pages)
    assert first[0].seq == 1
    await write_run(other, "another", end=False)  # the first write begins the chores
    await wait_for(lambda: is_gone(log, "r"))
    (gap,) = await anext(pages)
    assert gap.is_gap
    assert gap.data["reason"] == "removed"
    assert gap.data["from_seq"] == first[-1].seq + 1
    with pytest.raises(StopAsyncIteration):
        await anext(pages)
    await log.aclose()
    await other.aclose()


async def test_who_only_looks_at_a_log_removes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    log = SqliteLog(path)
    await write_run(log, "r")
    await log.aclose()
    log = SqliteLog(path, retention_s=0.001)
    for _ in range(20):
        assert (await log.read("r", after=Cursor(None, 0))).ended
    await log.aclose()
    log = SqliteLog(path)
    assert (await log.info("r")).has_ended
    await log.aclose()


@pytest.mark.parametrize(
    ("variable", "option", "removed"),
    [
        ("0.1", "", True),
        ("0.1", "?retention=off", False),
        ("0.1", "?retention=1d", False),
        ("86400", "?retention=1s", True),
        (None, "", False),
    ],
)
async def test_the_retention_comes_from_the_url_or_else_the_setting(
    variable: str | None,
    option: str,
    removed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RUNSTREAM_RETENTION_S", raising=False)
    if variable is not None:
        monkeypatch.setenv("RUNSTREAM_RETENTION_S", variable)
    log = open_log(f"sqlite:{tmp_path}/events.db{option}")
    clock = SqliteLog(tmp_path / "clock.db", retention_s=0.1)
    await write_run(log, "r")
    await write_run(clock, "r")
    if removed:
        await wait_for(lambda: is_gone(log, "r"))
    else:
        # Where there was time enough to remove a run after 0.1 s, this one is still there.
        await wait_for(lambda: is_gone(clock, "r"))
        assert not await is_gone(log, "r")
    await log.aclose()
    await clock.aclose()


def test_a_removal_goes_in_slices(tmp_path: Path) -> None:
    """No transaction of it is long enough for a writer to notice, whatever the run holds most of."""
    path = tmp_path / "events.db"
    chunks, children, producers = 100, 2500, 1500
    connection = open_writer(path, "process")
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO run (run_id, root, workflow, status, generation, first_seq, last_seq, created, ended)"
        " VALUES (?, 1, 'w', 'completed', 'g', 1, ?, 0, 1)",
        [("r", chunks), *((f"c{n}", 0) for n in range(children))],
    )
    connection.executemany(
        "INSERT INTO chunk (run, first_seq, last_seq, drafts) VALUES (1, ?, ?, '[]')",
        [(n, n) for n in range(1, chunks + 1)],
    )
    connection.executemany(
        "INSERT INTO producer VALUES (1, ?, 0, 0, 0, 0, 0)", [(f"p{n}",) for n in range(producers)]
    )
    connection.execute("COMMIT")
    changes: list[int] = []
    while find_ended(connection, FAR_FUTURE) is not None:
        before = connection.total_changes
        connection.execute("BEGIN IMMEDIATE")
        assert remove_ended(connection, FAR_FUTURE) == Removed("r")
        connection.execute("COMMIT")
        changes.append(connection.total_changes - before)
    assert max(changes) <= max(CHUNKS_PER_REMOVAL + 1, 2 * ROWS_PER_REMOVAL + 1)
    for table in ("run", "chunk", "producer"):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    connection.close()


async def test_what_is_removed_first_is_trimmed_for_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    log = SqliteLog(path)
    await write_run(log, "r", records=3000)
    await log.aclose()
    connection = open_writer(path, "process")
    connection.execute("BEGIN IMMEDIATE")
    assert remove_ended(connection, FAR_FUTURE) == Removed("r")
    connection.execute("COMMIT")
    connection.close()
    log = SqliteLog(path)
    with pytest.raises(PositionGone) as gone:
        await log.read("r", after=Cursor(None, 0))
    first = gone.value.first_seq
    assert 1 < first < 3000
    assert (await log.read("r", after=Cursor(None, first - 1))).first_seq == first
    await log.aclose()

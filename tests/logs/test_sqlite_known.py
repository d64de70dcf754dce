"""What the writer remembers of its own appends is never believed longer than it is true."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest

from runstream.errors import NumberGap, ProducerFenced, RunEnded, RunNotFound
from runstream.log import Appended, LeaseClaim, Producer
from runstream.logs import sqlite_store
from runstream.logs.sqlite import SqliteLog
from runstream.logs.sqlite_known import STREAMS_MAX, Known, Stream
from runstream.record import Cursor, Draft, make_draft


def token(run_id: str = "r") -> Draft:
    return make_draft(run_id, "token", {"text": "a"})


@pytest.fixture
async def log(tmp_path: Path) -> AsyncGenerator[SqliteLog]:
    log = SqliteLog(tmp_path / "events.db")
    await log.open("r", producer=None, workflow="w")
    yield log
    await log.aclose()


@pytest.fixture
async def other(log: SqliteLog) -> AsyncGenerator[SqliteLog]:
    """Another connection that writes to the same file, as another process has one."""
    other = SqliteLog(log.path)
    yield other
    await other.aclose()


async def test_two_writers_take_turns_on_one_stream(log: SqliteLog, other: SqliteLog) -> None:
    found = [await one.append("r", [token()]) for _ in range(10) for one in (log, other, log)]
    assert found == [Appended(seq, seq) for seq in range(1, 31)]


async def test_one_producer_moves_from_one_writer_to_the_other_and_back(
    log: SqliteLog, other: SqliteLog
) -> None:
    for number, one in enumerate([log, other, other, log, log, other, log], 1):
        producer = Producer("p", 0, number)
        assert await one.append("r", [token()], producer=producer) == Appended(number, number)
        repeated = Appended(number, number, duplicates=1)
        assert await log.append("r", [token()], producer=producer) == repeated
    with pytest.raises(NumberGap):
        await other.append("r", [token()], producer=Producer("p", 0, 9))


async def test_a_producer_that_is_known_is_fenced_by_the_next_opening(
    log: SqliteLog, other: SqliteLog
) -> None:
    for one in (log, other):
        epoch = (await log.open("r", producer="p")).epoch
        number = (await log.open("r", producer="p")).number
        producer = Producer("p", epoch + 1, number + 1)
        await log.append("r", [token()], producer=producer)
        await one.open("r", producer="p")
        with pytest.raises(ProducerFenced):
            await log.append("r", [token()], producer=Producer("p", epoch + 1, number + 2))


async def test_records_of_a_child_and_its_root_share_the_numbers(log: SqliteLog) -> None:
    await log.open("c", producer=None, workflow="w", parent_run_id="r")
    appends = [log.append(run_id, [token(run_id)]) for run_id in ("c", "r", "c", "c", "r", "r")]
    seqs = [(await one).first_seq for one in appends]
    assert seqs == [1, 2, 3, 4, 5, 6]


async def test_a_stream_that_another_process_ended_takes_nothing_more(
    log: SqliteLog, other: SqliteLog
) -> None:
    await log.append("r", [token()])
    await other.append("r", [make_draft("r", "run.completed", {})], final=True)
    with pytest.raises(RunEnded):
        await log.append("r", [token()])


async def test_a_run_that_was_removed_begins_anew(log: SqliteLog, other: SqliteLog) -> None:
    for one in (log, other):
        await log.append("r", [token()], producer=Producer("p", 0, 1))
        await log.append("r", [make_draft("r", "run.completed", {})], final=True)
        with pytest.raises(RunEnded):
            await log.append("r", [token()])
        await one.remove("r")
        with pytest.raises(RunNotFound):
            await log.append("r", [token()])
        await one.open("r", producer=None, workflow="w")


async def test_appending_goes_on_renewing_a_lease_that_was_claimed_meanwhile(
    log: SqliteLog,
) -> None:
    await log.append("r", [token()], producer=Producer("p", 0, 1))
    opened = await log.open("r", producer="p", claim=LeaseClaim(60.0))
    assert opened.info.lease is not None
    await log.append("r", [token()], producer=Producer("p", opened.epoch, 2))
    lease = (await log.info("r")).lease
    assert lease is not None
    assert lease.counter == opened.info.lease.counter + 1


@pytest.mark.parametrize("alone", [True, False])
async def test_what_was_rolled_back_is_forgotten(log: SqliteLog, alone: bool) -> None:
    """A piece of work fails after it has appended; others share its transaction, or don't."""
    writer = log._writer  # pyright: ignore[reportPrivateUsage] - no append of a log fails behind its writing
    await log.append("r", [token()], producer=Producer("p", 0, 1))

    def fail(db: sqlite3.Connection) -> None:
        sqlite_store.append(db, writer.known, "r", [token()], Producer("p", 0, 2), False)
        raise ValueError("after it has written")

    def append(number: int) -> Callable[[sqlite3.Connection], Any]:
        producer = Producer("q", 0, number)
        return lambda db: sqlite_store.append(db, writer.known, "r", [token()], producer, False)[0]

    before = [] if alone else [writer.submit(append(1))]
    failing = writer.submit(fail)
    behind = [] if alone else [writer.submit(append(2))]
    with pytest.raises(ValueError, match="after it has written"):
        await asyncio.wrap_future(failing)
    others = [await asyncio.wrap_future(one) for one in (*before, *behind)]
    assert others == [Appended(seq, seq) for seq in range(2, 2 + len(others))]
    next_seq = 2 + len(others)
    again = await log.append("r", [token()], producer=Producer("p", 0, 2))
    assert again == Appended(next_seq, next_seq)
    page = await log.read("r", after=Cursor(None, 0))
    assert len(page.drafts) == next_seq


def test_a_child_is_never_known_without_its_root() -> None:
    known = Known()
    for n in range(STREAMS_MAX):
        known.keep_stream(f"run-{n}", Stream(n, f"run-{n}", "g", 0, None, None))
    root = Stream(STREAMS_MAX, "root", "g", 0, None, None)
    known.keep_stream("child", root)
    assert known.streams == {"child": root, "root": root}

"""Cancelling, closing, and a writing thread that fails: nobody hangs, and nothing is torn."""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runstream.errors import LogClosed, RunNotFound
from runstream.filter import make_filter
from runstream.log import Appended, PendingAppend, Producer
from runstream.logs.sqlite import SqliteLog
from runstream.logs.sqlite_file import open_writer
from runstream.logs.sqlite_lines import Lines
from runstream.logs.sqlite_shared import Shared
from runstream.logs.sqlite_store import Removed, Stored
from runstream.logs.sqlite_writer import Job, Writer
from runstream.record import Cursor, Draft, make_draft
from runstream.start import make_start
from runstream.subscription import Subscription


def token(**data: object) -> Draft:
    return make_draft("r", "token", data)


async def open_log(tmp_path: Path) -> SqliteLog:
    log = SqliteLog(tmp_path / "events.db")
    await log.open("r", producer=None, workflow="w")
    return log


async def test_hundreds_of_cancelled_appends_leave_the_log_whole(tmp_path: Path) -> None:
    """Each is stored whole or not at all, and the log goes on (no transaction is left open)."""
    log = await open_log(tmp_path)
    chance = random.Random(3)
    cancelled = 0
    for start in range(0, 600, 20):
        appends = [
            asyncio.create_task(log.append("r", [token(n=n, part=part) for part in range(3)]))
            for n in range(start, start + 20)
        ]
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        for append in chance.sample(appends, 10):
            cancelled += append.cancel()
        await asyncio.gather(*appends, return_exceptions=True)
    assert cancelled >= 200
    await log.append("r", [token(n=-1, part=0)])
    drafts: list[Draft] = []
    while (page := await log.read("r", after=Cursor(None, len(drafts)))).drafts:
        drafts += page.drafts
    parts: dict[int, list[int]] = {}
    for draft in drafts[:-1]:
        data = msgspec.json.decode(draft.data)
        parts.setdefault(data["n"], []).append(data["part"])
    assert all(found == [0, 1, 2] for found in parts.values())
    assert len(parts) >= 300
    await log.aclose()


async def test_closing_answers_everyone_who_is_waiting(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    await log.append("r", [token()])
    calls: list[asyncio.Task[Any]] = [
        *(asyncio.create_task(log.append("r", [token()])) for _ in range(20)),
        *(asyncio.create_task(log.read("r", after=Cursor(None, 0))) for _ in range(20)),
        *(asyncio.create_task(log.wait("r", after=10**6, timeout=60)) for _ in range(20)),
        *(asyncio.create_task(log.wait("unknown", after=0, timeout=60)) for _ in range(20)),
    ]
    await asyncio.sleep(0)
    async with asyncio.timeout(90):
        await log.aclose()
        answers = await asyncio.gather(*calls, return_exceptions=True)
    errors = [answer for answer in answers if isinstance(answer, BaseException)]
    assert {type(error) for error in errors} == {LogClosed}
    assert len(errors) >= 40
    stored = sum(isinstance(answer, Appended) for answer in answers)
    log = SqliteLog(tmp_path / "events.db")
    assert (await log.info("r")).last_seq == 1 + stored
    await log.aclose()


async def test_every_call_after_closing_says_so(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    info = await log.info("r")
    await log.aclose()
    await log.aclose()
    for call in (
        log.open("r", producer=None),
        log.append("r", [token()]),
        log.read("r", after=Cursor(None, 0)),
        log.wait("r", after=0, timeout=60),
        log.info("r"),
        log.renew("r", owner="o", epoch=1),
        log.release("r", owner="o", epoch=1),
        log.trim("r", through=1),
        log.list(),
    ):
        with pytest.raises(LogClosed, match="has been closed"):
            await call
    assert info.last_seq == 0


async def test_a_log_that_races_with_its_own_closing_never_hangs(tmp_path: Path) -> None:
    for _ in range(100):
        log = await open_log(tmp_path)
        waiting = asyncio.create_task(log.wait("r", after=10**6, timeout=60))
        append = asyncio.create_task(log.append("r", [token()]))
        async with asyncio.timeout(90):
            await log.aclose()
            await asyncio.gather(waiting, append, return_exceptions=True)


async def test_a_thousand_subscribers_get_everything(tmp_path: Path) -> None:
    log = await open_log(tmp_path)

    async def follow() -> list[int]:
        subscription = Subscription(
            log, "r", filter=make_filter(), start=make_start(None, None, None)
        )
        return [record.seq async for record in subscription]

    followers = [asyncio.create_task(follow()) for _ in range(1000)]
    for batch in range(10):
        await log.append("r", [token(batch=batch, n=n) for n in range(10)])
    await log.append("r", [make_draft("r", "run.completed", {})], final=True)
    async with asyncio.timeout(120):
        seen = await asyncio.gather(*followers)
    assert seen == [list(range(1, 102))] * 1000
    await log.aclose()


async def test_a_mistake_in_one_call_costs_the_others_nothing(tmp_path: Path) -> None:
    """An id that SQLite cannot hold fails in the middle of the transaction that all of them share."""
    log = await open_log(tmp_path)
    calls: list[asyncio.Task[Appended]] = []
    for n in range(600):
        producer = Producer("\ud800" if n % 2 else f"p{n}", 0, 1)
        calls.append(asyncio.create_task(log.append("r", [token(n=n)], producer=producer)))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(answer, Appended) for answer in answers[::2])
    assert all(isinstance(answer, UnicodeEncodeError) for answer in answers[1::2])
    assert (await log.info("r")).last_seq == 300
    with pytest.raises(RunNotFound):
        await log.info("\ud800")
    await log.aclose()


# --- the writing thread itself -------------------------------------------------------------------


def make_writer(tmp_path: Path, on_commit: Callable[[Sequence[Stored | Removed]], None]) -> Writer:
    path = tmp_path / "events.db"
    line = Lines().add(lambda: open_writer(path, "power"))
    return Writer(path, line, Shared(path), on_commit)


def break_down(_: object) -> Any:
    raise ValueError("a mistake of ours")


def test_when_the_writing_thread_fails_everyone_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make_writer(tmp_path, on_commit=break_down)
    told: list[object] = []
    writer.add_source(lambda: [Job(lambda _: None, told.append)] if told else [])

    def work(_: sqlite3.Connection) -> None:
        writer.note(Removed("r"))

    with caplog.at_level(logging.CRITICAL):
        waiting = writer.submit(work)
        with pytest.raises(LogClosed, match="a mistake of ours"):
            waiting.result(timeout=30)
    assert "has failed" in caplog.text
    # Later calls fail at once; a publisher's records are refused, not left to pile up.
    with pytest.raises(LogClosed, match="open it again"):
        writer.submit(work).result(timeout=30)
    told.append("there is something to take")
    writer.kick()
    assert isinstance(told[1], LogClosed)
    writer.close()


def test_a_caller_that_cannot_be_told_harms_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes: list[object] = []
    writer = make_writer(tmp_path, on_commit=changes.extend)
    writer.add_source(lambda: [Job(lambda _: 1, break_down)])
    assert writer.submit(lambda _: 2).result(timeout=30) == 2
    assert writer.submit(lambda _: 3).result(timeout=30) == 3
    assert "nobody took the outcome" in caplog.text
    writer.close()


def test_an_unexpected_error_rolls_back_only_its_own_work(tmp_path: Path) -> None:
    changes: list[object] = []
    writer = make_writer(tmp_path, on_commit=changes.extend)

    def write(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO producer VALUES (1, 'p', 0, 0, 0, 0, 0)")

    def write_and_fail(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO producer VALUES (2, 'p', 0, 0, 0, 0, 0)")
        raise ValueError

    def count(db: sqlite3.Connection) -> list[tuple[int]]:
        return db.execute("SELECT run FROM producer").fetchall()

    good, bad = writer.submit(write), writer.submit(write_and_fail)
    twice = writer.submit(write)
    assert good.result(timeout=30) is None
    with pytest.raises(ValueError, match=r"^$"):
        bad.result(timeout=30)
    with pytest.raises(sqlite3.IntegrityError):
        twice.result(timeout=30)
    assert writer.submit(count).result(timeout=30) == [(1,)]
    writer.close()


async def test_records_that_a_publisher_holds_are_stored_before_closing(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    answers: list[object] = []
    pending = [
        PendingAppend("r", [token(n=n)], Producer(f"p{n}", 0, 1), False, answers.append)
        for n in range(3)
    ]

    def take() -> list[PendingAppend]:
        taken = pending.copy()
        pending.clear()
        return taken

    kick = log.fetch_from(take)
    await log.aclose()
    assert answers == [Appended(n, n) for n in (1, 2, 3)]
    kick()
    assert len(answers) == 3

"""Retention is enforced on any log, in small steps, and readers behind it get a gap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from runstream import keeper as keeper_module
from runstream.errors import InvalidInput, LogUnavailable, RunNotFound
from runstream.keeper import MARKS_PER_LIMIT, PAGE_RUNS, STEP_RECORDS, Keeper
from runstream.log import Log
from runstream.logs.memory import MemoryLog
from runstream.logs.sqlite import SqliteLog
from runstream.record import Cursor, Draft, make_draft
from runstream.retention import NO_LIMITS, Retention, check_retention, strictest
from runstream.streams import Streams


@pytest.fixture(params=["memory", "sqlite"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Log]:
    opened: Log = (
        MemoryLog() if request.param == "memory" else SqliteLog(tmp_path / "e.db", "process")
    )
    yield opened
    await opened.aclose()


AT_ONCE = Retention(after_end=1e-6)


def note(run_id: str, number: int, *, age_s: float = 0.0, size: int = 0) -> Draft:
    draft = make_draft(run_id, "note", {"n": number, "x": "x" * size})
    return Draft(draft.time - round(age_s * 1e6), run_id, "note", draft.data)


async def write(log: Log, run_id: str, drafts: list[Draft] | int, *, end: bool = False) -> None:
    await log.open(run_id, producer=None, workflow="w")
    if isinstance(drafts, int):
        drafts = [note(run_id, number) for number in range(1, drafts + 1)]
    if drafts:
        await log.append(run_id, drafts)
    if end:
        await log.append(run_id, [make_draft(run_id, "run.completed", {})], final=True)


async def kept(log: Log, run_id: str) -> tuple[int, int]:
    info = await log.info(run_id)
    return info.first_seq, info.last_seq


async def until_removed(log: Log, run_id: str, keeper: Keeper) -> None:
    async with asyncio.timeout(90):
        while True:
            await keeper.round()
            try:
                await log.info(run_id)
            except RunNotFound:
                return


async def test_only_the_newest_records_stay(log: Log) -> None:
    trimmed: list[int] = []
    keeper = Keeper(log, Retention(records=10), on_trimmed=trimmed.append)
    await write(log, "long", 50)
    await write(log, "short", 10)
    await keeper.round()
    assert await kept(log, "long") == (41, 50)
    assert await kept(log, "short") == (1, 10)
    await log.append("long", [note("long", 51)])
    await keeper.round()
    assert await kept(log, "long") == (42, 51)
    assert trimmed == [40, 1]


async def test_a_single_run_has_limits_of_its_own_and_the_strictest_counts(log: Log) -> None:
    assert isinstance(log, MemoryLog | SqliteLog)
    for run_id in ("own", "looser", "none"):
        await write(log, run_id, 50)
    await log.retain("own", Retention(records=5))
    await log.retain("looser", Retention(records=40))
    await Keeper(log, NO_LIMITS).round()
    assert [await kept(log, run) for run in ("own", "looser", "none")] == [
        (46, 50),
        (11, 50),
        (1, 50),
    ]
    await Keeper(log, Retention(records=30)).round()
    assert [await kept(log, run) for run in ("own", "looser", "none")] == [
        (46, 50),
        (21, 50),
        (21, 50),
    ]
    await log.retain("own", None)
    assert await log.retained() == {"looser": Retention(records=40)}
    with pytest.raises(RunNotFound):
        await log.retain("nowhere", Retention(records=1))


async def test_the_limits_of_a_run_survive_and_hold_for_its_root(tmp_path: Path) -> None:
    path = tmp_path / "e.db"
    log = SqliteLog(path)
    await write(log, "root", 3)
    await log.open("child", producer=None, workflow="w", parent_run_id="root")
    await log.retain("child", Retention(size_bytes=7, after_end=1.5))
    await log.aclose()
    log = SqliteLog(path)
    assert await log.retained() == {"root": Retention(size_bytes=7, after_end=1.5)}
    await log.aclose()


async def test_an_odd_limit_of_one_run_keeps_none_from_theirs(log: Log) -> None:
    for run_id in ("a", "b", "c"):
        await write(log, run_id, 10, end=run_id == "c")
    assert isinstance(log, MemoryLog | SqliteLog)
    # (Whoever takes requests checks them; a log does not.)
    await log.retain("a", Retention(age=1e308))
    await log.retain("b", Retention(records=3))
    await log.retain("c", Retention(after_end=1e308))
    await Keeper(log, NO_LIMITS).round()
    assert await kept(log, "a") == (1, 10)
    assert await kept(log, "b") == (8, 10)
    assert await kept(log, "c") == (1, 11)


async def test_records_that_are_too_old_go(log: Log) -> None:
    ages = [100.0] * 30 + [50.0] * 30 + [1.0] * 30
    await write(log, "r", [note("r", n, age_s=age) for n, age in enumerate(ages)])
    await write(log, "young", 3)
    await Keeper(log, Retention(age=200)).round()
    assert await kept(log, "r") == (1, 90)
    keeper = Keeper(log, Retention(age=80))
    await keeper.round()
    assert await kept(log, "r") == (31, 90)
    await keeper.round()
    assert await kept(log, "r") == (31, 90)
    await Keeper(log, Retention(age=20)).round()
    assert await kept(log, "r") == (61, 90)
    assert await kept(log, "young") == (1, 3)


async def test_the_oldest_record_is_read_again_only_when_its_time_has_come(log: Log) -> None:
    await write(log, "r", [note("r", 1, age_s=9.99), note("r", 2)])
    keeper = Keeper(log, Retention(age=10))
    async with asyncio.timeout(90):
        while await kept(log, "r") != (2, 2):
            await keeper.round()
            await asyncio.sleep(0.005)


class Reads:
    """A log that counts how often it is read."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        self.count += name == "read"
        return getattr(self._log, name)


async def test_a_run_of_which_only_the_newest_record_is_left_is_not_read(log: Log) -> None:
    await write(log, "r", [note("r", n, age_s=1000) for n in range(5)], end=True)
    limits = Retention(records=1, age=10, size_bytes=1)
    await Keeper(log, limits).round()
    assert await kept(log, "r") == (6, 6)
    reads = Reads(log)
    await Keeper(cast(Log, reads), limits).round()
    assert not reads.count


async def test_only_the_newest_bytes_stay(log: Log) -> None:
    size = len(note("r", 1, size=1000).data)
    keeper = Keeper(log, Retention(size_bytes=100 * size))
    sent = 0
    await write(log, "r", [])
    for count in (50, 50, 1, 400, 7, 3000):
        await log.append("r", [note("r", 1, size=1000) for _ in range(count)])
        sent += count
        await keeper.round()
        first, last = await kept(log, "r")
        assert last == sent
        records = last - first + 1
        assert records == sent if sent <= 100 else 100 - 100 / MARKS_PER_LIMIT - 2 <= records <= 100


async def test_the_newest_record_stays_whatever_the_limits_are(log: Log) -> None:
    await write(log, "r", [note("r", n, age_s=1000, size=100) for n in range(5)], end=True)
    await Keeper(log, Retention(records=1, size_bytes=1, age=500)).round()
    page = await log.read("r", after=Cursor(None, 5))
    assert [draft.kind for draft in page.drafts] == ["run.completed"]
    assert await kept(log, "r") == (6, 6)


async def test_finished_runs_are_removed_when_their_time_is_over(log: Log) -> None:
    removed: list[int] = []
    await write(log, "ended", 3, end=True)
    await write(log, "going", 3)
    await log.open("child", producer=None, workflow="w", parent_run_id="going")
    await log.append("child", [make_draft("child", "run.completed", {})])
    await Keeper(log, Retention(after_end=3600)).round()
    assert await kept(log, "ended") == (1, 4)
    await until_removed(log, "ended", Keeper(log, AT_ONCE, on_removed=removed.append))
    assert await kept(log, "going") == (1, 4)
    assert await kept(log, "child") == (1, 4)
    assert removed == [1]
    await write(log, "ended", 1)
    assert await kept(log, "ended") == (1, 1)


async def test_every_run_is_looked_at_however_many_there_are(log: Log) -> None:
    count = 2 * PAGE_RUNS + 3
    await asyncio.gather(*(write(log, f"r{number}", 2) for number in range(count)))
    await Keeper(log, Retention(records=1)).round()
    assert {await kept(log, f"r{number}") for number in range(count)} == {(2, 2)}


async def test_what_is_dropped_goes_in_steps_and_a_reader_meanwhile_gets_gaps_only(
    log: Log,
) -> None:
    count = 3 * STEP_RECORDS
    for start in range(0, count, 1000):
        drafts = [note("r", number) for number in range(start, min(start + 1000, count))]
        await write(log, "r", drafts)
        await asyncio.sleep(0)  # a log in memory answers without letting others have the loop
    steps: list[int] = []
    keeper = Keeper(log, Retention(records=10), on_trimmed=steps.append)
    seen: list[int] = []

    async def follow() -> None:
        async for record in Streams(log).subscribe("r"):
            if not record.is_gap:
                seen.append(record.seq)
            await asyncio.sleep(0)

    following = asyncio.create_task(follow())
    async with asyncio.timeout(90):
        while not seen:
            await asyncio.sleep(0)
    await keeper.round()
    assert sum(steps) == count - 10
    assert max(steps) <= STEP_RECORDS
    await log.append("r", [make_draft("r", "run.completed", {})], final=True)
    async with asyncio.timeout(90):
        await following
    assert seen == sorted(set(seen))
    assert seen[-11:] == list(range(count - 9, count + 2))


async def test_runs_that_are_gone_are_forgotten(log: Log) -> None:
    keeper = Keeper(log, Retention(size_bytes=10**6, age=3600, after_end=1e-6))
    await write(log, "r", 3)
    await keeper.round()
    assert set(keeper._sizes) == set(keeper._due) == {"r"}  # pyright: ignore[reportPrivateUsage] - what it holds is the point
    await log.append("r", [make_draft("r", "run.completed", {})], final=True)
    await until_removed(log, "r", keeper)
    await keeper.round()
    assert not keeper._sizes  # pyright: ignore[reportPrivateUsage] - likewise
    assert not keeper._due  # pyright: ignore[reportPrivateUsage] - likewise


async def test_keeping_ends_with_the_log() -> None:
    log = MemoryLog()
    await log.aclose()
    async with asyncio.timeout(90):
        await Keeper(log, Retention(records=1)).keep()


@pytest.mark.parametrize(
    "retention",
    [
        Retention(records=0),
        Retention(size_bytes=-1),
        Retention(age=0),
        Retention(after_end=float("inf")),
        Retention(age=float("nan")),
    ],
)
def test_a_limit_is_above_nothing(retention: Retention) -> None:
    with pytest.raises(InvalidInput, match="retention"):
        check_retention(retention)


def test_of_two_limits_the_strictest_counts() -> None:
    one = Retention(records=5, age=7.0)
    other = Retention(records=9, size_bytes=3, age=1.0)
    assert strictest(one, other) == Retention(records=5, size_bytes=3, age=1.0)
    assert strictest(one, NO_LIMITS) == one
    assert NO_LIMITS.is_empty
    assert not Retention(after_end=1).trims


async def test_a_round_that_fails_is_told_and_the_next_one_goes_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(MemoryLog):
        faults: ClassVar[list[Exception]] = [LogUnavailable("no disk"), ValueError("a bug")]

        async def retained(self) -> Mapping[str, Retention]:
            if self.faults:
                raise self.faults.pop(0)
            return await super().retained()

    monkeypatch.setattr(keeper_module, "ROUND_S", 0.0)
    log = Failing()
    await write(log, "r", 5)
    keeping = asyncio.create_task(Keeper(log, Retention(records=2)).keep())
    async with asyncio.timeout(90):
        while await kept(log, "r") != (4, 5):
            await asyncio.sleep(0.005)
    keeping.cancel()
    assert "no disk" in caplog.text
    assert "a bug" in caplog.text

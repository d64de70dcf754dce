"""Subscriptions beyond the contract's own checks: positions, gaps, children, ends and closing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from runstream import connect
from runstream.errors import (
    Forbidden,
    InvalidInput,
    InvalidPosition,
    LogClosed,
    LogReadOnly,
    LogUnavailable,
    RunNotFound,
    RunstreamError,
)
from runstream.log import READ_LIMIT_DEFAULT, Lease, LeaseClaim, Log, RunInfo
from runstream.logs import open_log
from runstream.record import Draft, Record, make_draft
from runstream.start import make_start
from runstream.streams import Streams
from runstream.subscription import SLICE_BYTES, Subscription

RUN = "run-1"


@pytest.fixture(params=["memory", "sqlite"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Log]:
    url = "memory:" if request.param == "memory" else f"sqlite:{tmp_path}/events.db"
    opened = open_log(url)
    await opened.open(RUN, producer=None, workflow="nightly")
    yield opened
    await opened.aclose()


def tokens(count: int, run_id: str = RUN, *, first: int = 1) -> list[Draft]:
    return [make_draft(run_id, "token", {"n": n}) for n in range(first, first + count)]


async def end(log: Log, run_id: str = RUN, *, final: bool = True) -> None:
    done = make_draft(run_id, "run.completed", {"result": None})
    await log.append(run_id, [done], final=final)


async def collect(subscription: Subscription) -> list[Record]:
    async with asyncio.timeout(20):
        return [record async for record in subscription]


@asynccontextmanager
async def collecting(
    subscription: Subscription,
) -> AsyncGenerator[asyncio.Task[list[Record]]]:
    task = asyncio.create_task(collect(subscription))
    try:
        yield task
    finally:
        task.cancel()


async def test_history_longer_than_a_page_comes_whole_and_in_order(log: Log) -> None:
    count = READ_LIMIT_DEFAULT * 2 + 10
    await log.append(RUN, tokens(count))
    await end(log)
    await asyncio.sleep(0)  # a log in memory answers without letting others have the loop

    records = await collect(Streams(log).subscribe(RUN))
    await asyncio.sleep(0)

    assert [record.seq for record in records] == list(range(1, count + 2))
    assert [record.data["n"] for record in records[:-1]] == list(range(1, count + 1))


async def test_an_exact_page_of_history_is_followed_by_live_records(log: Log) -> None:
    await log.append(RUN, tokens(READ_LIMIT_DEFAULT))

    async with collecting(Streams(log).subscribe(RUN)) as records:
        await asyncio.sleep(0)
        await log.append(RUN, tokens(5, first=READ_LIMIT_DEFAULT + 1))
        await end(log)
        assert len(await records) == READ_LIMIT_DEFAULT + 6


async def test_without_following_it_ends_at_what_was_stored_when_it_began(log: Log) -> None:
    await log.append(RUN, tokens(3))

    records: list[int] = []
    async for record in Streams(log).subscribe(RUN, follow=False):
        records.append(record.seq)
        await log.append(RUN, tokens(1))

    assert records == [1, 2, 3]


async def test_a_position_past_the_end_of_an_ended_run_is_refused(log: Log) -> None:
    await log.append(RUN, tokens(3))
    await end(log)

    with pytest.raises(InvalidPosition):
        await collect(Streams(log).subscribe(RUN, from_seq=100))


async def test_one_past_the_newest_of_an_ended_run_ends_at_once(log: Log) -> None:
    await end(log)

    assert await collect(Streams(log).subscribe(RUN, from_seq=2)) == []


async def test_a_trimmed_history_is_one_gap_with_its_range_and_then_goes_on(log: Log) -> None:
    await log.append(RUN, tokens(10))
    await log.trim(RUN, through=6)
    await end(log)

    gap, *rest = await collect(Streams(log).subscribe(RUN))

    assert gap.is_gap
    assert gap.seq == 0
    assert gap.data == {"reason": "trimmed", "from_seq": 1, "to_seq": 6, "next_seq": 7}
    assert [record.seq for record in rest] == [7, 8, 9, 10, 11]
    resumed = await collect(Streams(log).subscribe(RUN, after=gap.cursor))
    assert [record.seq for record in resumed] == [7, 8, 9, 10, 11]


async def test_a_foreign_generation_is_a_gap_and_then_the_new_stream(log: Log) -> None:
    await log.append(RUN, tokens(2))
    await end(log)

    gap, *rest = await collect(Streams(log).subscribe(RUN, after="0123456789ab.77"))

    assert gap.data["reason"] == "generation_changed"
    assert gap.data["next_seq"] == 1
    assert [record.seq for record in rest] == [1, 2, 3]
    assert gap.cursor.split(".")[0] == rest[0].cursor.split(".")[0]


async def test_a_child_is_its_roots_stream_filtered_with_the_roots_numbers(log: Log) -> None:
    await log.append(RUN, tokens(2))
    await log.open("child", producer=None, workflow="part", parent_run_id=RUN)
    await log.append("child", tokens(2, "child"))
    await log.append(RUN, tokens(1))
    await end(log, "child", final=False)

    child = await collect(Streams(log).subscribe("child"))
    everything = await collect(Streams(log).subscribe(RUN, follow=False))

    assert [(record.seq, record.kind) for record in child] == [
        (3, "token"),
        (4, "token"),
        (6, "run.completed"),
    ]
    assert {(record.workflow, record.parent_run_id) for record in child} == {("part", RUN)}
    assert [record.workflow for record in everything] == [
        *["nightly"] * 2,
        *["part"] * 2,
        "nightly",
        "part",
    ]


async def test_an_ended_child_is_not_waited_for_behind_its_end(log: Log) -> None:
    await log.open("child", producer=None, workflow="part", parent_run_id=RUN)
    await end(log, "child", final=False)
    await log.append(RUN, tokens(2))

    assert await collect(Streams(log).subscribe("child", from_seq=3)) == []


async def test_last_counts_what_the_filter_matches_and_then_follows(log: Log) -> None:
    for n in range(300):
        await log.append(RUN, [make_draft(RUN, "rare" if n % 100 == 0 else "token", {"n": n})])

    async with asyncio.timeout(20), Streams(log).subscribe(RUN, kinds="rare", last=2) as records:
        found = [(await anext(records)).data["n"]]
        await log.append(RUN, [make_draft(RUN, "rare", {"n": 300})])
        await end(log)
        found += [record.data.get("n") async for record in records]

    assert found == [100, 200, 300, None]


async def test_last_finds_its_records_behind_large_ones(log: Log) -> None:
    await log.append(RUN, tokens(3))
    for n in range(8):
        await log.append(RUN, [make_draft(RUN, "blob", {"n": n, "text": "x" * 1_000_000})])

    records = await collect(Streams(log).subscribe(RUN, last=9, follow=False))

    assert [record.seq for record in records] == list(range(3, 12))


@pytest.mark.parametrize(("last", "expected"), [(0, []), (2, [2, 3]), (9, [1, 2, 3])])
async def test_last_is_at_most_what_there_is(log: Log, last: int, expected: list[int]) -> None:
    await log.append(RUN, tokens(3))

    records = await collect(Streams(log).subscribe(RUN, last=last, follow=False))

    assert [record.seq for record in records] == expected


async def test_waiting_for_a_run_that_is_not_there_yet(log: Log) -> None:
    with pytest.raises(RunNotFound, match="later"):
        await collect(Streams(log).subscribe("later"))

    async with collecting(Streams(log).subscribe("later", wait=True)) as records:
        await asyncio.sleep(0)
        await log.open("later", producer=None, workflow="nightly")
        await log.append("later", tokens(1, "later"))
        await end(log, "later")
        assert [record.kind for record in await records] == ["token", "run.completed"]


async def test_a_vanished_owner_ends_the_run_for_everyone_who_waits(log: Log) -> None:
    claim = LeaseClaim(lease_s=0.1)
    await log.open("doomed", producer="dead", workflow="nightly", claim=claim)

    streams = Streams(log)
    first, second = await asyncio.gather(
        collect(streams.subscribe("doomed")), collect(streams.subscribe("doomed", kinds="token"))
    )

    assert [record.kind for record in first] == ["run.lost"]
    assert [record.seq for record in second] == [1]
    assert (await log.info("doomed")).status == "lost"


async def test_a_stalled_run_is_lost_only_after_its_grace(log: Log) -> None:
    claim = LeaseClaim(lease_s=0.1, grace_s=0.1)
    await log.open("doomed", producer="dead", workflow="nightly", claim=claim)

    records = await collect(Streams(log).subscribe("doomed"))

    assert [record.kind for record in records] == ["run.stalled", "run.lost"]


async def test_closing_the_log_ends_a_waiting_subscriber_with_an_error(log: Log) -> None:
    async with collecting(Streams(log).subscribe(RUN)) as records:
        for _ in range(20):
            await asyncio.sleep(0)
        await log.aclose()
        with pytest.raises(LogClosed):
            await records


async def test_leaving_the_block_closes_the_iterator(log: Log) -> None:
    await log.append(RUN, tokens(5))

    async with Streams(log).subscribe(RUN) as records:
        assert (await anext(records)).seq == 1
        assert (await anext(records)).seq == 2
    with pytest.raises(StopAsyncIteration):
        await anext(records)


async def test_a_cancelled_reader_leaves_others_and_the_log_whole(log: Log) -> None:
    async with collecting(Streams(log).subscribe(RUN)) as doomed:
        await asyncio.sleep(0)
        doomed.cancel()
    await log.append(RUN, tokens(1))
    await end(log)

    assert len(await collect(Streams(log).subscribe(RUN))) == 2


def test_only_one_start_can_be_given() -> None:
    with pytest.raises(InvalidInput, match="one of"):
        make_start(1, "0123456789ab.1", None)


@pytest.mark.parametrize(("from_seq", "after", "last"), [(-1, None, None), (None, None, -1)])
def test_a_negative_start_is_refused(
    from_seq: int | None, after: str | None, last: int | None
) -> None:
    with pytest.raises(InvalidInput):
        make_start(from_seq, after, last)


@pytest.mark.parametrize("bad", ["", "17", "abc", "abc.", ".5", "a b.5", "abc.5\n", "abc.-1"])
def test_text_that_is_no_cursor_is_refused(bad: str) -> None:
    with pytest.raises(InvalidInput, match="cursor"):
        make_start(None, bad, None)


class ReadOnly:
    """A log as a follower sees it that may not write."""

    def __init__(self, log: Log, error: type[RunstreamError]) -> None:
        self._log = log
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def expire(self, run_id: str, *, lease: Lease) -> RunInfo:
        raise self._error(f"read-only: {run_id} {lease.owner}")


@pytest.mark.parametrize("error", [LogReadOnly, Forbidden])
async def test_a_follower_that_may_only_read_ends_with_a_record_of_its_own(
    log: Log, error: type[RunstreamError]
) -> None:
    await log.open("doomed", producer="dead", workflow="nightly", claim=LeaseClaim(lease_s=0.1))

    records = await collect(
        Streams(cast(Log, ReadOnly(log, error))).subscribe("doomed", kinds="token")
    )

    assert [(record.kind, record.seq) for record in records] == [("run.lost", 0)]
    assert (await log.info("doomed")).status == "running"


class Hiccup(ReadOnly):
    """A log that cannot write for a moment."""

    left = 3

    async def expire(self, run_id: str, *, lease: Lease) -> RunInfo:
        if self.left:
            self.left -= 1
            raise self._error("the disk is full")
        return await self._log.expire(run_id, lease=lease)


async def test_a_log_that_cannot_write_for_a_moment_ends_no_run_for_its_followers(log: Log) -> None:
    await log.open("doomed", producer="dead", workflow="nightly", claim=LeaseClaim(lease_s=0.1))

    records = await collect(
        Streams(cast(Log, Hiccup(log, LogUnavailable))).subscribe("doomed", kinds="token")
    )

    assert [(record.kind, record.seq) for record in records] == [("run.lost", 1)]
    assert (await log.info("doomed")).status == "lost"


async def test_the_connections_log_is_the_one_that_the_process_shares(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path}/events.db"

    async with connect(url) as first, connect(url) as second:
        assert first.log is second.log
    with pytest.raises(LogClosed):
        await first.log.info(RUN)


class Restarted(ReadOnly):
    """A log that answers, is away for a moment, and answers again."""

    looks = 0

    async def info(self, run_id: str) -> RunInfo:
        try:
            if 0 < self.looks < 3:
                raise self._error("it starts")
            return await self._log.info(run_id)
        finally:
            self.looks += 1


async def test_who_waits_for_a_run_waits_for_its_log_too_once_it_has_answered(log: Log) -> None:
    restarted = Restarted(log, LogUnavailable)
    async with collecting(Streams(cast(Log, restarted)).subscribe("later", wait=True)) as records:
        while not restarted.looks:
            await asyncio.sleep(0)
        await log.open("later", producer=None, workflow="nightly")
        await end(log, "later")
        assert [record.kind for record in await records] == ["run.completed"]

    restarted.looks = 1
    with pytest.raises(LogUnavailable):
        await collect(Streams(cast(Log, restarted)).subscribe("later", wait=True))


async def test_between_large_records_others_have_their_turn(log: Log) -> None:
    count = 20
    await log.append(
        RUN, [make_draft(RUN, "table", {"rows": [[n]] * SLICE_BYTES}) for n in range(count)]
    )
    await end(log)
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    others = asyncio.create_task(take_turns())
    seen: list[int] = []
    async for record in Streams(log).subscribe(RUN, kinds="table"):
        if not record.is_terminal:
            seen.append(turns)
            assert len(record.data["rows"]) == SLICE_BYTES
    others.cancel()
    assert len(set(seen)) == count

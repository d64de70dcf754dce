"""Publishing: when a record is stored, and what becomes of one that cannot be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import copy_context
from typing import Any

import pytest

from embedded_logs import PATIENCE_S, closed_publishers, url
from runstream import (
    LogUnavailable,
    RunEnded,
    attach,
    bind,
    connect,
    drain,
    flush,
    process,
    publish,
    publisher_stats,
    start_run,
)
from runstream.logs.memory import MemoryLog
from workflow_runs import until

__all__ = ["closed_publishers", "url"]


def test_flush_says_that_everything_is_stored(url: str) -> None:
    with start_run("w", url=url):
        for number in range(500):
            publish({"n": number})
        assert flush(PATIENCE_S)
        stats = publisher_stats()
        assert stats.queued == 0
    assert flush()


async def test_drain_says_that_everything_is_stored(url: str) -> None:
    async with start_run("w", url=url) as run:
        for number in range(500):
            publish({"n": number})
        assert await drain()
        async with connect(url) as streams:
            assert (await streams.info(run.run_id)).last_seq == 501
    assert await drain(0.1)


@pytest.fixture
def stuck_log(monkeypatch: pytest.MonkeyPatch) -> Generator[Callable[[], None]]:
    """The memory log of this process takes nothing until this is called."""
    stuck = True
    append = MemoryLog.append

    async def append_or_fail(log: MemoryLog, *args: Any, **options: Any) -> Any:
        if stuck:
            raise LogUnavailable("the disk is full")
        return await append(log, *args, **options)

    def release() -> None:
        nonlocal stuck
        stuck = False

    monkeypatch.setattr(MemoryLog, "append", append_or_fail)
    monkeypatch.setenv("RUNSTREAM_QUEUE_RECORDS", "8")
    yield release
    release()
    process.close_publishers()


async def test_drain_and_flush_give_up_after_their_time(stuck_log: Callable[[], None]) -> None:
    async with start_run("w", url="memory:"):
        publish({})
        assert not await drain(0.01)
        assert not await asyncio.to_thread(flush, 0.01)
        stuck_log()
        assert await drain()


async def test_cancelling_drain_only_stops_the_waiting(stuck_log: Callable[[], None]) -> None:
    async with start_run("w", url="memory:"):
        publish({})
        waiting = asyncio.ensure_future(drain())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        stuck_log()
        assert await drain()


def test_a_loop_that_ends_while_it_drains_harms_nobody(stuck_log: Callable[[], None]) -> None:
    with start_run("w", url="memory:"):
        publish({})
        assert not asyncio.run(drain(0.01))
        stuck_log()
        assert flush(PATIENCE_S)


async def test_a_failing_log_is_told_by_the_stats_and_refuses_when_full(
    stuck_log: Callable[[], None],
) -> None:
    async with start_run("w", url="memory:"):
        with pytest.raises(LogUnavailable, match="disk is full"):
            while True:
                publish({})
                await asyncio.sleep(0)
        stats = publisher_stats()
        assert stats.queued >= 8
        assert stats.last_error is not None
        assert "disk is full" in stats.last_error
        stuck_log()
        assert await drain()
        assert publisher_stats().last_error is None


async def test_what_a_full_queue_drops_is_told_by_the_stats_and_in_the_stream(
    stuck_log: Callable[[], None],
) -> None:
    before = publisher_stats().dropped
    async with connect("memory:") as streams:
        async with start_run("w", url="memory:", overflow="drop_oldest") as run:
            # The first batch is on its way, and stuck.
            await until(lambda: publisher_stats().last_error is not None)
            for number in range(100):
                publish({"n": number})
            dropped = publisher_stats().dropped - before
            assert dropped == 92
            stuck_log()
        records = [record async for record in streams.subscribe(run.run_id)]
    marks = [record for record in records if record.kind == "stream.dropped"]
    assert [mark.data for mark in marks] == [{"count": dropped, "reason": "queue_full"}]
    shown = [record.data["n"] for record in records if record.kind == "event"]
    assert len(shown) == 100 - dropped
    assert shown[-1] == 99


def test_publishing_after_the_end_of_the_run_is_an_error(url: str) -> None:
    with start_run("w", url=url) as run:
        late = bind(publish)
    for _ in range(3):
        with pytest.raises(RunEnded, match=run.run_id):
            late({"n": 1})


def test_records_for_a_run_that_ended_elsewhere_are_dropped_with_one_warning(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    before, taken = publisher_stats().dropped, 0
    runner, run = copy_context(), start_run("w", url=url, run_id="r1")
    runner.run(run.__enter__)
    with pytest.raises(RunEnded), attach("r1", url=url):
        publish({"n": 1})
        assert flush(PATIENCE_S)
        runner.run(run.__exit__, None, None, None)
        with pytest.raises(RunEnded):  # as soon as the first of them has come back
            while True:
                publish({"n": taken})
                taken += 1
        assert not flush(PATIENCE_S)
    # (The one that was refused may have been queued at the very moment of the closing.)
    assert publisher_stats().dropped - before in (taken, taken + 1)
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1

"""Leaving a run: a log that fails at the end, and being cancelled on the way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator
from typing import Any

import pytest

from embedded_logs import PATIENCE_S, closed_publishers, kinds_followed, url, wait_until
from runstream import (
    LogUnavailable,
    RunNotFound,
    connect,
    process,
    publish,
    start_run,
)
from runstream.errors import LogClosed
from runstream.logs.memory import MemoryLog

__all__ = ["closed_publishers", "url"]


@pytest.fixture
def failing_log(monkeypatch: pytest.MonkeyPatch) -> Generator[Callable[[bool], None]]:
    """The memory log of this process; calling this has it fail, or work again."""
    failing = False
    append = MemoryLog.append

    async def append_or_fail(log: MemoryLog, *args: Any, **options: Any) -> Any:
        if failing:
            raise LogUnavailable("the disk is full")
        return await append(log, *args, **options)

    def fail(now: bool) -> None:
        nonlocal failing
        failing = now

    monkeypatch.setattr(MemoryLog, "append", append_or_fail)
    monkeypatch.setenv("RUNSTREAM_END_TIMEOUT_S", "0.1")
    yield fail
    fail(False)
    process.close_publishers()


def test_an_end_that_cannot_be_stored_is_an_error(failing_log: Callable[[bool], None]) -> None:
    with pytest.raises(LogUnavailable, match="could not be stored"), start_run("w", url="memory:"):
        failing_log(True)


async def test_an_end_that_cannot_be_stored_is_an_error_in_async_code_too(
    failing_log: Callable[[bool], None],
) -> None:
    with pytest.raises(LogUnavailable, match="could not be stored"):
        async with start_run("w", url="memory:"):
            failing_log(True)


def test_an_end_that_cannot_be_stored_never_hides_the_bodys_own_error(
    failing_log: Callable[[bool], None],
) -> None:
    with pytest.raises(ZeroDivisionError), start_run("w", url="memory:"):
        failing_log(True)
        raise ZeroDivisionError


def test_an_end_that_could_not_be_stored_in_time_is_stored_when_the_log_is_back(
    failing_log: Callable[[bool], None],
) -> None:
    with connect("memory:") as streams:
        with pytest.raises(LogUnavailable), start_run("w", url="memory:") as run:
            failing_log(True)
        assert streams.info(run.run_id).status == "running"
        failing_log(False)
        wait_until(lambda: streams.info(run.run_id).status == "completed")


# --- cancelling ----------------------------------------------------------------------------------


async def test_cancelling_at_any_point_of_entering_leaves_nothing_running(url: str) -> None:
    async with connect(url) as streams:
        for steps in range(12):
            run = start_run("w", url=url, parent=None)
            task = asyncio.ensure_future(run.__aenter__())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                await asyncio.wait_for(_ended_or_never_there(streams, run.run_id), PATIENCE_S)
            else:
                await run.__aexit__(None, None, None)
        publisher = process.publisher(url)
        await asyncio.to_thread(wait_until, lambda: not publisher.outboxes)


async def _ended_or_never_there(streams: Any, run_id: str) -> None:
    """The cancelled entering is undone in the background: wait until all of that is over."""
    publisher = process.publisher(streams_url(streams))
    while any(outbox.run_id == run_id for outbox in publisher.outboxes):
        await asyncio.sleep(0.001)
    try:
        status = (await streams.info(run_id)).status
    except RunNotFound:
        return
    while status == "running":
        await asyncio.sleep(0.001)
        status = (await streams.info(run_id)).status
    assert status == "cancelled"


def streams_url(streams: Any) -> str:
    return next(url for url, (log, _) in process.this_process().logs.items() if log is streams.log)


async def test_cancelling_the_leaving_still_ends_the_run(url: str) -> None:
    async with connect(url) as streams:
        for steps in range(6):
            run = start_run("w", url=url, parent=None)
            await run.__aenter__()
            publish({"n": 1})
            task = asyncio.ensure_future(run.__aexit__(None, None, None))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            if not steps:
                # It had not begun to leave: nothing was ended, and it may be left again.
                await run.__aexit__(None, None, None)
            got = await asyncio.wait_for(kinds_followed(streams, run.run_id), PATIENCE_S)
            assert got == ["run.started", "event", "run.completed"]


async def test_a_cancelled_leaving_of_a_parked_run_gives_up_its_lease(url: str) -> None:
    async with connect(url) as streams:
        run = start_run("w", url=url, run_id="r1")
        await run.__aenter__()
        run.park()
        task = asyncio.ensure_future(run.__aexit__(None, None, None))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        with connect(url) as watching:
            await asyncio.to_thread(wait_until, lambda: watching.info("r1").lease is None)
        assert (await streams.info("r1")).status == "waiting"


def test_a_run_in_a_process_that_closed_its_publishers_says_so(url: str) -> None:
    with pytest.raises(LogClosed), start_run("w", url=url):
        process.close_publishers()
        with pytest.raises(LogClosed):
            publish({})
    with pytest.raises(ZeroDivisionError), start_run("w", url=url):
        process.close_publishers()
        raise ZeroDivisionError

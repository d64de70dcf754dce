"""Opening a log that takes its time: whoever stops waiting leaves nothing open, and nobody is held up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from runstream import connect, drain, process, publisher_stats, start_run
from runstream.errors import LogClosed
from runstream.log import Log
from runstream.logs import open_log
from runstream.server.app import create_app
from server_process import ServerProcess

PATIENCE_S = 30.0
KINDS = ("memory", "sqlite", "http", "redis", "postgres", "nats")


class Gate:
    """Openings of logs, which last in their threads until the test lets them end."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()
        self.logs: list[Log] = []

    def open_log(self, url: str, *, token: str | None = None) -> Log:
        log = open_log(url, token=token)
        self.logs.append(log)
        self.entered.set()
        assert self.open.wait(PATIENCE_S)
        return log

    async def begun(self, opening: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
        """What waits for a log that a thread is opening now."""
        task = asyncio.create_task(opening)
        await until(lambda: self.entered.is_set() or task.done())
        return task


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Generator[Gate]:
    gate = Gate()
    monkeypatch.setattr("runstream.process.open_log", gate.open_log)
    yield gate
    gate.open.set()
    process.close_publishers()


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory:opening"
    if request.param == "http":
        server: ServerProcess = request.getfixturevalue("shared_server")
        return server.url
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


def is_clean() -> bool:
    """Whether this process has no log open."""
    threads = [one.name for one in threading.enumerate() if one.name.startswith("runstream")]
    return not process.this_process().logs and not threads


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def until_closed(log: Log) -> None:
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(LogClosed):
            while True:
                await log.list()
    await until(is_clean)


async def cancel(task: asyncio.Task[object]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# --- whoever stops waiting -----------------------------------------------------------------------


async def test_a_log_that_nobody_waits_for_any_more_is_closed(gate: Gate, url: str) -> None:
    connecting = await gate.begun(connect(url).__aenter__())
    await cancel(connecting)
    gate.open.set()
    await until_closed(gate.logs[0])


async def test_a_log_that_comes_as_its_caller_is_cancelled_is_closed(gate: Gate, url: str) -> None:
    executor = ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(executor)
    connecting = await gate.begun(connect(url).__aenter__())
    gate.open.set()
    # Then the log is there, and the loop has not seen it yet.
    executor.submit(lambda: None).result(PATIENCE_S)
    await cancel(connecting)
    await until_closed(gate.logs[0])


async def test_those_who_share_a_log_keep_it_when_its_opener_goes(
    gate: Gate, sqlite_url: str
) -> None:
    first = await gate.begun(connect(sqlite_url).__aenter__())
    other = connect(sqlite_url)
    second = asyncio.create_task(other.__aenter__())
    await cancel(first)
    gate.open.set()
    streams = await second
    await until(lambda: [users for _, users in process.this_process().logs.values()] == [1])
    assert await streams.list_runs() == []
    await other.__aexit__(None, None, None)
    await until(is_clean)


def test_a_loop_that_ends_in_the_middle_of_an_opening_leaves_nothing_open(
    gate: Gate, sqlite_url: str
) -> None:
    async def leave() -> None:
        await cancel(await gate.begun(connect(sqlite_url).__aenter__()))
        gate.open.set()

    asyncio.run(leave())
    assert is_clean()


async def test_a_server_that_is_stopped_while_it_starts_leaves_nothing_open(
    gate: Gate, sqlite_url: str
) -> None:
    starting = await gate.begun(create_app(sqlite_url).start())
    await cancel(starting)
    gate.open.set()
    await until(is_clean)


async def test_publishers_can_be_closed_while_one_is_opened_for_nobody(
    gate: Gate, sqlite_url: str
) -> None:
    entering = await gate.begun(start_run("w", url=sqlite_url).__aenter__())
    await cancel(entering)
    closing = asyncio.create_task(asyncio.to_thread(process.close_publishers))
    gate.open.set()
    assert await closing
    assert is_clean()
    assert not process.this_process().publishers


# --- everybody else ------------------------------------------------------------------------------


async def test_a_slow_opening_holds_up_no_loop(gate: Gate, sqlite_url: str) -> None:
    gate.open.set()
    with_one = connect("memory:")
    streams = await with_one.__aenter__()
    async with start_run("w", url="memory:"):
        gate.open.clear()
        gate.entered.clear()
        slow = connect(sqlite_url)
        opening = await gate.begun(slow.__aenter__())
        async with connect("memory:") as same:
            assert same.log is streams.log
        assert publisher_stats().muted is False
        assert await drain()
        await with_one.__aexit__(None, None, None)
    gate.open.set()
    await opening
    await slow.__aexit__(None, None, None)

"""The loop in which a log talks to its engine: what callers hear when it ends, and when they give up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Generator
from typing import Any

import pytest

from runstream.errors import LogClosed, LogUnavailable
from runstream.own_loop import OwnLoop

HANG_S = 60.0


async def nothing() -> None:
    pass


async def for_ever() -> None:
    await asyncio.Event().wait()


@pytest.fixture
def loop() -> Generator[OwnLoop]:
    loop = OwnLoop("test", "there")
    yield loop
    loop.close(nothing)


async def close(loop: OwnLoop) -> None:
    async with asyncio.timeout(HANG_S):
        await asyncio.to_thread(loop.close, nothing)


@pytest.mark.parametrize("to_end", [False, True])
async def test_a_call_that_the_end_cuts_off_hears_that_its_log_is_closed(
    loop: OwnLoop, monkeypatch: pytest.MonkeyPatch, to_end: bool
) -> None:
    monkeypatch.setattr("runstream.own_loop.END_S", 0.01)
    call = asyncio.ensure_future(loop.run(for_ever(), to_end=to_end))
    await asyncio.sleep(0)
    await close(loop)
    with pytest.raises(LogClosed, match="there has been closed"):
        await call


async def test_an_answer_that_comes_while_the_log_is_closed_is_heard(loop: OwnLoop) -> None:
    going = asyncio.Event()

    async def answer() -> str:
        await going.wait()
        return "stored"

    async def let_it_go() -> None:
        going.set()

    call = asyncio.ensure_future(loop.run(answer()))
    await asyncio.sleep(0)
    await asyncio.to_thread(loop.close, let_it_go)
    assert await call == "stored"


async def test_an_engine_that_is_gone_with_its_log_is_a_closed_log(loop: OwnLoop) -> None:
    gone = asyncio.Event()

    async def ask() -> None:
        await gone.wait()
        raise LogUnavailable("the connection is gone")

    async def hang_up() -> None:
        gone.set()

    call = asyncio.ensure_future(loop.run(ask()))
    await asyncio.sleep(0)
    await asyncio.to_thread(loop.close, hang_up)
    with pytest.raises(LogClosed):
        await call


@pytest.mark.parametrize("to_end", [False, True])
async def test_who_is_cancelled_while_the_log_is_closed_is_cancelled(
    loop: OwnLoop, to_end: bool
) -> None:
    closing, cancelled = threading.Event(), threading.Event()

    async def hang_up() -> None:
        closing.set()
        await asyncio.to_thread(cancelled.wait, HANG_S)

    call = asyncio.ensure_future(loop.run(for_ever(), to_end=to_end))
    await asyncio.sleep(0)
    end = asyncio.ensure_future(asyncio.to_thread(loop.close, hang_up))
    await asyncio.to_thread(closing.wait, HANG_S)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    cancelled.set()
    await end


@pytest.mark.parametrize(("to_end", "outcome"), [(False, "cancelled"), (True, "done")])
async def test_cancelling_a_caller_ends_its_work_or_only_its_waiting(
    loop: OwnLoop, to_end: bool, outcome: str
) -> None:
    outcomes: list[str] = []
    begun, ended, go_on = threading.Event(), threading.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await go_on.wait()
            outcomes.append("done")
        except asyncio.CancelledError:
            outcomes.append("cancelled")
            raise
        finally:
            ended.set()

    call = asyncio.ensure_future(loop.run(work(), to_end=to_end))
    await asyncio.to_thread(begun.wait, HANG_S)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    loop.call_soon(go_on.set)
    await asyncio.to_thread(ended.wait, HANG_S)
    assert outcomes == [outcome]


async def test_a_closed_loop_takes_nothing(loop: OwnLoop) -> None:
    await close(loop)
    await close(loop)
    calls: list[Coroutine[Any, Any, None]] = [loop.run(nothing()), loop.run(nothing(), to_end=True)]
    for call in calls:
        with pytest.raises(LogClosed):
            await call
    with pytest.raises(LogClosed):
        loop.call_soon(print)
    with pytest.raises(LogClosed):
        loop.check_open()


def test_what_cannot_be_opened_lets_go_and_ends_its_thread() -> None:
    let_go: list[str] = []

    async def connect() -> None:
        raise LogUnavailable("nobody is there")

    async def disconnect() -> None:
        let_go.append(threading.current_thread().name)

    with pytest.raises(LogUnavailable):
        OwnLoop("test", "there").open(connect(), disconnect)
    assert let_go == ["runstream-test"]
    assert "runstream-test" not in [thread.name for thread in threading.enumerate()]

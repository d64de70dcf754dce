"""The portal: a loop on a thread of its own, which closes without leaving anybody waiting."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from runstream.errors import LogClosed
from runstream.portal import Portal

PATIENCE_S = 30.0


@pytest.fixture
def portal() -> Iterator[Portal]:
    portal = Portal("test-portal")
    yield portal
    portal.close()


async def answer() -> str:
    await asyncio.sleep(0)
    return threading.current_thread().name


def test_work_runs_on_the_portals_thread(portal: Portal) -> None:
    assert portal.call(answer()) == "test-portal"


async def test_work_of_another_loop_runs_on_the_portals_thread(portal: Portal) -> None:
    assert await portal.run(answer()) == "test-portal"


def test_an_exception_reaches_the_caller(portal: Portal) -> None:
    async def fail() -> None:
        raise KeyError("no")

    with pytest.raises(KeyError, match="no"):
        portal.call(fail())


async def test_cancelling_the_waiting_cancels_the_work(portal: Portal) -> None:
    started, cancelled = threading.Event(), threading.Event()

    async def work() -> None:
        try:
            started.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    waiting = asyncio.ensure_future(portal.run(work()))
    assert await asyncio.to_thread(started.wait, PATIENCE_S)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await asyncio.to_thread(cancelled.wait, PATIENCE_S)


def test_closing_cancels_what_is_running_and_what_that_starts() -> None:
    portal = Portal("test-portal")
    started = threading.Event()
    ends: list[str] = []

    async def clean_up() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ends.append("cleaning")

    async def work() -> None:
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            ends.append("work")
            kept.append(asyncio.ensure_future(clean_up()))
            await asyncio.sleep(0)

    kept: list[asyncio.Future[None]] = []
    future = portal.submit(work())
    assert started.wait(PATIENCE_S)
    portal.close()
    with pytest.raises(CancelledError):
        future.result(PATIENCE_S)
    assert ends == ["work", "cleaning"]


def test_a_closed_portal_refuses_and_closing_again_does_nothing() -> None:
    portal = Portal("test-portal")
    portal.close()
    portal.close()
    with pytest.raises(LogClosed):
        portal.call(answer())
    assert not portal.call_soon(print)
    assert not portal.call_later(0.0, print)


def test_closing_from_its_own_thread_does_not_wait_for_itself() -> None:
    portal = Portal("test-portal")

    async def close() -> None:
        portal.close()
        await asyncio.Event().wait()

    with pytest.raises(CancelledError):
        portal.call(close())
    portal.close()


def test_whoever_calls_while_it_closes_gets_an_answer_or_a_refusal() -> None:
    for _ in range(50):
        portal = Portal("test-portal")
        together = threading.Barrier(5)

        def call(portal: Portal = portal, together: threading.Barrier = together) -> str:
            together.wait(PATIENCE_S)
            try:
                return portal.submit(answer()).result(PATIENCE_S)
            except (LogClosed, CancelledError):
                return "refused"

        with ThreadPoolExecutor(4) as threads:
            calls = [threads.submit(call) for _ in range(4)]
            together.wait(PATIENCE_S)
            portal.close()
        assert {each.result() for each in calls} <= {"test-portal", "refused"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_refused_instead_of_waiting_for_a_thread_that_is_not_there(
    portal: Portal,
) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            portal.call(answer())
        except LogClosed:
            portal.close()
            os._exit(0 if not portal.call_soon(print) else 2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert portal.call(answer()) == "test-portal"

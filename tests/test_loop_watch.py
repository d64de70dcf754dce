"""The loop watch: loops that are closed while they are asked, or left by their runs."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Generator

import pytest

from runstream.loop_watch import LoopWatch
from runstream.portal import Portal

PATIENCE_S = 30.0


@pytest.fixture
def portal() -> Generator[Portal]:
    portal = Portal("test")
    yield portal
    portal.close()


def nothing() -> None:
    """A loop that is closed is no matter here."""


def in_portal(portal: Portal, function: Callable[..., object], *args: object) -> None:
    """Call it in the portal's loop, and wait until that is done."""

    async def call() -> None:
        function(*args)

    portal.call(call())


def test_a_loop_that_is_closed_before_it_answers_is_noticed_all_the_same(portal: Portal) -> None:
    watch = LoopWatch(portal, blocked_s=0.01)
    loop = asyncio.new_event_loop()
    closed = threading.Event()
    in_portal(portal, watch.enter, loop, closed.set)  # it asks at once, and this loop does not run
    loop.close()
    assert closed.wait(PATIENCE_S)


def test_a_loop_that_its_runs_have_left_is_forgotten_without_its_answer(portal: Portal) -> None:
    watch = LoopWatch(portal, blocked_s=0.01)
    answering = asyncio.new_event_loop()
    thread = threading.Thread(target=answering.run_forever)
    thread.start()
    in_portal(portal, watch.enter, answering, nothing)  # so that there is always somebody to watch
    loop = asyncio.new_event_loop()
    in_portal(portal, watch.enter, loop, nothing)
    left = weakref.ref(loop)

    async def asked() -> None:
        while left() not in watch._silent:  # pyright: ignore[reportPrivateUsage] - asking shows nowhere else
            await asyncio.sleep(0.001)

    portal.call(asyncio.wait_for(asked(), PATIENCE_S))
    in_portal(portal, watch.leave, loop, nothing)
    loop.close()
    del loop

    async def forgotten() -> None:
        while left() is not None:
            await asyncio.sleep(0.001)
            gc.collect()

    portal.call(asyncio.wait_for(forgotten(), PATIENCE_S))
    answering.call_soon_threadsafe(answering.stop)
    thread.join()
    answering.close()

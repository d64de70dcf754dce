"""A run's state: one editor at a time, in whatever task or thread."""

from __future__ import annotations

import asyncio
import threading

import pytest

from runstream import InvalidInput
from runstream.state_store import FreeState, StateStore


async def test_tasks_and_threads_take_turns() -> None:
    store = StateStore(FreeState)
    await store.set("count", 0)

    async def in_a_task() -> None:
        for _ in range(50):
            async with store.edit_state() as state:
                before = state.count
                await asyncio.sleep(0)
                state.count = before + 1

    def in_a_thread() -> None:
        for _ in range(50):
            with store.edit_state() as state:
                state.count += 1

    await asyncio.gather(in_a_task(), in_a_task(), asyncio.to_thread(in_a_thread))
    assert await store.get("count") == 150


async def test_cancelling_one_that_waits_lets_the_others_go_on() -> None:
    store = StateStore(FreeState)
    async with store.edit_state():
        waiting = [asyncio.create_task(store.set("by", n)) for n in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
    await asyncio.wait(waiting)
    assert waiting[0].cancelled()
    assert await store.get("by") == 2


async def test_a_plain_edit_in_async_code_is_refused_where_it_would_deadlock() -> None:
    store = StateStore(FreeState)
    async with store.edit_state():
        with pytest.raises(InvalidInput, match="async with"), store.edit_state():
            pass
    async with store.edit_state() as state:
        state.fine = True
    assert await store.get("fine") is True


async def test_a_state_that_cannot_be_copied_can_be_edited() -> None:
    class Odd:
        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.count = 0

    store = StateStore(Odd)
    async with store.edit_state() as state:
        state.count = 1
    assert await store.get("count") == 1
    await store.clear()
    assert await store.get("count") == 0


async def test_values_lie_at_paths() -> None:
    store = StateStore(FreeState)
    await store.set("a", {"b": {}})
    await store.set("a.b.c", 1)
    assert await store.get("a.b.c") == 1
    assert await store.get("a.x.c", default=7) == 7
    with pytest.raises(InvalidInput, match=r"no 'x\.y' to set 'z' in"):
        await store.set("x.y.z", 1)
    copied = await store.get_state()
    copied["a"]["b"]["c"] = 2
    assert await store.get("a.b.c") == 1
    await store.set_state(FreeState(a=3))
    assert await store.get("a") == 3
    with pytest.raises(AttributeError, match="no 'b'"):
        _ = (await store.get_state()).b

"""How tasks nest and end, and what they do while the queue is full."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, Awaitable, Generator

import pytest

from held_outbox import folded, inside, make_outbox, taken
from runstream import Task, bind, connect, process, start_run
from runstream.errors import InvalidInput, RunEnded
from runstream.fold import TaskState


@pytest.fixture(autouse=True)
def _no_publisher_left() -> Generator[None]:
    yield
    process.close_publishers()


async def tasks_of(url: str, run_id: str, topic: str | None = None) -> list[TaskState]:
    async with connect(url) as streams:
        return [task async for task in streams.handler(run_id).tasks(topic)]


# --- nesting -------------------------------------------------------------------------------------


async def test_a_nested_task_names_its_parent_also_across_asyncio_tasks_and_threads() -> None:
    def in_thread() -> None:
        with Task("thread"):
            pass

    async def in_asyncio_task(name: str) -> None:
        async with Task(name):
            await asyncio.sleep(0)
            async with Task(name + "-inner"):
                await asyncio.sleep(0)

    async with start_run("w", url="memory:nested", run_id="r"):
        async with Task("outer") as outer:
            await asyncio.gather(in_asyncio_task("one"), in_asyncio_task("two"))
            thread = threading.Thread(target=bind(in_thread))
            thread.start()
            await asyncio.to_thread(thread.join)
            async with Task("last"):
                pass
        async with Task("after"):
            pass
    ends = [task for task in await tasks_of("memory:nested", "r") if task.status == "completed"]
    ids = {task.type: task.id for task in ends}
    assert {task.type: task.parent_task_id for task in ends} == {
        "outer": None,
        "after": None,
        **dict.fromkeys(("one", "two", "thread", "last"), outer.id),
        "one-inner": ids["one"],
        "two-inner": ids["two"],
    }


# --- ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("no"), "failed"),
        (SystemExit("no"), "failed"),
        (KeyboardInterrupt("no"), "cancelled"),
        (asyncio.CancelledError("no"), "cancelled"),
    ],
    ids=repr,
)
def test_a_block_left_by_an_error_ends_the_task_so_and_says_why(
    error: BaseException, status: str
) -> None:
    outbox = make_outbox()
    with pytest.raises(type(error)) as caught, inside(outbox), Task("t", state={"n": 0}) as task:
        task.update_state({"n": 1})
        raise error
    assert caught.value is error
    end = folded(taken(outbox))[-1]
    assert (end.status, end["n"]) == (status, 1)
    assert end.error == {"type": type(error).__name__, "message": "no"}


async def test_a_cancelled_asyncio_task_cancels_its_task() -> None:
    started = asyncio.Event()

    async def work() -> None:
        async with Task("t"):
            started.set()
            await asyncio.Event().wait()

    async with start_run("w", url="memory:cancelled", run_id="r"):
        working = asyncio.create_task(work())
        await started.wait()
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
    end = (await tasks_of("memory:cancelled", "r"))[-1]
    assert end.status == "cancelled"
    assert end.error == {"type": "CancelledError", "message": ""}


async def test_a_task_that_its_run_left_open_is_lost_to_all_who_read_it() -> None:
    async with start_run("w", url="memory:left-open", run_id="r"):
        async with start_run("w", run_id="child"):
            await Task("t", state={"n": 1}).__aenter__()
            await Task("other", state={"n": 2}).__aenter__()
        async with Task("t", state={"n": 3}):
            pass
    shown = [(task["n"], task.status) for task in await tasks_of("memory:left-open", "r", "t")]
    assert shown == [(1, "running"), (1, "lost"), (3, "running"), (3, "completed")]
    of_child = await tasks_of("memory:left-open", "child")
    assert [(task["n"], task.status) for task in of_child[2:]] == [(1, "lost"), (2, "lost")]


async def test_an_abandoned_generator_closes_its_task_from_another_context() -> None:
    async def stream() -> AsyncGenerator[int]:
        async with Task("t"):
            yield 1

    outbox = make_outbox()
    with inside(outbox):
        generator = stream()

        async def first() -> int:
            return await anext(generator)

        assert await asyncio.create_task(first()) == 1
        await asyncio.create_task(generator.aclose())
    end = folded(taken(outbox))[-1]
    assert (end.status, end.error) == ("cancelled", {"type": "GeneratorExit", "message": ""})


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("error", [ValueError("no"), Unprintable()])
def test_an_error_in_the_body_is_never_replaced(error: Exception) -> None:
    outbox = make_outbox()
    with pytest.raises(type(error)) as caught, inside(outbox), Task("t"):
        outbox.close(RunEnded("the run has ended"))
        raise error
    assert caught.value is error


def test_a_task_that_outlives_its_run_says_so() -> None:
    outbox = make_outbox()
    with pytest.raises(RunEnded), inside(outbox), Task("t", state={"n": 0}) as task:
        outbox.close(RunEnded("the run has ended"))
        with pytest.raises(RunEnded):
            task.update_state({"n": 1})


def test_what_was_changed_past_the_methods_is_in_the_final_state() -> None:
    outbox = make_outbox()
    with inside(outbox), Task("t", state={"l": [1]}) as task:
        task.state["l"].append(2)
    assert folded(taken(outbox))[-1].state == {"l": [1, 2]}


def test_what_was_changed_past_the_methods_and_cannot_stream_fails_the_task() -> None:
    outbox = make_outbox()
    refused = pytest.raises(InvalidInput, match="nan is not JSON")
    with refused, inside(outbox), Task("t", state={"l": [1.0]}) as task:
        task.state["l"].append(float("nan"))
    end = folded(taken(outbox))[-1]
    assert (end.status, end.state) == ("failed", {"l": [1.0]})
    with pytest.raises(OSError), inside(outbox), Task("t", state={"l": [1.0]}) as task:
        task.state["l"].append(float("nan"))
        raise OSError
    end = folded(taken(outbox))[-1]
    assert (end.status, end.error) == ("failed", {"type": "OSError", "message": ""})


# --- room ----------------------------------------------------------------------------------------


async def finished(awaitable: Awaitable[None]) -> None:
    await awaitable


async def test_awaiting_a_change_waits_for_room_and_cancelling_only_stops_the_waiting() -> None:
    outbox = make_outbox(records_max=2)
    with inside(outbox), Task("t", state={"n": 0}) as task:
        waiting = asyncio.create_task(finished(task.update_state({"n": 1})))
        cancelled = asyncio.create_task(finished(task.update_state({"n": 2})))
        await asyncio.sleep(0)
        assert not waiting.done()
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert task.state == {"n": 2}
        assert folded(taken(outbox))[-1]["n"] == 2
        async with asyncio.timeout(30):
            await waiting
            await task.update_state({"n": 3})


def test_a_result_that_is_not_awaited_is_fine() -> None:
    with inside(make_outbox()), Task("t", state={"l": []}) as task:
        task.update_state({"n": 1})
        task.set_state({"l": []})
        task.append("l", 1)
    gc.collect()  # a coroutine that was never awaited would warn here, and warnings are errors


def test_without_room_a_snapshot_stands_in_for_all_changes_until_it_is_taken() -> None:
    outbox = make_outbox(records_max=2)
    with inside(outbox), Task("t", state={"n": 0}) as task:
        for n in range(1, 100):
            task.update_state({"n": n})
        drafts = taken(outbox)
        assert [draft.kind for draft in drafts] == [
            "task.started",
            "task.progress",
            "task.snapshot",
        ]
        task.update_state({"n": 100})
        drafts += taken(outbox)
        assert drafts[-1].kind == "task.progress"
    assert [state["n"] for state in folded(drafts)] == [0, 1, 99, 100]

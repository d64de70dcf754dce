"""Pipelines: steps that fail, are retried, take too long, or are cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import pytest

from pipelines import add, dynamic, fail, the_only_run
from runstream import (
    Retry,
    RunCancelled,
    RunTimedOut,
    StepTimedOut,
    WorkflowFailedEvent,
    connect,
    pipeline,
    publish,
    step,
)
from workflow_runs import kinds_of, own_log, records_of

__all__ = ["own_log"]

PATIENCE_S = 30.0
# A step's time, where a later attempt has to be within it however busy the machine is.
LIMIT_S = 1.0


async def test_a_failing_step_fails_its_caller_and_is_named_in_the_end() -> None:
    @pipeline
    async def failing() -> int:
        return fail("boom")

    handler = failing.run()
    with pytest.raises(KeyError, match="boom"):
        await handler
    events = [event async for event in handler.stream_events()]
    assert isinstance(events[-1], WorkflowFailedEvent)
    assert events[-1].step_name == "fail"
    assert events[-1].attempts == 1
    assert events[-1].exception["type"] == "KeyError"


async def test_a_pipeline_s_own_error_names_no_step() -> None:
    @pipeline
    def failing() -> int:
        add(1, 2)
        raise ValueError("mine")

    handler = failing.run()
    with pytest.raises(ValueError, match="mine"):
        await handler
    end = (await records_of(handler))[-1]
    assert end.data["step_name"] is None
    assert end.data["exception"] == {"type": "ValueError", "message": "mine"}


async def test_a_body_may_catch_a_step_s_error() -> None:
    @pipeline
    async def forgiving() -> int:
        try:
            return fail("never mind")
        except KeyError:
            return add(1, 1)

    handler = forgiving.run()
    assert await handler == 2
    assert (await kinds_of(handler))[1:3] == ["step.started fail#1", "step.failed fail#1"]


@pytest.mark.parametrize("kind", ["plain", "async", "submitted"])
async def test_called_steps_are_retried_with_marks(kind: str) -> None:
    tries: list[int] = []

    def work() -> int:
        tries.append(len(tries) + 1)
        publish({"try": len(tries)})
        if len(tries) < 3:
            raise OSError("again")
        return len(tries)

    flaky = step(retry=Retry(attempts=3, delay=0.001, jitter=False))(work)

    @step(name="work", retry=Retry(attempts=3, delay=0.001, jitter=False))
    async def flaky_async() -> int:
        return work()

    @pipeline
    async def persistent() -> int:
        if kind == "async":
            return await flaky_async()
        return flaky() if kind == "plain" else await flaky.submit()

    handler = persistent.run()
    assert await handler == 3
    assert await kinds_of(handler) == [
        "run.started",
        "step.started work#1",
        "event work#1",
        "step.retrying work#1",
        "step.started work#2",
        "event work#2",
        "step.retrying work#2",
        "step.started work#3",
        "event work#3",
        "step.completed work#3",
        "run.completed",
    ]


LIMITED = [
    "step.started slow#1",
    "step.retrying slow#1",
    "step.started slow#2",
    "step.completed slow#2",
    "step.started hopeless#1",
    "step.failed hopeless#1",
]


async def test_a_plain_step_that_exceeds_its_time_is_retried_or_fails() -> None:
    tries: list[int] = []
    over = threading.Event()

    @step(timeout=LIMIT_S, retry=Retry(attempts=2, delay=0))
    def slow() -> str:
        tries.append(1)
        if len(tries) == 1:
            over.wait(PATIENCE_S)
        return "in time"

    @step(timeout=0.02)
    def hopeless() -> None:
        over.wait(PATIENCE_S)

    @pipeline
    def limited() -> str:
        first = slow()
        with pytest.raises(StepTimedOut):
            hopeless()
        return first

    handler = limited.run()
    assert await handler == "in time"
    over.set()
    assert (await kinds_of(handler))[1:-1] == LIMITED


async def test_an_async_step_that_exceeds_its_time_is_retried_or_fails() -> None:
    tries: list[int] = []

    @step(timeout=LIMIT_S, retry=Retry(attempts=2, delay=0))
    async def slow() -> str:
        tries.append(1)
        if len(tries) == 1:
            await asyncio.sleep(60)
        return "in time"

    freed = asyncio.Event()

    @step(timeout=0.02)
    async def hopeless() -> None:
        while not freed.is_set():  # it swallows its cancellation, too
            with contextlib.suppress(asyncio.CancelledError):
                await freed.wait()

    @pipeline
    async def limited() -> str:
        first = await slow()
        with pytest.raises(StepTimedOut):
            await hopeless()
        return first

    handler = limited.run()
    assert await handler == "in time"
    freed.set()
    assert (await kinds_of(handler))[1:-1] == LIMITED


async def test_a_pipeline_s_time_is_limited() -> None:
    @pipeline(timeout=0.05)
    async def endless() -> None:
        await asyncio.Event().wait()

    handler = endless.run()
    with pytest.raises(RunTimedOut):
        await handler
    assert (await kinds_of(handler))[-1] == "run.timed_out"

    release = threading.Event()

    @pipeline(timeout=0.05, cancel_grace=0.05)
    def blocked() -> None:
        release.wait(20)

    handler = blocked.run()
    with pytest.raises(RunTimedOut):
        await handler
    release.set()


async def test_cancelling_stops_a_plain_body_at_its_next_step_or_record() -> None:
    @pipeline
    def looping() -> None:
        while True:
            add(1, 1)
            time.sleep(0.001)

    handler = looping.run()
    async with handler.subscribe(kinds="event") as records:
        await anext(records)
    await handler.cancel_run("enough")
    with pytest.raises(RunCancelled, match="enough"):
        await handler
    assert (await kinds_of(handler))[-1] == "run.cancelled"


async def test_cancelling_the_call_of_an_async_pipeline_cancels_its_run() -> None:
    begun = asyncio.Event()

    @pipeline
    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    call = asyncio.ensure_future(endless())
    await begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await the_only_run())[-1].kind == "run.cancelled"


async def test_cancelling_the_call_while_its_run_is_being_opened_leaves_no_run_behind() -> None:
    call = asyncio.ensure_future(dynamic(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    async with connect() as streams:
        for run in await streams.list_runs():
            assert [r async for r in streams.subscribe(run.run_id)][-1].is_terminal


async def test_cancelling_reaches_steps_in_threads_and_tasks() -> None:
    stopped: list[str] = []

    @step
    def in_thread() -> None:
        try:
            while True:
                publish({"alive": "thread"})
                time.sleep(0.001)
        except RunCancelled:
            stopped.append("thread")
            raise

    @step
    async def in_task() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.append("task")
            raise

    @pipeline(cancel_grace=30)
    async def both() -> None:
        thread = in_thread.submit()
        await in_task()
        await thread

    handler = both.run()
    async with handler.subscribe(kinds="event") as records:
        await anext(records)
    await handler.cancel_run()
    with pytest.raises(RunCancelled):
        await handler
    assert sorted(stopped) == ["task", "thread"]
    kinds = await kinds_of(handler)
    assert {"step.cancelled in_thread#1", "step.cancelled in_task#1"} <= set(kinds)


async def test_a_child_that_is_called_while_its_parent_ends_is_not_run() -> None:
    ran: list[str] = []

    @pipeline
    async def tidying() -> None:
        ran.append("async")

    @pipeline
    def tidying_here() -> None:
        ran.append("plain")

    @pipeline(cancel_grace=30)
    async def parent() -> None:
        try:
            publish({})
            await asyncio.Event().wait()
        finally:
            with pytest.raises(RunCancelled):
                await tidying()
            with pytest.raises(RunCancelled):
                await tidying_here.run()

    handler = parent.run()
    async with handler.subscribe(kinds="event") as records:
        await anext(records)
    await handler.cancel_run()
    with pytest.raises(RunCancelled):
        await handler
    assert not ran
    assert [kind for kind in await kinds_of(handler) if kind.startswith("run.")] == [
        "run.started",
        "run.cancel_requested",
        "run.started",
        "run.cancelled",
        "run.started",
        "run.cancelled",
        "run.cancelled",
    ]

"""The runner: failures, retries, and many runs at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runner_cases import Failing, First, last_event
from runstream import (
    Context,
    InvalidInput,
    Retry,
    RunFailed,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowFailedEvent,
    connect,
    publish,
    step,
)
from workflow_runs import kinds_of, own_log, records_of

__all__ = ["own_log"]


async def test_a_failure_is_in_the_stream_before_it_is_raised_as_itself() -> None:
    handler = Failing().run()
    with pytest.raises(KeyError, match="gone") as raised:
        await handler
    async with connect() as streams:
        stored = [r async for r in streams.subscribe(handler.run_id, follow=False)]
        assert stored[-1].kind == "run.failed"
        with pytest.raises(RunFailed, match="KeyError: 'gone'"):
            await streams.handler(handler.run_id)
    event = await last_event(handler)
    assert isinstance(event, WorkflowFailedEvent)
    assert event.step_name == "work"
    assert event.exception == {"type": "KeyError", "message": "'gone'"}
    assert event.attempts == 1
    assert (event.elapsed_seconds or 0) >= 0
    assert handler.status == "failed"
    with pytest.raises(KeyError) as again:
        await handler.result()
    assert again.value is raised.value


async def test_each_failed_attempt_is_marked_with_its_error_and_the_pause() -> None:
    class Flaky(Workflow):
        @step(retry=Retry(attempts=3, delay=0.01, jitter=False))
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            publish({"attempt": ctx.attempt})
            if ctx.attempt < 3:
                raise OSError(f"no {ctx.attempt}")
            return StopEvent(result="at last")

    handler = Flaky().run()
    assert await handler == "at last"
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
    records = await records_of(handler)
    assert records[3].data == {
        "attempt": 1,
        "error": {"type": "OSError", "message": "no 1"},
        "delay": 0.01,
    }
    assert records[6].data["delay"] == 0.02
    # So the records of the failed attempts can be told from those of the good one.
    assert len({record.step_run_id for record in records[1:-1]}) == 1


async def test_retries_end_and_only_the_covered_errors_have_any() -> None:
    class Hopeless(Workflow):
        @step(retry=Retry(attempts=2, delay=0, on=(OSError, KeyError)))
        async def work(self, ev: StartEvent) -> StopEvent:
            raise ev.error

    handler = Hopeless().run(error=OSError("never"))
    with pytest.raises(OSError, match="never"):
        await handler
    event = await last_event(handler)
    assert isinstance(event, WorkflowFailedEvent)
    assert event.attempts == 2
    other = Hopeless().run(error=ValueError("at once"))
    with pytest.raises(ValueError, match="at once"):
        await other
    assert (await last_event(other)).attempts == 1


async def test_a_plain_step_is_retried_in_its_thread() -> None:
    class Plain(Workflow):
        @step(retry=Retry(attempts=2, delay=0))
        def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if ctx.attempt == 1:
                raise OSError("once")
            return StopEvent(result="twice")

    assert await Plain().run() == "twice"


async def test_a_failure_stops_what_runs_beside_it() -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    class TwoSteps(Workflow):
        @step
        async def long(self, ev: StartEvent) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                stopped.set()
                raise

        @step
        async def short(self, ev: StartEvent) -> StopEvent:
            await begun.wait()
            raise ValueError("short")

    handler = TwoSteps().run()
    with pytest.raises(ValueError, match="short"):
        await handler
    assert stopped.is_set()
    assert (await kinds_of(handler))[-3:] == [
        "step.failed short#1",
        "step.cancelled long#1",
        "run.failed",
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("text", "step 'work' returned a str: a step returns an event"),
        ({"a": 1}, "returned a dict"),
        ([First(), 3], "returned a int in a list"),
        (First(), "returned a First, which no step accepts"),
    ],
    ids=str,
)
async def test_a_step_that_returns_what_it_must_not_fails_the_run_and_isn_t_retried(
    wrong: Any, message: str
) -> None:
    class Wrong(Workflow):
        @step(retry=Retry(attempts=5, delay=0))
        async def work(self, ev: StartEvent):  # type: ignore[no-untyped-def] # noqa: ANN202 - the point
            return wrong

    handler = Wrong().run()
    with pytest.raises(InvalidInput, match=message):
        await handler
    assert (await last_event(handler)).attempts == 1


async def test_a_run_in_which_nothing_is_left_to_do_fails_instead_of_hanging() -> None:
    class Stuck(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent | None:
            return None

    with pytest.raises(RunFailed, match="none has returned a StopEvent"):
        await Stuck().run()


@pytest.mark.allow_blocking  # three threads share the interpreter; what waits for it isn't at fault
async def test_many_runs_at_once_all_end_with_their_own_result() -> None:
    class Chain(Workflow):
        @step
        async def one(self, ev: StartEvent) -> First:
            return First(text=f"{ev.n}")

        @step
        async def two(self, ev: First) -> StopEvent:
            return StopEvent(result=int(ev.text))

    workflow = Chain()
    handlers = [workflow.run(n=n) for n in range(300)]
    assert await asyncio.gather(*[handler.result() for handler in handlers]) == list(range(300))
    async with connect() as streams:
        assert len(await streams.list_runs(status="completed")) == 300

"""The runner: runs that a step starts are children of its run."""

from __future__ import annotations

import asyncio

import pytest

from runner_cases import Failing, Progress, begun
from runstream import (
    Context,
    RunCancelled,
    StartEvent,
    StopEvent,
    Workflow,
    connect,
    step,
)
from workflow_runs import own_log, records_of

__all__ = ["own_log"]


class Child(Workflow):
    @step
    async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Progress(n=ev.n))
        if ev.n < 0:
            await asyncio.Event().wait()
        return StopEvent(result=ev.n * 10)


class Parent(Workflow):
    @step
    async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
        first = Child().run(n=1, run_id=f"{ctx.run_id}-1")
        second = Child().run(n=2)
        return StopEvent(result=[await first, await second])


async def test_a_child_s_events_are_in_its_root_s_stream_and_its_end_ends_only_itself() -> None:
    handler = Parent().run(run_id="parent")
    events = [event async for event in handler.stream_events()]
    assert sorted(event.n for event in events[:-1]) == [1, 2]
    assert await handler == [10, 20]
    records = await records_of(handler)
    assert {record.run_id for record in records} == {"parent", "parent-1"} | {
        record.run_id for record in records
    }
    assert len({record.run_id for record in records}) == 3
    assert records[-1].kind == "run.completed"
    assert records[-1].run_id == "parent"
    async with connect() as streams:
        child = streams.handler("parent-1")
        assert (await child.info()).parent_run_id == "parent"
        own = [record async for record in child.subscribe()]
        assert {record.run_id for record in own} == {"parent-1"}
        assert own[-1].kind == "run.completed"
        assert await child == 10


async def test_a_run_s_end_cancels_the_children_that_it_did_not_wait_for() -> None:
    class Careless(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await begun(Child().run(n=-1))
            return StopEvent(result="gone")

    handler = Careless().run()
    assert await handler == "gone"
    kinds = [(r.kind, r.run_id == handler.run_id) for r in await records_of(handler)]
    assert kinds[-2:] == [("run.cancelled", False), ("run.completed", True)]


async def test_cancelling_a_run_cancels_its_children() -> None:
    class Waiting(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await Child().run(n=-1))

    handler = Waiting().run()
    await begun(handler)
    await handler.cancel_run()
    with pytest.raises(RunCancelled):
        await handler
    ends = [
        (r.kind, r.run_id == handler.run_id) for r in await records_of(handler) if r.is_terminal
    ]
    assert ends == [("run.cancelled", False), ("run.cancelled", True)]


async def test_a_child_s_failure_is_an_error_in_its_parent() -> None:
    class Catching(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                await Failing().run()
            except KeyError as error:
                return StopEvent(result=f"caught {error}")
            return StopEvent()

    assert await Catching().run() == "caught 'gone'"

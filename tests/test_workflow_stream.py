"""The stream of a workflow's run: what is written is what every reader gets, as typed events."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runstream import (
    Context,
    Event,
    HumanResponseEvent,
    InvalidInput,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)
from workflow_cases import Progress, ThreeSteps
from workflow_runs import own_log

__all__ = ["own_log"]


async def test_none_and_a_stop_event_written_to_the_stream_end_nothing() -> None:
    class Writer(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.write_event_to_stream(None)
            ctx.write_event_to_stream(StopEvent(result="not yet"))
            ctx.write_event_to_stream(Progress(text="after"))
            with pytest.raises(InvalidInput, match="an event is written"):
                ctx.write_event_to_stream({"no": "event"})  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - the point
            return StopEvent(result="now")

    handler = Writer().run()
    events = [event async for event in handler.stream_events()]
    assert [event.event_type for event in events] == [
        "StopEvent",
        "workflow_progress",
        "run.completed",
    ]
    assert await handler == "now"


async def test_changing_an_event_after_it_was_written_changes_nothing() -> None:
    class Mutating(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            progress = Progress(text="1")
            ctx.write_event_to_stream(progress)
            progress.text = "2"
            ctx.write_event_to_stream(progress)
            return StopEvent()

    handler = Mutating().run()
    assert [
        event.text async for event in handler.stream_events() if isinstance(event, Progress)
    ] == [
        "1",
        "2",
    ]


async def test_a_hundred_thousand_events_without_an_await_are_all_delivered() -> None:
    class Burst(Workflow):
        @step
        def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            for n in range(100_000):
                ctx.write_event_to_stream(Number(n=n))
            return StopEvent()

    handler = Burst().run()
    expected = 0
    async for record in handler.subscribe(kinds="workflow_number"):
        if record.kind == "workflow_number":
            assert record.raw == b'{"n":%d}' % expected
            expected += 1
    assert expected == 100_000


class Number(Event, kind="workflow_number"):
    n: int


@pytest.mark.allow_blocking
async def test_an_async_step_that_never_awaits_delivers_them_all_too() -> None:
    class Burst(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            for n in range(100_000):
                ctx.write_event_to_stream(Number(n=n))
            return StopEvent()

    handler = Burst().run()
    await handler
    last = [record async for record in handler.subscribe(last=3)]
    assert [record.seq for record in last[-3:]] == [100_002, 100_003, 100_004]


async def test_the_stream_can_be_read_any_number_of_times_at_once_during_and_after() -> None:
    handler = ThreeSteps().run(first_input="x")

    async def read() -> list[Any]:
        return [event async for event in handler.stream_events()]

    during = await asyncio.gather(read(), read(), asyncio.to_thread(asyncio.run, read()))
    after = await read()
    assert list(during) == [after] * 3
    assert len(after) == 4


async def test_readers_here_get_the_run_s_own_classes_and_no_namesakes() -> None:
    def make() -> tuple[type[Workflow], type[Event], type[HumanResponseEvent]]:
        class Twin(Event):
            n: int

        class Reply(HumanResponseEvent):
            pass

        class Asker(Workflow):
            @step
            async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
                ctx.write_event_to_stream(Twin(n=1))
                reply = await ctx.wait_for_event(Reply)
                return StopEvent(result=type(reply) is Reply)

        return Asker, Twin, Reply

    first, twin, reply = make()
    make()  # its classes have the same kinds, and are newer
    handler = first().run()
    seen: list[type[Event]] = []
    async for event in handler.stream_events():
        seen.append(type(event))
        if type(event) is twin:
            await handler.send_event(reply())
    assert seen[0] is twin
    assert await handler is True

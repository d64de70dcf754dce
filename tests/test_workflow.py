"""Workflows: declaring steps, routing events between them, and running them."""

from __future__ import annotations

import asyncio
import threading

import pytest
from pydantic import ValidationError

from runstream import (
    Context,
    Event,
    InvalidInput,
    Retry,
    RunEnded,
    StartEvent,
    StopEvent,
    Workflow,
    connect,
    publish,
    step,
)
from runstream.events import WorkflowCompletedEvent
from workflow_cases import Answer, Asking, First, Progress, Second, ThreeSteps
from workflow_runs import kinds_of, own_log, records_of, until

__all__ = ["own_log"]


async def test_steps_pass_events_on_until_one_returns_the_result() -> None:
    handler = ThreeSteps(timeout=30).run(first_input="start")
    assert await handler == "start!"
    assert await kinds_of(handler) == [
        "run.started",
        "step.started one#1",
        "workflow_progress one#1",
        "step.completed one#1",
        "step.started two#1",
        "workflow_progress two#1",
        "step.completed two#1",
        "step.started three#1",
        "workflow_progress three#1",
        "step.completed three#1",
        "run.completed",
    ]


async def test_the_lifecycle_records_say_what_a_reader_needs() -> None:
    handler = ThreeSteps("greeter").run(first_input="start", run_id="my-run")
    await handler
    records = await records_of(handler)
    assert records[0].data == {
        "workflow": "greeter",
        "parent_run_id": None,
        "root_run_id": "my-run",
        "input": {"first_input": "start"},
    }
    started, progress, completed = records[1:4]
    assert started.data == {"event": "StartEvent"}
    assert started.step_run_id == progress.step_run_id == completed.step_run_id
    assert completed.data["event"] == "First"
    assert completed.data["duration"] >= 0
    assert len({record.step_run_id for record in records[1:-1]}) == 3
    assert records[-1].data == {"result": "start!"}


async def test_streamed_events_are_typed_and_end_with_the_end_of_the_run() -> None:
    handler = ThreeSteps().run(first_input="x")
    seen = [event async for event in handler.stream_events()]
    assert [event.text for event in seen[:-1]] == ["one", "two", "three"]
    assert all(type(event) is Progress for event in seen[:-1])
    assert isinstance(seen[-1], StopEvent)
    assert isinstance(seen[-1], WorkflowCompletedEvent)
    assert seen[-1].result == "x!"


async def test_unions_route_to_the_step_of_each_member_and_none_to_nobody() -> None:
    class Even(Event):
        n: int

    class Odd(Event):
        n: int

    class Result(Event):
        text: str

    class Branching(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Even | Odd:
            return Even(n=ev.n) if ev.n % 2 == 0 else Odd(n=ev.n)

        @step
        async def even(self, ev: Even) -> Result:
            return Result(text=f"{ev.n} is even")

        @step
        async def odd(self, ev: Odd) -> Result:
            return Result(text=f"{ev.n} is odd")

        @step
        async def note(self, ev: Even | Odd) -> None:
            publish({"n": ev.n})

        @step
        async def end(self, ev: Result) -> StopEvent:
            return StopEvent(result=ev.text)

    assert await Branching().run(n=2) == "2 is even"
    handler = Branching().run(n=3)
    assert await handler == "3 is odd"
    assert "event note#1" in await kinds_of(handler)


async def test_a_list_is_routed_event_by_event_and_collected_again() -> None:
    class Part(Event):
        n: int

    class Done(Event):
        n: int

    class FanOut(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Part]:
            return [Part(n=n) for n in range(10)]

        @step(num_workers=3)
        async def work(self, ev: Part) -> Done:
            await asyncio.sleep(0)
            return Done(n=ev.n**2)

        @step
        async def gather(self, ctx: Context, ev: Done) -> StopEvent | None:
            events = ctx.collect_events(ev, [Done] * 10)
            return None if events is None else StopEvent(result=sum(one.n for one in events))

    assert await FanOut().run() == sum(n**2 for n in range(10))


async def test_events_of_several_types_are_collected_in_the_expected_order() -> None:
    class Numbers(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> First | Second | None:
            ctx.send_event(Second(text="b"))
            ctx.send_event(First(text="a"))
            ctx.send_event(Second(text="c"))
            return None

        @step(num_workers=1)
        async def both(self, ctx: Context, ev: First | Second) -> StopEvent | None:
            events = ctx.collect_events(ev, [First, Second, Second])
            return None if events is None else StopEvent(result=[one.text for one in events])

    assert await Numbers().run() == ["a", "b", "c"]


async def test_what_a_failed_attempt_collected_is_undone() -> None:
    failures = iter([True, False])

    class Flaky(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> list[First]:
            return [First(text="a"), First(text="b")]

        @step(num_workers=1, retry=Retry(attempts=2, delay=0))
        async def both(self, ctx: Context, ev: First) -> StopEvent | None:
            events = ctx.collect_events(ev, [First, First])
            if events is None:
                return None
            if next(failures):
                raise OSError("again")
            return StopEvent(result=[one.text for one in events])

    assert await Flaky().run() == ["a", "b"]


async def test_no_more_of_a_step_run_at_once_than_it_has_workers() -> None:
    running: list[int] = []
    most = 0

    class Part(Event):
        n: int

    class Bounded(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Part]:
            return [Part(n=n) for n in range(9)]

        @step(num_workers=2)
        async def work(self, ctx: Context, ev: Part) -> StopEvent | None:
            nonlocal most
            running.append(ev.n)
            most = max(most, len(running))
            await asyncio.sleep(0)
            running.remove(ev.n)
            return StopEvent(result=most) if ctx.collect_events(ev, [Part] * 9) else None

    assert await Bounded().run() == 2


async def test_plain_steps_run_in_threads_with_the_context_of_their_step() -> None:
    class Plain(Workflow):
        @step
        def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            publish({"in": "thread"})
            ctx.write_event_to_stream(Progress(text=threading.current_thread().name))
            return StopEvent(result=threading.get_ident())

    handler = Plain().run()
    assert await handler != threading.get_ident()
    records = await records_of(handler)
    assert [(record.kind, record.step) for record in records[2:4]] == [
        ("event", "work"),
        ("workflow_progress", "work"),
    ]


async def test_free_functions_make_a_workflow() -> None:
    @step
    async def begin(ctx: Context, ev: StartEvent) -> First:
        return First(text=ev.who)

    @step
    def greet(ev: First) -> StopEvent:
        return StopEvent(result=f"Hello, {ev.text}!")

    handler = Workflow("greeting", [begin, greet], timeout=10).run(who="you")
    assert await handler == "Hello, you!"
    assert (await handler.info()).workflow == "greeting"


async def test_a_sole_entry_step_that_takes_any_event_gets_the_start_and_may_not_say_what_it_returns() -> (
    None
):
    @step
    async def process(ctx: Context, ev: Event):  # type: ignore[no-untyped-def]  # noqa: ANN202 - the point
        for i in range(3):
            ctx.write_event_to_stream(Progress(text=f"{i}"))
        return StopEvent(result={"done": True, "given": ev.given})

    handler = Workflow("blazen", [process]).run(given=1)
    assert await handler == {"done": True, "given": 1}


async def test_subclasses_are_accepted_on_request_only() -> None:
    class Special(First):
        pass

    def make(*, accept: bool) -> Workflow:
        @step
        async def begin(ev: StartEvent) -> Special:
            return Special(text="special")

        @step(accept_subclasses=accept)
        async def end(ev: First) -> StopEvent:
            return StopEvent(result=type(ev).__name__)

        return Workflow("sub", [begin, end])

    assert await make(accept=True).run() == "Special"
    with pytest.raises(InvalidInput, match=r"'begin' of 'sub' returns Special, which no step"):
        make(accept=False).run()


async def test_a_stop_event_of_its_own_class_is_the_result_everywhere() -> None:
    class Verdict(StopEvent):
        guilty: bool

    class Trial(Workflow):
        @step
        async def judge(self, ev: StartEvent) -> Verdict:
            return Verdict(guilty=False)

    handler = Trial().run()
    assert await handler == Verdict(guilty=False)
    assert [event async for event in handler.stream_events()] == [Verdict(guilty=False)]
    async with connect() as streams:
        elsewhere = streams.handler(handler.run_id)
        assert await elsewhere == Verdict(guilty=False)


class Given(StartEvent):
    amount: int


class Typed(Workflow):
    @step
    async def begin(self, ev: Given) -> StopEvent:
        return StopEvent(result=ev.amount * 2)


async def test_the_input_is_checked_against_the_start_event_before_anything_runs() -> None:
    assert await Typed().run(amount=4) == 8
    assert await Typed().run(start_event=Given(amount=5)) == 10
    with pytest.raises(ValidationError, match="amount"):
        Typed().run(amount="many")
    with pytest.raises(ValidationError, match="amount"):
        Typed().run()
    with pytest.raises(InvalidInput, match="not both"):
        Typed().run(start_event=Given(amount=5), amount=5)
    with pytest.raises(InvalidInput, match="no step of 'Typed' accepts a StartEvent"):
        Typed().run(start_event=StartEvent())
    with pytest.raises(InvalidInput, match="not a run id"):
        Typed().run(amount=1, run_id="no spaces")
    async with connect() as streams:
        assert len(await streams.list_runs()) == 2


async def test_a_step_s_method_is_an_ordinary_method_outside_of_a_run() -> None:
    class Calculator(Workflow):
        @step
        async def add(self, ev: Given) -> StopEvent:
            return StopEvent(result=await self.double(ev.amount))

        @step
        async def double(self, amount: int) -> int:
            return amount * 2

    workflow = Calculator()
    assert (await workflow.add(Given(amount=2))).result == 4
    handler = workflow.run(amount=3)
    assert await handler == 6
    # Inside the run the step without events is a step of its own.
    kinds = await kinds_of(handler)
    assert kinds[1:5] == [
        "step.started add#1",
        "step.started double#1",
        "step.completed double#1",
        "step.completed add#1",
    ]


async def test_without_a_running_loop_a_workflow_runs_in_a_thread_of_its_own() -> None:
    def plain_code() -> str:
        handler = ThreeSteps().run(first_input="plain")
        return str(asyncio.run(handler.result()))

    assert await asyncio.to_thread(plain_code) == "plain!"


async def test_verbose_says_what_runs(capsys: pytest.CaptureFixture[str]) -> None:
    await ThreeSteps(verbose=True).run(first_input="x")
    said = capsys.readouterr().err
    assert "step one (attempt 1) begins" in said
    assert "step two returns Second" in said


async def test_the_handler_knows_how_the_run_stands() -> None:
    handler = Asking().run()
    assert (handler.status, handler.is_done()) == ("running", False)
    await handler.send_event(Answer(response=1))
    await handler
    assert (handler.status, handler.is_done()) == ("completed", True)
    assert (await handler.info()).status == "completed"
    await until(handler.is_done)


async def test_a_run_that_has_ended_is_not_run_again() -> None:
    await ThreeSteps().run(first_input="x", run_id="once")
    with pytest.raises(RunEnded):
        await ThreeSteps().run(first_input="x", run_id="once")

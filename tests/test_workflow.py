"""Workflows: declaring steps, routing events between them, and what a step can do through its context."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from runstream import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
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
from workflow_runs import kinds_of, own_log, records_of, until

__all__ = ["own_log"]


class First(Event):
    text: str


class Second(Event):
    text: str


class Progress(Event, kind="workflow_progress"):
    text: str


class ThreeSteps(Workflow):
    @step
    async def one(self, ctx: Context, ev: StartEvent) -> First:
        ctx.write_event_to_stream(Progress(text="one"))
        return First(text=ev.first_input)

    @step
    async def two(self, ctx: Context, ev: First) -> Second:
        ctx.write_event_to_stream(Progress(text="two"))
        return Second(text=ev.text + "!")

    @step
    async def three(self, ctx: Context, ev: Second) -> StopEvent:
        ctx.write_event_to_stream(Progress(text="three"))
        return StopEvent(result=ev.text)


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
            await asyncio.sleep(0.001)
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


# --- the check of the graph ----------------------------------------------------------------------


def without_start() -> Workflow:
    @step
    async def lost(ev: First) -> StopEvent:
        return StopEvent()

    return Workflow("w", [lost])


def without_stop() -> Workflow:
    @step
    async def begin(ev: StartEvent) -> First:
        return First(text="")

    @step
    async def go_on(ev: First) -> None:
        return None

    return Workflow("w", [begin, go_on])


def without_consumer() -> Workflow:
    @step
    async def begin(ev: StartEvent) -> First | StopEvent:
        return StopEvent()

    return Workflow("w", [begin])


def without_producer() -> Workflow:
    @step
    async def begin(ev: StartEvent) -> StopEvent:
        return StopEvent()

    @step
    async def idle(ev: Second) -> StopEvent:
        return StopEvent()

    return Workflow("w", [begin, idle])


def with_a_text_result() -> Workflow:
    @step
    async def begin(ev: StartEvent) -> str:
        return ""

    return Workflow("w", [begin])


def with_an_unknown_event() -> Workflow:
    async def begin(ev: StartEvent) -> StopEvent:
        return StopEvent()

    begin.__annotations__["return"] = "Nowhere"
    return Workflow("w", [step(begin)])


def with_a_needless_parameter() -> Workflow:
    @step
    async def begin(ev: StartEvent, more: int) -> StopEvent:
        return StopEvent()

    return Workflow("w", [begin])


def with_a_plain_function() -> Workflow:
    @step
    def work(item: int) -> int:
        return item

    return Workflow("w", [work])


def with_two_of_a_name() -> Workflow:
    @step(name="x")
    async def one(ev: StartEvent) -> StopEvent:
        return StopEvent()

    @step(name="x")
    async def two(ev: StartEvent) -> StopEvent:
        return StopEvent()

    return Workflow("w", [one, two])


def with_two_states() -> Workflow:
    @step
    async def one(ctx: Context[dict[str, int]], ev: StartEvent) -> First:
        return First(text="")

    @step
    async def two(ctx: Context[Counted], ev: First) -> StopEvent:
        return StopEvent()

    @step
    async def three(ctx: Context[Named], ev: First) -> StopEvent:
        return StopEvent()

    return Workflow("w", [one, two, three])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (without_start, "no step of 'w' accepts a StartEvent"),
        (without_stop, "no step of 'w' returns a StopEvent"),
        (without_consumer, "'begin' of 'w' returns First, which no step accepts"),
        (without_producer, "'idle' of 'w' accepts Second, which no step returns"),
        (with_a_text_result, "'begin' of 'w': it returns str, which is no event"),
        (with_an_unknown_event, "'begin' of 'w': it returns a Nowhere, which cannot be found"),
        (with_a_needless_parameter, "its parameter 'more' is neither a Context nor an Event"),
        (with_a_plain_function, "'work' of 'w'.*no parameter that is annotated with an event"),
        (with_two_of_a_name, "'w' has two steps named 'x'"),
        (with_two_states, "share one state, but name Counted and Named"),
        (lambda: Workflow("w"), "'w' has no steps"),
        (lambda: Workflow("w", [print]), "declared with @step"),  # type: ignore[list-item] # pyright: ignore[reportArgumentType] - the point
        (lambda: Workflow("w", timeout=0), "a number of seconds above 0"),
    ],
)
async def test_a_workflow_that_cannot_work_says_why_before_it_runs(
    make: Callable[[], Workflow], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        make().run()


async def test_the_check_can_be_left_out() -> None:
    @step
    async def begin(ev: StartEvent) -> First | StopEvent:
        return StopEvent(result="fine")

    assert await Workflow("w", [begin], check=False).run() == "fine"


# --- the context ---------------------------------------------------------------------------------


class Counted(BaseModel):
    count: int = 0
    seen: list[str] = []


class Named(BaseModel):
    name: str = ""


class Counting(Workflow):
    @step
    async def split(self, ev: StartEvent) -> list[First]:
        return [First(text=str(n)) for n in range(20)]

    @step(num_workers=20)
    async def count(self, ctx: Context[Counted], ev: First) -> StopEvent | None:
        async with ctx.store.edit_state() as state:
            before = state.count
            await asyncio.sleep(0)
            state.count = before + 1
            state.seen.append(ev.text)
        if ctx.collect_events(ev, [First] * 20) is None:
            return None
        return StopEvent(result=(await ctx.store.get_state()).count)


async def test_the_state_is_typed_and_its_edits_don_t_get_between_each_other() -> None:
    assert await Counting().run() == 20
    assert await Counting().run() == 20  # each run has its own


async def test_an_edit_that_raises_changes_nothing() -> None:
    class Careful(Workflow):
        @step
        async def work(self, ctx: Context[Counted], ev: StartEvent) -> StopEvent:
            with pytest.raises(ZeroDivisionError):
                async with ctx.store.edit_state() as state:
                    state.seen.append("half")
                    state.count = 1 // 0
            return StopEvent(result=(await ctx.store.get_state()).seen)

    assert await Careful().run() == []


async def test_a_state_without_a_class_takes_any_keys_and_paths() -> None:
    class Free(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> Second:
            await ctx.store.set("user", {"name": "Ada"})
            await ctx.store.set("user.born", 1815)
            return Second(text="")

        @step
        def plain(self, ctx: Context, ev: Second) -> First:
            with ctx.store.edit_state() as state:
                state["more"] = state.user["name"] + "!"
            return First(text="")

        @step
        async def read(self, ctx: Context, ev: First) -> StopEvent:
            assert await ctx.store.get("nothing", default=None) is None
            with pytest.raises(InvalidInput, match=r"no 'user\.died'"):
                await ctx.store.get("user.died")
            return StopEvent(result=[await ctx.store.get("user.born"), await ctx.store.get("more")])

    assert await Free().run() == [1815, "Ada!"]


class Question(InputRequiredEvent):
    about: str = ""


class Answer(HumanResponseEvent):
    about: str = ""


class Asking(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        self.times = getattr(self, "times", 0) + 1
        answer = await ctx.wait_for_event(
            Answer, waiter_event=Question(prefix="Really?"), timeout=30
        )
        return StopEvent(result=(answer.response, self.times))


async def test_a_step_waits_for_a_person_and_goes_on_where_it_was() -> None:
    handler = Asking().run()
    async for event in handler.stream_events():
        if isinstance(event, Question):
            assert event.prefix == "Really?"
            await handler.send_event(Answer(response="yes"))
    assert await handler == ("yes", 1)


async def test_an_answer_from_another_process_reaches_the_step() -> None:
    handler = Asking().run()
    async with connect() as streams:
        elsewhere = streams.handler(handler.run_id)
        async for event in elsewhere.subscribe(kinds=["Question"], wait=True):
            if not event.is_terminal:
                await elsewhere.send_event(Answer(response="from afar"))
        assert (await elsewhere)[0] == "from afar"


async def test_an_answer_that_comes_before_the_question_is_kept() -> None:
    go = asyncio.Event()

    class Slow(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await asyncio.wait_for(go.wait(), 10)
            return StopEvent(result=(await ctx.wait_for_event(Answer)).response)

    handler = Slow().run()
    await handler.send_event(Answer(response="early"))
    async for record in handler.subscribe():
        if record.kind == "run.signal":
            go.set()
    assert await handler == "early"


async def test_answers_go_to_the_step_whose_requirements_they_meet() -> None:
    class Two(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> list[First]:
            return [First(text="a"), First(text="b")]

        @step
        async def ask(self, ctx: Context, ev: First) -> Second:
            answer = await ctx.wait_for_event(
                Answer, waiter_event=Question(about=ev.text), requirements={"about": ev.text}
            )
            return Second(text=f"{ev.text}={answer.response}")

        @step
        async def both(self, ctx: Context, ev: Second) -> StopEvent | None:
            events = ctx.collect_events(ev, [Second, Second])
            return None if events is None else StopEvent(result=sorted(one.text for one in events))

    handler = Two().run()
    await handler.send_event(Answer(about="b", response=2))
    await handler.send_event(Answer(about="a", response=1))
    assert await handler == ["a=1", "b=2"]


async def test_waiting_can_be_limited() -> None:
    class Impatient(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            with pytest.raises(TimeoutError):
                await ctx.wait_for_event(Answer, timeout=0.01)
            return StopEvent(result="nobody came")

    assert await Impatient().run() == "nobody came"


async def test_a_question_may_be_returned_and_the_answer_accepted_by_a_step() -> None:
    class Form(Workflow):
        @step
        async def ask(self, ev: StartEvent) -> Question:
            return Question(prefix="Name?")

        @step
        async def greet(self, ev: Answer) -> StopEvent:
            return StopEvent(result=f"Hello, {ev.response}!")

    handler = Form().run()
    async for event in handler.stream_events():
        if isinstance(event, Question):
            await handler.send_event(Answer(response="Ada"))
    assert await handler == "Hello, Ada!"


async def test_an_event_may_be_sent_to_one_step_and_must_find_one() -> None:
    class Picky(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> First | None:
            with pytest.raises(InvalidInput, match="no step accepts a Second"):
                ctx.send_event(Second(text=""))
            with pytest.raises(InvalidInput, match="no step 'begin' accepts a First"):
                ctx.send_event(First(text=""), step="begin")
            ctx.send_event(First(text="x"), step="right")
            return None

        @step
        async def left(self, ev: First) -> StopEvent:
            return StopEvent(result="left")

        @step
        async def right(self, ev: First) -> StopEvent:
            return StopEvent(result="right")

    assert await Picky().run() == "right"


async def test_the_context_knows_the_run_and_the_attempt() -> None:
    class Knowing(Workflow):
        @step(retry=Retry(attempts=3, delay=0))
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if ctx.attempt < 3:
                raise OSError(f"attempt {ctx.attempt}")
            return StopEvent(result=(ctx.run_id, ctx.step, ctx.attempt))

    assert await Knowing().run(run_id="known") == ("known", "work", 3)


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


async def test_a_run_that_has_ended_is_not_run_again() -> None:
    await ThreeSteps().run(first_input="x", run_id="once")
    with pytest.raises(RunEnded):
        await ThreeSteps().run(first_input="x", run_id="once")

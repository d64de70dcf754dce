"""What a step can do through its context: a typed state, waiting for people, sending events."""

from __future__ import annotations

import asyncio

import pytest

from runstream import (
    Context,
    InvalidInput,
    Retry,
    StartEvent,
    StopEvent,
    Workflow,
    connect,
    step,
)
from workflow_cases import Answer, Asking, Counted, First, Question, Second
from workflow_runs import own_log

__all__ = ["own_log"]


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
            await asyncio.wait_for(go.wait(), 30)
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

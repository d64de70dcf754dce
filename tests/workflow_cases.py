"""Workflows that several tests of workflows run."""

from __future__ import annotations

from pydantic import BaseModel

from runstream import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)


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


class Counted(BaseModel):
    count: int = 0
    seen: list[str] = []


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

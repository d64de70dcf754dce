"""Workflows that several tests of the runner run: one fails, one never ends."""

from __future__ import annotations

import asyncio

from runstream import (
    Context,
    Event,
    Handler,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)


class First(Event):
    text: str = ""


class Progress(Event, kind="runner_progress"):
    n: int


async def last_event(handler: Handler) -> Event:
    return [event async for event in handler.stream_events()][-1]


class Failing(Workflow):
    @step
    async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
        raise KeyError("gone")


class Endless(Workflow):
    @step
    async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Progress(n=1))
        await asyncio.Event().wait()
        return StopEvent()


async def begun(handler: Handler) -> None:
    """Wait until the run's step has published something."""
    async with handler.subscribe(kinds="runner_progress") as records:
        await anext(records)

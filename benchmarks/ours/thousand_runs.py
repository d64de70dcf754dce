"""1 000 runs at once in one process, three steps each, all stored in SQLite with FULL sync.

First all of them wait for an answer, which gives the memory of an idle run; then they get it and end.
After that as many that wait for nothing, which gives runs/s.
"""

import asyncio
import gc
import time

from benchmarks.measure import arguments, emit, max_rss_mib
from benchmarks.ours.slow_subscriber import rss_mib
from runstream import (
    Context,
    Event,
    Handler,
    HumanResponseEvent,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)


class Question(Event, kind="question"):
    """From the first step to the second."""

    number: int
    waits: bool


class Answer(Event, kind="answer"):
    """From the second step to the third."""

    number: int


class ThreeSteps(Workflow):
    """Three steps; the second one may wait for an event from outside."""

    @step
    async def ask(self, ev: StartEvent) -> Question:
        return Question(number=ev.number, waits=ev.waits)

    @step
    async def answer(self, ctx: Context, ev: Question) -> Answer:
        if ev.waits:
            await ctx.wait_for_event(HumanResponseEvent)
        return Answer(number=ev.number)

    @step
    async def end(self, ev: Answer) -> StopEvent:
        return StopEvent(result=ev.number)


def start(url: str, count: int, *, waits: bool) -> list[Handler]:
    return [ThreeSteps().run(url=url, number=number, waits=waits) for number in range(count)]


async def until_idle(handlers: list[Handler]) -> None:
    """Wait until each run's second step has begun, as its stream tells."""
    for handler in handlers:
        async with handler.subscribe(kinds="step.started") as records:
            async for record in records:
                if record.step == "answer":
                    break


async def measure(url: str, count: int) -> None:
    for warm_up in start(url, 20, waits=False):
        await warm_up
    gc.collect()
    before = rss_mib()
    begin = time.perf_counter()
    idle = start(url, count, waits=True)
    await until_idle(idle)
    began = time.perf_counter() - begin
    gc.collect()
    growth = rss_mib() - before
    await asyncio.gather(*[handler.send_event(HumanResponseEvent()) for handler in idle])
    ended = await asyncio.gather(*idle)

    begin = time.perf_counter()
    straight = await asyncio.gather(*start(url, count, waits=False))
    took = time.perf_counter() - begin
    emit(
        "thousand_runs",
        runs_per_s=round(count / took),
        idle_run_kib=round(growth * 1024 / count, 1),
        until_all_idle_s=round(began, 3),
        sent=2 * count,
        received=len(set(ended)) + len(set(straight)),
        in_order=ended == straight == list(range(count)),
        max_rss_mib=max_rss_mib(),
    )


if __name__ == "__main__":
    args = arguments(__doc__).parse_args()
    asyncio.run(measure(f"sqlite:{args.scratch / 'events.db'}", 100 if args.quick else 1000))

"""LlamaIndex Workflows: a fan-out to parallel no-op steps, collected by `collect_events`.

In memory, nothing stored; from `run()` to the result. Their other way, steps that return and accept
a `list[Event]`, was slower still at this width, so this is the better of the two.
"""

import asyncio
import time
from importlib.metadata import version

from workflows import Context, Workflow, step
from workflows.events import Event, StartEvent, StopEvent

from benchmarks.measure import arguments, emit, max_rss_mib

COUNT = 1000


class Part(Event):
    """What our own fan-out sends, too; `of` is how many there are."""

    index: int
    of: int


class Done(Event):
    """What each parallel step returns."""

    index: int
    of: int


class FanOut(Workflow):
    """One step sends, `count` steps run at a time, one collects."""

    @step
    async def spread(self, ctx: Context, ev: StartEvent) -> Part | None:
        for index in range(ev.count):
            ctx.send_event(Part(index=index, of=ev.count))
        return None

    @step(num_workers=COUNT)
    async def work(self, ev: Part) -> Done:
        return Done(index=ev.index, of=ev.of)

    @step(num_workers=COUNT)
    async def collect(self, ctx: Context, ev: Done) -> StopEvent | None:
        parts = ctx.collect_events(ev, [Done] * ev.of)
        return None if parts is None else StopEvent(result=sorted(part.index for part in parts))


async def measure(count: int) -> None:
    for width in (10, count):  # the first warms up
        begin = time.perf_counter()
        assert await FanOut(timeout=None).run(count=width) == list(range(width))
        took = time.perf_counter() - begin
    emit(
        "llamaindex_fanout",
        steps_per_s=round(count / took),
        max_rss_mib=max_rss_mib(),
        version=version("llama-index-workflows"),
        note="in memory, nothing stored",
    )


if __name__ == "__main__":
    asyncio.run(measure(100 if arguments(__doc__).parse_args().quick else COUNT))

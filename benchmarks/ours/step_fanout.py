"""A fan-out to parallel no-op steps, collected; each lifecycle record stored in SQLite with FULL sync.

From `run()` to the result, which waits until everything is stored.
"""

import asyncio
import statistics
import time

from benchmarks.measure import arguments, emit, max_rss_mib
from benchmarks.ours.step_chain import completed_steps
from runstream import Context, Event, StartEvent, StopEvent, Workflow, step

COUNT = 1000


class Part(Event, kind="part"):
    """What the peer's fan-out sends, too; `of` is how many there are."""

    index: int
    of: int


class Done(Event, kind="done"):
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


async def measure(url: str, count: int, runs: int) -> None:
    speeds: list[float] = []
    for width in (10, *[count] * runs):  # the first warms up, and opens the file
        begin = time.perf_counter()
        handler = FanOut().run(url=url, count=width)
        assert await handler == list(range(width))
        speeds.append(width / (time.perf_counter() - begin))
    emit(
        "step_fanout",
        steps_per_s=round(statistics.median(speeds[1:])),
        sent=2 * count + 1,  # those that worked, those that collected, the one that sent
        received=await completed_steps(url, handler.run_id),
        max_rss_mib=max_rss_mib(),
    )


if __name__ == "__main__":
    args = arguments(__doc__).parse_args()
    sizes = (100, 2) if args.quick else (COUNT, 3)
    asyncio.run(measure(f"sqlite:{args.scratch / 'events.db'}", *sizes))

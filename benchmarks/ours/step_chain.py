"""A chain of no-op steps, each lifecycle record stored in SQLite with FULL sync.

From `run()` to the result, which waits until everything is stored; several runs one after the other.
"""

import asyncio
import statistics
import time

from benchmarks.measure import arguments, emit, max_rss_mib
from runstream import Event, StartEvent, StopEvent, Workflow, connect, step


class Link(Event, kind="link"):
    """What the peer's chain hands on, too."""

    left: int


class Chain(Workflow):
    """As many steps as `left` says, and nothing done in any of them."""

    @step
    async def first(self, ev: StartEvent) -> Link | StopEvent:
        return Link(left=ev.left - 1)

    @step
    async def link(self, ev: Link) -> Link | StopEvent:
        return Link(left=ev.left - 1) if ev.left > 1 else StopEvent(result="done")


async def completed_steps(url: str, run_id: str) -> int:
    """How many steps the stream says were completed."""
    async with connect(url) as streams:
        records = streams.subscribe(run_id, kinds="step.completed")
        return sum([record.kind == "step.completed" async for record in records])


async def measure(url: str, count: int, runs: int) -> None:
    speeds: list[float] = []
    run_ids: list[str] = []
    for length in (10, *[count] * runs):  # the first warms up, and opens the file
        begin = time.perf_counter()
        handler = Chain().run(url=url, left=length)
        assert await handler == "done"
        speeds.append(length / (time.perf_counter() - begin))
        run_ids.append(handler.run_id)
    emit(
        "step_chain",
        steps_per_s=round(statistics.median(speeds[1:])),
        sent=count,
        received=min([await completed_steps(url, run_id) for run_id in run_ids[1:]]),
        max_rss_mib=max_rss_mib(),
    )


if __name__ == "__main__":
    args = arguments(__doc__).parse_args()
    sizes = (100, 2) if args.quick else (1000, 5)
    asyncio.run(measure(f"sqlite:{args.scratch / 'events.db'}", *sizes))

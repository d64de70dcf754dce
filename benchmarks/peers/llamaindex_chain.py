"""LlamaIndex Workflows: a chain of no-op steps, one event handed from each to the next.

In memory, nothing stored; from `run()` to the result, several runs one after the other.
"""

import asyncio
import statistics
import time
from importlib.metadata import version

from workflows import Workflow, step
from workflows.events import Event, StartEvent, StopEvent

from benchmarks.measure import arguments, emit, max_rss_mib


class Link(Event):
    """What our own chain hands on, too."""

    left: int


class Chain(Workflow):
    """As many steps as `left` says, and nothing done in any of them."""

    @step
    async def first(self, ev: StartEvent) -> Link | StopEvent:
        return Link(left=ev.left - 1)

    @step
    async def link(self, ev: Link) -> Link | StopEvent:
        return Link(left=ev.left - 1) if ev.left > 1 else StopEvent(result="done")


async def measure(count: int, runs: int) -> None:
    speeds: list[float] = []
    for length in (10, *[count] * runs):  # the first warms up
        begin = time.perf_counter()
        assert await Chain(timeout=None).run(left=length) == "done"
        speeds.append(length / (time.perf_counter() - begin))
    emit(
        "llamaindex_chain",
        steps_per_s=round(statistics.median(speeds[1:])),
        max_rss_mib=max_rss_mib(),
        version=version("llama-index-workflows"),
        note="in memory, nothing stored",
    )


if __name__ == "__main__":
    quick = arguments(__doc__).parse_args().quick
    asyncio.run(measure(100 if quick else 1000, 2 if quick else 5))

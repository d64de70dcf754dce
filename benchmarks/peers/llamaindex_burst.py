"""LlamaIndex Workflows: typed events written by one step, read by one `stream_events()`.

In memory, nothing stored: that is all the peer's in-process stream does.
"""

import asyncio
import time
from importlib.metadata import version

from workflows import Context, Workflow, step
from workflows.events import Event, StartEvent, StopEvent

from benchmarks.measure import arguments, emit, max_rss_mib


class Token(Event):
    """What our own burst writes too."""

    index: int
    text: str


class Burst(Workflow):
    """One step that writes `count` tokens; its result is when it began."""

    @step
    async def write(self, ctx: Context, ev: StartEvent) -> StopEvent:
        """Write, and let the consumer run after every `yield_every`-th token."""
        yield_every = ev.yield_every
        first = time.perf_counter()
        for index in range(ev.count):
            ctx.write_event_to_stream(Token(index=index, text="token"))
            if yield_every and (index + 1) % yield_every == 0:
                await asyncio.sleep(0)
        return StopEvent(result=first)


async def measure(count: int, yield_every: int) -> None:
    handler = Burst(timeout=None).run(count=count, yield_every=yield_every)
    received, in_order, last = 0, True, 0.0
    async for event in handler.stream_events():
        if isinstance(event, Token):
            in_order = in_order and event.index == received
            received += 1
            last = time.perf_counter()
    first = await handler
    emit(
        "llamaindex_burst",
        events_per_s=round(count / (last - first)),
        sent=count,
        received=received,
        in_order=in_order,
        max_rss_mib=max_rss_mib(),
        version=version("llama-index-workflows"),
        pydantic=version("pydantic"),
        note="in memory, nothing stored",
    )


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--yield-every", type=int, choices=(0, 1, 100), default=0)
    args = parser.parse_args()
    asyncio.run(measure(10_000 if args.quick else 100_000, args.yield_every))

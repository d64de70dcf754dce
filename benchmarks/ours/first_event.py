"""From `run()` to the first event that a step wrote, seen by `handler.stream_events()`.

What is seen is stored, with FULL sync; so the disk's own fdatasync is in it, and stands beside it.
"""

import asyncio
import time

from benchmarks.disk import probe
from benchmarks.measure import arguments, emit, percentile
from runstream import Context, Event, StartEvent, StopEvent, Workflow, step


class Hello(Event, kind="hello"):
    """What the subscriber waits for."""


class Greeting(Workflow):
    """One step that writes at once."""

    @step
    async def greet(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Hello())
        return StopEvent(result=ev.number)


async def first_event_ms(url: str, number: int) -> tuple[float, bool]:
    """The time, and whether the run went on to its end."""
    begin = time.perf_counter()
    handler = Greeting().run(url=url, number=number)
    took = 0.0
    async for event in handler.stream_events():
        if isinstance(event, Hello):
            took = (time.perf_counter() - begin) * 1000
    return took, await handler == number


async def measure(url: str, count: int) -> dict[str, object]:
    cold, _ = await first_event_ms(url, 0)  # makes the file, too
    times: list[float] = []
    received = 0
    for number in range(count):
        took, ended = await first_event_ms(url, number)
        times.append(took)
        received += ended and took > 0
    return {
        "p50_ms": round(percentile(times, 50), 3),
        "p99_ms": round(percentile(times, 99), 3),
        "cold_ms": round(cold, 3),
        "sent": count,
        "received": received,
    }


if __name__ == "__main__":
    args = arguments(__doc__).parse_args()
    result = asyncio.run(measure(f"sqlite:{args.scratch / 'events.db'}", 50 if args.quick else 500))
    emit("first_event", **result, **probe(args.scratch))

# The Python of Blazen's page "Streaming", sections "Publishing" and "Consuming Stream Events", working.
#
# Edits beside the import line (`from blazen import ...`):
# * `handler = wf.run()` without `await`: awaiting a run gives its result, here as in the other systems, so
#   the handler is what `run` itself returns.
# * `if isinstance(event, ProgressEvent)` before the page's `print`: the stream ends with the event that says
#   how the run ended, and that one has no `step`.
# * `wf = Workflow("progress", [process])` and `main`: the page starts at a workflow that it doesn't show.
"""A free function as a workflow's only step, and its progress from outside."""

import asyncio

from runstream import Context, Event, StopEvent, Workflow, step


class ProgressEvent(Event):
    step: int
    message: str


@step
async def process(ctx: Context, ev: Event):
    for i in range(3):
        ctx.write_event_to_stream(ProgressEvent(step=i, message=f"Processing step {i}"))
    return StopEvent(result={"done": True})


async def main() -> None:
    wf = Workflow("progress", [process])
    handler = wf.run()
    async for event in handler.stream_events():
        if isinstance(event, ProgressEvent):
            print(f"[{event.event_type}] step={event.step}")
    result = await handler.result()
    print(result)


if __name__ == "__main__":
    asyncio.run(main())

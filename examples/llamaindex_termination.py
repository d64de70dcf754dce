# The Python of LlamaIndex's page "Streaming events", section "Handling workflow termination", working.
#
# Edits beside the import line (`from workflows.events import ...`):
# * The page's loop is the body of `watch`, so that each kind of ending can go through it.
# * `Slow`, `Flaky` and `main`: workflows that end in these ways; the page has none.
"""A workflow that times out, one that is cancelled, one that fails: told in the stream, then raised."""

import asyncio

from runstream import (
    Context,
    Handler,
    Retry,
    RunCancelled,
    RunTimedOut,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledEvent,
    WorkflowFailedEvent,
    WorkflowTimedOutEvent,
    step,
)


async def watch(handler: Handler) -> None:
    async for ev in handler.stream_events():
        if isinstance(ev, WorkflowTimedOutEvent):
            print(f"Workflow timed out after {ev.timeout}s")
        elif isinstance(ev, WorkflowCancelledEvent):
            print("Workflow was cancelled")
        elif isinstance(ev, WorkflowFailedEvent):
            print(f"Step '{ev.step_name}' failed after {ev.attempts} attempts: {ev.exception}")


class Slow(Workflow):
    @step
    async def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(60)
        return StopEvent()


class Flaky(Workflow):
    @step(retry=Retry(attempts=3, delay=0.01))
    async def call(self, ctx: Context, ev: StartEvent) -> StopEvent:
        raise ConnectionError("the service is down")


async def main() -> None:
    handler = Slow(timeout=1.0).run()
    await watch(handler)
    try:
        await handler
    except RunTimedOut as error:
        print("raised:", error)

    handler = Slow().run()
    await handler.cancel_run()
    await watch(handler)
    try:
        await handler
    except RunCancelled:
        print("raised: RunCancelled")

    handler = Flaky().run()
    await watch(handler)
    try:
        await handler
    except ConnectionError as error:
        print("raised:", error)


if __name__ == "__main__":
    asyncio.run(main())

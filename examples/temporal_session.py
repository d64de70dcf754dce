# The Python of Temporal's page "Streaming from Workflows", working: a chat session of several turns.
#
# Edits beside the import lines (`temporalio.*`):
# * `class AnalyticsWorkflow(PubSubMixin)` with `init_pubsub` is gone: every run has a stream, so there is no
#   state to mix in and to hand from one session to the next. `serve_turn` takes the run up for one turn and
#   parks it again (between turns no process holds it), as the page's workflow waits for its next signal.
# * `_emit` is a function: `self.publish(EVENTS_TOPIC, json.dumps(event).encode())` is
#   `publish(event, topic=EVENTS_TOPIC)`; time is in each record already.
# * `@activity.defn` is `@step`, without `PubSubClient.create(batch_interval=2.0)` and `activity.heartbeat()`:
#   `publish` finds its run by itself, and the process's lease is its heartbeat. `batch_interval` is an
#   option of `start_run`.
# * `pubsub.get_offset()` is `handler.cursor()`, `handle.signal(...)` is `handler.send_event(...)`, and
#   `pubsub.subscribe(topics=..., from_offset=...)` is `handler.subscribe(topics=..., after=...)`.
# * `translate`, `is_thinking_complete` and the client are scripted; the page leaves them out.
# * `StreamingResponse` is left out: serving a run as server-sent events is the server's work.
"""Several turns in one durable run: the cursor is taken before a turn's signal, so that its reader gets the
events of that turn and no others.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from scripted_llm import ResponseEvent, responses_client

from runstream import Event, Handler, Record, connect, publish, start_run, step

EVENTS_TOPIC = "events"


class StartTurn(Event):
    message: str


# --- the worker's side ---------------------------------------------------------------------------


def _emit(event_type: str, **data: Any) -> None:
    publish({"type": event_type, "data": data}, topic=EVENTS_TOPIC)


def translate(event: ResponseEvent) -> dict[str, Any]:
    return {"type": event.type.upper(), "data": {"delta": event.delta}}


def is_thinking_complete(event: ResponseEvent) -> bool:
    return event.type == "reasoning.done"


@step
async def model_call(message: str) -> str:
    answer = ""
    async with responses_client.responses.stream(input=message) as stream:
        async for event in stream:
            if is_thinking_complete(event):
                # Significant by itself: it doesn't wait for others to share its batch.
                publish({"type": "THINKING_COMPLETE"}, topic=EVENTS_TOPIC, priority=True)
                continue
            publish(translate(event), topic=EVENTS_TOPIC)
            answer += event.delta if event.type == "text" else ""
    return answer


async def serve_turn(session_id: str, message: str) -> None:
    async with start_run("analytics", run_id=session_id, batch_interval=0.02) as run:
        _emit("TURN_STARTED", message=message)
        answer = await model_call(message)
        _emit("AGENT_COMPLETE", answer=answer)
        run.park()


async def worker(handler: Handler) -> None:
    """Serve the session's turns, one after the other, as their signals come."""
    async for signal in handler.subscribe(kinds=["run.signal"]):
        await serve_turn(handler.run_id, StartTurn(**signal.data["event"]).message)


# --- the client's side (the page's backend for a frontend) ----------------------------------------


async def event_stream(handler: Handler, start: str) -> AsyncIterator[Record]:
    async for item in handler.subscribe(topics=[EVENTS_TOPIC], after=start):
        yield item
        if item.data["type"] == "AGENT_COMPLETE":
            return


async def ask(handler: Handler, text: str) -> None:
    start_cursor = await handler.cursor()

    # Signal the run to start a new turn
    await handler.send_event(StartTurn(message=text))

    # Subscribe from the cursor onward: only events from this turn
    answer, reasoned = "", 0
    async for item in event_stream(handler, start_cursor):
        if item.data["type"] == "REASONING":
            reasoned += 1
        elif item.data["type"] == "TEXT":
            answer += item.data["data"]["delta"]
    print(f"{text!r}: {reasoned} tokens of reasoning, then: {answer}")

    # The turn is over when the run is parked again.
    async with handler.subscribe(kinds=["run.waiting"], after=start_cursor) as parked:
        await anext(parked)


async def main() -> None:
    session_id = "session-1"
    async with start_run("analytics", run_id=session_id) as run:
        run.park()
    async with connect() as streams:
        handler = streams.handler(session_id)
        working = asyncio.create_task(worker(handler))
        for text in ("How many tracks are there?", "And the longest one?", "Thank you."):
            await ask(handler, text)
            print("between turns the session is", (await handler.info()).status)
        working.cancel()


if __name__ == "__main__":
    asyncio.run(main())

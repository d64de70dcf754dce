"""The whole server inside a FastAPI app of your own, under a prefix; `fastapi run` would serve it."""

import asyncio

import httpx
from fastapi import FastAPI

from runstream import publish, start_run
from runstream.server.app import create_app
from runstream.settings import read_settings

streams = create_app(read_settings().url)
# A mounted app's own lifespan is not run: hand it to the outer one, so that it starts and stops with it.
app = FastAPI(lifespan=streams.lifespan)
app.mount("/streams", streams)


@app.post("/orders/{number}")
async def order(number: int) -> dict[str, str]:
    """A route of yours that does its work as a run, which any client can follow."""
    async with start_run("order") as run:
        publish({"step": "packed", "order": number}, kind="progress")
        publish({"step": "sent", "order": number}, kind="progress")
    return {"follow": f"/streams/v1/runs/{run.run_id}/events"}


async def main() -> None:
    """What a browser would do, without a network."""
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        answer = (await client.post("/orders/7")).json()
        events = await client.get(answer["follow"], headers={"accept": "text/event-stream"})
        print(events.text)
        assert events.text.count("event: progress") == 2
        assert "event: run.completed" in events.text


if __name__ == "__main__":
    asyncio.run(main())

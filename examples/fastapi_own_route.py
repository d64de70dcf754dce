"""One run as server-sent events from a route of your own, with your own path and checks."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import httpx
from fastapi import FastAPI, Header
from fastapi.responses import StreamingResponse

from runstream import connect, publish, start_run
from runstream.sse import encode_frame

app = FastAPI()


@app.get("/chats/{chat_id}")
async def follow_chat(
    chat_id: str, last_event_id: Annotated[str | None, Header()] = None
) -> StreamingResponse:
    """History, then live, until the chat ends; a browser that reconnects goes on where it was."""

    async def frames() -> AsyncIterator[bytes]:
        async with connect() as streams:
            async for record in streams.subscribe(chat_id, after=last_event_id):
                yield encode_frame(record)

    return StreamingResponse(frames(), media_type="text/event-stream")


async def main() -> None:
    """What an EventSource would do, without a network."""
    async with start_run("chat", run_id="chat-1"):
        for word in ("Call", "me", "Ishmael."):
            publish({"text": word}, kind="token")

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        whole = await client.get("/chats/chat-1")
        print(whole.text)
        assert whole.text.count("event: token") == 3
        first_id = whole.text.splitlines()[0].removeprefix("id: ")
        rest = await client.get("/chats/chat-1", headers={"last-event-id": first_id})
        assert rest.text == whole.text.partition("\n\n")[2]


if __name__ == "__main__":
    asyncio.run(main())

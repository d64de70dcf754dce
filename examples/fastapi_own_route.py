"""One run as server-sent events from a route of your own, with your own path and checks."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import httpx
from fastapi import FastAPI, Header, HTTPException
from fastapi.responses import Response, StreamingResponse

from runstream import connect, publish, start_run
from runstream.errors import RunNotFound
from runstream.sse import encode_frame

app = FastAPI()


@app.get("/chats/{chat_id}")
async def follow_chat(
    chat_id: str, last_event_id: Annotated[str | None, Header()] = None
) -> Response:
    """History, then live, until the chat ends; a browser that reconnects goes on where it was."""
    async with connect() as streams:
        chat = streams.handler(chat_id)
        try:
            newest = await chat.cursor()
        except RunNotFound:
            raise HTTPException(404, "no such chat") from None
    if chat.is_done() and last_event_id == newest:
        # Nothing is left, which ends an EventSource: it asks again after any other answer.
        return Response(status_code=204)

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
        last_id = whole.text.splitlines()[-4].removeprefix("id: ")
        nothing = await client.get("/chats/chat-1", headers={"last-event-id": last_id})
        unknown = await client.get("/chats/chat-2")
        assert (nothing.status_code, unknown.status_code) == (204, 404)


if __name__ == "__main__":
    asyncio.run(main())

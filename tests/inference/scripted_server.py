"""A small HTTP server that answers as a test tells it to, faults included."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Reply = Callable[[asyncio.StreamWriter], Awaitable[None]]

DONE = b"data: [DONE]\n\n"


def chunk(content: str | None = None, finish: str | None = None, **delta: Any) -> bytes:
    """One chunk as a `data:` line."""
    if content is not None:
        delta["content"] = content
    body = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return data(json.dumps(body))


def data(text: str) -> bytes:
    return f"data: {text}\n\n".encode()


def stream(*parts: bytes, end: bool = True) -> Reply:
    """Answer with an event stream, each part in a write of its own; `end` says that it is complete."""

    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for part in parts:
            writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0)
        if end:
            writer.write(b"0\r\n\r\n")

    return reply


def stay_open(*parts: bytes) -> Reply:
    """Send the parts, and then neither more nor an end."""

    async def reply(writer: asyncio.StreamWriter) -> None:
        await stream(*parts, end=False)(writer)
        await writer.drain()
        await asyncio.Event().wait()

    return reply


def refuse(status: int, message: str, **headers: str) -> Reply:
    """Answer with an error."""

    async def reply(writer: asyncio.StreamWriter) -> None:
        body = json.dumps({"error": {"message": message, "type": "test"}}).encode()
        lines = [f"HTTP/1.1 {status} Refused", "Content-Type: application/json"]
        lines += [f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    return reply


@dataclass
class ScriptedServer:
    """The requests that came, and the connections that were closed by the client."""

    base_url: str
    requests: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    headers: list[str] = field(default_factory=list[str])
    left: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def scripted_server(*replies: Reply) -> AsyncGenerator[ScriptedServer]:
    """Answers the first request with the first reply, and so on; the last one is for all that follow."""
    left = list(replies)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(
                int(line.split(":")[1])
                for line in head.splitlines()
                if line.lower().startswith("content-length:")
            )
            server.headers.append(head)
            server.requests.append(json.loads(await reader.readexactly(length)))
            reply = left.pop(0) if len(left) > 1 else left[0]
            answering = asyncio.ensure_future(reply(writer))
            gone = asyncio.ensure_future(reader.read(1))
            await asyncio.wait([answering, gone], return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                server.left.set()
            for task in (answering, gone):
                task.cancel()
                await asyncio.wait([task])
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    server = ScriptedServer(f"http://127.0.0.1:{port}/v1")
    async with listening:
        yield server

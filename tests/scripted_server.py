"""A server that answers what a test tells it to, byte for byte: for what no server of ours would do."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from runstream.api import JSON
from runstream.problem import MEDIA_TYPE
from runstream.record import Origin, Record, make_draft
from runstream.sse import encode_frame

GENERATION = "abcdef"


@dataclass(frozen=True, slots=True)
class Request:
    """What arrived. The names of `headers` are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    # On the loop's clock.
    at: float


class Line:
    """One connection, for a script that writes its answer by itself."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.is_cut = False

    async def send(self, raw: bytes) -> None:
        self._writer.write(raw)
        await self._writer.drain()

    def cut(self) -> None:
        """Reset the connection, once what was sent has gone out."""
        self.is_cut = True
        self._writer.close()


Script = Callable[[Request, Line], Awaitable[None]]


class ScriptedServer:
    """Listens on loopback; `requests` are those that have arrived."""

    def __init__(self, script: Script) -> None:
        self.requests: list[Request] = []
        self.url = ""
        self._script = script
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        line = Line(writer)
        try:
            with contextlib.suppress(
                OSError, asyncio.IncompleteReadError, asyncio.CancelledError
            ):  # it went, or the test is over
                while not line.is_cut:
                    request = await _read_request(reader)
                    self.requests.append(request)
                    await self._script(request, line)
        finally:
            self._tasks.discard(task)
            writer.close()

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()


async def _read_request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, path, headers, body, asyncio.get_running_loop().time())


@asynccontextmanager
async def scripted_server(script: Script) -> AsyncGenerator[ScriptedServer]:
    """A server in this event loop, for the time of the block."""
    scripted = ScriptedServer(script)
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    scripted.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield scripted
    finally:
        server.close()
        scripted.stop()
        await server.wait_closed()


def answer(
    status: int, body: bytes | object = b"", media_type: str = JSON, **headers: str
) -> bytes:
    """A whole answer; a body that is not bytes becomes JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {"content-type": media_type, "content-length": str(len(raw)), **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in named.items()]
    return "\r\n".join([f"HTTP/1.1 {status} -", *lines, "", ""]).encode() + raw


def problem(status: int, code: str, detail: str = "because", **more: object) -> bytes:
    """An error answer as our server writes it."""
    body = {"code": code, "title": code, "status": status, "detail": detail, **more}
    return answer(status, body, MEDIA_TYPE)


def run_answer(**fields: object) -> bytes:
    """What a server says of a running run `r1`."""
    body = {
        "run_id": "r1",
        "workflow": "nightly",
        "status": "running",
        "root_run_id": "r1",
        "generation": GENERATION,
        "first_seq": 1,
        "last_seq": 0,
        "created": "2026-04-15T10:30:00.000000Z",
        **fields,
    }
    return answer(200, body)


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(raw: bytes) -> bytes:
    """A part of a streamed answer."""
    return b"%x\r\n%b\r\n" % (len(raw), raw)


LAST_CHUNK = b"0\r\n\r\n"


def frame(seq: int, kind: str = "token", run_id: str = "r1", generation: str = GENERATION) -> bytes:
    """A record's frame; its payload is `{"n": seq}`."""
    origin = Origin(generation, "nightly", None, run_id)
    return encode_frame(Record(seq, make_draft(run_id, kind, {"n": seq}), origin))


def control(kind: str, cursor: str, data: object) -> bytes:
    """A control frame."""
    return f"id: {cursor}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode()

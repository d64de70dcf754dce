"""Whatever happens in between, each subscriber gets exactly its records, in order, once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Generator
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message, Scope

from runstream.logs.memory import MemoryLog
from runstream.record import make_draft
from runstream.server import batches, shared_reader
from runstream.server.app import App, create_app
from runstream.server.site import ServerOptions

ROOT, CHILD = "root", "child"
KINDS = ("a", "b", "c")
# A few records: so rings run over, and chunks end, within a handful of them.
RING_BYTES = 1500
CHUNK_BYTES = 700
# A guard against hanging.
END_S_MAX = 20.0


class Done:
    """As a server's own `send` answers: no coroutine, and done at once."""

    def __await__(self) -> Generator[Any, Any, None]:
        return
        yield


@dataclass(frozen=True)
class Asked:
    """What a subscriber wants, and how its server writes."""

    run_id: str
    kinds: frozenset[str] | None
    lines: bool
    coroutines: bool

    def wants(self, run_id: str, kind: str) -> bool:
        ours = self.run_id in (ROOT, run_id)
        return ours and (kind.startswith("run.") or self.kinds is None or kind in self.kinds)


class Subscriber:
    """A client that may stall, go, and come back with the last id that it saw."""

    def __init__(self, app: App, asked: Asked) -> None:
        self._app = app
        self.asked = asked
        self.seqs: list[int] = []
        self.last_id = ""
        self.has_ended = False
        self.task: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()
        self._stalled: list[asyncio.Future[None]] | None = None
        self._status = 0

    def connect(self) -> None:
        if self.task is not None or self.has_ended:
            return
        query = "" if self.asked.kinds is None else "kinds=" + ",".join(self.asked.kinds)
        accept = "application/x-ndjson" if self.asked.lines else "text/event-stream"
        scope: Scope = {
            "type": "http",
            "method": "GET",
            "path": f"/v1/runs/{self.asked.run_id}/events",
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(b"accept", accept.encode()), (b"last-event-id", self.last_id.encode())],
            "client": ("127.0.0.1", 1),
        }
        self._gone = asyncio.Event()
        send = self._send_later if self.asked.coroutines else self._send
        self.task = asyncio.create_task(self._app(scope, self._receive, send))

    async def disconnect(self) -> None:
        if self.task is not None:
            self._gone.set()
            self.resume()
            await self.task
            self.task = None

    def stall(self) -> None:
        if self._stalled is None:
            self._stalled = []

    def resume(self) -> None:
        stalled, self._stalled = self._stalled, None
        for waiting in stalled or ():
            if not waiting.done():
                waiting.set_result(None)

    async def end(self) -> None:
        """Read all that is left, coming back as often as it takes."""
        self.resume()
        while not self.has_ended:
            self.connect()
            assert self.task is not None
            await self.task
            self.task = None

    async def _receive(self) -> Message:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    def _send(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self.has_ended = self._status == 204
            return Done()
        if self._gone.is_set():
            return Done()
        self._take(message["body"])
        if self._stalled is None:
            return Done()
        waiting = asyncio.get_running_loop().create_future()
        self._stalled.append(waiting)
        return waiting

    async def _send_later(self, message: Message) -> None:
        await self._send(message)

    def _take(self, body: bytes) -> None:
        for block in body.decode().split("\n" if self.asked.lines else "\n\n"):
            if not block or block.startswith(":"):
                continue
            if self.asked.lines:
                line = json.loads(block)
                self.last_id, kind, seq = line["cursor"], line["kind"], line.get("seq")
            else:
                fields = dict(line.split(": ", 1) for line in block.split("\n"))
                self.last_id, kind = fields["id"], fields["event"]
                seq = json.loads(fields["data"]).get("seq")
            if kind == "stream.end":
                self.has_ended = True
            elif not kind.startswith("stream."):
                assert self.last_id.endswith(f".{seq}")
                self.seqs.append(seq)


ASKED = st.builds(
    Asked,
    run_id=st.sampled_from([ROOT, ROOT, CHILD]),
    kinds=st.none() | st.frozensets(st.sampled_from(KINDS), min_size=1),
    lines=st.booleans(),
    coroutines=st.booleans(),
)
WHO = st.integers(0, 3)
STEP = st.one_of(
    st.tuples(
        st.just("append"),
        st.lists(
            st.tuples(st.sampled_from([ROOT, CHILD]), st.sampled_from(KINDS)),
            min_size=1,
            max_size=20,
        ),
    ),
    st.tuples(st.sampled_from(["connect", "disconnect", "stall", "resume"]), WHO),
    st.tuples(st.just("turns"), st.integers(1, 30)),
    st.tuples(st.just("settle"), st.none()),
)


async def act(subscriber: Subscriber, name: str) -> None:
    match name:
        case "connect":
            subscriber.connect()
        case "disconnect":
            await subscriber.disconnect()
        case "stall":
            subscriber.stall()
        case _:
            subscriber.resume()


async def play(everyone: list[Asked], steps: list[tuple[str, Any]]) -> None:
    log = MemoryLog()
    app = create_app(log, options=ServerOptions(subscriber_bytes_max=RING_BYTES))
    await log.open(ROOT, producer=None, workflow="w")
    await log.open(CHILD, producer=None, workflow="w", parent_run_id=ROOT)
    subscribers: list[Subscriber] = [Subscriber(app, asked) for asked in everyone]
    stored: list[tuple[str, str]] = []
    for name, value in steps:
        if name == "append":
            await log.append(ROOT, [make_draft(run_id, kind, {}) for run_id, kind in value])
            stored += value
        elif name == "turns":
            for _ in range(value):
                await asyncio.sleep(0)
        elif name == "settle":
            # All are there, and wait for news.
            for subscriber in subscribers:
                subscriber.connect()
            for _ in range(30):
                await asyncio.sleep(0)
        elif isinstance(value, int) and value < len(subscribers):
            await act(subscribers[value], name)
    ends = [make_draft(run_id, "run.completed", {}) for run_id in (CHILD, ROOT)]
    await log.append(ROOT, ends, final=True)
    stored += [(CHILD, "run.completed"), (ROOT, "run.completed")]
    async with asyncio.timeout(END_S_MAX):
        await asyncio.gather(*(subscriber.end() for subscriber in subscribers))
    await app.stop()
    await log.aclose()
    for subscriber in subscribers:
        expected = [
            seq
            for seq, (run_id, kind) in enumerate(stored, 1)
            if subscriber.asked.wants(run_id, kind)
        ]
        assert subscriber.seqs == expected, subscriber.asked


@settings(deadline=None)
@given(st.lists(ASKED, min_size=1, max_size=4), st.lists(STEP, max_size=30))
def test_any_interleaving_gives_each_subscriber_exactly_its_records_in_order(
    everyone: list[Asked], steps: list[tuple[str, Any]]
) -> None:
    with (
        patch.object(batches, "CHUNK_BYTES_MAX", CHUNK_BYTES),
        # Readers end as soon as nobody uses them, also while somebody comes.
        patch.object(shared_reader, "LINGER_S", 0.0),
    ):
        asyncio.run(play(everyone, steps))

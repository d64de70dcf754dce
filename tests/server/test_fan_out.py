"""Those who wait for the same are served together, by whoever reads: in order, each record once."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager

from starlette.types import Message, Scope

from runstream.logs.memory import MemoryLog
from runstream.record import make_draft
from runstream.server.app import App, create_app
from runstream.server.shared_reader import SERVED_AT_ONCE
from runstream.server.site import Site

# A guard against hanging.
S_MAX = 20.0


class Done:
    """What a server gives that has sent at once."""

    def __await__(self) -> Generator[None]:
        return
        yield


class Subscriber:
    """A client of an app, as a server has it whose `send` is no coroutine."""

    def __init__(self, app: App, query: str = "") -> None:
        self.scope: Scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "path": "/v1/runs/r/events",
            "query_string": query.encode(),
            "headers": [(b"accept", b"text/event-stream"), (b"cookie", b"c" * 1000)],
            "client": ("127.0.0.1", 1),
        }
        self.bodies: list[bytes] = []
        self.came = asyncio.Event()
        # What each further write gives.
        self.on_write: Callable[[], Awaitable[None]] = Done
        self._asked = False
        self.task = asyncio.create_task(self._run(app))

    async def _run(self, app: App) -> None:
        await app.requests(self.scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if self._asked:
            await asyncio.Event().wait()
        self._asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    def _send(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            return Done()
        self.bodies.append(message["body"])
        self.came.set()
        return self.on_write()

    @property
    def seqs(self) -> list[int]:
        text = b"".join(self.bodies)
        found = re.findall(rb"id: \w+\.(\d+)\nevent: (?!stream\.)", text)
        return [int(seq) for seq in found]

    async def until(self, *seqs: int) -> None:
        """Wait until these have come, and see that nothing else has."""
        while len(self.seqs) < len(seqs):
            self.came.clear()
            await self.came.wait()
        assert self.seqs == list(seqs)


@asynccontextmanager
async def serving() -> AsyncGenerator[tuple[MemoryLog, App, Site]]:
    """An app over a log with a run that has one record."""
    async with asyncio.timeout(S_MAX):
        log = MemoryLog()
        await log.open("r", producer=None, workflow="w")
        await append(log, "note")
        app = create_app(log)
        yield log, app, await app.start()
        await app.stop()
        await log.aclose()


async def append(log: MemoryLog, *kinds: str) -> None:
    await log.append("r", [make_draft("r", kind, {}) for kind in kinds])


def figure(site: Site, name: str) -> int:
    text = site.metrics.expose().decode()
    found = re.search(rf"^runstream_{name} (\S+)$", text, re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


async def test_more_than_are_served_in_one_go_all_get_every_record_once_and_in_order() -> None:
    async with serving() as (log, app, site):
        crowd = [Subscriber(app) for _ in range(2 * SERVED_AT_ONCE + 7)]
        choosy = [Subscriber(app, "kinds=token") for _ in range(3)]
        for one in crowd:
            await one.until(1)
        for one in choosy:
            await one.came.wait()
        await append(log, "token", "note")
        await append(log, "note")
        await append(log, "token")
        for one in crowd:
            await one.until(1, 2, 3, 4, 5)
        for one in choosy:
            await one.until(2, 5)
        assert figure(site, "records_out_total") == 5 * len(crowd) + 2 * len(choosy)


async def test_those_who_want_the_same_are_handed_the_same_bytes() -> None:
    async with serving() as (log, app, _):
        one, other = Subscriber(app), Subscriber(app)
        await one.until(1)
        await other.until(1)
        some, others = Subscriber(app, "kinds=note"), Subscriber(app, "kinds=note,note")
        await some.until(1)
        await others.until(1)
        # (Of a single record also those who want something else are handed the same bytes.)
        await append(log, "note", "note", "token")
        for unfiltered in (one, other):
            await unfiltered.until(1, 2, 3, 4)
        for filtered in (some, others):
            await filtered.until(1, 2, 3)
        assert one.bodies[-1] is other.bodies[-1]
        assert some.bodies[-1] is others.bodies[-1]


async def test_one_that_is_stuck_in_the_history_is_behind_all_that_has_come_since() -> None:
    async with serving() as (log, app, site):
        stuck, quick = Subscriber(app), Subscriber(app)
        taken = asyncio.get_running_loop().create_future()
        stuck.on_write = lambda: taken
        await stuck.came.wait()
        await quick.until(1)
        await append(log, "note", "note", "note")
        await quick.until(1, 2, 3, 4)
        assert figure(site, "subscriber_lag_records_max") == 4
        stuck.on_write = Done
        taken.set_result(None)
        await stuck.until(1, 2, 3, 4)
        assert figure(site, "subscriber_lag_records_max") == 0


async def test_one_whose_client_takes_nothing_holds_up_nobody_and_misses_nothing() -> None:
    async with serving() as (log, app, site):
        slow, quick = Subscriber(app), Subscriber(app)
        await slow.until(1)
        await quick.until(1)
        taken = asyncio.get_running_loop().create_future()
        slow.on_write = lambda: taken
        await append(log, "note")
        await slow.until(1, 2)
        await append(log, "note")
        await append(log, "note")
        await quick.until(1, 2, 3, 4)
        assert slow.seqs == [1, 2]
        slow.on_write = Done
        taken.set_result(None)
        await slow.until(1, 2, 3, 4)
        assert figure(site, "records_out_total") == 8


async def test_a_write_that_fails_ends_that_subscriber_alone() -> None:
    def fail() -> Awaitable[None]:
        raise ConnectionResetError("the client is gone")

    async with serving() as (log, app, _):
        gone, stays = Subscriber(app), Subscriber(app)
        await gone.until(1)
        await stays.until(1)
        gone.on_write = fail
        await append(log, "note")
        await stays.until(1, 2)
        await asyncio.wait([gone.task])
        assert isinstance(gone.task.exception(), ConnectionResetError)
        await append(log, "note")
        await stays.until(1, 2, 3)


async def test_a_scope_is_emptied_for_as_long_as_a_stream_lasts_only_by_its_owner() -> None:
    async with serving() as (_, app, site):
        mounted = Subscriber(app)
        await mounted.until(1)
        assert dict(mounted.scope["headers"])[b"cookie"] == b"c" * 1000
        site.owns_scopes = True
        served = Subscriber(app)
        await served.until(1)
        assert "headers" not in served.scope
        assert (served.scope["method"], served.scope["client"]) == ("GET", ("127.0.0.1", 1))

"""The ASGI app by itself: mounted, started late, and when what it stands on fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from runstream.log import RunInfo
from runstream.logs.memory import MemoryLog
from runstream.server.app import App, create_app
from runstream.server.site import ServerOptions

SECRET = "postgres://user:hunter2@db"


@pytest.fixture
async def log() -> AsyncIterator[MemoryLog]:
    opened = MemoryLog()
    yield opened
    await opened.aclose()


def client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")


@pytest.mark.parametrize("outer", [FastAPI(), Starlette()], ids=["fastapi", "starlette"])
async def test_it_works_under_a_prefix_of_another_app(
    outer: FastAPI | Starlette, log: MemoryLog
) -> None:
    app = create_app(log)
    outer.router.routes.append(Mount("/streams/here", app))
    async with client(outer) as asking:
        # Nobody ran its lifespan: the first request starts it.
        opened = await asking.put("/streams/here/v1/runs/r", json={"workflow": "w"})
        assert opened.status_code == 201
        events = {"events": [{"kind": "run.completed"}], "final": True}
        stored = await asking.post("/streams/here/v1/runs/r/events", json=events)
        assert stored.json()["last_seq"] == 1
        followed = await asking.get("/streams/here/v1/runs/r/events")
        assert "event: run.completed" in followed.text
        document = (await asking.get("/streams/here/openapi.json")).json()
        assert document["servers"] == [{"url": "/streams/here"}]
        assert (await asking.get("/streams/here/v1/nothing")).json()["code"] == "not_found"
        assert (await asking.get("/v1/runs")).status_code == 404
    await app.stop()
    assert await log.list() != []  # a log that was given stays open


async def test_the_outer_apps_lifespan_starts_and_stops_it(sqlite_url: str) -> None:
    app = create_app(sqlite_url)
    outer = FastAPI(lifespan=app.lifespan)
    outer.mount("/streams", app)
    async with outer.router.lifespan_context(outer), client(outer) as asking:
        assert (await asking.get("/streams/healthz")).json() == {"live": True, "ready": True}


async def test_it_starts_again_after_it_was_stopped(sqlite_url: str) -> None:
    app = create_app(sqlite_url)
    for _ in range(2):
        async with app.lifespan(), client(app) as asking:
            assert (await asking.put("/v1/runs/r", json={"workflow": "w"})).is_success


async def test_a_server_whose_log_cannot_be_opened_does_not_start(tmp_path: object) -> None:
    said: list[dict[str, Any]] = []

    async def receive() -> dict[str, str]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        said.append(message)

    app = create_app(f"sqlite:{tmp_path}")  # a folder
    await app({"type": "lifespan"}, receive, send)
    assert [message["type"] for message in said] == ["lifespan.startup.failed"]
    assert said[0]["message"]


async def test_a_websocket_is_turned_away(log: MemoryLog) -> None:
    said: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        said.append(message)

    await create_app(log)({"type": "websocket", "path": "/"}, receive, send)
    assert said == [{"type": "websocket.close"}]


class BrokenLog(MemoryLog):
    """A backend with a mistake in it."""

    async def list(self, **_: Any) -> Sequence[RunInfo]:
        raise ZeroDivisionError(SECRET)

    async def info(self, run_id: str) -> RunInfo:
        raise ZeroDivisionError(SECRET)


async def test_a_mistake_of_ours_is_told_without_its_details(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = BrokenLog()
    app = create_app(log)
    async with client(app) as asking:
        for path in ("/v1/runs", "/v1/runs/r", "/v1/runs/r/events"):
            answer = await asking.get(path)
            assert (answer.status_code, answer.json()["code"]) == (500, "internal")
            assert answer.headers["content-type"] == "application/problem+json"
            assert "hunter2" not in answer.text
            assert "ZeroDivision" not in answer.text
    assert "hunter2" in caplog.text  # its log has them
    await app.stop()
    await log.aclose()


async def test_a_server_is_not_ready_while_its_log_fails(log: MemoryLog) -> None:
    app = create_app(log)
    async with client(app) as asking:
        assert (await asking.get("/healthz")).status_code == 200
        await log.aclose()
        answer = await asking.get("/healthz")
        assert (answer.status_code, answer.json()["reason"]) == (503, "log_closed")
        assert (await asking.get("/healthz/live")).status_code == 200
        assert (await asking.get("/v1/runs/r")).json()["code"] == "log_closed"
    await app.stop()


async def test_a_body_that_does_not_arrive_is_not_waited_for(log: MemoryLog) -> None:
    app = create_app(log, options=ServerOptions(body_read_s_max=0.05))
    said = await ask(app, "PUT", "/v1/runs/r", receives=[{"more_body": True, "body": b"{"}])
    assert said[0]["status"] == 408
    assert (b"connection", b"close") in said[0]["headers"]
    assert json.loads(said[1]["body"])["code"] == "request_timeout"
    await app.stop()


async def test_asking_with_wait_is_answered_when_the_run_begins(log: MemoryLog) -> None:
    app = create_app(log)
    await app.start()
    asking = asyncio.create_task(ask(app, "GET", "/v1/runs/r", "wait=30"))
    for _ in range(50):
        await asyncio.sleep(0)  # until it waits: a memory log needs no more than turns of the loop
    assert not asking.done()
    await log.open("r", producer=None, workflow="w")
    said = await asking
    assert (said[0]["status"], json.loads(said[1]["body"])["last_seq"]) == (200, 0)
    await app.stop()


async def test_a_client_that_hangs_up_is_no_longer_waited_for(log: MemoryLog) -> None:
    app = create_app(log)
    said = await ask(
        app, "GET", "/v1/runs/r", "wait=30", receives=[{}, {"type": "http.disconnect"}]
    )
    assert said[0]["status"] == 400  # (nobody reads it)
    await app.stop()


async def test_stopping_answers_who_waits(log: MemoryLog) -> None:
    app = create_app(log)
    await app.start()
    await log.open("r", producer=None, workflow="w")
    asking = asyncio.create_task(ask(app, "GET", "/v1/runs/r", "after=0&wait=30"))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not asking.done()
    assert await app.drain()
    assert (await asking)[0]["status"] == 200
    assert (await ask(app, "GET", "/healthz"))[0]["status"] == 503
    await app.stop()


async def test_stopping_answers_who_waits_for_a_run_to_follow(log: MemoryLog) -> None:
    app = create_app(log)
    await app.start()
    asking = asyncio.create_task(ask(app, "GET", "/v1/runs/nobody/events", "wait=30"))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not asking.done()
    assert await app.drain()
    start, body = (await asking)[:2]
    assert start["status"] == 503
    assert b"the server is stopping" in body["body"]
    await app.stop()


async def test_a_request_that_does_not_end_holds_up_the_stop_once(log: MemoryLog) -> None:
    app = create_app(log, options=ServerOptions(drain_s=0.05))
    await app.start()
    stuck = {"more_body": True, "body": b"{"}
    asking = asyncio.create_task(ask(app, "PUT", "/v1/runs/r", receives=[stuck]))
    await asyncio.sleep(0)
    assert not await app.drain()
    again = asyncio.create_task(app.drain())
    for _ in range(10):
        await asyncio.sleep(0)
    assert again.done()
    assert not again.result()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await app.stop()


async def ask(
    app: App,
    method: str,
    path: str,
    query: str = "",
    *,
    receives: Sequence[dict[str, Any]] = ({},),
) -> list[Any]:
    """One request as an ASGI server makes it; after `receives` nothing more ever comes."""
    coming = iter(receives)
    said: list[Any] = []

    async def receive() -> dict[str, Any]:
        message = next(coming, None)
        if message is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": b"", "more_body": False, **(message or {})}

    async def send(message: Any) -> None:
        said.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(b"content-type", b"application/json")],
    }
    await app(scope, receive, send)
    return said

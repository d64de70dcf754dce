"""Handlers: a run as seen from outside, in this process or any other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from runstream import Event, Task, connect, process, publish, start_run
from runstream.errors import (
    RunCancelled,
    RunEnded,
    RunFailed,
    RunLost,
    RunNotFound,
    RunstreamError,
    RunTimedOut,
)
from runstream.events import StopEvent
from runstream.handler import Handler, outcome
from runstream.log import LeaseClaim
from runstream.record import Origin, Record, make_draft
from runstream.streams import Streams


class Progress(Event, kind="handler_progress"):
    done: int


@pytest.fixture
async def streams(sqlite_url: str) -> AsyncIterator[Streams]:
    async with connect(sqlite_url) as opened:
        yield opened
    await asyncio.to_thread(process.close_publishers)


async def a_run(url: str, *, count: int = 3) -> str:
    async with start_run("nightly", url=url) as run:
        for done in range(count):
            publish(Progress(done=done))
        publish({"note": "no class"}, kind="note")
        run.set_result({"ok": True})
    return run.run_id


async def test_awaiting_a_handler_gives_the_result(streams: Streams, sqlite_url: str) -> None:
    handler = streams.handler(await a_run(sqlite_url))

    assert not handler.is_done()
    assert await handler == {"ok": True}
    assert await handler.result() == {"ok": True}
    assert handler.is_done()
    assert handler.status == "completed"


async def test_awaiting_a_running_run_waits_for_its_end(streams: Streams, sqlite_url: str) -> None:
    async with asyncio.timeout(60), start_run("nightly", url=sqlite_url) as run:
        waiting = asyncio.ensure_future(streams.handler(run.run_id).result())
        await asyncio.sleep(0)
        assert not waiting.done()
        run.set_result(7)

    assert await waiting == 7


async def test_cancelling_the_waiting_does_not_cancel_the_run(
    streams: Streams, sqlite_url: str
) -> None:
    async with start_run("nightly", url=sqlite_url) as run:
        waiting = asyncio.ensure_future(streams.handler(run.run_id).result())
        await asyncio.sleep(0)
        waiting.cancel()
        publish({"still": "here"})

    assert (await streams.info(run.run_id)).status == "completed"


async def test_events_come_typed_any_number_of_times_and_at_once(
    streams: Streams, sqlite_url: str
) -> None:
    handler = streams.handler(await a_run(sqlite_url))

    async def events() -> list[Event]:
        return [event async for event in handler.stream_events()]

    first, second, third = await asyncio.gather(events(), events(), events())

    assert first == second == third
    assert first[:3] == [Progress(done=0), Progress(done=1), Progress(done=2)]
    assert first[3].event_type == "note"
    assert first[3].note == "no class"
    assert isinstance(first[4], StopEvent)
    assert first[4].result == {"ok": True}
    assert [event.record.seq for event in first] == [2, 3, 4, 5, 6]


async def test_the_caller_says_which_of_two_classes_of_one_kind_is_meant(
    streams: Streams, sqlite_url: str
) -> None:
    class First(Event, kind="twice"):
        done: int

    class Second(Event, kind="twice"):
        done: int

    async with start_run("nightly", url=sqlite_url) as run:
        publish(First(done=1))

    handler = streams.handler(run.run_id)
    newest = [event async for event in handler.stream_events()]
    chosen = [event async for event in handler.stream_events(classes=[First])]

    assert type(newest[0]) is Second
    assert type(chosen[0]) is First


async def test_lifecycle_is_shown_when_asked_for(streams: Streams, sqlite_url: str) -> None:
    handler = streams.handler(await a_run(sqlite_url, count=0))

    kinds = [event.record.kind async for event in handler.stream_events(expose_internal=True)]

    assert kinds == ["run.started", "note", "run.completed"]


async def test_a_failed_run_raises_what_happened(streams: Streams, sqlite_url: str) -> None:
    with pytest.raises(KeyError):
        async with start_run("nightly", run_id="failing", url=sqlite_url):
            raise KeyError("missing")

    with pytest.raises(RunFailed, match="KeyError: 'missing'") as caught:
        await streams.handler("failing")
    assert caught.value.error == {"type": "KeyError", "message": "'missing'"}


@pytest.mark.parametrize(
    ("kind", "data", "error"),
    [
        ("run.cancelled", {"reason": None}, RunCancelled),
        ("run.timed_out", {"timeout": 2.0}, RunTimedOut),
        ("run.lost", {"reason": "gone"}, RunLost),
        ("run.failed", {}, RunFailed),
        ("token", {}, RunstreamError),
    ],
)
def test_every_other_end_is_an_error_of_its_own(
    kind: str, data: dict[str, object], error: type[RunstreamError]
) -> None:
    record = Record(1, make_draft("r", kind, data), Origin("g", "w", None, "r"))

    with pytest.raises(error):
        outcome(record)


async def test_a_lost_run_ends_whoever_awaits_it(streams: Streams) -> None:
    claim = LeaseClaim(lease_s=0.1)
    await streams.log.open("doomed", producer="dead", workflow="nightly", claim=claim)

    async with asyncio.timeout(60):
        with pytest.raises(RunLost):
            await streams.handler("doomed")


async def test_the_result_of_a_child_is_its_own(streams: Streams, sqlite_url: str) -> None:
    async with start_run("nightly", url=sqlite_url) as root:
        async with start_run("part", url=sqlite_url) as child:
            child.set_result("part")
        assert await streams.handler(child.run_id) == "part"
        root.set_result("whole")

    assert await streams.handler(child.run_id) == "part"
    assert await streams.handler(root.run_id) == "whole"


async def test_an_unknown_run_is_not_found(streams: Streams) -> None:
    handler = streams.handler("nobody")

    with pytest.raises(RunNotFound):
        await handler
    with pytest.raises(RunNotFound):
        await handler.cursor()
    with pytest.raises(RunNotFound):
        await handler.send_event(Progress(done=1))


async def test_the_cursor_shows_only_what_comes_after_it(streams: Streams, sqlite_url: str) -> None:
    async with start_run("session", url=sqlite_url) as run:
        handler = streams.handler(run.run_id)
        publish({"turn": 1})
        assert await asyncio.to_thread(process.wait_stored, 10)
        cursor = await handler.cursor()
        await handler.send_event(Progress(done=2))
        publish({"turn": 2})

    records = [record async for record in handler.subscribe(after=cursor)]

    assert [record.kind for record in records] == ["run.signal", "event", "run.completed"]
    assert records[0].data == {"type": "handler_progress", "event": {"done": 2}}


async def test_cancel_is_a_stored_request(streams: Streams, sqlite_url: str) -> None:
    async with start_run("nightly", url=sqlite_url) as run:
        await streams.handler(run.run_id).cancel_run("enough")

    records = streams.subscribe(run.run_id, kinds="run.cancel_requested")
    request, _ = [record async for record in records]
    assert request.data == {"reason": "enough"}


async def test_an_ended_run_takes_no_signal(streams: Streams, sqlite_url: str) -> None:
    handler = streams.handler(await a_run(sqlite_url))

    with pytest.raises(RunEnded):
        await handler.send_event(Progress(done=1))


async def test_tasks_are_folded(streams: Streams, sqlite_url: str) -> None:
    async with start_run("nightly", url=sqlite_url) as run:
        async with Task("count", state={"n": 0}) as task:
            await task.update_state({"n": 1})
        async with Task("other", state={"x": 0}):
            pass

    handler: Handler = streams.handler(run.run_id)
    states = [(state.state, state.status) async for state in handler.tasks("count")]
    assert states == [({"n": 0}, "running"), ({"n": 1}, "running"), ({"n": 1}, "completed")]
    assert {state.type async for state in handler.tasks()} == {"count", "other"}
    assert [state["n"] async for state in handler.tasks("count", last=1)] == [1]

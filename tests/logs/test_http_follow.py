"""Following a run of a server: lost connections, cut frames, silence, and what the server tells."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from runstream.conformance.check import let_it_wait
from runstream.errors import (
    InvalidPosition,
    LogClosed,
    LogUnavailable,
    NotALog,
    RunNotFound,
    RunstreamError,
    StreamingOff,
    TooManySubscribers,
    Unauthorized,
)
from runstream.filter import Filter, make_filter
from runstream.logs.http import HttpLog
from runstream.logs.http_transport import Times
from runstream.record import Cursor, Record
from runstream.sse import HEARTBEAT
from runstream.start import Start
from scripted_server import (
    GENERATION,
    LAST_CHUNK,
    STREAM,
    Line,
    Request,
    Script,
    ScriptedServer,
    answer,
    chunk,
    control,
    frame,
    problem,
    run_answer,
    scripted_server,
)

HASTY = Times(persist_s=0.05, reconnect_s_max=0.02)
# Seconds in which nothing is heard before a stream is taken for lost.
SILENCE_S = 0.5
ALERT = Times(persist_s=0.05, reconnect_s_max=0.02, silence_s=SILENCE_S)
END = control("stream.end", f"{GENERATION}.3", {"reason": "ended"})

# What one connection to the events gets: the whole response.
Part = bytes | Callable[[Line], Awaitable[None]]


def streams(*connections: tuple[Part, ...], info: bytes = b"") -> Script:
    """The first connection gets the first answer, and so on; the last one is for all that come."""
    left = list(connections)

    async def script(request: Request, line: Line) -> None:
        if "/events" not in request.path:
            await line.send(info or run_answer())
            return
        for part in left.pop(0) if len(left) > 1 else left[0]:
            if isinstance(part, bytes):
                await line.send(part)
            else:
                await part(line)

    return script


async def cut(line: Line) -> None:
    line.cut()


async def hang(_line: Line) -> None:
    await asyncio.Event().wait()


async def follow(
    server: ScriptedServer,
    *,
    start: Start | None = None,
    filter: Filter | None = None,
    follow: bool = True,
    times: Times = HASTY,
) -> list[Record]:
    """Every record until the end."""
    log = HttpLog(server.url, times=times)
    try:
        pages = log.follow("r1", start=start or Start(), filter=filter or Filter(), follow=follow)
        return [record async for page in pages for record in page]
    finally:
        await log.aclose()


def events_requests(server: ScriptedServer) -> list[Request]:
    return [request for request in server.requests if "/events" in request.path]


def asked_at(server: ScriptedServer) -> list[float]:
    """When the connections were made, on the loop's clock."""
    return [request.at for request in events_requests(server)]


def seqs(records: list[Record]) -> list[int]:
    return [record.seq for record in records]


async def test_records_come_until_the_end_with_all_that_they_are() -> None:
    script = streams((STREAM, chunk(frame(1) + frame(2)), chunk(frame(3, "run.completed") + END)))
    async with scripted_server(script) as server:
        records = await follow(server)
    assert [(r.seq, r.kind, r.data) for r in records] == [
        (1, "token", {"n": 1}),
        (2, "token", {"n": 2}),
        (3, "run.completed", {"n": 3}),
    ]
    assert [r.cursor for r in records] == [f"{GENERATION}.{seq}" for seq in (1, 2, 3)]
    assert {(r.workflow, r.root_run_id) for r in records} == {("nightly", "r1")}


async def test_the_position_and_the_filters_are_asked_for() -> None:
    end = (STREAM, chunk(END), LAST_CHUNK)
    async with scripted_server(streams(end)) as server:
        await follow(server, start=Start(from_seq=4), filter=make_filter(kinds=["a,b", "c"]))
        await follow(server, start=Start(after=Cursor("g", 7)), follow=False)
        await follow(server, start=Start(last=5))
        paths = [request.path.partition("?")[2] for request in events_requests(server)]
    assert paths == ["from_seq=4&kinds=a%5C%2Cb%2Cc", "after=g.7&follow=false", "last=5"]


@pytest.mark.parametrize("lost_at", range(0, 400, 7))
async def test_a_stream_cut_anywhere_goes_on_without_a_hole_or_a_repeat(lost_at: int) -> None:
    whole = frame(1) + frame(2) + frame(3, "run.completed")
    asked: list[str] = []

    async def script(request: Request, line: Line) -> None:
        if "/events" not in request.path:
            await line.send(run_answer())
            return
        after = int(request.headers.get("last-event-id", "g.0").rpartition(".")[2])
        asked.append(request.path)
        rest = b"".join([frame(1), frame(2), frame(3, "run.completed")][after:])
        if len(asked) == 1:
            await line.send(STREAM + chunk(whole[:lost_at] or HEARTBEAT))
            line.cut()
        else:
            await line.send(STREAM + chunk(rest) + LAST_CHUNK)

    async with scripted_server(script) as server:
        assert seqs(await follow(server)) == [1, 2, 3]


async def test_after_a_loss_only_the_cursor_says_where_to_go_on() -> None:
    script = streams(
        (STREAM, chunk(frame(5)), cut), (STREAM, chunk(frame(6, "run.completed")), LAST_CHUNK)
    )
    async with scripted_server(script) as server:
        assert seqs(await follow(server, start=Start(last=2))) == [5, 6]
        first, second = events_requests(server)
    assert "last-event-id" not in first.headers
    assert (second.headers["last-event-id"], second.path) == (
        f"{GENERATION}.5",
        "/v1/runs/r1/events",
    )


async def test_a_cursor_frame_moves_the_position_past_what_was_filtered() -> None:
    moved = control("stream.cursor", f"{GENERATION}.90", {})
    script = streams(
        (STREAM, chunk(frame(5) + moved), cut),
        (STREAM, chunk(frame(89) + frame(91, "run.completed")), LAST_CHUNK),
    )
    async with scripted_server(script) as server:
        assert seqs(await follow(server)) == [5, 91]
        assert events_requests(server)[1].headers["last-event-id"] == f"{GENERATION}.90"


async def test_a_silent_connection_is_taken_for_lost_and_made_again() -> None:
    script = streams(
        (STREAM, chunk(frame(1)), hang), (STREAM, chunk(frame(2, "run.completed")), LAST_CHUNK)
    )
    async with scripted_server(script) as server:
        async with asyncio.timeout(30):
            assert seqs(await follow(server, times=ALERT)) == [1, 2]


async def test_heartbeats_keep_a_connection() -> None:
    async def beat(line: Line) -> None:
        until = asyncio.get_running_loop().time() + 2 * SILENCE_S
        while asyncio.get_running_loop().time() < until:
            await line.send(chunk(HEARTBEAT))
            await asyncio.sleep(SILENCE_S / 20)

    script = streams((STREAM, beat, chunk(frame(1, "run.completed")), LAST_CHUNK))
    for _ in range(20):  # (On a machine that stands still for so long nothing is heard.)
        async with scripted_server(script) as server:
            assert seqs(await follow(server, times=ALERT)) == [1]
            if len(events_requests(server)) == 1:
                return
    pytest.fail("20 connections were made again, though there were heartbeats")


async def test_a_server_that_goes_is_waited_for_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    busy = answer(502, b"<html>", "text/html")
    script = streams(
        (STREAM, chunk(frame(1)), cut),
        *[(busy,)] * 5,
        (cut,),
        (problem(503, "log_unavailable"),),
        (problem(429, "too_many_subscribers"),),
        (STREAM, chunk(frame(2, "run.completed")), LAST_CHUNK),
    )
    async with scripted_server(script) as server:
        assert seqs(await follow(server)) == [1, 2]
        assert len(events_requests(server)) == 10
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warned) == 1


async def test_a_busy_server_is_left_alone_for_as_long_as_it_asks() -> None:
    script = streams(
        (STREAM, chunk(frame(1)), cut),
        (answer(503, b"", "text/html", retry_after="1"),),
        (STREAM, chunk(frame(2, "run.completed")), LAST_CHUNK),
    )
    async with scripted_server(script) as server:
        assert seqs(await follow(server)) == [1, 2]
        *_, second, third = asked_at(server)
    assert third - second >= 1.0


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("unauthorized", 401, Unauthorized),
        ("run_not_found", 404, RunNotFound),
        ("invalid_position", 409, InvalidPosition),
        ("streaming_off", 501, StreamingOff),
        ("log_unavailable", 503, LogUnavailable),
        ("too_many_subscribers", 429, TooManySubscribers),
    ],
)
async def test_a_refusal_of_the_first_connection_is_raised(
    code: str, status: int, error: type[RunstreamError]
) -> None:
    async with scripted_server(streams((problem(status, code),))) as server:
        with pytest.raises(error, match="because"):
            await follow(server)


async def test_a_server_that_is_not_there_is_told_after_a_few_attempts() -> None:
    async with scripted_server(streams((b"",))) as server:
        pass
    with pytest.raises(LogUnavailable):
        await follow(server)


@pytest.mark.parametrize(
    "response",
    [
        answer(200, b"<html>", "text/html"),
        answer(200, {"runs": []}),
        answer(302, location="http://elsewhere.example/"),
        answer(400, b"<html>", "text/html"),
        STREAM + chunk(b"id: g.1\nevent: x\ndata: {\n\n"),
        STREAM + chunk(b"id: g.1\nevent: x\ndata: \xff\n\n"),
        STREAM + chunk(b'id: g.1\nevent: x\ndata: {"seq":"one"}\n\n'),
        STREAM + chunk(b"id: one\nevent: stream.cursor\ndata: {}\n\n"),
        STREAM + chunk(b"event: stream.error\ndata: oops\n\n"),
    ],
)
async def test_what_is_no_stream_of_ours_is_said_so(response: bytes) -> None:
    async with scripted_server(streams((response, cut))) as server:
        with pytest.raises(NotALog):
            await follow(server)


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [(401, "unauthorized", Unauthorized), (501, "streaming_off", StreamingOff)],
)
async def test_a_stream_that_the_server_ends_with_a_refusal_ends_with_it_after_its_records(
    status: int, code: str, error: type[RunstreamError]
) -> None:
    told = {"code": code, "title": code, "status": status, "detail": "your token has expired"}
    refused = control("stream.error", f"{GENERATION}.1", told)
    got: list[Record] = []
    async with scripted_server(streams((STREAM, chunk(frame(1) + refused), LAST_CHUNK))) as server:
        log = HttpLog(server.url, times=HASTY)
        with pytest.raises(error, match="expired"):
            async for page in log.follow("r1", start=Start(), filter=Filter(), follow=True):
                got += page
        await log.aclose()
    assert seqs(got) == [1]


async def test_a_server_that_stops_says_when_to_come_back() -> None:
    told = {"code": "log_closed", "title": "t", "status": 503, "detail": "the server stops"}
    script = streams(
        (
            STREAM,
            chunk(b"retry: 1000\n\n" + frame(1) + control("stream.error", f"{GENERATION}.1", told)),
            LAST_CHUNK,
        ),
        (STREAM, chunk(frame(2, "run.completed")), LAST_CHUNK),
    )
    async with scripted_server(script) as server:
        assert seqs(await follow(server)) == [1, 2]
        first, second = asked_at(server)
    assert second - first >= 1.0


async def test_nothing_more_is_an_end() -> None:
    script = streams((STREAM, chunk(frame(1)), cut), (b"HTTP/1.1 204 -\r\n\r\n",))
    async with scripted_server(script) as server:
        assert seqs(await follow(server)) == [1]


async def test_a_rebuilt_stream_is_told_as_a_gap_and_read_from_its_start() -> None:
    lost = {"reason": "generation_changed", "from_seq": 9, "to_seq": None, "next_seq": 1}
    gap = {"time": "2026-04-15T10:30:00Z", "run_id": "r1", "kind": "stream.gap", "data": lost}
    script = streams(
        (STREAM, chunk(frame(8)), cut),
        (
            STREAM,
            chunk(control("stream.gap", "fedcba.0", gap) + frame(1, generation="fedcba")),
            cut,
        ),
        (STREAM, chunk(frame(2, "run.completed", generation="fedcba")), LAST_CHUNK),
    )
    async with scripted_server(script) as server:
        records = await follow(server)
        again = [request.headers["last-event-id"] for request in events_requests(server)[1:]]
    assert [record.cursor for record in records] == [
        f"{GENERATION}.8",
        "fedcba.0",
        "fedcba.1",
        "fedcba.2",
    ]
    assert records[1].is_gap
    assert records[1].data == lost
    assert again == [f"{GENERATION}.8", "fedcba.1"]


async def test_a_run_that_is_removed_meanwhile_is_told_as_a_gap() -> None:
    script = streams((STREAM, chunk(frame(1)), cut), (problem(404, "run_not_found"),))
    async with scripted_server(script) as server:
        records = await follow(server)
    assert [record.kind for record in records] == ["token", "stream.gap"]
    assert (records[1].data["reason"], records[1].data["from_seq"]) == ("removed", 2)


async def test_the_end_of_a_run_that_nobody_could_store_ends_the_stream() -> None:
    lost = frame(4, "run.lost").replace(b'"seq":4', b'"seq":0').replace(b".4\n", b".3\n")
    async with scripted_server(streams((STREAM, chunk(frame(3) + lost), LAST_CHUNK))) as server:
        records = await follow(server)
    assert [(r.seq, r.kind, r.cursor) for r in records] == [
        (3, "token", f"{GENERATION}.3"),
        (0, "run.lost", f"{GENERATION}.3"),
    ]


async def test_the_runs_of_children_are_learned_from_their_first_records() -> None:
    told = b'{"workflow":"part","parent_run_id":"r1","root_run_id":"r1"}'
    started = frame(2, "run.started", "c1").replace(b'{"n":2}', told)
    stream = frame(1) + started + frame(3, run_id="c1") + frame(4, "run.completed")
    async with scripted_server(streams((STREAM, chunk(stream), LAST_CHUNK))) as server:
        records = await follow(server)
        asked = [request.path for request in server.requests]
    assert [(r.run_id, r.workflow, r.parent_run_id, r.root_run_id) for r in records] == [
        ("r1", "nightly", None, "r1"),
        ("c1", "part", "r1", "r1"),
        ("c1", "part", "r1", "r1"),
        ("r1", "nightly", None, "r1"),
    ]
    assert asked == ["/v1/runs/r1/events", "/v1/runs/r1"]


async def test_a_follower_learns_at_once_that_its_log_is_closed() -> None:
    script = streams((STREAM, chunk(frame(1)), hang))
    async with scripted_server(script) as server:
        log = HttpLog(server.url)
        pages = log.follow("r1", start=Start(), filter=Filter(), follow=True)
        await anext(pages)
        waiting = asyncio.ensure_future(anext(pages))
        await let_it_wait(waiting)
        await log.aclose()
        with pytest.raises(LogClosed):
            await waiting


async def test_a_follower_that_leaves_closes_its_connection() -> None:
    gone = asyncio.Event()

    async def watch(line: Line) -> None:
        while True:
            try:
                await line.send(chunk(HEARTBEAT))
            except OSError:
                gone.set()
                return
            await asyncio.sleep(0.01)

    async with scripted_server(streams((STREAM, chunk(frame(1)), watch))) as server:
        log = HttpLog(server.url)
        pages = log.follow("r1", start=Start(), filter=Filter(), follow=True)
        await anext(pages)
        await pages.aclose()
        async with asyncio.timeout(30):
            await gone.wait()
        await log.aclose()

"""The client of a server: what it makes of every answer, also of those that no server of ours gives."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from runstream.errors import (
    Forbidden,
    GenerationChanged,
    InvalidInput,
    InvalidURL,
    LogClosed,
    LogUnavailable,
    NotALog,
    RequestTooLarge,
    RunNotFound,
    RunstreamError,
    Unauthorized,
)
from runstream.log import LeaseClaim, Producer
from runstream.logs import open_log
from runstream.logs.http import HttpLog
from runstream.logs.http_transport import GZIP_BYTES_MIN, Times
from runstream.problem import STATUS_BY_CODE, error_of, problem_of
from runstream.record import Cursor, make_draft
from scripted_server import (
    Line,
    Request,
    Script,
    ScriptedServer,
    answer,
    problem,
    run_answer,
    scripted_server,
)

# A caller hears of a server that is not there almost at once.
HASTY = Times(persist_s=0.05)
# It goes on as long as it takes.
STEADY = Times(persist_s=60.0)
STORED = answer(200, {"first_seq": 1, "last_seq": 1, "duplicates": 0})


def always(raw: bytes) -> Script:
    async def script(_request: Request, line: Line) -> None:
        await line.send(raw)

    return script


@asynccontextmanager
async def log_of(
    script: Script, *, token: str | None = None, times: Times = HASTY
) -> AsyncGenerator[tuple[HttpLog, ScriptedServer]]:
    async with scripted_server(script) as server:
        log = HttpLog(server.url, token=token, times=times)
        try:
            yield log, server
        finally:
            await log.aclose()


HTML = b"<html><body>Welcome to the hotel's network</body></html>"


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (answer(200, HTML, "text/html"), NotALog),
        (answer(200, b"{"), NotALog),
        (answer(200, b'{"run_id":1}'), NotALog),
        (answer(200, b"\xff\xfe"), NotALog),
        (answer(200, b""), NotALog),
        (run_answer(status="thinking"), NotALog),
        (run_answer(created="yesterday"), NotALog),
        (answer(302, b"", location="http://elsewhere.example/"), NotALog),
        (answer(404, HTML, "text/html"), NotALog),
        (answer(400, b"{}", "application/problem+json"), NotALog),
        (answer(401, HTML, "text/html"), Unauthorized),
        (answer(403, HTML, "text/html"), Forbidden),
        (answer(413, HTML, "text/html"), RequestTooLarge),
        (answer(429, HTML, "text/html"), LogUnavailable),
        (problem(408, "request_timeout"), LogUnavailable),
        (answer(502, HTML, "text/html"), LogUnavailable),
        (answer(504, HTML, "text/html"), LogUnavailable),
        (problem(500, "internal"), LogUnavailable),
        (problem(503, "log_closed"), LogUnavailable),
        (problem(418, "of_the_future"), RunstreamError),
    ],
)
async def test_every_answer_becomes_an_error_of_ours(raw: bytes, error: type[Exception]) -> None:
    async with log_of(always(raw)) as (log, _):
        with pytest.raises(RunstreamError) as caught:
            await log.info("r1")
        assert type(caught.value) is error


@pytest.mark.parametrize("code", sorted(set(STATUS_BY_CODE) - {"not_found", "method_not_allowed"}))
async def test_an_error_behind_the_server_is_the_same_error_before_it(code: str) -> None:
    told = problem_of(type("Told", (RunstreamError,), {"code": code})("because"))
    async with log_of(always(problem(told.status, code))) as (log, _):
        with pytest.raises(RunstreamError, match="because") as caught:
            await log.info("r1")
    comes_back = told.status in {408, 429, 500, 503}
    wanted = LogUnavailable if comes_back else type(error_of(told))
    assert type(caught.value) is wanted


async def test_another_generation_comes_with_its_name_and_first_record() -> None:
    raw = problem(410, "generation_changed", first_seq=1, generation="n3w")
    async with log_of(always(raw)) as (log, _):
        with pytest.raises(GenerationChanged) as caught:
            await log.read("r1", after=Cursor("old", 4))
    assert (caught.value.generation, caught.value.first_seq) == ("n3w", 1)


async def test_what_a_newer_server_says_besides_is_passed_over() -> None:
    async with log_of(always(run_answer(mood="good", last_seq=7))) as (log, _):
        assert (await log.info("r1")).last_seq == 7


async def test_a_page_with_a_hole_is_refused() -> None:
    records: list[dict[str, object]] = [
        {"seq": seq, "time": "2026-04-15T10:30:00Z", "run_id": "r1", "kind": "x", "data": {}}
        for seq in (1, 3)
    ]
    page: dict[str, object] = {
        "generation": "g",
        "first_seq": 1,
        "records": records,
        "cursor": "g.3",
        "ended": False,
    }
    async with log_of(always(answer(200, page))) as (log, _):
        with pytest.raises(NotALog, match="left out"):
            await log.read("r1", after=Cursor(None, 0))


async def test_a_redirect_is_not_followed_and_nothing_is_sent_there() -> None:
    async with scripted_server(always(run_answer())) as elsewhere:
        raw = answer(307, HTML, "text/html", location=f"{elsewhere.url}/v1/runs/r1")
        async with log_of(always(raw), token="sesame") as (log, _):
            with pytest.raises(NotALog, match=r"redirect to 127\.0\.0\.1"):
                await log.info("r1")
            # What is published waits: whatever stands in between will not always be there.
            with pytest.raises(LogUnavailable, match="redirect"):
                await log.append("r1", [make_draft("r1", "x", {})])
        assert elsewhere.requests == []


async def test_a_token_travels_in_one_header_and_is_shown_nowhere(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with log_of(always(problem(403, "forbidden")), token="sesame") as (log, server):
        with pytest.raises(Forbidden) as caught:
            await log.info("r1")
        assert server.requests[0].headers["authorization"] == "Bearer sesame"
        assert "sesame" not in server.requests[0].path
        assert "sesame" not in f"{log!r} {caught.value!r} {caplog.text}"


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "naïve", "x" * 9000])
def test_a_token_that_cannot_be_one_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        HttpLog("http://127.0.0.1:1", token=token)
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http:",
        "http://",
        "http://host:port",
        "http://host:0",
        "http://[::1",
        "http://me:secret@host",
        "http://secret@host",
        "http://host?token=secret",
        "https://host?ca=/nowhere/secret.pem&more=1",
        "https://host?ca=/nowhere.pem",
    ],
)
def test_a_url_that_is_no_servers_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(InvalidURL) as caught:
        open_log(url)
    assert "secret" not in str(caught.value)


def test_a_token_for_a_log_that_takes_none_is_refused() -> None:
    with pytest.raises(InvalidInput, match="sqlite"):
        open_log("sqlite:events.db", token="sesame")


async def test_the_token_of_the_environment_is_used_unless_another_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RUNSTREAM_TOKEN", "of-the-environment")
    async with scripted_server(always(run_answer())) as server:
        for token in (None, "given"):
            log = open_log(server.url, token=token)
            await log.info("r1")
            await log.aclose()
        sent = [request.headers["authorization"] for request in server.requests]
    assert sent == ["Bearer of-the-environment", "Bearer given"]


@pytest.mark.parametrize(
    "raw", [answer(200, HTML, "text/html"), answer(404, HTML, "text/html"), answer(429)]
)
async def test_a_page_of_a_proxy_does_not_end_what_is_published_or_held(raw: bytes) -> None:
    async with log_of(always(raw)) as (log, _):
        with pytest.raises(LogUnavailable):
            await log.append("r1", [make_draft("r1", "x", {})], producer=Producer("p", 1, 1))
        with pytest.raises(LogUnavailable):
            await log.renew("r1", owner="p", epoch=1)


async def test_a_busy_server_is_asked_again() -> None:
    async def script(_request: Request, line: Line) -> None:
        busy = problem(503, "log_unavailable")
        await line.send(busy if len(server.requests) < 3 else run_answer())

    async with log_of(script, times=STEADY) as (log, server):
        assert (await log.info("r1")).run_id == "r1"
        assert len(server.requests) == 3


async def test_who_is_asked_to_come_back_later_than_it_can_wait_is_told() -> None:
    raw = answer(503, b"", "text/html", retry_after="120")
    async with log_of(always(raw)) as (log, server):
        with pytest.raises(LogUnavailable):
            await log.info("r1")
        assert len(server.requests) == 1


async def test_a_server_that_is_not_there_is_told_after_a_few_attempts() -> None:
    async with log_of(always(b"")) as (_, server):
        url = server.url
    log = HttpLog(url, times=HASTY)
    with pytest.raises(LogUnavailable, match=f"{url}: cannot connect: Connection refused"):
        await log.info("r1")
    await log.aclose()


async def lose_first_reply(request: Request, line: Line, lost: list[Request], reply: bytes) -> None:
    if not lost:
        lost.append(request)
        line.cut()
    else:
        await line.send(reply)


async def test_an_append_whose_reply_was_lost_is_repeated_byte_for_byte() -> None:
    lost: list[Request] = []

    async def script(request: Request, line: Line) -> None:
        await lose_first_reply(request, line, lost, STORED)

    async with log_of(script, times=STEADY) as (log, server):
        await log.append("r1", [make_draft("r1", "x", {})], producer=Producer("p", 0, 1))
        assert [request.body for request in server.requests] == [lost[0].body] * 2


async def test_an_append_without_a_producer_is_not_repeated() -> None:
    lost: list[Request] = []

    async def script(request: Request, line: Line) -> None:
        await lose_first_reply(request, line, lost, STORED)

    async with log_of(script, times=STEADY) as (log, server):
        with pytest.raises(LogUnavailable, match="may have been stored"):
            await log.append("r1", [make_draft("r1", "x", {})])
        assert len(server.requests) == 1


async def test_a_proxy_that_has_lost_its_server_is_asked_again_unless_that_could_store_twice() -> (
    None
):
    async def script(_request: Request, line: Line) -> None:
        first = len(server.requests) % 2
        await line.send(answer(502, HTML, "text/html") if first else STORED)

    async with log_of(script, times=STEADY) as (log, server):
        draft = make_draft("r1", "x", {})
        assert (await log.append("r1", [draft], producer=Producer("p", 0, 1))).last_seq == 1
        assert len(server.requests) == 2
        with pytest.raises(LogUnavailable, match=r"502.* may have been stored"):
            await log.append("r1", [draft])
        assert len(server.requests) == 3


async def test_what_our_own_lost_attempt_did_is_not_news() -> None:
    lost: list[Request] = []
    opened = {"run": json.loads(run_answer().partition(b"\r\n\r\n")[2]), "epoch": 2, "number": 0}

    async def script(request: Request, line: Line) -> None:
        if request.method == "PUT":
            await lose_first_reply(request, line, lost, answer(200, {**opened, "created": False}))
        elif len(server.requests) == 3:
            line.cut()
        else:
            await line.send(answer(200, {"first_seq": 5, "last_seq": 5, "duplicates": 1}))

    async with log_of(script, times=STEADY) as (log, server):
        claim = LeaseClaim(15.0)
        mine = await log.open("r1", producer="p", workflow="nightly", claim=claim)
        assert mine.created
        sent = Producer("p", 2, 1)
        stored = await log.append("r1", [make_draft("r1", "x", {})], producer=sent)
        assert (stored.first_seq, stored.last_seq, stored.duplicates) == (5, 5, 0)


async def test_a_batch_beyond_a_requests_limits_goes_in_several_with_its_numbers() -> None:
    async def script(request: Request, line: Line) -> None:
        sent = json.loads(request.body)
        first = sent["producer"]["number"]
        last = first + len(sent["events"]) - 1
        await line.send(answer(200, {"first_seq": first, "last_seq": last, "duplicates": 0}))

    large = [make_draft("r1", "x", b'"' + b"x" * 1_000_000 + b'"') for _ in range(6)]
    many = [make_draft("r1", "x", {}) for _ in range(2001)]
    async with log_of(script) as (log, server):
        for drafts, sizes in ((large, [4, 2]), (many, [1000, 1000, 1])):
            server.requests.clear()
            stored = await log.append("r1", drafts, producer=Producer("p", 1, 1), final=True)
            bodies = [json.loads(request.body) for request in server.requests]
            assert [len(body["events"]) for body in bodies] == sizes
            assert [body["producer"]["number"] for body in bodies] == [
                1 + sum(sizes[:place]) for place in range(len(sizes))
            ]
            assert [body["final"] for body in bodies] == [False] * (len(sizes) - 1) + [True]
            assert (stored.first_seq, stored.last_seq) == (1, len(drafts))


async def test_a_large_batch_without_a_producer_is_given_one_that_has_opened_the_run() -> None:
    async def script(request: Request, line: Line) -> None:
        if request.method == "PUT":
            run = json.loads(run_answer().partition(b"\r\n\r\n")[2])
            await line.send(answer(200, {"run": run, "epoch": 1, "number": 0, "created": False}))
        else:
            await line.send(STORED)

    async with log_of(script) as (log, server):
        await log.append("r1", [make_draft("r1", "x", {}) for _ in range(2001)])
        owner = json.loads(server.requests[0].body)["producer"]
        senders = [json.loads(request.body)["producer"] for request in server.requests[1:]]
    assert [sender["number"] for sender in senders] == [1, 1001, 2001]
    assert {(sender["id"], sender["epoch"]) for sender in senders} == {(owner, 1)}


async def test_a_batch_that_a_proxy_finds_too_large_goes_in_halves() -> None:
    async def script(request: Request, line: Line) -> None:
        sent = json.loads(request.body)
        if len(sent["events"]) > 3:
            await line.send(answer(413, HTML, "text/html"))
            return
        first = sent["producer"]["number"]
        last = first + len(sent["events"]) - 1
        stored.append((first, last, sent["final"]))
        await line.send(answer(200, {"first_seq": first, "last_seq": last, "duplicates": 0}))

    stored: list[tuple[int, int, bool]] = []
    drafts = [make_draft("r1", "x", {}) for _ in range(10)]
    async with log_of(script) as (log, _):
        appended = await log.append("r1", drafts, producer=Producer("p", 1, 1), final=True)
    assert stored == [(1, 2, False), (3, 5, False), (6, 7, False), (8, 10, True)]
    assert (appended.first_seq, appended.last_seq) == (1, 10)


async def test_a_body_is_compressed_on_its_way_to_another_machine_if_that_pays() -> None:
    async with log_of(always(STORED)) as (near, server):
        # Not an address of loopback by its looks.
        far = HttpLog(server.url.replace("127.0.0.1", "0.0.0.0"), times=HASTY)
        small, large = make_draft("r1", "x", {}), make_draft("r1", "x", {"t": "x" * GZIP_BYTES_MIN})
        for log, draft in ((near, large), (far, small), (far, large)):
            await log.append("r1", [draft])
        await far.aclose()
        packed = [request.headers.get("content-encoding") for request in server.requests]
        assert packed == [None, None, "gzip"]
        # So are answers, if the server likes to.
        asked = [request.headers["accept-encoding"] for request in server.requests]
        assert asked == ["identity", "gzip", "gzip"]
        sent = json.loads(gzip.decompress(server.requests[2].body))
        assert sent["events"][0]["data"] == {"t": "x" * GZIP_BYTES_MIN}


@pytest.mark.parametrize("run_id", ["", "..", "a/b", "é", "two words", "x" * 200])
async def test_what_no_run_can_be_called_never_reaches_the_server(run_id: str) -> None:
    async with log_of(always(run_answer())) as (log, server):
        with pytest.raises(RunNotFound):
            await log.info(run_id)
        assert server.requests == []


async def test_a_call_that_is_under_way_is_told_when_the_log_is_closed() -> None:
    arrived = asyncio.Event()

    async def script(_request: Request, _line: Line) -> None:
        arrived.set()
        await asyncio.Event().wait()

    async with log_of(script) as (log, _):
        asked = asyncio.ensure_future(log.info("r1"))
        await arrived.wait()
        await log.aclose()
        with pytest.raises(LogClosed):
            await asked
        with pytest.raises(LogClosed):
            await log.info("r1")


def test_one_log_is_used_from_several_loops_and_each_closes_its_connections() -> None:
    log: list[HttpLog] = []

    async def use(url: str) -> None:
        if not log:
            log.append(HttpLog(url, times=HASTY))
        assert (await log[0].info("r1")).run_id == "r1"

    async def main() -> None:
        async with scripted_server(always(run_answer())) as server:
            # A loop that ends without a word to the log, in a thread of its own.
            await asyncio.to_thread(asyncio.run, use(server.url))
            await use(server.url)
            await asyncio.to_thread(asyncio.run, use(server.url))
            await log[0].aclose()

    asyncio.run(main())
